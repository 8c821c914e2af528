"""Reads COCO-style part annotations: ADE20K-like files, COCO-Annotator, CVAT and Roboflow exports, users' own data.

`CocoReader` is the only reader of this form: `build` refuses, and `check` lists, the faults that it finds. It reads
what common tools write otherwise than COCO if only one reading is possible, and counts it (`Deviation`).

`iscrowd` marks a group of objects: the group and its parts are left out. Brush tools write it for every mask they save,
so a part with `iscrowd` 1 is a part, and the object that such a part belongs to is an object (`_find_brushed`).
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeGuard

from partonomy.datasets.near_names import find_image_names
from partonomy.datasets.sources.group_parts_by_object import SourceNames, SourceReading, assemble
from partonomy.datasets.sources.records import (
    BACKGROUND,
    OBJECT,
    PART,
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
    refuse,
)
from partonomy.files import (
    RECORD_ERRORS,
    MissingListsError,
    check_relative_path,
    check_text,
    is_integer,
    iterate_lists,
    iterate_tables,
    reason_of,
    shorten,
)
from partonomy.images import check_image, image_size, load_image
from partonomy.masks import MIN_POLYGON_COORDINATES, check_mask_size, rle_area, rle_from_coco
from partonomy.names import split_part_name
from partonomy.progress import progress
from partonomy.sharding import Shard
from partonomy.stored_lines import SpooledGroups
from partonomy.structures import RLE

MAX_ID = 2**63 - 1
NO_ID = -1  # the id recorded for a skipped annotation that has none
LISTS = ("categories", "images", "annotations")
"""The file's lists, in the order in which they are read."""
KINDS = {"categories": "category", "images": "image", "annotations": "annotation"}
NO_MASK: tuple[object, ...] = (None, [], [[]], {}, "")
"""What tools write as the segmentation of an object that has only a box."""
CROWD_VALUES: Mapping[str, bool] = {"": False, "0": False, "false": False, "1": True, "true": True}
NEEDED_KEYS = ("id", "image_id", "category_id", "obj_ann_id", "iscrowd", "segmentation", "bbox", "area")
"""The keys of an annotation that are read."""
MIN_LEAVING_PIXELS = 1.0
MIN_LEAVING_SHARE = 0.02  # annotators drag outlines a little beyond the border


@dataclass(frozen=True)
class CategoryRole:
    """The raw names that a category stands for; both are None for background.

    `object_category` is the category of an object in the project's own form; None in other files.
    """

    raw_object: str | None
    raw_part: str | None
    object_category: str | None = None


@dataclass(frozen=True)
class _Category:
    """A readable category record."""

    number: int
    category_id: int
    name: str
    supercategory: str
    object_category: str | None


@dataclass(frozen=True)
class _Pending:
    """An annotation of a known image and category whose mask is not read yet."""

    number: int
    where: str
    annotation_id: int
    record: Mapping[str, Any]
    role: CategoryRole


@dataclass(frozen=True)
class _Extent:
    """The range of an image's polygon coordinates, in pixels."""

    left: float
    top: float
    right: float
    bottom: float

    def fits(self, height: int, width: int) -> bool:
        """Return whether nothing leaves an image of this size by more than a stroke."""
        reach_x, reach_y = _stroke(width), _stroke(height)
        is_right = self.right <= width + reach_x and self.bottom <= height + reach_y
        return is_right and self.left >= -reach_x and self.top >= -reach_y


def _stroke(side: int) -> float:
    return max(MIN_LEAVING_PIXELS, MIN_LEAVING_SHARE * side)


_Stored = tuple[int, str, int, int, dict[str, Any]]
"""A `_Pending` with its category's id instead of the role, and no key that is not needed."""


