"""Reads the COCO-form files of published part data sets record by record, without gigabytes of JSON in memory.

Users keep the downloads in different folder layouts; `ImageFinder` finds the images in each of them.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from partonomy.datasets.near_names import find_image_names
from partonomy.datasets.sources.coco import (
    NO_ID,
    drop_short_rings,
    read_box,
    read_crowd,
    read_id_or_none,
    read_integer,
    unusable_image,
)
from partonomy.datasets.sources.records import (
    CocoConfig,
    CocoImage,
    CocoRecords,
    Deviation,
    DeviationKind,
    Fault,
    FaultKind,
    RawAnnotation,
    SkippedAnnotations,
    UnusableAnnotation,
)
from partonomy.files import RECORD_ERRORS, check_relative_path, check_text, iterate_lists, reason_of, shorten
from partonomy.images import check_image
from partonomy.masks import MIN_POLYGON_COORDINATES, rle_area, rle_from_coco
from partonomy.structures import RLE

Places = Callable[[str], Sequence[str]]
"""An image's name in its annotations -> its possible paths, relative to the image folder."""
FEW_POINTS = "part whose polygons all have fewer than 3 points"
EMPTY_MASK = "part with an empty mask"
OTHER_CLASS = "annotation in an image whose class is not in the table of object names"


class ImageFinder:
    """Finds images below a folder. The layout that held the last image is tried first.

    Args:
        root: folder of the images (`--images`).
        places: the layouts; every name has the same number of places, in the same order.
    """

    def __init__(self, root: Path, places: Places) -> None:
        self._root = root
        self._places = places
        self._last = 0

    def find(self, name: str) -> str:
        """Return the path of an image relative to the root.

        Raises:
            FileNotFoundError: no place holds the image; the message lists the places.
            ValueError: the name points outside the root.
        """
        places = self._places(check_relative_path(name, "the image name"))
        for number in (self._last, *range(len(places))):
            if _is_file(self._root / places[number]):
                self._last = number
                return places[number]
        tried = ", ".join(dict.fromkeys(places))
        near = find_image_names(self._root, name)
        meant = f"; did you mean {' or '.join(map(repr, near))}?" if near else ""
        raise FileNotFoundError(f"{self._root}: the image {name!r} was not found; tried {tried}{meant}")


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # the name is too long for the file system, so there is no such file
        return False


@dataclass(frozen=True)
class Role:
    """The raw names that a category stands for: an object (`raw_part` is None) or a part of one."""

    raw_object: str
    raw_part: str | None


@dataclass(frozen=True)
class PublishedForm:
    """A data set's variant of the COCO form.

    Attributes:
        read_role: (category name, super-category or "") -> its role; ValueError for another form.
        places: the possible paths of an image.
        rename_object: (image name, raw object) -> the raw object that the image shows, or None to leave the annotation
            out; None to keep the names.
    """

    read_role: Callable[[str, str], Role]
    places: Places
    rename_object: Callable[[str, str], str | None] | None = None


def read_published(config: CocoConfig, form: PublishedForm) -> CocoRecords:
    """Read and check the records of a published file. Bad annotations and images become faults (`refuse`).

    Raises:
        FileNotFoundError: the file is missing.
        ValueError: the file, a category or an image record is broken; the message names both.
    """
    reader = _Reader(config, form)
    is_deferred = False
    for name, record in iterate_lists(config.annotations, ("images", "categories", "annotations")):
        if name == "categories":
            reader.add_category(record)
        elif name == "images":
            reader.add_image(record)
        elif reader.has_header:
            reader.add_annotation(record)
        else:
            is_deferred = True  # the annotations come before the images or categories: a second pass reads them
    if not reader.has_header:
        raise ValueError(f"{config.annotations}: a COCO file needs the lists 'images' and 'categories', not empty")
    if is_deferred:
        for _, record in iterate_lists(config.annotations, ("annotations",)):
            reader.add_annotation(record)
    if not reader.has_annotations:
        raise ValueError(f"{config.annotations}: a COCO file needs the list 'annotations', not empty")
    return reader.result()


