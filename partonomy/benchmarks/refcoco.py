"""The benchmarks RefCOCO, RefCOCO+ and RefCOCOg, and the reader of their files and of refCLEF's.

`segmentation.py` asks the expressions and scores the masks. The files have the download layout of the LISA family's
`--dataset_dir`: `refer_seg/NAME/{refs(SPLITTER).p, instances.json}`, COCO's photographs in `refer_seg/images/mscoco/
images/train2014`, and refCLEF's in `refer_seg/images/saiapr_tc-12`. A target is the union of its polygons. Public code
sums them, so that overlapping pixels get the value 2.
"""

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from partonomy.benchmarks.segmentation import SegmentationItem, define_segmentation
from partonomy.benchmarks.task import Source
from partonomy.datasets.plain_pickle import load_plain_pickle
from partonomy.files import (
    RECORD_ERRORS,
    check_relative_path,
    check_text,
    is_integer,
    iterate_lists,
    reason_of,
    shorten,
)
from partonomy.masks import MIN_POLYGON_COORDINATES, check_mask_size, encode_mask, rle_from_coco, union_masks
from partonomy.structures import RLE
from partonomy.suggestions import unknown_names

logger = logging.getLogger(__name__)

Identifier = int | str
COCO_FOLDER = "refer_seg/images/mscoco/images/train2014"


@dataclass(frozen=True)
class ReferringSet:
    """Layout of a referring data set.

    Attributes:
        split_by: Who made the split ("unc", "umd"); part of the name of the file of references.
        image_folder: The image folder, relative to the root.
    """

    split_by: str
    image_folder: str


REFERRING_SETS: Mapping[str, ReferringSet] = {
    "refclef": ReferringSet("unc", "refer_seg/images/saiapr_tc-12"),
    "refcoco": ReferringSet("unc", COCO_FOLDER),
    "refcoco+": ReferringSet("unc", COCO_FOLDER),
    "refcocog": ReferringSet("umd", COCO_FOLDER),
}


@dataclass(frozen=True)
class Sentence:
    """One person's expression for an object; may be empty."""

    sentence_id: Identifier
    text: str


@dataclass(frozen=True)
class Reference:
    """The target of a reference and all expressions for it.

    Attributes:
        reference_id: Unique within the file.
        annotation_ids: The target is the union of these; empty if the sentences refer to nothing in the image.
        image_id: Id of the image.
        split: Name of the split in the file.
        sentences: The expressions.
        where: File and record, for messages.
        group: Group of the items; see `SegmentationItem`.
    """

    reference_id: Identifier
    annotation_ids: tuple[Identifier, ...]
    image_id: Identifier
    split: str
    sentences: tuple[Sentence, ...]
    where: str
    group: str = ""


@dataclass(frozen=True)
class _Picture:
    path: Path
    height: int
    width: int


def read_referring(
    dataset_dir: Path, name: str, split: str, *, needs_images: bool = True
) -> tuple[SegmentationItem, ...]:
    """Read one split, one item per sentence in file order; empty sentences are left out and counted.

    Args:
        dataset_dir: Root of the LISA-style layout.
        name: Key of `REFERRING_SETS`.
        split: "train", "val", "test", "testA", "testB", "testC"; refCLEF's "testAB" belongs to testA and testB.
        needs_images: Whether missing images are an error. Without one, an evaluation still knows the target and scores
            its items 0.

    Raises:
        FileNotFoundError: A file or images are missing.
        ValueError: The name or split is unknown, or a file or record is broken; the message names both.
    """
    if name not in REFERRING_SETS:
        raise ValueError(unknown_names("referring data set", [name], REFERRING_SETS))
    chosen = _references_of_split(dataset_dir, name, split)
    folder = REFERRING_SETS[name].image_folder
    return make_items(dataset_dir, name, split, chosen, folder, needs_images=needs_images)