class CocoReader:
    """Collects the records of a file, its faults and its deviations.

    Data that other records depend on (ids, image sizes, categories) is kept for the whole file. Masks are read, and
    faults noted, only for the shard's own records. Feed the records of `LISTS` in this order, then iterate over
    `read_images`, or call `finish` to keep what it yields. Until then the annotations lie in a temporary file.

    Args:
        image_root: folder that the `file_name`s are relative to.
        object_name: the object that all parts belong to, for files without object annotations.
        shard: the shard whose images, assigned in turn, are read.

    Attributes:
        images: image id -> image, for images of known size. After `finish`, a size may be that of the other frame of a
            turned photograph.
        bad_images: image id -> why the image cannot be used.
        positions: image id -> index of the image record.
        roles: category id -> what the category stands for.
        category_names: category id -> name.
        annotations: the usable annotations; complete after `finish`.
        faults, deviations: see the classes.
        skipped: reason -> ids of the annotations that are left out.
        unusable: what of the annotations left out is visible in usable images.
        counts: list name -> number of records.
        annotated_images, used_categories: ids that annotations name.
    """

    def __init__(self, image_root: Path, object_name: str | None = None, shard: Shard | None = None) -> None:
        self._image_root = image_root
        self._object_name = object_name
        self._shard = shard or Shard()
        self.images: dict[int, CocoImage] = {}
        self.bad_images: dict[int, str] = {}
        self.positions: dict[int, int] = {}
        self.roles: dict[int, CategoryRole] = {}
        self.category_names: dict[int, str] = {}
        self.annotations: dict[int, RawAnnotation] = {}
        self.faults: list[Fault] = []
        self.deviations: list[Deviation] = []
        self.skipped: dict[str, list[int]] = defaultdict(list)
        self.unusable: list[UnusableAnnotation] = []
        self.counts = dict.fromkeys(LISTS, 0)
        self.annotated_images: set[int] = set()
        self.used_categories: set[int] = set()
        self._categories: list[_Category] = []
        self._is_resolved = False
        self._annotation_ids: set[int] = set()
        self._pending = SpooledGroups[_Stored]()
        self._nested: dict[int, dict[str, Any]] = {}
        self._are_categories_sound = True
        self._table, self._number, self._where, self._is_own = LISTS[0], 0, "", True

    def owns(self, image_id: object) -> bool:
        """Return whether an image and its annotations belong to the shard; unknown images belong to the first shard."""
        position = self.positions.get(image_id, 0) if _is_id(image_id) else 0
        return position % self._shard.count == self._shard.index

    @property
    def where(self) -> str:
        """The record that was read last ("annotation 7")."""
        return self._where

    @property
    def is_own_record(self) -> bool:
        """Whether the record that was read last is the shard's."""
        return self._is_own

    def read(self, table: str, record: object) -> None:
        """Read the next record of a list."""
        if table == LISTS[2]:
            self._resolve_roles()
        self._table, self._number = table, self.counts[table]
        self.counts[table] += 1
        self._where = _describe(KINDS[table], self._number, record)
        if table == "categories":
            self._is_own = self._shard.index == 0
            self._add_category(record)
        elif table == "images":
            self._is_own = self._number % self._shard.count == self._shard.index
            self._add_image(record)
        else:
            self._is_own = self.owns(_plain_id(record, "image_id"))
            self._add_annotation(record)

    def read_images(self) -> Iterator["ImageRecords"]:
        """Read the masks, image by image; call it once, after the last record. Nothing of an image is kept."""
        self._resolve_roles()
        self._table, self._is_own = "annotations", True
        lost: dict[int, list[UnusableAnnotation]] = defaultdict(list)
        for left_out in self.unusable:
            lost[left_out.image_id].append(left_out)
        with progress(len(self._pending), "masks", "annotation") as shown:
            for image_id, stored in self._pending:
                yield self._read_image(image_id, stored, lost.pop(image_id, []))
                shown.update(len(stored))

    def _read_image(
        self, image_id: int, stored: Sequence[_Stored], lost: Sequence[UnusableAnnotation]
    ) -> "ImageRecords":
        """Read the masks of one image.

        Args:
            image_id: the image.
            stored: its annotations.
            lost: what of its other annotations is visible.
        """
        pending = [
            _Pending(number, where, annotation_id, self._nested.pop(number, record), self.roles[category_id])
            for number, where, annotation_id, category_id, record in stored
        ]
        num_lost = len(self.unusable)
        self._choose_frame(image_id, pending)
        brushed = _find_brushed(pending)
        read: dict[int, RawAnnotation] = {}
        for one in pending:
            self._number, self._where = one.number, one.where
            annotation = self._read_annotation(one, self.images[image_id], brushed)
            if annotation is not None:
                read[one.number] = annotation
        unusable = (*lost, *self.unusable[num_lost:])
        return ImageRecords(self.images[image_id], self.positions[image_id], read, unusable)

    def finish(self) -> None:
        """Read the masks of all images and keep them; call it after the last record."""
        read: dict[int, RawAnnotation] = {}
        for one in self.read_images():
            read |= one.annotations
        self.annotations = {read[number].annotation_id: read[number] for number in sorted(read)}
        self.faults.sort(key=_file_order)
        self.deviations.sort(key=_file_order)

    def take_notes(self) -> tuple[tuple[Fault, ...], tuple[Deviation, ...]]:
        """Return the faults and deviations that were noted since the last call, and forget them."""
        noted = tuple(self.faults), tuple(self.deviations)
        self.faults.clear()
        self.deviations.clear()
        return noted

    def check_images(self, num_workers: int) -> None:
        """Read the file of every image of the shard that is usable so far; call it after `finish`."""
        images = [self.images[one] for one in self.images if one not in self.bad_images and self.owns(one)]
        with ThreadPoolExecutor(num_workers) as executor, progress(len(images), "images", "image") as shown:
            checked = executor.map(lambda image: find_image_fault(self._image_root, image, is_whole=True), images)
            for image, found in zip(images, checked, strict=True):
                if found is not None:
                    kind, reason = found
                    number = self.positions[image.image_id]
                    self.faults.append(Fault(kind, "images", number, f"image {image.image_id}", reason, image.image_id))
                    self.bad_images[image.image_id] = reason
                shown.update()
        self.faults.sort(key=_file_order)

    def result(self) -> CocoRecords:
        """Return the usable records and what was left out; call it after `finish` and `check_images`."""
        usable = {one: image for one, image in self.images.items() if one not in self.bad_images}
        skipped: dict[str, list[int]] = defaultdict(list)
        for fault in self.faults:
            if fault.table == "images":  # listed even if the image has no annotations
                is_named = fault.identifier is not None
                skipped[unusable_image(fault.reason if is_named else f"{fault.record}: {fault.reason}")] += []
        for reason, numbers in self.skipped.items():
            skipped[reason] += numbers
        for fault in self.faults:
            if fault.table == "annotations":
                skipped[fault.reason].append(NO_ID if fault.identifier is None else fault.identifier)
        for annotation in self.annotations.values():
            if annotation.image_id in self.bad_images:
                skipped[unusable_image(self.bad_images[annotation.image_id])].append(annotation.annotation_id)
        return CocoRecords(
            tuple(usable.values()),
            tuple(one for one in self.annotations.values() if one.image_id in usable),
            tuple(SkippedAnnotations(reason, tuple(numbers)) for reason, numbers in skipped.items()),
            tuple(one for one in self.unusable if one.image_id in usable),
            tuple(self.faults),
            tuple(self.deviations),
        )

    def _add_category(self, record: Any) -> None:
        try:
            category_id, name = self._read_integer(record, "id"), check_text(record["name"], "'name'")
        except RECORD_ERRORS as error:
            self._note_fault(FaultKind.RECORD, reason_of(error))
            return
        if category_id in self.category_names:
            self._note_fault(FaultKind.DUPLICATE_ID, f"the category id {category_id} occurs twice")
            return
        kind, category = record.get("supercategory"), record.get("category")
        self.category_names[category_id] = name
        self._categories.append(
            _Category(
                self._number,
                category_id,
                name,
                kind if isinstance(kind, str) else "",
                category if isinstance(category, str) else None,
            )
        )

    def _resolve_roles(self) -> None:
        """Tell objects from parts, once all categories are known."""
        if self._is_resolved:
            return
        self._is_resolved, self._is_own = True, self._shard.index == 0
        roots = _find_roots(self._categories)
        for one in self._categories:
            self._table, self._number, self._where = "categories", one.number, f"category {one.category_id}"
            role = _category_role(one, self._object_name, roots)
            if role.raw_part is not None and not role.raw_part.strip():
                self._note_fault(FaultKind.RECORD, f"the name {one.name!r} does not name a part")
            self.roles[one.category_id] = role
            if role.raw_part is not None and _fold(one.name) not in roots and _fold(one.supercategory) in roots:
                detail = f"{one.name!r} of {role.raw_object!r}"
                self._note(DeviationKind.ROOT, detail)
        if self._are_categories_sound and not any(role.raw_part is not None for role in self.roles.values()):
            self._table, self._where = "", ""
            self._note_fault(FaultKind.NO_PARTS, _describe_no_parts(self._categories))

    def _add_image(self, record: Any) -> None:
        try:
            image_id = self._read_integer(record, "id")
            if image_id < 0:
                raise ValueError(f"'id' must be 0 or more, got {image_id}")
        except RECORD_ERRORS as error:
            self._note_fault(FaultKind.RECORD, reason_of(error))
            return
        if image_id in self.positions:
            self._note_bad_image(image_id, FaultKind.DUPLICATE_ID, f"the image id {image_id} occurs twice")
            return
        self.positions[image_id] = self._number
        kind = FaultKind.RECORD
        try:
            check_text(record["file_name"], "'file_name'")
            kind = FaultKind.OUTSIDE_IMAGE
            file_name = check_relative_path(record["file_name"], "'file_name'")
        except RECORD_ERRORS as error:
            self._note_bad_image(image_id, kind, reason_of(error))
            return
        try:
            height, width = self._read_size(record, file_name)
        except FileNotFoundError as error:
            self._note_bad_image(
                image_id, FaultKind.MISSING_IMAGE, _describe_missing(self._image_root, file_name, error)
            )
        except RECORD_ERRORS as error:
            is_of_file = record.get("height") is None or record.get("width") is None
            kind = FaultKind.UNREADABLE_IMAGE if is_of_file else FaultKind.RECORD
            self._note_bad_image(image_id, kind, reason_of(error))
        else:
            self.images[image_id] = CocoImage(image_id, file_name, height, width)

    def _note_bad_image(self, image_id: int, kind: FaultKind, reason: str) -> None:
        self._note_fault(kind, reason, image_id)
        self.bad_images[image_id] = reason  # if two images share an id, the annotations' image is unknown

    def _read_size(self, record: Mapping[str, Any], file_name: str) -> tuple[int, int]:
        """Return (height, width) from the record or, if it lacks one, from the file."""
        if record.get("height") is None or record.get("width") is None:
            return image_size(self._image_root / file_name)
        height, width = self._read_integer(record, "height"), self._read_integer(record, "width")
        check_mask_size(height, width, str(self._image_root / file_name))
        return height, width

    def _add_annotation(self, record: Any) -> None:
        identifier = _plain_id(record, "id")
        try:
            annotation_id = self._read_integer(record, "id")
            image_id = self._read_integer(record, "image_id")
            category_id = self._read_integer(record, "category_id")
        except RECORD_ERRORS as error:
            self._leave_out(record, FaultKind.RECORD, reason_of(error), identifier)
            return
        self.annotated_images.add(image_id)
        self.used_categories.add(category_id)
        if annotation_id in self._annotation_ids:
            reason = f"the annotation id {annotation_id} occurs twice"
            self._leave_out(record, FaultKind.DUPLICATE_ID, reason, annotation_id)
            return
        self._annotation_ids.add(annotation_id)
        if image_id not in self.positions:
            reason = f"image_id {image_id} is not among the images"
            self._leave_out(record, FaultKind.UNKNOWN_IMAGE, reason, annotation_id)
        elif category_id not in self.roles:
            reason = f"category_id {category_id} is not among the categories"
            self._leave_out(record, FaultKind.UNKNOWN_CATEGORY, reason, annotation_id)
        elif self._is_own:
            role = self.roles[category_id]
            if role.raw_object is None and role.raw_part is None:
                self.skipped[BACKGROUND].append(annotation_id)
            elif image_id not in self.images:  # it has no size to read a mask with, and a fault of its own
                self.skipped[unusable_image(self.bad_images[image_id])].append(annotation_id)
            else:
                needed = {key: record[key] for key in NEEDED_KEYS if key in record}
                names = (self._number, self._where, annotation_id, category_id)
                try:
                    self._pending.append(image_id, (*names, needed))
                except RecursionError:  # JSON may be nested deeper than what can be pickled
                    self._nested[self._number] = needed
                    self._pending.append(image_id, (*names, {}))

    def _leave_out(self, record: object, kind: FaultKind, reason: str, identifier: int | None) -> None:
        """Note a bad annotation, and what it says about what is visible: nothing if it names no usable image."""
        self._note_fault(kind, reason, identifier)
        image_id, category_id = _plain_id(record, "image_id"), _plain_id(record, "category_id")
        role = self.roles.get(category_id) if category_id is not None else None
        if not self._is_own or image_id is None or image_id not in self.images:
            return
        if role is None:
            self.unusable += [UnusableAnnotation(image_id), UnusableAnnotation(image_id, is_object=True)]
        elif role.raw_object is not None or role.raw_part is not None:
            is_object = role.raw_part is None
            linked = None if is_object else _plain_id(record, "obj_ann_id")
            self.unusable.append(UnusableAnnotation(image_id, role.raw_object, role.raw_part, linked, is_object))

    def _choose_frame(self, image_id: int, pending: Sequence[_Pending]) -> None:
        """Decide in which frame of the photograph its masks are drawn, and whether they leave it."""
        image = self.images[image_id]
        number = self.positions[image_id]
        segmentations = [one.record.get("segmentation") for one in pending]
        extent = _find_extent(segmentations)
        sizes = {size for size in map(_code_size, segmentations) if size is not None}
        other = self._other_frame(image)
        is_leaving = extent is not None and not extent.fits(image.height, image.width)
        fits_other = other is not None and (extent is None or extent.fits(*other)) and sizes <= {other}
        record = f"image {image_id}"
        if other is not None and fits_other and (is_leaving or sizes):
            self.images[image_id] = replace(image, height=other[0], width=other[1])
            detail = (
                f"the record says {image.height} x {image.width} (height x width), they fit {other[0]} x {other[1]}"
            )
            self.deviations.append(Deviation(DeviationKind.TURNED, "images", number, record, detail))
        elif is_leaving and extent is not None:
            detail, factor = _describe_leaving(extent, image)
            self.deviations.append(Deviation(DeviationKind.LEAVES_IMAGE, "images", number, record, detail, factor))
        elif other is not None and fits_other and extent is not None and self._is_stored_frame(image):
            self.deviations.append(Deviation(DeviationKind.UNDECIDED_TURN, "images", number, record))

    def _other_frame(self, image: CocoImage) -> tuple[int, int] | None:
        """Return the (height, width) of a photograph with an EXIF quarter turn in the frame that the record lacks."""
        path = self._image_root / image.file_name
        other = image.width, image.height
        try:
            check_image(path, *other)
            check_image(path, image.height, image.width)
        except (ValueError, OSError):
            return None
        return None if image.height == image.width else other

    def _is_stored_frame(self, image: CocoImage) -> bool:
        return image_size(self._image_root / image.file_name) != (image.height, image.width)

    def _read_annotation(self, one: _Pending, image: CocoImage, brushed: "_Brushed") -> RawAnnotation | None:
        """Read an annotation; None if it has a fault, which is noted."""
        try:
            is_crowd = self._read_crowd(one.record)
            linked = one.record.get("obj_ann_id")
            is_part = one.role.raw_part is not None
            object_id = self._read_integer(one.record, "obj_ann_id") if is_part and linked is not None else None
        except RECORD_ERRORS as error:
            self._leave_out(one.record, FaultKind.RECORD, reason_of(error), one.annotation_id)
            return None
        if is_crowd and (is_part or brushed.covers(one)):
            names = (one.role.raw_object, one.role.raw_part)
            self._note(DeviationKind.CROWD_PART, ":".join(name for name in names if name is not None))
            is_crowd = False
        try:
            mask = self._read_mask(one, image)
        except RECORD_ERRORS as error:
            kind = FaultKind.EMPTY_MASK if isinstance(error, _EmptyMaskError) else FaultKind.MASK
            self._leave_out(one.record, kind, reason_of(error), one.annotation_id)
            return None
        try:
            box = self._read_box(one.record, image, is_needed=mask is None)
        except RECORD_ERRORS as error:
            self._leave_out(one.record, FaultKind.RECORD, reason_of(error), one.annotation_id)
            return None
        area = one.record.get("area", 0)
        if not _is_finite(area):
            self._note(DeviationKind.AREA, f"got {shorten(area)}")
        role = one.role
        return RawAnnotation(
            one.annotation_id, image.image_id, role.raw_object, role.raw_part, object_id, mask, box, is_crowd
        )

    def _read_mask(self, one: _Pending, image: CocoImage) -> RLE | None:
        """Read a mask; None for an object without one.

        Raises:
            _EmptyMaskError: a part has no pixel.
            ValueError: the mask cannot be read.
        """
        segmentation, part = one.record.get("segmentation"), one.role.raw_part
        if segmentation in NO_MASK and (part is None or segmentation is None):
            if part is None:  # an object may have only a box; a part may not, because the questions need its mask
                return None
            raise _EmptyMaskError(f"the part {part!r} has no mask")
        if segmentation in NO_MASK:
            raise _EmptyMaskError("segmentation: the polygon is empty")
        segmentation, num_dropped = drop_short_rings(segmentation)
        segmentation = self._with_whole_numbers(segmentation)
        mask = rle_from_coco(segmentation, image.height, image.width, "segmentation")
        if num_dropped:
            self._note(DeviationKind.SHORT_RING, f"{num_dropped} dropped")
        extent = _find_extent([segmentation])
        is_fraction = any(value % 1 for ring in _polygons(segmentation) for value in ring)
        if is_fraction and extent is not None and max(extent.right, extent.bottom) <= 1:
            raise ValueError(
                "the polygon's coordinates lie between 0 and 1, as fractions of the image's size; multiply x by its "
                "width and y by its height"
            )
        if rle_area(mask):
            return mask
        if part is not None:
            is_outside = extent is not None and not extent.fits(image.height, image.width)
            where = (
                f": it lies outside the image: {_describe_leaving(extent, image)[0]}" if is_outside and extent else ""
            )
            raise _EmptyMaskError(f"the part {part!r} has an empty mask{where}")
        self._note(DeviationKind.EMPTY_OBJECT)
        return None

    def _with_whole_numbers(self, segmentation: Any) -> Any:
        """Return a run-length code whose size and runs are integers, if they are whole numbers."""
        if not isinstance(segmentation, Mapping) or "counts" not in segmentation:
            return segmentation
        changed = {
            key: [whole_number(value) for value in segmentation[key]]
            for key in ("size", "counts")
            if isinstance(segmentation.get(key), list) and not all(map(is_integer, segmentation[key]))
        }
        if not changed or any(value is None for values in changed.values() for value in values):
            return segmentation
        self._note(DeviationKind.WHOLE_NUMBER, f"'{min(changed)}' of the segmentation")
        return {**segmentation, **changed}

    def _read_crowd(self, record: Mapping[str, Any]) -> bool:
        value = record.get("iscrowd", 0)
        text = "" if value is None else value.strip().lower() if isinstance(value, str) else None
        if text is None or text not in CROWD_VALUES:
            return read_crowd(value)
        self._note(DeviationKind.CROWD_VALUE, f"got {shorten(value)}")
        return CROWD_VALUES[text]

    def _read_box(
        self, record: Mapping[str, Any], image: CocoImage, is_needed: bool
    ) -> tuple[int, int, int, int] | None:
        try:
            return read_box(record.get("bbox"), image)
        except ValueError:
            if is_needed:
                raise
            self._note(DeviationKind.BOX, f"got {shorten(record['bbox'])}")
            return None

    def _read_integer(self, record: Mapping[str, Any], key: str) -> int:
        """Read an id or a size; a whole number in another notation is noted."""
        value = record[key]
        if _is_id(value):
            return value
        number = whole_number(value)
        if number is None:
            return read_integer(record, key)
        self._note(DeviationKind.WHOLE_NUMBER, f"{key!r} is {shorten(value)}")
        return number

    def _note(self, kind: DeviationKind, detail: str = "") -> None:
        """Note a deviation of the record that is being read, once per kind."""
        place = (kind, self._table, self._number)
        if self._is_own and not any((one.kind, one.table, one.number) == place for one in self.deviations[-4:]):
            self.deviations.append(Deviation(kind, self._table, self._number, self._where, detail))

    def _note_fault(self, kind: FaultKind, reason: str, identifier: int | None = None) -> None:
        if self._is_own:
            self._are_categories_sound &= self._table != "categories"
            self.faults.append(Fault(kind, self._table, self._number, self._where, reason, identifier))


