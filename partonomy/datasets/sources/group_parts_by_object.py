"""Groups the checked records of a source into objects with their parts.

A part belongs to the object that its record links it to, else to the object of its class that contains most of it,
else to the only object of its class in the image: some tools outline an object without its parts.
Several records of the same part of an instance are united (paper, appendix B).
Drops crowd objects and their parts, and counts them.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

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
    describe_deviations,
    refuse,
)
from partonomy.masks import intersection_area, rle_area, rle_bbox, union_masks
from partonomy.names import OBJECT_PART_SEPARATOR, clean_names, read_text_map
from partonomy.structures import RLE, UNNAMED_PART, AnnotatedImage, ObjectInstance, Part, PartDataset

MIN_CONTAINED = 0.5
OUTSIDE_OBJECTS = "part that lies in no annotated object of its class"
CROWD_OBJECT = "iscrowd object"
CROWD_PARTS = "part of an iscrowd object"


@dataclass(frozen=True)
class SourceReading:
    """A data set as read from its source, what was left out of it, and what else the user has to know of the source."""

    dataset: PartDataset
    skipped: tuple[SkippedAnnotations, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class SourceNames:
    """A source's own names; the user's settings take precedence.

    Attributes:
        dataset: name of the data set.
        readable: raw name -> natural name, for names that the rules of `clean_names` get wrong.
        categories: raw or natural name of an object -> category.
    """

    dataset: str
    readable: Mapping[str, str] = field(default_factory=dict)
    categories: Mapping[str, str] = field(default_factory=dict)


def assemble(records: CocoRecords, config: CocoConfig, source_names: SourceNames) -> SourceReading:
    """Build a data set from records.

    `is_crowd` marks a group of objects. They are left out and counted, with their parts. If an image shows a single
    object and another one of its class that was left
    out, the object is marked by a box; otherwise the question would be ambiguous. An object of which a part was left
    out names that part (`ObjectInstance.left_out_parts`), so that no question asks about it.

    Raises:
        FileNotFoundError, ValueError: with `config.invalid` "raise", a record has a fault, or a part's object cannot be
            determined; the message names file and annotation.
        ValueError: an object has no category.
    """
    grouping = group_records(records)
    if config.invalid == "raise":
        refuse(config.annotations, [*records.faults, *grouping.faults])
    skipped: dict[str, list[int]] = defaultdict(list)
    for row in (*records.skipped, *grouping.skipped):
        skipped[row.reason].extend(row.annotation_ids)
    names = _Names(config, [*records.annotations, *records.unusable], source_names)
    unusable: dict[int, list[UnusableAnnotation]] = defaultdict(list)
    for one in (*records.unusable, *grouping.ownerless):
        unusable[one.image_id].append(one)
    images = [
        _build_image(image, groups, names, unusable[image.image_id])
        for image, groups in zip(records.images, grouping.groups, strict=True)
    ]
    dataset = PartDataset(source_names.dataset, config.images.resolve(), tuple(images))
    notes = describe_deviations([*records.deviations, *grouping.deviations])
    return SourceReading(dataset, sorted_rows(skipped), notes)


@dataclass(frozen=True)
class Grouping:
    """The objects of all images with their parts.

    Attributes:
        groups: the objects of each image, in the order of the images.
        skipped: annotations left out because their object is not known or is a crowd.
        ownerless: the parts among them whose object is not known.
        faults: parts whose records say nothing, or something impossible, about their object.
        deviations: parts that an unusual rule gives to their object.
    """

    groups: tuple[tuple["ObjectGroup", ...], ...]
    skipped: tuple[SkippedAnnotations, ...]
    ownerless: tuple[UnusableAnnotation, ...]
    faults: tuple[Fault, ...]
    deviations: tuple[Deviation, ...]

    @property
    def num_parts(self) -> int:
        """The number of part annotations of objects that are not crowds."""
        return sum(len(group.parts) for groups in self.groups for group in groups if not group.is_crowd)


def group_records(records: CocoRecords) -> Grouping:
    """Give every part to its object, in every image.

    Args:
        records: the records; those with faults do not matter.
    """
    by_image: dict[int, list[RawAnnotation]] = defaultdict(list)
    for annotation in records.annotations:
        by_image[annotation.image_id].append(annotation)
    lost: dict[int, list[UnusableAnnotation]] = defaultdict(list)
    for one in records.unusable:
        lost[one.image_id].append(one)
    # Instances without an annotation of their own need ids that no annotation has.
    used_ids = (annotation.annotation_id for annotation in records.annotations)
    left_out_ids = (number for row in records.skipped for number in row.annotation_ids)
    found = _Found(max(max(used_ids, default=0), max(left_out_ids, default=0)) + 1)
    groups = tuple(
        found.group_parts(by_image[image.image_id], [one for one in lost[image.image_id] if one.is_object])
        for image in records.images
    )
    rows = tuple(SkippedAnnotations(reason, tuple(numbers)) for reason, numbers in found.left_out.items())
    return Grouping(groups, rows, tuple(found.ownerless), tuple(found.faults), tuple(found.deviations))


def sorted_rows(skipped: Mapping[str, Sequence[int]]) -> tuple[SkippedAnnotations, ...]:
    """Return what was left out, by reason, in a stable order."""
    return tuple(SkippedAnnotations(reason, tuple(sorted(numbers))) for reason, numbers in sorted(skipped.items()))


@dataclass(frozen=True)
class ObjectGroup:
    """An object and its parts' annotations. `is_implied`: the file has no annotation of the object itself."""

    instance_id: int
    raw_label: str
    mask: RLE | None
    box: tuple[int, int, int, int] | None
    is_crowd: bool
    parts: tuple[RawAnnotation, ...]
    is_implied: bool = False


