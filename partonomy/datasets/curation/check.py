"""Finds all problems of a data set, or of the files that it is built from, in a single pass.

A broken record becomes a finding instead of an error, and reading continues. `PROBLEMS` gives the severity of each
problem and the advice for it.
"""

import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from enum import IntEnum, StrEnum, auto
from pathlib import Path
from typing import Any, TypeGuard

from partonomy.datasets.photographs import find_same_files
from partonomy.datasets.seal import has_seal, list_changes
from partonomy.datasets.sources.coco import read_crowd
from partonomy.datasets.sources.records import BACKGROUND, OBJECT, PART
from partonomy.datasets.store import ANNOTATIONS_FILE, DATASET_FILE
from partonomy.files import MissingListsError, hash_files, iterate_lists, iterate_tables, read_json
from partonomy.images import check_image, image_size, load_image
from partonomy.masks import canonical_rle, intersection_area, rle_area, rle_from_coco
from partonomy.names import LemmaComparator, clean_name, clean_names, read_text_map, split_part_name
from partonomy.progress import progress
from partonomy.sharding import Shard
from partonomy.structures import RLE

STATUS_ERRORS = 2
STATUS_WARNINGS = 1
LISTS = ("categories", "images", "annotations")


class Severity(StrEnum):
    """error: `build` refuses the record or drops it. warning: questions or scores may be wrong. note: worth knowing."""

    ERROR = "error"
    WARNING = "warning"
    NOTE = "note"


@dataclass(frozen=True)
class Problem:
    """A kind of problem."""

    title: str
    severity: Severity
    advice: str


CHANGED_FILE = Problem(
    "file changed since the build",
    Severity.ERROR,
    "restore it or build the folder again; python -m partonomy seal FOLDER keeps a change on purpose",
)
MISSING_IMAGE = Problem("missing image", Severity.ERROR, "check the image folder, or remove the record")
OUTSIDE_IMAGE = Problem(
    "image outside the image folder", Severity.ERROR, "move it into the folder and name it relative to it"
)
UNREADABLE_IMAGE = Problem("unreadable or truncated image", Severity.ERROR, "fetch the file again")
SIZE_MISMATCH = Problem(
    "image size differs from its annotation", Severity.ERROR, "use the image that was annotated, or correct its size"
)
BAD_RECORD = Problem("broken record", Severity.ERROR, "correct the record in the annotation file")
DUPLICATE_ID = Problem("id that occurs twice", Severity.ERROR, "give every record an id of its own")
UNKNOWN_IMAGE = Problem("annotation of an unknown image", Severity.ERROR, "add the image or remove the annotation")
UNKNOWN_CATEGORY = Problem(
    "annotation of an unknown category", Severity.ERROR, "add the category or remove the annotation"
)
UNREADABLE_MASK = Problem("unreadable mask", Severity.ERROR, "draw or export the mask again")
EMPTY_MASK = Problem("part without mask", Severity.ERROR, "draw the mask or remove the annotation")
NO_OBJECT = Problem(
    "part of no object",
    Severity.ERROR,
    "link it by obj_ann_id, name its category object:part, or pass --object_name",
)
TWO_CATEGORIES = Problem("object in two categories", Severity.ERROR, "give the object one category")
NO_CATEGORY = Problem("object without category", Severity.ERROR, "add it to the file of --categories")
EMPTY_NAME = Problem("name of which nothing is left", Severity.ERROR, "give it a name in the file of --name_map")
EMPTY_OBJECT_MASK = Problem("object with an empty mask", Severity.WARNING, "draw the mask or leave it out")
FEW_PIXELS = Problem(
    "mask of very few pixels", Severity.WARNING, "look at the mask: stray strokes are often of this size"
)
OUTSIDE_OBJECT = Problem(
    "part outside its object", Severity.WARNING, "check the link to the object and the object's outline"
)
COLLAPSED_NAMES = Problem(
    "names that become one once cleaned", Severity.WARNING, "tell them apart, or unite them, in the file of --name_map"
)
SIMILAR_NAMES = Problem(
    "names that differ in plural, hyphen or case",
    Severity.WARNING,
    "unite them in the file of --name_map, or build with --part_comparison lemma",
)
SAME_MASK = Problem("same label on the same mask", Severity.WARNING, "remove one of the annotations")
SAME_IMAGE = Problem("same image file twice", Severity.WARNING, "keep one; `split` keeps both on one side")
SMALL_SHARE = Problem("mask of a small share of its image", Severity.NOTE, "small parts are real, but hard to score")
CROWD = Problem("iscrowd annotation", Severity.NOTE, "`build` leaves crowds and their parts out")
NO_ANNOTATION = Problem("image without annotations", Severity.NOTE, "nothing is asked about it")
UNUSED_CATEGORY = Problem("category without annotations", Severity.NOTE, "it is ignored")