@dataclass(frozen=True)
class ImageRecords:
    """What a file says about one image.

    Attributes:
        image: the image, in the frame in which its masks are drawn.
        position: index of its record.
        annotations: index of the annotation record -> its usable annotation, in file order.
        unusable: what of its other annotations is visible.
    """

    image: CocoImage
    position: int
    annotations: Mapping[int, RawAnnotation]
    unusable: tuple[UnusableAnnotation, ...] = ()


def _file_order(one: Fault | Deviation) -> tuple[int, int]:
    """Return the sort key of the order in which the lists are read; what concerns the whole file comes first."""
    return (LISTS.index(one.table) if one.table else -1, one.number)


class _EmptyMaskError(ValueError):
    """A part has no mask, or a mask without pixels."""


@dataclass(frozen=True)
class _Brushed:
    """The objects of an image whose parts have `iscrowd` 1: a tool that writes it for every brush mask drew them.

    A crowd region of COCO marks a group of objects; no tool marks groups of parts.

    Attributes:
        linked: ids of objects that such parts are linked to.
        classes: raw names of the objects of such parts without a link; None for parts that do not name theirs.
    """

    linked: frozenset[int]
    classes: frozenset[str | None]

    def covers(self, one: _Pending) -> bool:
        """Return whether an object annotation has such a part."""
        return one.annotation_id in self.linked or one.role.raw_object in self.classes or None in self.classes