class _Names:
    """Natural names of a source's objects and parts, and the objects' categories."""

    def __init__(
        self, config: CocoConfig, used: Sequence[RawAnnotation | UnusableAnnotation], source_names: SourceNames
    ) -> None:
        of_user = read_text_map(config.name_map, "name map") if config.name_map else {}
        self._name_map = {**source_names.readable, **of_user}
        try:
            self._objects = clean_names((one.raw_object for one in used if one.raw_object), self._name_map)
            self._parts = clean_names((one.raw_part for one in used if one.raw_part), self._name_map)
        except ValueError as error:
            raise ValueError(f"{config.annotations}: {error}") from error
        self._own_categories = source_names.categories
        self._file = config.categories
        self._of_file = read_text_map(config.categories, "categories") if config.categories else {}
        self._categories = self._one_category_per_name(sorted(self._objects))

    def object(self, raw: str) -> str:
        return self._objects[raw]

    def part(self, raw_object: str, raw_part: str) -> str:
        """Name a part. A name map may rename it everywhere ("fliplate") or for one object ("car:fliplate")."""
        return self._name_map.get(f"{raw_object}{OBJECT_PART_SEPARATOR}{raw_part}", self._parts[raw_part])

    def category(self, raw: str) -> str:
        return self._categories[self._objects[raw]]

    def _one_category_per_name(self, raw_objects: Iterable[str]) -> dict[str, str]:
        """Give a natural name the first category of its raw objects (a submarine may be a boat and a ship)."""
        categories: dict[str, str] = {}
        for raw in raw_objects:
            category = self._find_category(raw)
            name = self._objects[raw]
            categories[name] = min(category, categories.get(name, category))
        return categories

    def _find_category(self, raw: str) -> str:
        if self._file is None:  # an object without a category is its own
            name = self._objects[raw]
            return self._own_categories.get(raw, self._own_categories.get(name, name))
        for key in (raw, self._objects[raw]):
            if key in self._of_file:
                return self._of_file[key]
        raise ValueError(f"{self._file}: the object {self._objects[raw]!r} (raw name {raw!r}) has no category; add it")