PROBLEMS: tuple[Problem, ...] = (
    CHANGED_FILE,
    MISSING_IMAGE,
    OUTSIDE_IMAGE,
    UNREADABLE_IMAGE,
    SIZE_MISMATCH,
    BAD_RECORD,
    DUPLICATE_ID,
    UNKNOWN_IMAGE,
    UNKNOWN_CATEGORY,
    UNREADABLE_MASK,
    EMPTY_MASK,
    NO_OBJECT,
    TWO_CATEGORIES,
    NO_CATEGORY,
    EMPTY_NAME,
    EMPTY_OBJECT_MASK,
    FEW_PIXELS,
    OUTSIDE_OBJECT,
    COLLAPSED_NAMES,
    SIMILAR_NAMES,
    SAME_MASK,
    SAME_IMAGE,
    SMALL_SHARE,
    CROWD,
    NO_ANNOTATION,
    UNUSED_CATEGORY,
)
"""All kinds of problem, in the order of the report: errors, warnings, notes."""


class Stage(IntEnum):
    """The steps of a check, in the order in which findings of the same kind are listed."""

    CATEGORY_RECORDS = auto()
    IMAGE_RECORDS = auto()
    ANNOTATION_RECORDS = auto()
    UNUSED = auto()
    NAMES = auto()
    OBJECT_CATEGORIES = auto()
    IMAGES = auto()
    SAME_FILES = auto()
    MASKS = auto()


@dataclass(frozen=True)
class Finding:
    """One problem found.

    Attributes:
        problem: the kind of problem.
        record: the record concerned ("annotation 7").
        detail: the problem in words.
        stage, number: step and record index, which sort findings in the order of a single process.
    """

    problem: Problem
    record: str
    detail: str
    stage: Stage = field(default=Stage.NAMES, compare=False)
    number: int = field(default=0, compare=False)


@dataclass(frozen=True)
class CheckReport:
    """All findings. `remarks` list what was not checked, with the reasons."""

    source: str
    num_images: int
    num_annotations: int
    findings: tuple[Finding, ...]
    remarks: tuple[str, ...]

    def of_problem(self, problem: Problem) -> tuple[Finding, ...]:
        """Return the findings of one kind, in file order."""
        return tuple(finding for finding in self.findings if finding.problem == problem)

    def exit_status(self, is_strict: bool) -> int:
        """Return 2 if there are errors, 1 if there are warnings and `is_strict` is set, else 0."""
        counts = count_severities(self.findings)
        if counts[Severity.ERROR]:
            return STATUS_ERRORS
        return STATUS_WARNINGS if is_strict and counts[Severity.WARNING] else 0


def count_severities(findings: Sequence[Finding]) -> Counter[Severity]:
    """Count the findings of each severity."""
    return Counter(finding.problem.severity for finding in findings)


@dataclass(frozen=True)
class CheckedImage:
    """An image record. The size in pixels is the annotation's or, if the record has none, the file's."""

    image_id: int
    file_name: str
    path: Path
    height: int
    width: int


@dataclass(frozen=True)
class CheckedCategory:
    """The raw names that a category stands for; both are None for background.

    `object_category` is the category of an object in the project's own form; None in other files.
    """

    raw_object: str | None
    raw_part: str | None
    object_category: str | None = None


@dataclass(frozen=True)
class CheckedAnnotation:
    """An annotation whose image and category are known. `mask` is None if it is missing or unreadable."""

    annotation_id: int
    image_id: int
    category: CheckedCategory
    object_id: int | None
    mask: RLE | None
    is_crowd: bool

    @property
    def is_part(self) -> bool:
        """Whether the annotation is a part; otherwise it is an object."""
        return self.category.raw_part is not None


@dataclass(frozen=True)
class CheckedFile:
    """The readable records of a shard's images. Categories and counts are those of the whole file.

    Attributes:
        images: the shard's images.
        positions: image id -> index of the image record in the file, including other shards' images.
        categories: all categories.
        annotations: annotations of the shard's images.
        num_images, num_annotations: numbers of records in the whole file.
        findings: findings about the shard's records; records without an image belong to the first shard.
    """

    images: tuple[CheckedImage, ...]
    positions: Mapping[int, int]
    categories: tuple[CheckedCategory, ...]
    annotations: tuple[CheckedAnnotation, ...]
    num_images: int
    num_annotations: int
    findings: tuple[Finding, ...]