def _find_brushed(pending: Sequence[_Pending]) -> _Brushed:
    linked: set[int] = set()
    classes: set[str | None] = set()
    for one in pending:
        value = one.record.get("iscrowd", 0)
        is_crowd = CROWD_VALUES.get(value.strip().lower(), False) if isinstance(value, str) else value == 1
        if one.role.raw_part is None or not is_crowd:
            continue
        owner = whole_number(one.record.get("obj_ann_id"))
        if owner is None:
            classes.add(one.role.raw_object)
        else:
            linked.add(owner)
    return _Brushed(frozenset(linked), frozenset(classes))


def find_image_fault(root: Path, image: CocoImage, is_whole: bool) -> tuple[FaultKind, str] | None:
    """Return what is wrong with an image file; None if it can be used.

    Args:
        root: the folder of the images.
        image: the image, with its size in its annotation.
        is_whole: decode the whole file, so that a truncated one is noticed; else only its header is read.
    """
    path, kind = root / image.file_name, FaultKind.UNREADABLE_IMAGE
    try:
        image_size(path)
        kind = FaultKind.SIZE_MISMATCH
        check_image(path, image.height, image.width)
        kind = FaultKind.UNREADABLE_IMAGE
        if is_whole:
            load_image(path, image.height, image.width)
    except FileNotFoundError as error:
        return FaultKind.MISSING_IMAGE, _describe_missing(root, image.file_name, error)
    except (ValueError, OSError) as error:
        return kind, str(error)
    return None