def make_items(
    dataset_dir: Path,
    name: str,
    split: str,
    references: Sequence[Reference],
    image_folder: str,
    *,
    needs_images: bool,
) -> tuple[SegmentationItem, ...]:
    """Find the images and masks of a split's references; make one item per sentence, in their order.

    Args:
        dataset_dir: Root of the LISA-style layout.
        name: Name of the set and of its folder, which holds `instances.json`.
        split: Name of the split, for messages.
        references: References of the split.
        image_folder: Folder of the images, relative to the root.
        needs_images: See `read_referring`.

    Raises:
        FileNotFoundError: `instances.json` or images are missing.
        ValueError: A record is broken or missing; the message names the file and the record.
    """
    instances = dataset_dir / "refer_seg" / name / "instances.json"
    pictures, masks = _read_instances(instances, dataset_dir / image_folder, references)
    if needs_images:
        check_files_exist([picture.path for picture in pictures.values()], f"{name} {split}")
    items, num_empty = [], 0
    for reference in references:
        picture = pictures[reference.image_id]
        mask = _unite([masks[number] for number in reference.annotation_ids], picture)
        for sentence in reference.sentences:
            if not sentence.text:
                num_empty += 1
                continue
            items.append(
                SegmentationItem(
                    item_id=f"{name}/{reference.reference_id}/{sentence.sentence_id}",
                    image_id=f"{name}/{reference.image_id}",
                    image_path=picture.path,
                    height=picture.height,
                    width=picture.width,
                    text=sentence.text,
                    is_sentence=False,
                    mask=mask,
                    group=reference.group,
                )
            )
    if num_empty:
        logger.warning("%s %s: %d sentences have no words and are left out", name, split, num_empty)
    return tuple(items)


def images_of_split(dataset_dir: Path, name: str, split: str) -> frozenset[Identifier]:
    """Return the ids of the images that the split's sentences refer to.

    Raises:
        FileNotFoundError: The file with the sentences is missing.
        ValueError: The split is unknown or a record is broken; the message names the file and the record.
    """
    return frozenset(reference.image_id for reference in _references_of_split(dataset_dir, name, split))


def reference_file(dataset_dir: Path, name: str) -> Path:
    """Return the path of the pickle with a set's sentences."""
    return dataset_dir / "refer_seg" / name / f"refs({REFERRING_SETS[name].split_by}).p"


def is_in_split(reference_split: str, split: str) -> bool:
    """Whether a record belongs to a split; "test" includes all test splits, "testAB" belongs to testA and to testB."""
    if split == "test":
        return reference_split.startswith("test")
    if split in ("testA", "testB", "testC"):
        return reference_split.startswith("test") and split[-1] in reference_split[len("test") :]
    return reference_split == split


def check_files_exist(paths: Sequence[Path], what: str) -> None:
    """Check that all image files exist, so that no run stops at a missing one hours later.

    Raises:
        FileNotFoundError: Some are missing; the message counts them and names the first.
    """
    missing = [path for path in paths if not os.path.isfile(path)]  # unlike Path.is_file, False for any bad name
    if missing:
        raise FileNotFoundError(
            f"{what}: {len(missing)} of {len(paths)} images are missing, the first is {missing[0]}; finish the download"
        )


def choose_split(path: Path, references: Sequence[Reference], split: str) -> list[Reference]:
    """Keep the references of a split.

    Args:
        path: The file of references, for messages.
        references: All references of the file.
        split: Name of the split; see `is_in_split`.

    Raises:
        ValueError: The split has no references; the message names the file and its splits.
    """
    chosen = [reference for reference in references if is_in_split(reference.split, split)]
    if not chosen:
        known = ", ".join(sorted({reference.split for reference in references}))
        raise ValueError(f"{path}: no record belongs to the split {split!r}; the splits are {known}")
    return chosen


def _references_of_split(dataset_dir: Path, name: str, split: str) -> list[Reference]:
    path = reference_file(dataset_dir, name)
    return choose_split(path, _read_references(path), split)


def _read_references(path: Path) -> list[Reference]:
    content = load_plain_pickle(path)
    if not isinstance(content, list) or not content:
        raise ValueError(f"{path}: expected a list of references, got {shorten(content)}")
    return [
        read_reference(record, f"{path}, record {number}", _read_annotation) for number, record in enumerate(content)
    ]


def _read_annotation(record: Any) -> tuple[Identifier, ...]:
    return (read_identifier(record, "ann_id"),)


def read_reference(record: Any, where: str, read_annotations: Callable[[Any], tuple[Identifier, ...]]) -> Reference:
    """Read one record of a file of references.

    Args:
        record: The record.
        where: File and record, for messages.
        read_annotations: Reads the ids of the target's annotations.

    Raises:
        ValueError: The record is broken; the message begins with `where`.
    """
    try:
        sentences = tuple(
            Sentence(read_identifier(one, "sent_id"), " ".join(_text(one, "sent").split()).lower())
            for one in record["sentences"]
        )
        return Reference(
            reference_id=read_identifier(record, "ref_id"),
            annotation_ids=read_annotations(record),
            image_id=read_identifier(record, "image_id"),
            split=check_text(record["split"], "'split'"),
            sentences=sentences,
            where=where,
        )
    except RECORD_ERRORS as error:
        raise ValueError(f"{where}: {reason_of(error)}") from error