def read_checked_file(
    path: Path, image_root: Path, object_name: str | None = None, shard: Shard | None = None
) -> CheckedFile:
    """Read an annotation file.

    Args:
        path: COCO-style JSON, or `annotations.json` of a data set folder.
        image_root: folder that its `file_name`s are relative to.
        object_name: the object that all parts belong to, for files without object annotations.
        shard: read only the masks of the shard's images, assigned in turn; the file is then read twice, record by
            record.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not a JSON object with COCO's three lists.
    """
    reader = _Reader(image_root, object_name, shard or Shard())
    for name, record in _whole_records(path) if shard is None else _streamed_records(path):
        reader.read(name, record)
    reader.note_unused()
    return CheckedFile(
        tuple(image for image in reader.images.values() if reader.owns(image.image_id)),
        reader.positions,
        tuple(reader.categories.values()),
        tuple(reader.annotations.values()),
        reader.counts["images"],
        reader.counts["annotations"],
        tuple(reader.findings),
    )


def _whole_records(path: Path) -> Iterator[tuple[str, Any]]:
    try:
        yield from iterate_tables(path, LISTS)
    except MissingListsError as error:
        missing = next(key for key in ("images", "annotations", "categories") if key in error.names)
        raise ValueError(f"{path}: a COCO file needs the list {missing!r}; is this the annotation file?") from error


def _streamed_records(path: Path) -> Iterator[tuple[str, Any]]:
    """Yield images and categories first, wherever they are in the file."""
    yield from iterate_lists(path, LISTS[:2], is_strict=True)
    yield from iterate_lists(path, LISTS[2:], is_strict=True)


