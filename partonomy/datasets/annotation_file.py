"""Reads and writes `annotations.json`: objects and parts as COCO-style annotations (see `store`)."""

from collections import deque
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice, repeat
from pathlib import Path
from typing import Any

import msgspec

from partonomy.datasets.sources.records import OBJECT, PART
from partonomy.files import (
    RECORD_ERRORS,
    MissingListsError,
    check_box,
    check_relative_path,
    check_text,
    is_integer,
    iterate_lists,
    iterate_tables,
    open_atomically,
    reason_of,
    shorten,
)
from partonomy.masks import check_mask_size, read_sound_codes, rle_area, rle_bbox, rle_from_coco, rle_to_json
from partonomy.sharding import Shard
from partonomy.structures import RLE, UNNAMED_PART, AnnotatedImage, ObjectInstance, Part

ENCODER = msgspec.json.Encoder()  # the same output as compact `json`, in a tenth of the time
RECORDS_PER_BATCH = 4096
LISTS = ("images", "categories", "annotations")
"""The file's lists, in the order in which they are written."""


def write_annotations(images: Iterable[AnnotatedImage], path: Path) -> None:
    """Write `annotations.json` record by record; as a single JSON value, a training set would take gigabytes of memory.

    Args:
        images: iterated over three times; every part must have exactly one annotation id.
        path: the file, written atomically.
    """
    categories = _collect_categories(images)
    category_id = {name: number for number, name in enumerate(categories, start=1)}
    lists: dict[str, Iterable[dict[str, Any]]] = {
        "images": (
            {"id": image.image_id, "file_name": image.file_name, "height": image.height, "width": image.width}
            | ({"has_other_objects": True} if image.has_other_objects else {})
            for image in images
        ),
        "categories": ({"id": category_id[name], "name": name} | content for name, content in categories.items()),
        "annotations": _annotation_records(images, category_id),
    }
    with open_atomically(path) as file:
        for number, (name, records) in enumerate(lists.items()):
            start = "," if number else "{"
            file.write(f'{start}"{name}":['.encode())
            for position, record in enumerate(records):
                file.write((b"," if position else b"") + ENCODER.encode(record))
            file.write(b"]")
        file.write(b"}\n")


def _collect_categories(images: Iterable[AnnotatedImage]) -> dict[str, dict[str, Any]]:
    """Return the categories by name: objects, then parts, each sorted by label."""
    object_category: dict[str, str] = {}
    part_labels: set[tuple[str, str]] = set()
    for image in images:
        for instance in image.objects:
            object_category[instance.label] = instance.category
            part_labels.update((instance.label, part.label) for part in instance.parts)
    categories: dict[str, dict[str, Any]] = {}
    for label, category in sorted(object_category.items()):
        categories[label] = {"supercategory": OBJECT, "category": category}
    for label, part_label in sorted(part_labels):
        categories[f"{label}:{part_label}"] = {"supercategory": PART, "part": part_label}
    return categories


def _annotation_records(images: Iterable[AnnotatedImage], category_id: Mapping[str, int]) -> Iterator[dict[str, Any]]:
    for image in images:
        for instance in image.objects:
            extra: dict[str, Any] = {} if instance.box is None else {"marked_box": list(instance.box)}
            if instance.left_out_parts:
                extra["left_out_parts"] = list(instance.left_out_parts)
            record = {"id": instance.instance_id, "image_id": image.image_id, "obj_ann_id": instance.instance_id}
            yield record | {"category_id": category_id[instance.label]} | _mask_to_json(instance.mask) | extra
            for part in instance.parts:
                record = {"id": part.annotation_ids[0], "image_id": image.image_id, "obj_ann_id": instance.instance_id}
                name = f"{instance.label}:{part.label}"
                yield record | {"category_id": category_id[name]} | _mask_to_json(part.mask)


def _mask_to_json(mask: RLE | None) -> dict[str, Any]:
    if mask is None:
        return {"segmentation": None, "iscrowd": 0}
    box, area = list(rle_bbox(mask)), rle_area(mask)
    return {"segmentation": rle_to_json(mask), "bbox": box, "area": area, "iscrowd": 0}


def annotations_from_json(content: Mapping[str, Any], path: Path) -> tuple[AnnotatedImage, ...]:
    """Read the parsed content of `annotations.json`.

    Args:
        content: the parsed file.
        path: the file, for messages.

    Returns:
        The images in file order, with their objects and parts.

    Raises:
        ValueError: a list or a record is broken; the message names the file and the record.
    """
    for key in LISTS:
        if not isinstance(content.get(key), list):
            raise ValueError(f"{path}: {key!r} must be a list")
    return _read_tables(path, ((key, record) for key in LISTS for record in content[key]))