class _Found:
    """Collects what `group_records` returns.

    Args:
        next_id: the first id that no annotation has.
    """

    def __init__(self, next_id: int) -> None:
        self._next_id = next_id
        self.left_out: dict[str, list[int]] = defaultdict(list)
        self.ownerless: list[UnusableAnnotation] = []
        self.faults: list[Fault] = []
        self.deviations: list[Deviation] = []

    def group_parts(
        self, annotations: Sequence[RawAnnotation], lost_objects: Sequence[UnusableAnnotation]
    ) -> tuple[ObjectGroup, ...]:
        """Give every part of an image to its object.

        Args:
            annotations: the usable annotations of the image.
            lost_objects: its objects that were left out.
        """
        objects = {one.annotation_id: one for one in annotations if one.raw_part is None}
        parts_of: dict[int, list[RawAnnotation]] = defaultdict(list)
        implied: dict[str, list[RawAnnotation]] = defaultdict(list)
        for part in annotations:
            if part.raw_part is None:
                continue
            try:
                owner = self._find_owner(part, objects, lost_objects)
            except ValueError as error:
                record = f"annotation {part.annotation_id}"
                number = len(self.faults)
                fault = Fault(FaultKind.NO_OBJECT, "annotations", number, record, str(error), part.annotation_id)
                self.faults.append(fault)
                self._leave_out(part, str(error))
                continue
            if owner is not None:
                parts_of[owner].append(part)
            elif objects:
                self._leave_out(part, OUTSIDE_OBJECTS)
            else:
                implied[str(part.raw_object)].append(part)
        groups = [
            ObjectGroup(number, str(one.raw_object), one.mask, one.box, one.is_crowd, tuple(parts_of[number]))
            for number, one in objects.items()
        ]
        for group in groups:
            if group.is_crowd:
                self.left_out[CROWD_OBJECT].append(group.instance_id)
                if group.parts:
                    self.left_out[CROWD_PARTS].extend(part.annotation_id for part in group.parts)
        for raw_label, parts in sorted(implied.items()):
            groups.append(ObjectGroup(self._next_id, raw_label, None, None, False, tuple(parts), is_implied=True))
            self._next_id += 1
        return tuple(groups)

    def _leave_out(self, part: RawAnnotation, reason: str) -> None:
        self.left_out[reason].append(part.annotation_id)
        self.ownerless.append(UnusableAnnotation(part.image_id, part.raw_object, part.raw_part))

    def _find_owner(
        self,
        part: RawAnnotation,
        objects: Mapping[int, RawAnnotation],
        lost_objects: Sequence[UnusableAnnotation],
    ) -> int | None:
        """Return the id of the part's object: the linked one, else the one that contains it; None if there is none.

        Raises:
            ValueError: the link names no object or an object of another class, or nothing says which object the part
                belongs to.
        """
        if part.object_id is not None:
            return _check_link(part, objects)
        if not objects and part.raw_object is None:
            raise ValueError(
                f"nothing says which object the part {part.raw_part!r} belongs to; pass --object_name, or name the "
                "category object:part"
            )
        candidates = [one for one in objects.values() if part.raw_object in (None, one.raw_object)]
        owner = _find_container(part, candidates)
        is_lost = any(
            None in (part.raw_object, one.raw_object) or part.raw_object == one.raw_object for one in lost_objects
        )
        if owner is not None or len(candidates) != 1 or is_lost:
            return owner
        if candidates[0].mask is not None or candidates[0].box is not None:
            record, number = f"annotation {part.annotation_id}", len(self.deviations)
            self.deviations.append(Deviation(DeviationKind.ONLY_OBJECT, "annotations", number, record))
        return candidates[0].annotation_id


def _check_link(part: RawAnnotation, objects: Mapping[int, RawAnnotation]) -> int:
    owner = objects.get(part.object_id) if part.object_id is not None else None
    if owner is None:
        raise ValueError(f"obj_ann_id {part.object_id} is no object annotation of image {part.image_id}")
    if part.raw_object is not None and part.raw_object != owner.raw_object:
        raise ValueError(
            f"a part of {part.raw_object!r} is linked to annotation {owner.annotation_id}, which is "
            f"{owner.raw_object!r}"
        )
    return owner.annotation_id