class _Reader:
    """Collects findings, and records by id.

    Data that other records depend on (ids, image sizes, categories) is kept for the whole file. Masks are read, and
    problems noted, only for the shard's own records.
    """

    def __init__(self, image_root: Path, object_name: str | None, shard: Shard) -> None:
        self._image_root = image_root
        self._object_name = object_name
        self._shard = shard
        self.images: dict[int, CheckedImage] = {}
        self.positions: dict[int, int] = {}
        self.categories: dict[int, CheckedCategory] = {}
        self.annotations: dict[int, CheckedAnnotation] = {}
        self.findings: list[Finding] = []
        self.counts = dict.fromkeys(LISTS, 0)
        self._category_names: list[tuple[int, str]] = []
        self._annotation_ids: set[int] = set()
        self._annotated_images: set[int] = set()
        self._used_categories: set[int] = set()
        self._stage, self._number, self._is_own = Stage.CATEGORY_RECORDS, 0, True

    def owns(self, image_id: object) -> bool:
        """Return whether an image and its annotations belong to the shard; unknown images belong to the first shard."""
        position = self.positions.get(image_id, 0) if _is_integer(image_id) else 0
        return position % self._shard.count == self._shard.index

    def read(self, name: str, record: object) -> None:
        """Read the next record of a list."""
        number = self.counts[name]
        self.counts[name] += 1
        self._number = number
        if name == "categories":
            self._stage, self._is_own = Stage.CATEGORY_RECORDS, self._shard.index == 0
            self.read_category(number, record)
        elif name == "images":
            self._stage = Stage.IMAGE_RECORDS
            self._is_own = number % self._shard.count == self._shard.index
            self.read_image(number, record)
        else:
            self._stage = Stage.ANNOTATION_RECORDS
            self._is_own = self.owns(record.get("image_id") if isinstance(record, Mapping) else None)
            self.read_annotation(number, record)

    def read_category(self, number: int, record: object) -> None:
        where = _describe("category", number, record)
        if not isinstance(record, Mapping) or not _is_integer(record.get("id")) or not _is_text(record.get("name")):
            self._note(BAD_RECORD, where, "a category needs an integer 'id' and a 'name'")
        elif record["id"] in self.categories:
            self._note(DUPLICATE_ID, where, f"the name here is {record['name']!r}")
        else:
            self.categories[record["id"]] = self._find_role(record)
            self._category_names.append((record["id"], record["name"]))

    def read_image(self, number: int, record: object) -> None:
        where = _describe("image", number, record)
        if (
            not isinstance(record, Mapping)
            or not _is_integer(record.get("id"))
            or record["id"] < 0
            or not _is_text(record.get("file_name"))
        ):
            self._note(BAD_RECORD, where, "an image needs an 'id' of 0 or more and a 'file_name'")
            return
        image_id, file_name = record["id"], record["file_name"]
        if image_id in self.positions:
            self._note(DUPLICATE_ID, where, file_name)
            return
        self.positions[image_id] = number
        # Only the name is checked: an image folder may be a link to another disk.
        if os.path.isabs(file_name) or os.path.normpath(file_name).split(os.sep)[0] == os.pardir:
            self._note(OUTSIDE_IMAGE, where, file_name)
            return
        self._read_size(where, record, self._image_root / file_name)

    def _read_size(self, where: str, record: Mapping[str, Any], path: Path) -> None:
        """Add an image whose size is known from the record, else from its file."""
        size = (record.get("height"), record.get("width"))
        try:
            height, width = image_size(path) if size == (None, None) else size
        except FileNotFoundError:
            self._note(MISSING_IMAGE, where, f"{record['file_name']} does not exist")
            return
        except ValueError as error:
            self._note(UNREADABLE_IMAGE, where, str(error))
            return
        if not (_is_integer(height) and _is_integer(width) and height > 0 and width > 0):
            self._note(BAD_RECORD, where, f"'height' and 'width' must be positive integers, got {size}")
            return
        self.images[record["id"]] = CheckedImage(record["id"], record["file_name"], path, height, width)

    def read_annotation(self, number: int, record: object) -> None:
        where = _describe("annotation", number, record)
        keys = ("id", "image_id", "category_id")
        if not isinstance(record, Mapping) or not all(_is_integer(record.get(key)) for key in keys):
            self._note(BAD_RECORD, where, f"an annotation needs the integers {', '.join(keys)}")
            return
        annotation_id, image_id, category_id = (record[key] for key in keys)
        self._annotated_images.add(image_id)
        self._used_categories.add(category_id)
        if annotation_id in self._annotation_ids:
            self._note(DUPLICATE_ID, where, f"in image {image_id}")
        elif image_id not in self.positions:
            self._note(UNKNOWN_IMAGE, where, f"image_id {image_id}")
        elif category_id not in self.categories:
            self._note(UNKNOWN_CATEGORY, where, f"category_id {category_id}")
        elif image_id in self.images:  # other images have no size to read a mask with, and have findings of their own
            role = self.categories[category_id]
            if role.raw_object is not None or role.raw_part is not None:
                self._annotation_ids.add(annotation_id)
                if self._is_own:
                    self._read_labelled(where, record, role)

    def note_unused(self) -> None:
        """Note images and categories without annotations; call it after the last record."""
        self._stage, self._number, self._is_own = Stage.UNUSED, 0, self._shard.index == 0
        for image_id in sorted(self.positions.keys() - self._annotated_images):
            self._note(NO_ANNOTATION, f"image {image_id}", "no annotation names it")
        for number, name in self._category_names:
            if number not in self._used_categories:
                self._note(UNUSED_CATEGORY, f"category {number}", name)

    def _read_labelled(self, where: str, record: Mapping[str, Any], role: CheckedCategory) -> None:
        image = self.images[record["image_id"]]
        object_id, is_crowd = record.get("obj_ann_id"), False
        try:
            is_crowd = read_crowd(record.get("iscrowd", 0))
        except ValueError as error:
            self._note(BAD_RECORD, where, str(error))
        if is_crowd:
            self._note(CROWD, where, _label(role))
        if object_id is not None and not _is_integer(object_id):
            self._note(BAD_RECORD, where, f"'obj_ann_id' must be an integer, got {object_id!r}")
            object_id = None
        mask = self._read_mask(where, record, role, image)
        self.annotations[record["id"]] = CheckedAnnotation(
            record["id"], image.image_id, role, object_id if role.raw_part is not None else None, mask, is_crowd
        )

    def _read_mask(
        self, where: str, record: Mapping[str, Any], role: CheckedCategory, image: CheckedImage
    ) -> RLE | None:
        is_part, segmentation = role.raw_part is not None, record.get("segmentation")
        if segmentation is None or segmentation == []:  # an object may have only a box
            if is_part:
                self._note(EMPTY_MASK, where, f"{_label(role)} in image {image.image_id} has no mask")
            return None
        try:
            mask = canonical_rle(rle_from_coco(segmentation, image.height, image.width, _label(role)))
        except (ValueError, TypeError, OverflowError) as error:
            self._note(UNREADABLE_MASK, where, str(error))
            return None
        if rle_area(mask) == 0:
            problem = EMPTY_MASK if is_part else EMPTY_OBJECT_MASK
            self._note(problem, where, f"the mask of {_label(role)} in image {image.image_id} covers no pixel")
            return None
        return mask

    def _find_role(self, record: Mapping[str, Any]) -> CheckedCategory:
        """Tell objects from parts in the same way as `partonomy.datasets.sources.coco`."""
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
        if self._is_own:
            self.findings.append(Finding(problem, record, detail, self._stage, self._number))


