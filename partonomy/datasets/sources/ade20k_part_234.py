"""Reads ADE20K-Part-234 (Wei et al., OV-PARTS, NeurIPS 2023), 44 objects with 234 object-part classes.

Published layout: `ade20k_instance_{train,val}.json` (COCO's form, objects alone), `images/{training,validation}/*.jpg`
and `annotations_detectron2_part/{training,validation}/*.png`, 16-bit maps of the object-part classes in the order of
`ade20k_part_234.yaml`; 65535 is no part. A part of an object is what its class has in the map inside the object's mask.

Files in which parts are annotations, too, with the categories of PACO (`chair` of OBJECT, `chair:leg` of PART), are
read as PACO's.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path, PurePosixPath

import numpy as np
import yaml

from partonomy.datasets.sources import paco
from partonomy.datasets.sources.group_parts_by_object import SourceNames, SourceReading, assemble
from partonomy.datasets.sources.published_coco import PublishedForm, Role, read_published
from partonomy.datasets.sources.records import (
    OBJECT,
    PART,
    CocoConfig,
    CocoImage,
    CocoRecords,
    Fault,
    FaultKind,
    RawAnnotation,
    SkippedAnnotations,
    UnusableAnnotation,
)
from partonomy.files import shorten
from partonomy.images import load_deep_label_map
from partonomy.masks import decode_mask, encode_mask
from partonomy.names import OBJECT_PART_SEPARATOR

NAME = "ade20k_part_234"
CLASSES = Path(__file__).with_suffix(".yaml")
IMAGES, PART_MAPS, MAP_SUFFIX = "images", "annotations_detectron2_part", ".png"
NO_PART = 65535
OUTSIDE = "part of the map that lies in no object of its class"
UNUSABLE_MAP = "image without a usable part map"


def read_ade20k_part_234(config: CocoConfig) -> SourceReading:
    """Read a file of ADE20K-Part-234.

    Raises:
        FileNotFoundError: the file, an image or a part map is missing.
        ValueError: the file, a record or a part map is broken; the message names it.
    """
    records = read_published(config, PublishedForm(read_role, image_places))
    names = SourceNames(config.name or NAME)
    if any(one.raw_part is not None for one in records.annotations):
        return assemble(records, config, names)
    return assemble(_add_parts(records, config), config, names)


@cache
def load_classes() -> tuple[tuple[str, str], ...]:
    """Read the packaged list: (object, part) of each value of a part map."""
    content = yaml.safe_load(CLASSES.read_text(encoding="utf-8"))
    return tuple((label, part) for label, parts in content.items() for part in parts)


def read_role(name: str, supercategory: str) -> Role:
    """Return the object or part that a category stands for; ADE20K's further names of an object are dropped.

    Raises:
        ValueError: the category has the form of PACO's parts, but not their super-category.
    """
    if supercategory in (OBJECT, PART) or OBJECT_PART_SEPARATOR in name:
        return paco.read_role(name, supercategory)
    return Role(name.partition(",")[0].strip(), None)


def image_places(name: str) -> list[str]:
    """Return the possible places of an image: as named, or by its file name in the folder of either split."""
    base = PurePosixPath(name).name
    heads = ("", "training/", "validation/", "images/training/", "images/validation/")
    return [name, *(f"{head}{base}" for head in heads)]


def part_map_of(image: Path) -> Path:
    """Return the part map of an image.

    Raises:
        ValueError: the image does not lie below a folder `images`.
    """
    folders = image.parts
    if IMAGES not in folders[:-1]:
        raise ValueError(f"{image}: the image must lie below a folder {IMAGES!r}, beside {PART_MAPS!r}")
    place = len(folders) - 1 - folders[::-1].index(IMAGES)
    return Path(*folders[:place], PART_MAPS, *folders[place + 1 :]).with_suffix(MAP_SUFFIX)


def _add_parts(records: CocoRecords, config: CocoConfig) -> CocoRecords:
    """Add the parts of all images from their maps; an image whose map cannot be used is left out with its objects."""
    objects: dict[int, list[RawAnnotation]] = defaultdict(list)
    for one in records.annotations:
        objects[one.image_id].append(one)
    next_id = max((one.annotation_id for one in records.annotations), default=0) + 1
    annotations, images, faults = [], [], list(records.faults)
    unusable: list[UnusableAnnotation] = list(records.unusable)
    skipped: dict[str, list[int]] = defaultdict(list)
    for image in records.images:
        own = objects[image.image_id]
        try:
            values = _read_map(image, config)
        except (ValueError, FileNotFoundError) as error:
            kind = FaultKind.MISSING_IMAGE if isinstance(error, FileNotFoundError) else FaultKind.RECORD
            record = f"image {image.image_id}"
            faults.append(Fault(kind, "images", len(faults), record, str(error), image.image_id))
            skipped[UNUSABLE_MAP].extend(one.annotation_id for one in own)
            continue
        images.append(image)
        annotations += own
        for part in _parts_of(values, image.image_id, own, next_id):
            if part.object_id is None:
                skipped[OUTSIDE].append(part.annotation_id)
                unusable.append(UnusableAnnotation(image.image_id, part.raw_object, part.raw_part))
            else:
                annotations.append(part)
            next_id += 1
    rows = tuple(SkippedAnnotations(reason, tuple(numbers)) for reason, numbers in skipped.items())
    return replace(
        records,
        images=tuple(images),
        annotations=tuple(annotations),
        skipped=(*records.skipped, *rows),
        unusable=tuple(one for one in unusable if one.image_id in {image.image_id for image in images}),
        faults=tuple(faults),
    )


def _read_map(image: CocoImage, config: CocoConfig) -> np.ndarray:
    """Read the part map of an image, uint16 (H, W)."""
    path = part_map_of(config.images.resolve() / image.file_name)
    values = load_deep_label_map(path, config.images / image.file_name)
    if values.shape != (image.height, image.width):
        raise ValueError(f"{path}: the map is {values.shape}, the image {(image.height, image.width)} (height, width)")
    largest = int(values[values != NO_PART].max(initial=0))
    if largest >= len(load_classes()):
        raise ValueError(f"{path}: the map has the value {shorten(largest)}; classes are below {len(load_classes())}")
    return values


def _parts_of(
    values: np.ndarray, image_id: int, objects: Sequence[RawAnnotation], first_id: int
) -> Iterator[RawAnnotation]:
    """Yield the parts of an image by class and object; `object_id` is None for a class that lies in no object."""
    of_class: Mapping[str, list[RawAnnotation]] = defaultdict(list)
    for one in objects:
        if one.mask is not None:
            of_class[str(one.raw_object)].append(one)
    number = first_id
    for value in np.unique(values[values != NO_PART]).tolist():
        label, part = load_classes()[value]
        is_part, is_found = values == value, False
        for owner in of_class[label]:
            assert owner.mask is not None
            mask = is_part & decode_mask(owner.mask)
            if mask.any():
                is_found = True
                yield RawAnnotation(
                    number, image_id, label, part, owner.annotation_id, encode_mask(mask), None, is_crowd=False
                )
                number += 1
        if not is_found:
            yield RawAnnotation(number, image_id, label, part, None, None, None, is_crowd=False)
            number += 1