def read_annotations(path: Path) -> tuple[AnnotatedImage, ...]:
    """Read `annotations.json` record by record; see `annotations_from_json`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not JSON, or a record is broken; the message names file and record.
    """
    try:
        return _read_tables(path, iterate_tables(path, LISTS))
    except MissingListsError as error:
        missing = next(key for key in LISTS if key in error.names)
        raise ValueError(f"{path}: {missing!r} must be a list") from error


def _read_tables(path: Path, records: Iterable[tuple[str, Any]]) -> tuple[AnnotatedImage, ...]:
    """Read the records of the lists in the order of `LISTS`; masks are checked many at a time."""
    codes: deque[RLE | None] = deque()
    reader = _Reader(path, iter(codes.popleft, object()))
    read = {"images": reader.read_image, "categories": reader.read_category, "annotations": reader.read_annotation}
    numbers = dict.fromkeys(LISTS, 0)
    rows = iter(records)
    while batch := list(islice(rows, RECORDS_PER_BATCH)):
        codes.extend(read_sound_codes(_segmentation(record) for key, record in batch if key == "annotations"))
        for key, record in batch:
            try:
                read[key](record)
            except RECORD_ERRORS as error:
                identifier = record.get("id") if isinstance(record, Mapping) else None
                name = f"at position {numbers[key]}" if identifier is None else shorten(identifier)
                raise ValueError(f"{path}, {key.removesuffix('s')} {name}: {reason_of(error)}") from error
            numbers[key] += 1
    return reader.build()


def read_shard_annotations(path: Path, shard: Shard) -> tuple[AnnotatedImage, ...]:
    """Read the images of one shard from `annotations.json` without holding other images' masks in memory.

    Args:
        path: the file.
        shard: the shard, a contiguous range of images in file order (`Shard.span`).

    Raises:
        ValueError: a record is broken (the message names file and record), or the lists are not in the order in which
            `write_annotations` writes them.
    """
    content: dict[str, list[Any]] = {name: [] for name in LISTS}
    owned: _OwnedIds | None = None
    for name, record in iterate_lists(path, LISTS, is_strict=True):
        if name == "annotations":
            owned = owned or _OwnedIds(path, content["images"], shard)
            if not owned.is_foreign(record):
                content[name].append(record)
        elif owned is None:
            content[name].append(record)
        else:
            raise ValueError(
                f"{path}: the list {name!r} comes after 'annotations'; a shard is read in one pass and needs it first. "
                "Write the lists in the order images, categories, annotations, as build does"
            )
    span = shard.span(len(content["images"]))
    content["images"] = content["images"][span.start : span.stop]
    return annotations_from_json(content, path)


class _OwnedIds:
    """Decides which annotations belong to the images of a shard.

    Args:
        path: the file, for error messages.
        images: all image records of the file.
        shard: the shard whose images are kept.
    """

    def __init__(self, path: Path, images: Sequence[object], shard: Shard) -> None:
        self._path = path
        self._foreign: set[int] = set()
        self._annotations: set[int] = set()
        span = shard.span(len(images))
        for position, image in enumerate(images):
            number = _integer_of(image, "id")
            if number is not None and position not in span:
                if number in self._foreign:
                    raise ValueError(f"{path}, image {number}: the id {number} occurs twice")
                self._foreign.add(number)
        for position in span:
            number = _integer_of(images[position], "id")
            if number in self._foreign:
                raise ValueError(f"{path}, image {number}: the id {number} occurs twice")

    def is_foreign(self, record: object) -> bool:
        """Return whether another shard reads the annotation; all shards refuse broken annotations."""
        number, image_id = _integer_of(record, "id"), _integer_of(record, "image_id")
        if number is not None and number in self._annotations:
            raise ValueError(f"{self._path}, annotation {number}: the id {number} occurs twice")
        if number is not None:
            self._annotations.add(number)
        return number is not None and image_id in self._foreign


def _integer_of(record: object, key: str) -> int | None:
    number = record.get(key) if isinstance(record, Mapping) else None
    return number if isinstance(number, int) and not isinstance(number, bool) else None