def _label(role: CheckedCategory) -> str:
    return ":".join(name for name in (role.raw_object, role.raw_part) if name is not None)


def _is_integer(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value)


def _describe(kind: str, number: int, record: object) -> str:
    identifier = record.get("id") if isinstance(record, Mapping) else None
    return f"{kind} {identifier if identifier is not None else f'at position {number}'}"


@dataclass(frozen=True)
class CheckLimits:
    """Thresholds of the mask checks.

    Attributes:
        min_pixels: a part mask with fewer pixels is a warning.
        min_share: a part mask that covers a smaller fraction of its image is a note.
        max_outside: fraction of a part's pixels that may lie outside its object's mask.
        duplicate_iou: IoU above which two masks of the same label count as duplicates.
    """

    min_pixels: int = 16
    min_share: float = 0.0005
    max_outside: float = 0.1
    duplicate_iou: float = 0.99

    def __post_init__(self) -> None:
        if self.min_pixels < 0:
            raise ValueError(f"min_pixels must be 0 or more, got {self.min_pixels}")
        for name in ("min_share", "max_outside", "duplicate_iou"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"{name} must lie between 0 and 1, got {getattr(self, name)}")


@dataclass(frozen=True)
class CheckedMasks:
    """The findings of one image; `num_not_compared` parts have no object mask to be compared with."""

    findings: tuple[Finding, ...]
    num_not_compared: int


def check_masks(image: CheckedImage, annotations: Sequence[CheckedAnnotation], limits: CheckLimits) -> CheckedMasks:
    """Check all annotations of an image; unreadable masks were already noted while reading."""
    objects = {one.annotation_id: one for one in annotations if not one.is_part}
    findings: list[Finding] = []
    num_not_compared = 0
    for part in annotations:
        if not part.is_part or part.is_crowd:
            continue
        where = f"annotation {part.annotation_id}"
        problem = _find_link_problem(part, objects)
        if problem:
            findings.append(Finding(NO_OBJECT, where, f"{describe(part)} in image {image.image_id}: {problem}"))
        if part.mask is None:
            continue
        findings += _check_size(part, part.mask, image, limits)
        owners = [] if problem else _possible_owners(part, objects)
        if not owners:
            num_not_compared += not problem
            continue
        outside = min(_share_outside(part.mask, owner) for owner in owners)
        if outside > limits.max_outside:
            detail = f"{outside:.0%} of {describe(part)} in image {image.image_id} lies outside its object"
            findings.append(Finding(OUTSIDE_OBJECT, where, detail))
    findings += _find_duplicates(image, annotations, limits.duplicate_iou)
    return CheckedMasks(tuple(findings), num_not_compared)


def describe(annotation: CheckedAnnotation) -> str:
    """Return an annotation's raw names as `object:part`, as far as they are known."""
    names = (annotation.category.raw_object, annotation.category.raw_part)
    return repr(":".join(name for name in names if name is not None))


def _check_size(part: CheckedAnnotation, mask: RLE, image: CheckedImage, limits: CheckLimits) -> Iterator[Finding]:
    area, pixels = rle_area(mask), image.height * image.width
    where, what = f"annotation {part.annotation_id}", f"{describe(part)} in image {image.image_id}"
    if area < limits.min_pixels:
        yield Finding(FEW_PIXELS, where, f"{what}: {area} pixels")
    if area < limits.min_share * pixels:
        yield Finding(SMALL_SHARE, where, f"{what}: {area / pixels:.4%} of the image, {area} pixels")


def _find_link_problem(part: CheckedAnnotation, objects: dict[int, CheckedAnnotation]) -> str:
    """Return why a part belongs to no object (by the rules of `group_parts_by_object`), or an empty string."""
    if part.object_id is None:
        is_known = bool(objects) or part.category.raw_object is not None
        return "" if is_known else "nothing says which object it belongs to"
    owner = objects.get(part.object_id)
    if owner is None:
        return f"obj_ann_id {part.object_id} is no object of this image"
    if part.category.raw_object not in (None, owner.category.raw_object):
        return f"it is linked to annotation {owner.annotation_id}, which is {describe(owner)}"
    return ""


def _possible_owners(part: CheckedAnnotation, objects: dict[int, CheckedAnnotation]) -> list[RLE]:
    """Return the mask of the linked object or, without a link, the masks of all objects of the part's class."""
    if part.object_id is not None:
        candidates = [objects[part.object_id]]
    else:
        candidates = [one for one in objects.values() if part.category.raw_object in (None, one.category.raw_object)]
    return [one.mask for one in candidates if one.mask is not None]