def _describe_missing(root: Path, file_name: str, error: Exception) -> str:
    near = find_image_names(root, file_name)
    return f"{error}; did you mean {' or '.join(map(repr, near))}?" if near else str(error)


def drop_short_rings(segmentation: Any) -> tuple[Any, int]:
    """Drop the polygons of fewer than three points, which stray clicks leave, if a good one is beside them.

    Returns:
        The segmentation, and the number of polygons dropped.
    """
    if not isinstance(segmentation, list) or not all(isinstance(ring, list) for ring in segmentation):
        return segmentation, 0
    good = [ring for ring in segmentation if len(ring) >= MIN_POLYGON_COORDINATES or not all(map(_is_finite, ring))]
    return (good, len(segmentation) - len(good)) if good else (segmentation, 0)


def _find_extent(segmentations: Iterable[object]) -> _Extent | None:
    """Return the range of the coordinates of all well-formed polygons; None if there are none."""
    xs: list[float] = []
    ys: list[float] = []
    for ring in (ring for one in segmentations for ring in _polygons(one)):
        xs += (min(ring[0::2]), max(ring[0::2]))
        ys += (min(ring[1::2]), max(ring[1::2]))
    return _Extent(min(xs), min(ys), max(xs), max(ys)) if xs else None


def _polygons(segmentation: Any) -> Iterator[list[float]]:
    while isinstance(segmentation, Mapping):
        segmentation = segmentation.get("segmentation", segmentation.get("polygon"))
    rings = segmentation if isinstance(segmentation, list) else []
    for ring in [rings] if rings and not isinstance(rings[0], list) else rings:
        is_ring = isinstance(ring, list) and len(ring) >= MIN_POLYGON_COORDINATES and len(ring) % 2 == 0
        if is_ring and all(_is_finite(value) and abs(value) <= MAX_ID for value in ring):
            yield ring