class _Reader:
    def __init__(self, config: CocoConfig, form: PublishedForm) -> None:
        self._config = config
        self._form = form
        self._finder = ImageFinder(config.images, form.places)
        self._roles: dict[int, Role] = {}
        self._images: dict[int, CocoImage] = {}
        self._names: dict[int, str] = {}  # image names as in the file
        self._bad_images: dict[int, str] = {}
        self._annotations: dict[int, RawAnnotation] = {}
        self._skipped: dict[str, list[int]] = defaultdict(list)  # ids by reason
        self._unusable: list[UnusableAnnotation] = []
        self._faults: list[Fault] = []
        self._deviations: list[Deviation] = []

    @property
    def has_header(self) -> bool:
        """Whether images and categories are known."""
        return bool(self._roles) and bool(self._images or self._bad_images)

    @property
    def has_annotations(self) -> bool:
        """Whether any annotation was read, used or left out."""
        return bool(self._annotations) or any(self._skipped.values())

    def result(self) -> CocoRecords:
        rows = tuple(SkippedAnnotations(reason, tuple(numbers)) for reason, numbers in self._skipped.items())
        return CocoRecords(
            tuple(self._images.values()),
            tuple(self._annotations.values()),
            rows,
            tuple(self._unusable),
            tuple(self._faults),
            tuple(self._deviations),
        )

    def add_category(self, record: Any) -> None:
        try:
            number = read_integer(record, "id")
            if number in self._roles:
                raise ValueError(f"the category id {number} occurs twice")
            self._roles[number] = self._form.read_role(_text(record, "name"), str(record.get("supercategory") or ""))
        except RECORD_ERRORS as error:
            raise ValueError(f"{self._where('category', record)}: {reason_of(error)}") from error

    def add_image(self, record: Any) -> None:
        """Add an image. "collect" leaves out an image that is missing or differs in size, but never a broken record."""
        try:
            number = read_integer(record, "id")
            if number < 0 or number in self._images or number in self._bad_images:
                raise ValueError(f"the image id {number} is negative or occurs twice")
            height, width = read_integer(record, "height"), read_integer(record, "width")
            name = _image_name(record)
        except RECORD_ERRORS as error:
            raise ValueError(f"{self._where('image', record)}: {reason_of(error)}") from error
        try:
            file_name = self._finder.find(name)
            check_image(self._config.images / file_name, height, width)
        except (ValueError, FileNotFoundError) as error:
            kind = FaultKind.MISSING_IMAGE if isinstance(error, FileNotFoundError) else FaultKind.SIZE_MISMATCH
            self._faults.append(Fault(kind, "images", len(self._faults), f"image {number}", str(error), number))
            self._bad_images[number] = str(error)
            self._skipped[unusable_image(str(error))].extend(())  # listed even if it has no annotations
            return
        self._images[number] = CocoImage(number, file_name, height, width)
        self._names[number] = name

    def add_annotation(self, record: Any) -> None:
        try:
            annotation = self._read_annotation(record)
        except RECORD_ERRORS as error:
            identifier = record.get("id") if isinstance(record, Mapping) else None
            name = self._where("annotation", record).removeprefix(f"{self._config.annotations}, ")
            number = identifier if isinstance(identifier, int) else None
            self._faults.append(
                Fault(FaultKind.RECORD, "annotations", len(self._faults), name, reason_of(error), number)
            )
            self._skipped[reason_of(error)].append(identifier if isinstance(identifier, int) else NO_ID)
            self._add_unusable(record)
            return
        if annotation is not None:
            self._annotations[annotation.annotation_id] = annotation

    def _read_annotation(self, record: Any) -> RawAnnotation | None:
        """Read an annotation; None if it is left out and counted."""
        number, image_id, category_id = (read_integer(record, key) for key in ("id", "image_id", "category_id"))
        if number in self._annotations:
            raise ValueError(f"the annotation id {number} occurs twice")
        if category_id not in self._roles:
            raise ValueError(f"category_id {category_id} is not among the categories")
        if image_id in self._bad_images:
            self._skipped[unusable_image(self._bad_images[image_id])].append(number)
            return None
        if image_id not in self._images:
            raise ValueError(f"image_id {image_id} is not among the images")
        role, image = self._roles[category_id], self._images[image_id]
        segmentation, num_dropped = drop_short_rings(record.get("segmentation"))
        mask = _read_mask(segmentation, image)
        if role.raw_part is not None and not isinstance(mask, RLE):
            self._skipped[mask].append(number)
            self._add_unusable(record, is_empty=True)
            return None
        rename = self._form.rename_object
        raw_object = role.raw_object if rename is None else rename(self._names[image_id], role.raw_object)
        if raw_object is None:
            self._skipped[OTHER_CLASS].append(number)
            return None
        if num_dropped:
            where, detail = f"annotation {number}", f"{num_dropped} dropped"
            self._deviations.append(
                Deviation(DeviationKind.SHORT_RING, "annotations", len(self._deviations), where, detail)
            )
        linked = record.get("obj_ann_id")
        return RawAnnotation(
            annotation_id=number,
            image_id=image_id,
            raw_object=raw_object,
            raw_part=role.raw_part,
            object_id=read_integer(record, "obj_ann_id") if role.raw_part is not None and linked is not None else None,
            mask=mask if isinstance(mask, RLE) else None,
            box=read_box(record.get("bbox"), image),
            is_crowd=read_crowd(record.get("iscrowd") or 0),
        )

    def _add_unusable(self, record: Any, is_empty: bool = False) -> None:
        """Note what a left-out record says about what is visible: nothing if it names no usable image."""
        image_id, category_id = read_id_or_none(record, "image_id"), read_id_or_none(record, "category_id")
        if image_id is None or image_id not in self._images:
            return
        role = self._roles.get(category_id) if category_id is not None else None
        if role is None:
            self._unusable += [UnusableAnnotation(image_id), UnusableAnnotation(image_id, is_object=True)]
            return
        is_object = role.raw_part is None
        linked = None if is_object else read_id_or_none(record, "obj_ann_id")
        # The object is not named: `rename_object` may have refused the image's name.
        raw_object = role.raw_object if self._form.rename_object is None else None
        self._unusable.append(UnusableAnnotation(image_id, raw_object, role.raw_part, linked, is_object, is_empty))

    def _where(self, kind: str, record: Any) -> str:
        identifier = record.get("id") if isinstance(record, Mapping) else None
        name = f"({shorten(record)})" if identifier is None else shorten(identifier)
        return f"{self._config.annotations}, {kind} {name}"


def _text(record: Mapping[str, Any], key: str) -> str:
    return check_text(record[key], repr(key))


def _image_name(record: Mapping[str, Any]) -> str:
    """Return `file_name` or, without it, the last two parts of COCO's URL ("train2017/000000391895.jpg")."""
    if record.get("file_name") is None and record.get("coco_url") is not None:
        return "/".join(_text(record, "coco_url").rsplit("/", 2)[-2:])
    return _text(record, "file_name")


def _read_mask(segmentation: Any, image: CocoImage) -> RLE | str:
    """Return the mask, or the reason why it cannot be used."""
    is_list = isinstance(segmentation, list) and bool(segmentation)
    if is_list and all(isinstance(ring, list) and len(ring) < MIN_POLYGON_COORDINATES for ring in segmentation):
        return FEW_POINTS
    if segmentation in (None, []):
        return EMPTY_MASK
    mask = rle_from_coco(segmentation, image.height, image.width, "segmentation")
    return mask if rle_area(mask) else EMPTY_MASK