def _share_outside(part: RLE, owner: RLE) -> float:
    return 1.0 - intersection_area(part, owner) / rle_area(part)


def _find_duplicates(
    image: CheckedImage, annotations: Sequence[CheckedAnnotation], duplicate_iou: float
) -> Iterator[Finding]:
    by_label: dict[str, list[CheckedAnnotation]] = defaultdict(list)
    for annotation in annotations:
        if annotation.mask is not None:
            by_label[describe(annotation)].append(annotation)
    for label, same in by_label.items():
        areas = {one.annotation_id: rle_area(one.mask) for one in same if one.mask is not None}
        ordered = sorted(same, key=lambda one: (areas[one.annotation_id], one.annotation_id))
        for position, first in enumerate(ordered):
            for second in ordered[position + 1 :]:
                small, large = areas[first.annotation_id], areas[second.annotation_id]
                if small <= duplicate_iou * large:  # the IoU is at most the ratio of the areas
                    break
                iou = _mask_iou(first, second, small + large)
                if iou > duplicate_iou:
                    detail = f"{label} in image {image.image_id} is annotated again by {first.annotation_id}"
                    yield Finding(SAME_MASK, f"annotation {second.annotation_id}", f"{detail}, IoU {iou:.3f}")
                    break


def _mask_iou(first: CheckedAnnotation, second: CheckedAnnotation, total_area: int) -> float:
    assert first.mask is not None
    assert second.mask is not None
    shared = intersection_area(first.mask, second.mask)
    return shared / (total_area - shared)


def check_names(categories: Sequence[CheckedCategory], name_map: Mapping[str, str]) -> Iterator[Finding]:
    """Check the vocabularies of objects and parts; names that the name map unites are not reported."""
    vocabularies = {
        "object": {one.raw_object for one in categories if one.raw_object is not None},
        "part": {one.raw_part for one in categories if one.raw_part is not None},
    }
    for kind, raw_names in vocabularies.items():
        usable, empty = _split_empty(raw_names, name_map)
        for raw in empty:
            yield Finding(EMPTY_NAME, f"{kind} {raw!r}", "only prefixes, underscores or spaces")
        names = clean_names(usable, name_map)
        raw_of: dict[str, list[str]] = defaultdict(list)
        for raw, name in sorted(names.items()):
            raw_of[name].append(raw)
        for name, same in sorted(raw_of.items()):
            if len(same) > 1 and not all(raw in name_map for raw in same):
                yield Finding(COLLAPSED_NAMES, f"{kind} {name!r}", f"from {_quote(same)}")
        for group in find_similar_names(raw_of):
            yield Finding(SIMILAR_NAMES, f"{kind}s {_quote(group)}", "one name in several forms")


def find_similar_names(names: Iterable[str]) -> tuple[tuple[str, ...], ...]:
    """Return the sorted groups of names that differ only in plural, hyphens and case (see `LemmaComparator`)."""
    synonyms = LemmaComparator().find_synonyms(sorted(set(names)))
    groups = {tuple(sorted(group)) for group in synonyms.values() if len(group) > 1}
    return tuple(sorted(groups))


def check_categories(
    categories: Sequence[CheckedCategory],
    name_map: Mapping[str, str],
    table: Mapping[str, str],
    table_path: Path | None,
) -> Iterator[Finding]:
    """Check that every object has one category.

    Args:
        categories: categories of the annotation file; in the project's own form, they include the objects' categories.
        name_map: raw name -> natural name.
        table: object (raw or natural name) -> category.
        table_path: file of the table; None if there is none.
    """
    raw_objects = {one.raw_object for one in categories if one.raw_object is not None}
    names = clean_names(_split_empty(raw_objects, name_map)[0], name_map)
    found: dict[str, set[str]] = defaultdict(set)
    for one in categories:
        if one.raw_object in names and one.raw_part is None and one.object_category is not None:
            found[names[one.raw_object]].add(one.object_category)
    for raw, name in sorted(names.items()) if table_path is not None else []:
        given = next((table[key] for key in (raw, name) if key in table), None)
        if given is None:
            yield Finding(NO_CATEGORY, f"object {name!r}", f"raw name {raw!r} is not in {table_path}")
        else:
            found[name].add(given)
    for name, group in sorted(found.items()):
        if len(group) > 1:
            yield Finding(TWO_CATEGORIES, f"object {name!r}", f"in {_quote(sorted(group))}")


def _split_empty(raw_names: Iterable[str], name_map: Mapping[str, str]) -> tuple[list[str], list[str]]:
    """Separate names that are not empty after cleaning from those that are."""
    usable: list[str] = []
    empty: list[str] = []
    for raw in sorted(raw_names):
        try:
            usable.append(raw if raw in name_map or clean_name(raw) else raw)
        except ValueError:
            empty.append(raw)
    return usable, empty


