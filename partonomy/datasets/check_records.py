"""The records of an annotation file for `check`: what is broken is noted, never raised, and the rest is read on.

It reads what `coco_records` reads, COCO-style files and `annotations.json` of the project's own form, but does not stop
at, or leave out, what a build would.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

from partonomy.datasets import check_problems as problems
from partonomy.datasets.check_problems import Finding, Problem
from partonomy.datasets.coco_records import BACKGROUND, OBJECT, PART
from partonomy.datasets.files import read_json
from partonomy.images import image_size
from partonomy.masks import canonical_rle, rle_area, rle_from_coco
from partonomy.names import split_part_name
from partonomy.structures import RLE


@dataclass(frozen=True)
class CheckedImage:
    """An image record. The size is the annotation's, in pixels, or the file's where the record has none."""

    image_id: int
    file_name: str
    path: Path
    height: int
    width: int


@dataclass(frozen=True)
class CheckedCategory:
    """What a category stands for under its raw names; both None: background.

    `object_category` is the category of an object of the project's own form, None in other files.
    """

    raw_object: str | None
    raw_part: str | None
    object_category: str | None = None


@dataclass(frozen=True)
class CheckedAnnotation:
    """An annotation whose image and category are known. `mask` is None where there is none, or none was readable."""

    annotation_id: int
    image_id: int
    category: CheckedCategory
    object_id: int | None
    mask: RLE | None
    is_crowd: bool

    @property
    def is_part(self) -> bool:
        """Whether it is a part; else it is an object."""
        return self.category.raw_part is not None


@dataclass(frozen=True)
class CheckedFile:
    """All records that could be read; `num_images` and `num_annotations` count all that the file has."""

    images: tuple[CheckedImage, ...]
    categories: tuple[CheckedCategory, ...]
    annotations: tuple[CheckedAnnotation, ...]
    num_images: int
    num_annotations: int
    findings: tuple[Finding, ...]


def read_checked_file(path: Path, image_root: Path, object_name: str | None = None) -> CheckedFile:
    """Read an annotation file.

    Args:
        path: COCO-style JSON, or `annotations.json` of a data set folder.
        image_root: folder that its `file_name`s are relative to.
        object_name: the object of all parts, for files without object annotations.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no JSON object with the three lists of COCO.
    """
    content = read_json(path)
    for key in ("images", "annotations", "categories"):
        if not isinstance(content.get(key), list):
            raise ValueError(f"{path}: a COCO file needs the list {key!r}; is this the annotation file?")
    reader = _Reader(image_root, object_name)
    for number, record in enumerate(content["categories"]):
        reader.read_category(number, record)
    for number, record in enumerate(content["images"]):
        reader.read_image(number, record)
    for number, record in enumerate(content["annotations"]):
        reader.read_annotation(number, record)
    reader.note_unused(content["categories"])
    return CheckedFile(
        tuple(reader.images.values()),
        tuple(reader.categories.values()),
        tuple(reader.annotations.values()),
        len(content["images"]),
        len(content["annotations"]),
        tuple(reader.findings),
    )


class _Reader:
    """Collects records by id, and findings."""

    def __init__(self, image_root: Path, object_name: str | None) -> None:
        self._image_root = image_root
        self._object_name = object_name
        self.images: dict[int, CheckedImage] = {}
        self.categories: dict[int, CheckedCategory] = {}
        self.annotations: dict[int, CheckedAnnotation] = {}
        self.findings: list[Finding] = []
        self._known_images: set[int] = set()
        self._annotated_images: set[int] = set()
        self._used_categories: set[int] = set()

    def read_category(self, number: int, record: object) -> None:
        where = _describe("category", number, record)
        if not isinstance(record, Mapping) or not _is_integer(record.get("id")) or not _is_text(record.get("name")):
            self._note(problems.BAD_RECORD, where, "a category needs an integer 'id' and a 'name'")
        elif record["id"] in self.categories:
            self._note(problems.DUPLICATE_ID, where, f"the name here is {record['name']!r}")
        else:
            self.categories[record["id"]] = self._find_role(record)

    def read_image(self, number: int, record: object) -> None:
        where = _describe("image", number, record)
        if (
            not isinstance(record, Mapping)
            or not _is_integer(record.get("id"))
            or record["id"] < 0
            or not _is_text(record.get("file_name"))
        ):
            self._note(problems.BAD_RECORD, where, "an image needs an 'id' of 0 or more and a 'file_name'")
            return
        image_id, file_name = record["id"], record["file_name"]
        if image_id in self._known_images:
            self._note(problems.DUPLICATE_ID, where, file_name)
            return
        self._known_images.add(image_id)
        # By name alone: an image folder may well be a link to another disk.
        if os.path.isabs(file_name) or os.path.normpath(file_name).split(os.sep)[0] == os.pardir:
            self._note(problems.OUTSIDE_IMAGE, where, file_name)
            return
        self._read_size(where, record, self._image_root / file_name)

    def _read_size(self, where: str, record: Mapping[str, Any], path: Path) -> None:
        """Add an image whose size is known, from the record or else from its file."""
        size = (record.get("height"), record.get("width"))
        try:
            height, width = image_size(path) if size == (None, None) else size
        except FileNotFoundError:
            self._note(problems.MISSING_IMAGE, where, f"{record['file_name']} does not exist")
            return
        except ValueError as error:
            self._note(problems.UNREADABLE_IMAGE, where, str(error))
            return
        if not (_is_integer(height) and _is_integer(width) and height > 0 and width > 0):
            self._note(problems.BAD_RECORD, where, f"'height' and 'width' must be positive integers, got {size}")
            return
        self.images[record["id"]] = CheckedImage(record["id"], record["file_name"], path, height, width)

    def read_annotation(self, number: int, record: object) -> None:
        where = _describe("annotation", number, record)
        keys = ("id", "image_id", "category_id")
        if not isinstance(record, Mapping) or not all(_is_integer(record.get(key)) for key in keys):
            self._note(problems.BAD_RECORD, where, f"an annotation needs the integers {', '.join(keys)}")
            return
        annotation_id, image_id, category_id = (record[key] for key in keys)
        self._annotated_images.add(image_id)
        self._used_categories.add(category_id)
        if annotation_id in self.annotations:
            self._note(problems.DUPLICATE_ID, where, f"in image {image_id}")
        elif image_id not in self._known_images:
            self._note(problems.UNKNOWN_IMAGE, where, f"image_id {image_id}")
        elif category_id not in self.categories:
            self._note(problems.UNKNOWN_CATEGORY, where, f"category_id {category_id}")
        elif image_id in self.images:  # of the others there is no size to read a mask with; they are noted themselves
            role = self.categories[category_id]
            if role.raw_object is not None or role.raw_part is not None:
                self._read_labelled(where, record, role)

    def note_unused(self, categories: list[Any]) -> None:
        for image_id in sorted(self._known_images - self._annotated_images):
            self._note(problems.NO_ANNOTATION, f"image {image_id}", "no annotation names it")
        unused = self.categories.keys() - self._used_categories
        for record in categories:
            if isinstance(record, Mapping) and _is_integer(record.get("id")) and record["id"] in unused:
                self._note(problems.UNUSED_CATEGORY, f"category {record['id']}", str(record["name"]))

    def _read_labelled(self, where: str, record: Mapping[str, Any], role: CheckedCategory) -> None:
        image = self.images[record["image_id"]]
        object_id, is_crowd = record.get("obj_ann_id"), record.get("iscrowd", 0)
        if is_crowd not in (0, 1):
            self._note(problems.BAD_RECORD, where, f"'iscrowd' must be 0, 1, true or false, got {is_crowd!r}")
        elif is_crowd:
            self._note(problems.CROWD, where, _label(role))
        if object_id is not None and not _is_integer(object_id):
            self._note(problems.BAD_RECORD, where, f"'obj_ann_id' must be an integer, got {object_id!r}")
            object_id = None
        mask = self._read_mask(where, record, role, image)
        self.annotations[record["id"]] = CheckedAnnotation(
            record["id"], image.image_id, role, object_id if role.raw_part is not None else None, mask, is_crowd == 1
        )

    def _read_mask(
        self, where: str, record: Mapping[str, Any], role: CheckedCategory, image: CheckedImage
    ) -> RLE | None:
        is_part, segmentation = role.raw_part is not None, record.get("segmentation")
        if segmentation is None or segmentation == []:  # an object may have a box alone
            if is_part:
                self._note(problems.EMPTY_MASK, where, f"{_label(role)} in image {image.image_id} has no mask")
            return None
        try:
            mask = canonical_rle(rle_from_coco(segmentation, image.height, image.width, _label(role)))
        except (ValueError, TypeError, OverflowError) as error:
            self._note(problems.UNREADABLE_MASK, where, str(error))
            return None
        if rle_area(mask) == 0:
            problem = problems.EMPTY_MASK if is_part else problems.EMPTY_OBJECT_MASK
            self._note(problem, where, f"the mask of {_label(role)} in image {image.image_id} covers no pixel")
            return None
        return mask

    def _find_role(self, record: Mapping[str, Any]) -> CheckedCategory:
        """As `coco_records` tells objects from parts."""
        name, kind = record["name"], str(record.get("supercategory") or "").upper()
        if name.strip("_ ").lower() == BACKGROUND:
            return CheckedCategory(None, None)
        category = record.get("category")
        raw_object, raw_part = split_part_name(name)
        if kind == OBJECT:
            return CheckedCategory(name, None, category if isinstance(category, str) else None)
        if kind == PART or raw_object is not None:
            return CheckedCategory(raw_object or self._object_name, raw_part)
        return CheckedCategory(name, None) if self._object_name is None else CheckedCategory(self._object_name, name)

    def _note(self, problem: Problem, record: str, detail: str) -> None:
        self.findings.append(Finding(problem, record, detail))


def _label(role: CheckedCategory) -> str:
    return ":".join(name for name in (role.raw_object, role.raw_part) if name is not None)


def _is_integer(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value)


def _describe(kind: str, number: int, record: object) -> str:
    identifier = record.get("id") if isinstance(record, Mapping) else None
    return f"{kind} {identifier if identifier is not None else f'at position {number}'}"
