"""Reads COCO-style part annotations: ADE20K-like files, COCO-Annotator exports, users' own data.

Each record is checked, and the quirks of common tools are normalised.
"""

import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

from partonomy.datasets.sources.group_parts_by_object import SourceNames, SourceReading, assemble
from partonomy.datasets.sources.records import (
    BACKGROUND,
    OBJECT,
    PART,
    CocoConfig,
    CocoImage,
    CocoRecords,
    RawAnnotation,
    SkippedAnnotations,
    UnusableAnnotation,
)
from partonomy.files import RECORD_ERRORS, check_relative_path, check_text, is_integer, read_json, reason_of, shorten
from partonomy.images import check_image, image_size
from partonomy.masks import rle_area, rle_from_coco
from partonomy.names import split_part_name

MAX_ID = 2**63 - 1
NO_ID = -1  # the id recorded for a skipped annotation that has none


@dataclass(frozen=True)
class _Role:
    """The object or part that a category stands for. Both names are None for background."""

    raw_object: str | None
    raw_part: str | None


def read_coco_records(config: CocoConfig) -> CocoRecords:
    """Read and check all records.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: see `read_coco`.
    """
    path = config.annotations
    content = read_json(path)
    for key in ("images", "annotations", "categories"):
        if not isinstance(content.get(key), list):
            raise ValueError(f"{path}: a COCO file needs the list {key!r}; is this the annotation file?")
    roles = _read_roles(content["categories"], config)
    images, bad_images, nameless = _read_images(content["images"], config)
    skipped: dict[str, list[int]] = defaultdict(list)
    reasons = [*bad_images.values(), *nameless]
    skipped.update((unusable_image(reason), []) for reason in reasons)  # listed even if it has no annotations
    annotations: dict[int, RawAnnotation] = {}
    unusable: list[UnusableAnnotation] = []
    for number, record in enumerate(content["annotations"]):
        where = _describe(path, "annotation", number, record)
        try:
            annotation_id, image_id = read_integer(record, "id"), read_integer(record, "image_id")
            if annotation_id in annotations:
                raise ValueError(f"the annotation id {annotation_id} occurs twice")
            role = _find_role(record, roles)
            if image_id in bad_images:
                skipped[unusable_image(bad_images[image_id])].append(annotation_id)
            elif image_id not in images:
                raise ValueError(f"image_id {image_id} is not among the images")
            elif role.raw_object is None and role.raw_part is None:
                skipped["background"].append(annotation_id)
            else:
                annotations[annotation_id] = _read_annotation(record, images[image_id], role)
        except RECORD_ERRORS as error:
            reason = reason_of(error)
            if config.invalid == "raise":
                raise ValueError(f"{where}: {reason}") from error
            identifier = record.get("id") if isinstance(record, Mapping) else None
            skipped[reason].append(identifier if _is_id(identifier) else NO_ID)
            unusable += _find_unusable(record, images, roles)
    rows = tuple(SkippedAnnotations(reason, tuple(numbers)) for reason, numbers in skipped.items())
    return CocoRecords(tuple(images.values()), tuple(annotations.values()), rows, tuple(unusable))


def _find_unusable(
    record: object, images: Mapping[int, CocoImage], roles: Mapping[int, _Role]
) -> list[UnusableAnnotation]:
    """Return what a broken record says about what is visible: nothing if it names no usable image."""
    image_id, category_id = read_id_or_none(record, "image_id"), read_id_or_none(record, "category_id")
    role = roles.get(category_id) if category_id is not None else None
    if image_id is None or image_id not in images or role == _Role(None, None):
        return []
    if role is None:
        return [UnusableAnnotation(image_id), UnusableAnnotation(image_id, is_object=True)]
    is_object = role.raw_part is None
    linked = None if is_object else read_id_or_none(record, "obj_ann_id")
    return [UnusableAnnotation(image_id, role.raw_object, role.raw_part, linked, is_object)]


def read_id_or_none(record: object, key: str) -> int | None:
    """Read an id of a record that may be broken; None if it is no id."""
    value = record.get(key) if isinstance(record, Mapping) else None
    return value if _is_id(value) else None


def unusable_image(reason: str) -> str:
    """Return the reason for leaving out an annotation of an unusable image."""
    return f"annotation of an image that cannot be used: {reason}"


def _read_roles(categories: list[Any], config: CocoConfig) -> dict[int, _Role]:
    roles: dict[int, _Role] = {}
    for number, record in enumerate(categories):
        where = _describe(config.annotations, "category", number, record)
        try:
            category_id, name = read_integer(record, "id"), check_text(record["name"], "'name'")
        except RECORD_ERRORS as error:
            raise ValueError(f"{where}: {reason_of(error)}") from error
        if category_id in roles:
            raise ValueError(f"{where}: the category id {category_id} occurs twice")
        supercategory = record.get("supercategory")
        roles[category_id] = _category_role(
            name, supercategory if isinstance(supercategory, str) else "", config.object_name
        )
        if roles[category_id].raw_part == "":
            raise ValueError(f"{where}: the name {name!r} does not name a part")
    if not any(role.raw_part is not None for role in roles.values()):
        raise ValueError(
            f"{config.annotations}: no category is a part. Name parts 'object:part', give them the supercategory "
            "'PART', or pass --object_name when all categories are parts of one object"
        )
    return roles