class FormChecker:
    """Finds what is wrong with the records of a file, one by one, by the rules of `annotations_from_json`.

    Feed it all images, then all categories or the other way round, then any of the annotations.

    Args:
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        reader = _Reader(path, repeat(None), is_kept=False)
        self._read = {
            "images": reader.read_image,
            "categories": reader.read_category,
            "annotations": reader.read_annotation,
        }

    def find_fault(self, table: str, record: Any) -> str | None:
        """Return what is wrong with a record; None if nothing is.

        Args:
            table: the record's list.
            record: the record.
        """
        try:
            self._read[table](record)
        except RECORD_ERRORS as error:
            return reason_of(error)
        return None


class _Reader:
    """Collects the records of one file.

    Args:
        path: the file, for error messages.
        codes: for every annotation, in file order, its mask if it needs no further check, else None.
        is_kept: whether objects and parts are kept for `build`.
    """

    def __init__(self, path: Path, codes: Iterable[RLE | None], *, is_kept: bool = True) -> None:
        self._path, self._is_kept = path, is_kept
        self._codes = iter(codes)
        self._images: dict[int, AnnotatedImage] = {}
        self._categories: dict[int, Mapping[str, Any]] = {}
        self._ids: set[int] = set()
        self._parts: dict[tuple[int, int], list[Part]] = {}  # keys: image and object
        self._objects: dict[int, list[ObjectInstance]] = {}

    def read_image(self, record: Mapping[str, Any]) -> None:
        image_id = _new_id(record, self._images)
        check_mask_size(record["height"], record["width"])
        file_name = check_relative_path(record["file_name"], "'file_name'")
        has_other_objects = record.get("has_other_objects", False)
        if not isinstance(has_other_objects, bool):
            raise ValueError(f"'has_other_objects' must be true or false, got {shorten(has_other_objects)}")
        image = AnnotatedImage(image_id, file_name, record["height"], record["width"], (), has_other_objects)
        self._images[image_id] = image
        self._objects[image_id] = []

    def read_category(self, record: Mapping[str, Any]) -> None:
        category_id = _new_id(record, self._categories)
        check_text(record["name"], "'name'")
        if record["supercategory"] not in (OBJECT, PART):
            raise ValueError(f"'supercategory' must be {OBJECT} or {PART}, got {shorten(record['supercategory'])}")
        key = "part" if record["supercategory"] == PART else "category"
        check_text(record[key], f"{key!r}")
        self._categories[category_id] = record

    def read_annotation(self, record: Mapping[str, Any]) -> None:
        code = next(self._codes)
        number = _new_id(record, self._ids)
        self._ids.add(number)
        image = _find(self._images, record["image_id"], "image")
        category = _find(self._categories, record["category_id"], "category")
        mask = record["segmentation"]
        if code is not None and (code.height, code.width) == (image.height, image.width):
            mask = code
        elif mask is not None:
            mask = rle_from_coco(mask, image.height, image.width, "segmentation")
        if category["supercategory"] == PART:
            if mask is None:
                raise ValueError("a part needs a mask")
            owner = (image.image_id, _integer(record, "obj_ann_id"))
            if self._is_kept:
                self._parts.setdefault(owner, []).append(Part(category["part"], mask, (number,)))
        else:
            box = record.get("marked_box")
            box = None if box is None else check_box(box, "'marked_box'")
            left_out = _read_left_out(record.get("left_out_parts", []))
            instance = ObjectInstance(number, category["name"], category["category"], (), mask, box, left_out)
            if self._is_kept:
                self._objects[image.image_id].append(instance)

    def build(self) -> tuple[AnnotatedImage, ...]:
        """Return the images with their objects and parts, in file order."""
        images = []
        for image in self._images.values():
            objects = tuple(
                replace(instance, parts=tuple(self._parts.pop((image.image_id, instance.instance_id), ())))
                for instance in self._objects[image.image_id]
            )
            images.append(replace(image, objects=objects))
        if self._parts:
            numbers = ", ".join(shorten(number) for _, number in list(self._parts)[:5])
            raise ValueError(
                f"{self._path}: parts refer to objects that are not annotated in their image, obj_ann_id {numbers}"
            )
        return tuple(images)


def _read_left_out(names: object) -> tuple[str, ...]:
    """Read the names of parts that were left out; `UNNAMED_PART` is one of unknown name."""
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"'left_out_parts' must be a list of names, got {shorten(names)}")
    return tuple(name if name == UNNAMED_PART else check_text(name, "a name in 'left_out_parts'") for name in names)


def _segmentation(record: object) -> object:
    return record.get("segmentation") if isinstance(record, dict) else None


def _new_id(record: Mapping[str, Any], known: Container[int]) -> int:
    number = _integer(record, "id")
    if number in known:
        raise ValueError(f"the id {shorten(number)} occurs twice")
    return number


def _integer(record: Mapping[str, Any], key: str) -> int:
    number = record[key]
    if not is_integer(number):
        raise ValueError(f"{key!r} must be an integer, got {shorten(number)}")
    return number


def _find(known: Mapping[int, Any], number: object, kind: str) -> Any:
    if not is_integer(number) or number not in known:
        raise ValueError(f"{kind} {shorten(number)} does not exist")
    return known[number]
