"""The checked records of a source, which every annotation reader returns to be grouped into objects with parts."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Literal

from partonomy.structures import RLE

OBJECT, PART = "OBJECT", "PART"
"""Values of a category's `supercategory`: whether it names objects or parts."""
BACKGROUND = "background"
NUM_EXAMPLES = 3
CHECK_COMMAND = "python -m partonomy check"
COLLECTED = ("images", "annotations")
"""The lists whose bad records can be left out."""


@dataclass(frozen=True)
class CocoConfig:
    """The files to read and their settings.

    Attributes:
        annotations: the JSON file.
        images: folder that its `file_name`s are relative to.
        name: name of the data set; default: the name of the annotation file's folder.
        object_name: the object that all parts belong to, for files without object annotations.
        categories: JSON file object -> category; default: the source's, else every object is its own category.
        name_map: JSON file raw name -> natural name.
        invalid: "raise" refuses a file with bad annotations or images; "collect" leaves bad ones out and counts them.
        num_workers: number of threads that read images.
    """

    annotations: Path
    images: Path
    name: str | None = None
    object_name: str | None = None
    categories: Path | None = None
    name_map: Path | None = None
    invalid: Literal["raise", "collect"] = "raise"
    num_workers: int = 1


@dataclass(frozen=True, slots=True)
class CocoImage:
    """One image record, with its size in pixels."""

    image_id: int
    file_name: str
    height: int
    width: int


@dataclass(frozen=True, slots=True)
class RawAnnotation:
    """One annotation under its raw names.

    Attributes:
        raw_object: raw name of the object; None for a part whose name does not contain its object.
        raw_part: raw name of the part; None for an object.
        object_id: id of the object annotation that a part is linked to, if the file has one.
        mask: the mask; for a part never None and never empty.
        box: (x, y, width, height) in pixels, if the file has one.
        is_crowd: whether the annotation marks a group of objects or parts.
    """

    annotation_id: int
    image_id: int
    raw_object: str | None
    raw_part: str | None
    object_id: int | None
    mask: RLE | None
    box: tuple[int, int, int, int] | None
    is_crowd: bool


@dataclass(frozen=True)
class SkippedAnnotations:
    """Annotations that were left out of the data set, and the reason."""

    reason: str
    annotation_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class UnusableAnnotation:
    """An annotation that was left out though what it annotates is visible in a usable image.

    Attributes:
        raw_object: raw name of the object, if known.
        raw_part: raw name of the part; None for an object, and for a part of unknown name.
        object_id: id of the object annotation that a part is linked to, if known.
        is_object: whether it annotates an object.
        is_empty: whether its mask covers no pixel.
    """

    image_id: int
    raw_object: str | None = None
    raw_part: str | None = None
    object_id: int | None = None
    is_object: bool = False
    is_empty: bool = False


class FaultKind(StrEnum):
    """Why a record cannot be used."""

    MISSING_IMAGE = "missing image"
    OUTSIDE_IMAGE = "image outside the image folder"
    UNREADABLE_IMAGE = "unreadable image"
    SIZE_MISMATCH = "image of another size"
    RECORD = "broken record"
    DUPLICATE_ID = "id that occurs twice"
    UNKNOWN_IMAGE = "annotation of an unknown image"
    UNKNOWN_CATEGORY = "annotation of an unknown category"
    MASK = "unreadable mask"
    EMPTY_MASK = "part without mask"
    NO_OBJECT = "part of no object"
    NO_PARTS = "no category is a part"


@dataclass(frozen=True, slots=True)
class Fault:
    """A record that cannot be used.

    Attributes:
        kind: why.
        table: the record's list ("annotations"); empty if the whole file is at fault.
        number: its index in the list.
        record: the record ("annotation 7"); empty if the whole file is at fault.
        reason: what is wrong with it, in words.
        identifier: its id, if it has one.
    """

    kind: FaultKind
    table: str
    number: int
    record: str
    reason: str
    identifier: int | None = None