def _code_size(segmentation: Any) -> tuple[int, int] | None:
    """Return the (height, width) that a segmentation names; None if it names none."""
    size = segmentation.get("size") if isinstance(segmentation, Mapping) else None
    if not isinstance(size, list) or len(size) != 2:
        return None
    height, width = map(whole_number, size)
    return None if height is None or width is None else (height, width)


def _describe_leaving(extent: _Extent, image: CocoImage) -> tuple[str, float]:
    """Return by how much polygons leave an image in words, and the factor by which the image is too small."""
    factor = max(extent.right / image.width, extent.bottom / image.height)
    reach = (
        f"x from {extent.left:g} to {extent.right:g} and y from {extent.top:g} to {extent.bottom:g}, the image is "
        f"{image.width} wide and {image.height} high"
    )
    if factor <= 1:
        return f"{reach}; do the coordinates count from another corner?", 1.0
    whole = math.ceil(factor)
    return (
        f"{reach}; coordinates divided by {factor:.3g} or more would fit (by {whole}, if the image was shrunk to "
        f"1/{whole} after it was annotated)"
    ), factor


def _find_roots(categories: Sequence[_Category]) -> dict[str, str]:
    """Return the objects of a file that says what is a part only by `supercategory`: folded name -> name.

    Roboflow gives every class the supercategory of its root category. If categories are objects and parts by name or
    by the supercategory OBJECT or PART, other supercategories are a taxonomy of objects.
    """
    explicit = [one for one in categories if split_part_name(one.name)[0] is not None]
    if explicit or any(one.supercategory.upper() in (OBJECT, PART) for one in categories):
        return {}
    names = {_fold(one.name): one.name for one in reversed(categories)}
    above = {_fold(one.supercategory) for one in categories if _fold(one.supercategory) != _fold(one.name)}
    return {folded: name for folded, name in names.items() if folded in above}


