"""refCLEF, refCOCO, refCOCO+ and refCOCOg in the download layout: `refer_seg/NAME/{refs(SPLITTER).p, instances.json}`.

The layout is that of the LISA family's `--dataset_dir`. COCO photographs are in `refer_seg/images/mscoco/images/
train2014`, those of refCLEF in `refer_seg/images/saiapr_tc-12`. A target is the union of its polygons; public code sums
them, which gives 2 where they overlap.
"""

import io
import logging
import os
import pickle
import pickletools
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from partonomy.benchmarks.segmentation import SegmentationItem, define_segmentation
from partonomy.benchmarks.task import Source
from partonomy.files import RECORD_ERRORS, check_relative_path, check_text, iterate_lists, printable, reason_of
from partonomy.masks import (
    MIN_POLYGON_COORDINATES,
    check_mask_size,
    encode_mask,
    is_integer,
    rle_from_coco,
    shorten,
    union_masks,
)
from partonomy.structures import RLE

MODULES_OF_BUILTINS = ("__builtin__", "builtins")
CONTAINERS = {"list": list, "dict": dict, "tuple": tuple, "set": set, "frozenset": frozenset}
NUMBERS = {"int": int, "long": int, "float": float, "bool": bool}
MODULES_OF_NUMPY_SCALARS = ("numpy.core.multiarray", "numpy._core.multiarray")
STRUCT_CODES = {
    "b1": "?",
    "i1": "b",
    "i2": "h",
    "i4": "i",
    "i8": "q",
    "u1": "B",
    "u2": "H",
    "u4": "I",
    "u8": "Q",
    "f4": "f",
    "f8": "d",
}
"""NumPy's type codes of numbers -> those of the struct module."""
ARGUMENT_SIZES = {ord(entry.code): 0 if entry.arg is None else entry.arg.n for entry in pickletools.opcodes}
"""Pickle opcodes -> bytes of their argument; negative: the argument ends at a newline or has a length prefix."""
PAIRS = {ord(entry.code) for entry in pickletools.opcodes if entry.arg is pickletools.stringnl_noescape_pair}
LENGTH_WIDTHS = {
    pickletools.TAKEN_FROM_ARGUMENT1: 1,
    pickletools.TAKEN_FROM_ARGUMENT4: 4,
    pickletools.TAKEN_FROM_ARGUMENT4U: 4,
    pickletools.TAKEN_FROM_ARGUMENT8U: 8,
}
MAX_REASON = 300
PUT, LONG_BINPUT = pickle.PUT[0], pickle.LONG_BINPUT[0]
READ_ERRORS = (
    pickle.UnpicklingError,
    struct.error,
    EOFError,
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    AttributeError,
    ImportError,
    OverflowError,
    RecursionError,
)


def load_plain_pickle(path: Path) -> Any:
    """Read a pickle of lists, dicts, tuples, sets, texts and numbers.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is not a pickle, is damaged, or names a class or function that is not allowed.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: not found")
    content = path.read_bytes()
    try:
        _check_claims(content)
        return _PlainUnpickler(io.BytesIO(content), encoding="latin1").load()
    except READ_ERRORS as error:
        raise ValueError(
            f"{path}: not a readable pickle of plain values ({printable(str(error)[:MAX_REASON])})"
        ) from error


def _check_claims(content: bytes) -> None:
    """Check that no length and no memo index exceeds the length of the file.

    The unpickler allocates memory for a claimed length or index before it reads on, so a few damaged bytes could
    exhaust the memory.

    Raises:
        UnpicklingError: A length or an index is too large, or an opcode is unknown.
    """
    position, end = 0, len(content)
    while position < end:
        code = content[position]
        if code not in ARGUMENT_SIZES:
            raise pickle.UnpicklingError(f"there is no operation {code}")
        size = ARGUMENT_SIZES[code]
        position += 1
        start = position
        if size == pickletools.UP_TO_NEWLINE:
            for _ in range(2 if code in PAIRS else 1):
                position = content.find(b"\n", position) + 1
                if not position:
                    raise pickle.UnpicklingError("it ends within a line")
        elif size < 0:
            width = LENGTH_WIDTHS[size]
            position += width + int.from_bytes(content[position : position + width], "little")
        else:
            position += size
        if position > end:
            raise pickle.UnpicklingError("it claims more bytes than it has")
        if code == LONG_BINPUT and int.from_bytes(content[start:position], "little") > end:
            raise pickle.UnpicklingError("it claims more values than it has bytes")
        if code == PUT and int(content[start:position]) > end:
            raise pickle.UnpicklingError("it claims more values than it has bytes")


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        """Return an allowed class or function; called for every one that the pickle names."""
        if module in MODULES_OF_BUILTINS and name in CONTAINERS | NUMBERS:
            return (CONTAINERS | NUMBERS)[name]
        if (module, name) == ("numpy", "dtype"):
            return _NumberKind
        if module in MODULES_OF_NUMPY_SCALARS and name == "scalar":
            return _read_number
        raise pickle.UnpicklingError(
            f"it wants to call {module}.{name}, which data files have no use for; do not open this file elsewhere"
        )


class _NumberKind:
    """Stands for a NumPy dtype: its code, and the byte order that follows as state."""

    def __init__(self, code: str, align: object = False, copy: object = False) -> None:
        if code not in STRUCT_CODES:
            raise pickle.UnpicklingError(f"a NumPy value of the kind {code!r} is no plain number")
        self.code = code
        self.order = "<"

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.order = ">" if state[1] == ">" else "<"


def _read_number(kind: _NumberKind, content: str | bytes) -> int | float | bool:
    data = content.encode("latin1") if isinstance(content, str) else content
    value: int | float | bool = struct.unpack(kind.order + STRUCT_CODES[kind.code], data)[0]
    return value


logger = logging.getLogger(__name__)

Identifier = int | str
COCO_FOLDER = "refer_seg/images/mscoco/images/train2014"


@dataclass(frozen=True)
class ReferringSet:
    """The author of a set's split (part of its file name) and its image folder, relative to the root."""

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
        raise ValueError(f"unknown referring data set {name!r}; known: {', '.join(REFERRING_SETS)}")
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
    """Check all image files up front, so that no run stops at a missing one hours later.

    Raises:
        FileNotFoundError: Some are missing; the message counts them and names the first.
    """
    missing = [path for path in paths if not os.path.isfile(path)]  # unlike Path.is_file, False for any bad name
    if missing:
        raise FileNotFoundError(f"{what}: {len(missing)} of {len(paths)} images are missing, the first is {missing[0]}")


def choose_split(path: Path, references: Sequence[Reference], split: str) -> list[Reference]:
    """Keep the references of a split.

    Raises:
        ValueError: The split has no references; the message names the file and its splits.
    """
    chosen = [reference for reference in references if is_in_split(reference.split, split)]
    if not chosen:
        known = ", ".join(sorted({reference.split for reference in references}))
        raise ValueError(f"{path}: no record of the split {split!r}; it has {known}")
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
                check_mask_size(record["height"], record["width"], "the image")
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

    Polygons of fewer than three points enclose nothing and are dropped, as pycocotools' users do.

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
        raise ValueError(f"{name} must be a whole number or a text, got {shorten(value)}")
    assert isinstance(value, int)
    return value


def _text(record: Any, key: str) -> str:
    value = record[key]
    if not isinstance(value, str):
        raise ValueError(f"{key!r} must be a text, got {shorten(value)}")
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