def _find_container(part: RawAnnotation, candidates: Sequence[RawAnnotation]) -> int | None:
    """Return the object that contains most of the part, at least half; the smaller id on a tie."""
    shares = [(_contained_share(part, one), -one.annotation_id) for one in candidates]
    share, negative_id = max(shares, default=(0.0, 0))
    return -negative_id if share >= MIN_CONTAINED else None


def _contained_share(part: RawAnnotation, owner: RawAnnotation) -> float:
    assert part.mask is not None
    owner_box = rle_bbox(owner.mask) if owner.mask is not None else owner.box
    if owner_box is None:
        return 0.0
    x, y, width, height = rle_bbox(part.mask)
    left, top, owner_width, owner_height = owner_box
    overlap_x = max(0, min(x + width, left + owner_width) - max(x, left))
    overlap_y = max(0, min(y + height, top + owner_height) - max(y, top))
    if owner.mask is not None and overlap_x * overlap_y:  # boxes of most objects do not overlap the part's
        return intersection_area(part.mask, owner.mask) / rle_area(part.mask)
    return overlap_x * overlap_y / (width * height)


def _build_image(
    image: CocoImage, groups: Sequence[ObjectGroup], names: _Names, unusable: Sequence[UnusableAnnotation]
) -> AnnotatedImage:
    num_of_class = Counter(names.object(group.raw_label) for group in groups)
    lost_objects = [one for one in unusable if one.is_object]
    num_of_class.update(names.object(one.raw_object) for one in lost_objects if one.raw_object is not None)
    is_any_class_lost = any(one.raw_object is None for one in lost_objects)
    objects = []
    for group in groups:
        if group.is_crowd:
            continue
        label = names.object(group.raw_label)
        instance = ObjectInstance(
            group.instance_id, label, names.category(group.raw_label), _unite_parts(group, names), group.mask
        )
        instance = replace(instance, left_out_parts=_find_left_out(group, instance, groups, names, unusable))
        if num_of_class[label] > 1 or is_any_class_lost:
            instance = replace(instance, box=_instance_box(instance, group))
        objects.append(instance)
    has_other_objects = bool(lost_objects) or any(group.is_crowd for group in groups)
    return AnnotatedImage(image.image_id, image.file_name, image.height, image.width, tuple(objects), has_other_objects)


def _find_left_out(
    group: ObjectGroup,
    instance: ObjectInstance,
    groups: Sequence[ObjectGroup],
    names: _Names,
    unusable: Sequence[UnusableAnnotation],
) -> tuple[str, ...]:
    """Return the parts of an object, or of any object of its class, that have no usable annotation."""
    known_ids = {other.instance_id for other in groups}
    usable = {part.label for part in instance.parts}
    found = set()
    for one in unusable:
        if one.is_object:
            continue
        if one.object_id in known_ids:
            is_its = one.object_id == group.instance_id
        else:
            is_its = one.raw_object is None or names.object(one.raw_object) == instance.label
        label = UNNAMED_PART if one.raw_part is None else names.part(group.raw_label, one.raw_part)
        if is_its and not (one.is_empty and label in usable):
            found.add(label)
    return tuple(sorted(found))


def _instance_box(instance: ObjectInstance, group: ObjectGroup) -> tuple[int, int, int, int] | None:
    if instance.mask is not None:
        return rle_bbox(instance.mask)
    if group.box is not None:
        return group.box
    return rle_bbox(union_masks([part.mask for part in instance.parts])) if instance.parts else None


def _unite_parts(group: ObjectGroup, names: _Names) -> tuple[Part, ...]:
    by_label: dict[str, list[RawAnnotation]] = defaultdict(list)
    for annotation in group.parts:
        by_label[names.part(group.raw_label, str(annotation.raw_part))].append(annotation)
    return tuple(
        Part(
            label,
            union_masks([one.mask for one in same if one.mask is not None]),
            tuple(one.annotation_id for one in same),
        )
        for label, same in sorted(by_label.items())
    )
