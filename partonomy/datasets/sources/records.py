"""The checked records of a source, which every annotation reader returns to be grouped into objects with parts."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from partonomy.structures import RLE

OBJECT, PART = "OBJECT", "PART"
"""Values of a category's `supercategory`: whether it names objects or parts."""
BACKGROUND = "background"


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
        invalid: "raise" stops at the first bad annotation or image; "collect" leaves bad ones out and counts them.
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


@dataclass(frozen=True)
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


@dataclass(frozen=True)
class CocoRecords:
    """All usable records of a file, in file order, what was left out, and what of it is visible in usable images."""

    images: tuple[CocoImage, ...]
    annotations: tuple[RawAnnotation, ...]
    skipped: tuple[SkippedAnnotations, ...]
    unusable: tuple[UnusableAnnotation, ...] = ()