def _category_role(one: _Category, object_name: str | None, roots: Mapping[str, str]) -> CategoryRole:
    if one.name.strip("_ ").lower() == BACKGROUND:
        return CategoryRole(None, None)
    raw_object, raw_part = split_part_name(one.name)
    kind = one.supercategory.upper()
    if kind == OBJECT:
        return CategoryRole(one.name, None, one.object_category)
    if kind == PART or raw_object is not None:
        return CategoryRole(raw_object or object_name, raw_part)
    if _fold(one.name) in roots:
        # A single root is the object that the user names: its own name is often that of the project.
        return CategoryRole(
            object_name if object_name is not None and len(roots) == 1 else roots[_fold(one.name)], None
        )
    if object_name is not None:
        is_object = _fold(one.name) == _fold(object_name)
        return CategoryRole(object_name, None if is_object else one.name)
    root = roots.get(_fold(one.supercategory))
    return CategoryRole(one.name, None) if root is None else CategoryRole(root, one.name)


def _fold(name: str) -> str:
    return " ".join(name.replace("_", " ").split()).casefold()


def _describe_no_parts(categories: Sequence[_Category]) -> str:
    above = sorted({one.supercategory for one in categories if _fold(one.supercategory) not in ("", "none")})
    shared = f" (here perhaps --object_name {above[0]!r}, their supercategory)" if len(above) == 1 else ""
    return (
        "no category is a part. Name parts 'object:part', give them the supercategory 'PART' or that of their object's "
        f"category, or pass --object_name when all categories are parts of one object{shared}"
    )