def _category_role(name: str, supercategory: str, object_name: str | None) -> _Role:
    if name.strip("_ ").lower() == BACKGROUND:
        return _Role(None, None)
    raw_object, raw_part = split_part_name(name)
    kind = supercategory.upper()
    if kind == OBJECT:
        return _Role(name, None)
    if kind == PART or raw_object is not None:
        return _Role(raw_object or object_name, raw_part)
    return _Role(name, None) if object_name is None else _Role(object_name, name)


def _read_images(
    records: list[Any], config: CocoConfig
) -> tuple[dict[int, CocoImage], dict[int, str], tuple[str, ...]]:
    """Read image records; the other values give the reasons for unusable ones, by id and for those without an id."""
    images: dict[int, CocoImage] = {}
    bad: dict[int, str] = {}
    nameless: list[str] = []
    for number, record in enumerate(records):
        where = _describe(config.annotations, "image", number, record)
        image_id = None
        try:
            image_id = _read_image_id(record)
            if image_id in images or image_id in bad:
                raise ValueError(f"the image id {image_id} occurs twice")
            images[image_id] = _read_image(record, image_id, config.images)
        except RECORD_ERRORS as error:
            reason = reason_of(error)
            if config.invalid == "raise":
                kind = FileNotFoundError if isinstance(error, FileNotFoundError) else ValueError
                raise kind(f"{where}: {reason}") from error
            if image_id is None:
                nameless.append(f"{where}: {reason}")
            else:
                images.pop(image_id, None)  # if two images share an id, the annotations' image is unknown
                bad[image_id] = reason
    return images, bad, tuple(nameless)


def _read_image_id(record: Mapping[str, Any]) -> int:
    image_id = read_integer(record, "id")
    if image_id < 0:
        raise ValueError(f"'id' must be 0 or more, got {image_id}")
    return image_id


def _read_image(record: Mapping[str, Any], image_id: int, folder: Path) -> CocoImage:
    file_name = check_relative_path(record["file_name"], "'file_name'")
    path = folder / file_name
    if record.get("height") is None or record.get("width") is None:
        return CocoImage(image_id, file_name, *image_size(path))
    height, width = read_integer(record, "height"), read_integer(record, "width")
    check_image(path, height, width)
    return CocoImage(image_id, file_name, height, width)


def _find_role(record: Mapping[str, Any], roles: Mapping[int, _Role]) -> _Role:
    category_id = read_integer(record, "category_id")
    if category_id not in roles:
        raise ValueError(f"category_id {category_id} is not among the categories")
    return roles[category_id]


def _read_annotation(record: Mapping[str, Any], image: CocoImage, role: _Role) -> RawAnnotation:
    is_part = role.raw_part is not None
    segmentation = record.get("segmentation")
    mask = None
    if segmentation is not None and (is_part or segmentation != []):
        # An object may have only a box ("segmentation": []); a part may not, because the questions need its mask.
        mask = rle_from_coco(segmentation, image.height, image.width, "segmentation")
    if is_part and (mask is None or rle_area(mask) == 0):
        raise ValueError(f"the part {role.raw_part!r} has {'no' if mask is None else 'an empty'} mask")
    linked = record.get("obj_ann_id")
    return RawAnnotation(
        annotation_id=record["id"],
        image_id=image.image_id,
        raw_object=role.raw_object,
        raw_part=role.raw_part,
        object_id=read_integer(record, "obj_ann_id") if is_part and linked is not None else None,
        mask=mask,
        box=read_box(record.get("bbox"), image),
        is_crowd=read_crowd(record.get("iscrowd", 0)),
    )


def read_box(values: object, image: CocoImage) -> tuple[int, int, int, int] | None:
    """Clip a box to the image, in whole pixels; None if nothing is left.

    Raises:
        ValueError: it is not four finite numbers.
    """
    if values is None or values == []:
        return None
    if not isinstance(values, list) or len(values) != 4 or not all(_is_finite(value) for value in values):
        raise ValueError(f"'bbox' must be [x, y, width, height], got {shorten(values)}")
    x, y, width, height = (round(value) for value in values)
    left, top = max(x, 0), max(y, 0)
    right, bottom = min(x + width, image.width), min(y + height, image.height)
    return (left, top, right - left, bottom - top) if left < right and top < bottom else None


def _is_finite(value: object) -> bool:
    return is_integer(value) or (isinstance(value, float) and math.isfinite(value))


def read_crowd(value: object) -> bool:
    """Read `iscrowd`: 0, 1 or a boolean.

    Raises:
        ValueError: it is something else.
    """
    if value not in (0, 1):  # True == 1: COCO-Annotator writes booleans
        raise ValueError(f"'iscrowd' must be 0, 1, true or false, got {shorten(value)}")
    return bool(value)


def read_integer(record: Mapping[str, Any], key: str) -> int:
    """Read an id or a size.

    Raises:
        KeyError: the key is missing.
        ValueError: it is not an integer; the message names the key.
    """
    value = record[key]
    if not _is_id(value):
        raise ValueError(f"{key!r} must be an integer, got {shorten(value)}")
    return value


def _is_id(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) <= MAX_ID


def _describe(path: Path, kind: str, number: int, record: object) -> str:
    identifier = record.get("id") if isinstance(record, Mapping) else None
    return f"{path}, {kind} {shorten(identifier) if identifier is not None else f'at position {number}'}"


def read_coco(config: CocoConfig) -> SourceReading:
    """Read a COCO-style annotation file.

    Raises:
        FileNotFoundError: the file or one of its images is missing.
        ValueError: the file or a record is broken; the message names both.
    """
    name = config.name or config.annotations.resolve().parent.name
    return assemble(read_coco_records(config), config, SourceNames(name))