def _quote(names: Sequence[str]) -> str:
    return ", ".join(repr(name) for name in names)


@dataclass(frozen=True)
class CheckConfig:
    """Settings of a check.

    Attributes:
        limits: thresholds of the mask checks.
        num_workers: number of threads that read images (decoding releases Python's lock).
        headers_only: read only the images' sizes, not their pixels: fast, but truncated files are not noticed.
        object_name, categories, name_map: settings of a COCO-style file, see `CocoConfig`.
    """

    limits: CheckLimits = CheckLimits()
    num_workers: int = 1
    headers_only: bool = False
    object_name: str | None = None
    categories: Path | None = None
    name_map: Path | None = None

    def __post_init__(self) -> None:
        if self.num_workers < 1:
            raise ValueError(f"num_workers must be 1 or more, got {self.num_workers}")


@dataclass(frozen=True)
class CheckInput:
    """The input of a check: an annotation file, the folder of its images, and the data set folder if it is one."""

    annotations: Path
    images: Path
    folder: Path | None = None


def folder_input(folder: Path) -> CheckInput:
    """Return the annotations and images of a data set folder in the project's own form.

    Raises:
        FileNotFoundError: `dataset.json` is missing.
        ValueError: it is not JSON of the right form.
    """
    description = read_json(folder / DATASET_FILE)
    if not isinstance(description.get("image_root"), str):
        raise ValueError(f"{folder / DATASET_FILE}: 'image_root', the folder of the images, is missing")
    return CheckInput(folder / ANNOTATIONS_FILE, (folder / description["image_root"]).resolve(), folder)


def check_folder(folder: Path, config: CheckConfig) -> CheckReport:
    """Check a data set folder in the project's own form.

    Raises:
        FileNotFoundError: one of its files is missing.
        ValueError: `dataset.json` or `annotations.json` is not JSON of the right form.
    """
    return check_input(folder_input(folder), config)


def check_files(annotations: Path, image_root: Path, config: CheckConfig) -> CheckReport:
    """Check a COCO-style annotation file and its images.

    Raises:
        FileNotFoundError: the annotation file, or a table given with it, is missing.
        ValueError: one of them is not JSON of the right form.
    """
    return check_input(CheckInput(annotations, image_root), config)


def check_input(files: CheckInput, config: CheckConfig) -> CheckReport:
    """Check a data set folder or a COCO-style annotation file; raises what `check_files` raises."""
    return join_checks(files.annotations, [check_part(files, config)], config, files.folder)


@dataclass(frozen=True)
class ImageContent:
    """An image file. `content` is equal for files of equal bytes; `position` is the index of the image's record."""

    position: int
    image_id: int
    file_name: str
    content: str


@dataclass(frozen=True)
class PartialCheck:
    """The results for some of the images.

    Attributes:
        num_images, num_annotations: numbers of records in the whole file.
        findings: all findings except those that need every image.
        contents: image files that may equal others.
        num_not_compared: number of parts without an object mask to be compared with.
    """

    num_images: int
    num_annotations: int
    findings: tuple[Finding, ...]
    contents: tuple[ImageContent, ...]
    num_not_compared: int


def check_part(files: CheckInput, config: CheckConfig, shard: Shard | None = None) -> PartialCheck:
    """Check the images of a shard with their annotations; the first shard checks what belongs to no image.

    Args:
        files: the input.
        config: settings of the check.
        shard: the shard whose images are read; None for all images.
    """
    name_map = read_text_map(config.name_map, "name map") if config.name_map else {}
    table = read_text_map(config.categories, "categories") if config.categories else {}
    file = read_checked_file(files.annotations, files.images, config.object_name, shard)
    findings = list(file.findings)
    if shard is None or shard.index == 0:
        changes = [] if files.folder is None else list_changes(files.folder)
        findings += (Finding(CHANGED_FILE, "folder", change) for change in changes)
        findings += check_names(file.categories, name_map)
        of_categories = check_categories(file.categories, name_map, table, config.categories)
        findings += (replace(one, stage=Stage.OBJECT_CATEGORIES) for one in of_categories)
    findings += _check_images(file, config)
    mask_findings, num_not_compared = _check_all_masks(file, config.limits)
    return PartialCheck(
        num_images=file.num_images,
        num_annotations=file.num_annotations,
        findings=(*findings, *mask_findings),
        contents=_group_contents(file, config) if shard is None else _hash_contents(file, config),
        num_not_compared=num_not_compared,
    )


