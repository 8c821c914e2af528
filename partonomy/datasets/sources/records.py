"""The checked records of a source: what every reader of annotations hands on to be grouped into objects with parts."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from partonomy.structures import RLE

OBJECT = "OBJECT"


PART = "PART"


BACKGROUND = "background"


@dataclass(frozen=True)
class CocoConfig:
    """What to read.

    Attributes:
        annotations: the JSON file.
        images: folder that its `file_name`s are relative to.
        name: of the data set; default: the name of the annotation file's folder.
        object_name: the object of all parts, for files without object annotations.
        categories: JSON file object -> category; default: one category named like the data set.
        name_map: JSON file raw name -> natural name.
        invalid: "raise" stops at the first bad annotation or image, "collect" leaves them out and counts them.
    """

    annotations: Path
    images: Path
    name: str | None = None
    object_name: str | None = None
    categories: Path | None = None
    name_map: Path | None = None
    invalid: Literal["raise", "collect"] = "raise"


@dataclass(frozen=True)
class CocoImage:
    """One image record, with its size in pixels."""

    image_id: int
    file_name: str
    height: int
    width: int


@dataclass(frozen=True)
class RawAnnotation:
    """One annotation under its raw names.

    Attributes:
        raw_object: None for a part whose name does not say its object.
        raw_part: None for an object.
        object_id: the object annotation a part is linked to, where the file says so.
        mask: of a part never None and never empty.
        box: (x, y, width, height) in pixels, where the file gives one.
        is_crowd: a group of objects or parts.
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
    """Annotations that are not in the data set, and why."""

    reason: str
    annotation_ids: tuple[int, ...]


@dataclass(frozen=True)
class CocoRecords:
    """All usable records of a file, in file order."""

    images: tuple[CocoImage, ...]
    annotations: tuple[RawAnnotation, ...]
    skipped: tuple[SkippedAnnotations, ...]