def unusable_image(reason: str) -> str:
    """Return the reason for leaving out an annotation of an unusable image."""
    return f"annotation of an image that cannot be used: {reason}"


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


def _is_finite(value: object) -> TypeGuard[float]:
    return is_integer(value) or (isinstance(value, float) and math.isfinite(value))


def read_crowd(value: object) -> bool:
    """Read `iscrowd`: 0, 1 or a boolean.

    Raises:
        ValueError: it is something else.
    """
    if value not in (0, 1):  # True == 1: COCO-Annotator writes booleans
        raise ValueError(f"'iscrowd' must be 0, 1, true or false, got {shorten(value)}")
    return bool(value)


def whole_number(value: object) -> int | None:
    """Return the integer that a value stands for in any notation (7, 7.0, "7"); None for other values."""
    if isinstance(value, str):
        text = value.strip().removesuffix(".0")
        number = int(text) if text.isascii() and text.isdecimal() and len(text) < len(str(MAX_ID)) else None
        return number if number is not None and str(number) == text else None
    if isinstance(value, float):
        return int(value) if value.is_integer() and abs(value) < 2**53 else None
    return value if _is_id(value) else None


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


def read_id_or_none(record: object, key: str) -> int | None:
    """Read an id of a record that may be broken; None if it is no id."""
    value = record.get(key) if isinstance(record, Mapping) else None
    return value if _is_id(value) else None


def _plain_id(record: object, key: str) -> int | None:
    """Read an id in any notation from a record that may be broken; None if it is no id."""
    return whole_number(record.get(key)) if isinstance(record, Mapping) else None


def _is_id(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) <= MAX_ID


def _describe(kind: str, number: int, record: object) -> str:
    identifier = record.get("id") if isinstance(record, Mapping) else None
    return f"{kind} {shorten(identifier) if identifier is not None else f'at position {number}'}"


def feed_file(reader: CocoReader, path: Path, *, is_streamed: bool) -> None:
    """Feed a file's records to a reader and finish it.

    Args:
        reader: the reader.
        path: the COCO-style JSON file.
        is_streamed: read it twice, record by record, instead of at once.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not a JSON object with COCO's three lists.
    """
    for table, record in iterate_coco(path, is_streamed=is_streamed):
        reader.read(table, record)
    reader.finish()


def iterate_coco(path: Path, *, is_streamed: bool) -> Iterator[tuple[str, Any]]:
    """Yield (list name, record) in the order of `LISTS`, wherever they are in the file; see `feed_file`."""
    if is_streamed:
        yield from iterate_lists(path, LISTS[:2], is_strict=True)
        yield from iterate_lists(path, LISTS[2:], is_strict=True)
        return
    try:
        yield from iterate_tables(path, LISTS)
    except MissingListsError as error:
        missing = next(key for key in ("images", "annotations", "categories") if key in error.names)
        raise ValueError(f"{path}: a COCO file needs the list {missing!r}; is this the annotation file?") from error


def read_coco_records(config: CocoConfig) -> CocoRecords:
    """Read and check all records, without refusing any.

    Raises:
        FileNotFoundError: the file is missing.
        ValueError: it is not a JSON object with COCO's three lists.
    """
    reader = CocoReader(config.images, config.object_name)
    feed_file(reader, config.annotations, is_streamed=False)
    reader.check_images(config.num_workers)
    return reader.result()


def read_coco(config: CocoConfig) -> SourceReading:
    """Read a COCO-style annotation file.

    Raises:
        FileNotFoundError: the file or one of its images is missing.
        ValueError: the file or a record is broken; the message names both, counts all bad records and says what to do.
    """
    records = read_coco_records(config)
    whole = [one for one in records.faults if one.table in ("", "categories")]  # nothing can be left out of these
    refuse(config.annotations, whole)
    name = config.name or config.annotations.resolve().parent.name
    return assemble(records, config, SourceNames(name))