def join_checks(
    annotations: Path, parts: Sequence[PartialCheck], config: CheckConfig, folder: Path | None = None
) -> CheckReport:
    """Join the results of any number of shards into a report.

    Args:
        annotations: the checked file.
        parts: the results of all shards.
        config: the settings of the check.
        folder: the data set folder of the file, if it is in one.
    """
    findings = [finding for part in parts for finding in part.findings]
    findings += _find_same_images(content for part in parts for content in part.contents)
    order = {problem: number for number, problem in enumerate(PROBLEMS)}
    findings.sort(key=lambda finding: (order[finding.problem], finding.stage, finding.number))
    remarks = []
    num_not_compared = sum(part.num_not_compared for part in parts)
    if num_not_compared:
        remarks.append(f"{num_not_compared} parts were not compared with their object, whose mask is not annotated")
    if config.headers_only:
        remarks.append("only the headers of the images were read: cut-off files were not looked for")
    if folder is not None and not has_seal(folder):
        remarks.append("the folder has no hashes of its files: changes since the build were not looked for")
    first = parts[0]
    return CheckReport(str(annotations), first.num_images, first.num_annotations, tuple(findings), tuple(remarks))


def _check_images(file: CheckedFile, config: CheckConfig) -> Iterator[Finding]:
    images = file.images
    with ThreadPoolExecutor(config.num_workers) as executor, progress(len(images), "images", "image") as shown:
        checked = executor.map(lambda image: _check_image(image, config.headers_only), images)
        for image, findings in zip(images, checked, strict=True):
            number = file.positions[image.image_id]
            yield from (replace(one, stage=Stage.IMAGES, number=number) for one in findings)
            shown.update()


def _group_contents(file: CheckedFile, config: CheckConfig) -> tuple[ImageContent, ...]:
    """Group equal files of all images; a file is read only if another has the same size."""
    groups = find_same_files([image.path for image in file.images], config.num_workers)
    return tuple(
        _image_content(file, file.images[position], str(number))
        for number, group in enumerate(groups)
        for position in group
    )


def _hash_contents(file: CheckedFile, config: CheckConfig) -> tuple[ImageContent, ...]:
    """Hash every file of a shard, because the other shards' file sizes are unknown."""
    present = [image for image in file.images if image.path.is_file()]
    with ThreadPoolExecutor(config.num_workers) as executor:
        digests = executor.map(lambda image: hash_files([image.path]), present)
        return tuple(_image_content(file, *row) for row in zip(present, digests, strict=True))


def _image_content(file: CheckedFile, image: CheckedImage, content: str) -> ImageContent:
    return ImageContent(file.positions[image.image_id], image.image_id, image.file_name, content)


def _find_same_images(contents: Iterable[ImageContent]) -> Iterator[Finding]:
    groups: dict[str, list[ImageContent]] = defaultdict(list)
    for one in sorted(contents, key=lambda one: one.position):
        groups[one.content].append(one)
    for group in groups.values():
        first = group[0]
        for again in group[1:]:
            detail = f"{again.file_name} has the content of {first.file_name} (image {first.image_id})"
            yield Finding(SAME_IMAGE, f"image {again.image_id}", detail, Stage.SAME_FILES)


def _check_image(image: CheckedImage, headers_only: bool) -> list[Finding]:
    where = f"image {image.image_id}"
    if not image.path.is_file():
        return [Finding(MISSING_IMAGE, where, f"{image.file_name} does not exist")]
    try:
        height, width = image_size(image.path)
        if not headers_only:
            load_image(image.path, height, width)
    except (ValueError, OSError) as error:
        return [Finding(UNREADABLE_IMAGE, where, str(error))]
    try:
        check_image(image.path, image.height, image.width)
    except ValueError as error:
        return [Finding(SIZE_MISMATCH, where, str(error))]
    return []


def _check_all_masks(file: CheckedFile, limits: CheckLimits) -> tuple[list[Finding], int]:
    """Return the findings, and the number of parts that could not be compared with their object."""
    by_image: Mapping[int, list[CheckedAnnotation]] = defaultdict(list)
    for annotation in file.annotations:
        by_image[annotation.image_id].append(annotation)
    findings: list[Finding] = []
    num_not_compared = 0
    with progress(len(file.images), "masks", "image") as shown:
        for image in file.images:
            checked = check_masks(image, by_image[image.image_id], limits)
            number = file.positions[image.image_id]
            findings += (replace(one, stage=Stage.MASKS, number=number) for one in checked.findings)
            num_not_compared += checked.num_not_compared
            shown.update()
    return findings, num_not_compared