class DeviationKind(StrEnum):
    """What a reader changes or does not need, worded as the end of a sentence about the records concerned."""

    WHOLE_NUMBER = "integers written as text or with a decimal point, read as integers"
    CROWD_VALUE = "'iscrowd' is null or text, read as 0 or 1"
    CROWD_PART = "'iscrowd' is 1 on a part, or on the object of such a part, as brush tools write it; the mask is read"
    BOX = "'bbox' is unusable and not needed, because there is a mask"
    AREA = "'area' is no number; it is not needed"
    SHORT_RING = "rings of fewer than 3 points beside good ones, dropped"
    EMPTY_OBJECT = "the object's mask covers no pixel, so only its box is read"
    TURNED = "polygons read in the other frame of a photograph with an EXIF quarter turn, which alone they fit"
    ROOT = "categories whose 'supercategory' names another category, read as parts of that object"
    ONLY_OBJECT = "part that lies outside the only object of its class in the image, which owns it"
    UNDECIDED_TURN = (
        "the file has an EXIF quarter turn, the record its size before the turn, and the polygons fit both frames; "
        "they are read without the turn"
    )
    LEAVES_IMAGE = "polygons leave the image, so the masks are cut off"

    @property
    def is_warning(self) -> bool:
        """Whether the masks may lie on other pixels than the annotator's."""
        return self is DeviationKind.LEAVES_IMAGE


@dataclass(frozen=True, slots=True)
class Deviation:
    """A record that is read although it departs from the COCO form.

    Attributes:
        kind: how it departs.
        table, number, record: see `Fault`.
        detail: the departure in words, if the kind does not say all.
        extent: how far it departs; the largest is shown as the example.
    """

    kind: DeviationKind
    table: str
    number: int
    record: str
    detail: str = ""
    extent: float = 0.0


def describe_deviations(deviations: Sequence[Deviation]) -> tuple[str, ...]:
    """Return one line per kind: the number of records, the first ones and an example."""
    by_kind: dict[DeviationKind, list[Deviation]] = defaultdict(list)
    for one in deviations:
        by_kind[one.kind].append(one)
    lines = []
    for kind in DeviationKind:
        found = by_kind[kind]
        if not found:
            continue
        names = ", ".join(one.record for one in found[:NUM_EXAMPLES]) + (", ..." if len(found) > NUM_EXAMPLES else "")
        example = max(found, key=lambda one: one.extent)
        detail = f" ({example.record}: {example.detail})" if example.detail else ""
        count = f"{len(found):,} record{'' if len(found) == 1 else 's'}"
        lines.append(f"{'warning' if kind.is_warning else 'note'}: {count} ({names}): {kind}{detail}")
    return tuple(lines)


def describe_refusal(path: Path, faults: Sequence[Fault]) -> str:
    """Return the message of a refused file: its first bad record, how many there are by kind, and what to do.

    Args:
        path: the annotation file.
        faults: all faults, at least one.
    """
    first = faults[0]
    where = f"{path}, {first.record}" if first.record else f"{path}"
    can_collect = first.table in COLLECTED
    if len(faults) == 1:
        cure = " (the only bad record; correct it, or pass --invalid collect to leave it out)" if can_collect else ""
        return f"{where}: {first.reason}{cure}"
    counts = ", ".join(f"{count:,} x {kind}" for kind, count in Counter(one.kind for one in faults).items())
    collect = ", or pass --invalid collect to leave them out" if can_collect else ""
    return (
        f"{where}: {first.reason} (the first of {len(faults):,} faults: {counts}; `{CHECK_COMMAND}` lists them; "
        f"correct them{collect})"
    )


def refuse(path: Path, faults: Sequence[Fault]) -> None:
    """Raise the refusal of a file with faults; do nothing without any.

    Raises:
        FileNotFoundError: the first fault is a missing image.
        ValueError: the first fault is another one.
    """
    if faults:
        error = FileNotFoundError if faults[0].kind is FaultKind.MISSING_IMAGE else ValueError
        raise error(describe_refusal(path, faults))


@dataclass(frozen=True)
class CocoRecords:
    """All usable records of a file, in file order.

    Attributes:
        images, annotations: the usable records.
        skipped: what was left out.
        unusable: what of it is visible in usable images.
        faults: the bad records among what was left out.
        deviations: records that were read although they depart from the COCO form.
    """

    images: tuple[CocoImage, ...]
    annotations: tuple[RawAnnotation, ...]
    skipped: tuple[SkippedAnnotations, ...]
    unusable: tuple[UnusableAnnotation, ...] = ()
    faults: tuple[Fault, ...] = ()
    deviations: tuple[Deviation, ...] = ()