def _read_instances(
    path: Path, folder: Path, references: Sequence[Reference]
) -> tuple[dict[Identifier, _Picture], dict[Identifier, RLE]]:
    """Return images by id, and the masks of the annotations that the references name."""
    referred = {number for reference in references for number in reference.annotation_ids}
    wanted = {reference.image_id for reference in references}
    pictures: dict[Identifier, _Picture] = {}
    segmentations: dict[Identifier, Any] = {}
    image_of: dict[Identifier, Any] = {}
    for kind, record in iterate_lists(path, ("images", "annotations")):
        try:
            number = read_identifier(record, "id")
            if kind == "images" and number in wanted:
                file_name = check_relative_path(record["file_name"], "'file_name'")
                check_mask_size(record["height"], record["width"])
                pictures[number] = _Picture(folder / file_name, record["height"], record["width"])
            elif kind == "annotations" and number in referred:
                segmentations[number] = record["segmentation"]
                image_of[number] = record["image_id"]
        except RECORD_ERRORS as error:
            raise ValueError(f"{path}, {kind[:-1]} {_name(record)}: {reason_of(error)}") from error
    masks: dict[Identifier, RLE] = {}
    for reference in references:
        missing = [f"annotation {number}" for number in reference.annotation_ids if number not in segmentations]
        if reference.image_id not in pictures or missing:
            raise ValueError(
                f"{reference.where}: {' or '.join([f'image {reference.image_id}', *missing[:1]])} is not in {path}; "
                "the two files belong to different releases"
            )
        picture = pictures[reference.image_id]
        for number in reference.annotation_ids:
            where = f"{path}, annotation {number}"
            if image_of[number] != reference.image_id:
                raise ValueError(
                    f"{reference.where}: refers to image {reference.image_id}, but {where} belongs to image "
                    f"{shorten(image_of[number])}; the two files belong to different releases"
                )
            if number not in masks:
                masks[number] = read_target(segmentations[number], picture.height, picture.width, where)
    return pictures, masks


def _unite(masks: Sequence[RLE], picture: _Picture) -> RLE:
    """Unite a reference's annotations; the mask is empty if there are none."""
    if not masks:
        return encode_mask(np.zeros((picture.height, picture.width), dtype=bool))
    return union_masks(masks)


def read_target(segmentation: Any, height: int, width: int, where: str) -> RLE:
    """Read a target's mask, the union of its polygons or run-length codes (refCLEF); may be empty.

    Polygons of fewer than three points enclose nothing and are dropped, as users of pycocotools do.

    Args:
        segmentation: COCO's `segmentation` of the annotation.
        height: Height of the image, pixels.
        width: Width of the image, pixels.
        where: File and record, for messages.

    Raises:
        ValueError: The segmentation is broken; the message begins with `where`.
    """
    if isinstance(segmentation, list) and segmentation and all(isinstance(one, Mapping) for one in segmentation):
        return union_masks([rle_from_coco(one, height, width, where) for one in segmentation])
    if isinstance(segmentation, list) and all(isinstance(one, list) for one in segmentation):
        segmentation = [ring for ring in segmentation if len(ring) >= MIN_POLYGON_COORDINATES]
    if segmentation in (None, []):
        return encode_mask(np.zeros((height, width), dtype=bool))
    return rle_from_coco(segmentation, height, width, where)


def read_identifier(record: Any, key: str) -> Identifier:
    """Read a record's id, an integer or a string.

    Raises:
        KeyError, ValueError: The id is missing or has another type.
    """
    return check_identifier(record[key], repr(key))


def check_identifier(value: object, name: str) -> Identifier:
    """Return a value that must be an id, an integer or a string.

    Raises:
        ValueError: The value has another type.
    """
    if isinstance(value, str):
        return check_text(value, name)
    if not is_integer(value):
        raise ValueError(f"{name} must be an integer or a string, got {shorten(value)}")
    return value


def _text(record: Any, key: str) -> str:
    value = record[key]
    if not isinstance(value, str):
        raise ValueError(f"{key!r} must be a string, got {shorten(value)}")
    return value


def _name(record: Any) -> str:
    return shorten(record.get("id") if isinstance(record, Mapping) else record)


def _read(name: str, source: Source) -> Sequence[SegmentationItem]:
    return read_referring(source.root, name, str(source.split), needs_images=False)


BENCHMARKS = tuple(
    define_segmentation(name, "Referring segmentation", splits, partial(_read, name), quoted_by="ciou")
    for name, splits in (
        ("refcoco", "val, testA, testB"),
        ("refcoco+", "val, testA, testB"),
        ("refcocog", "val, test"),
    )
)
