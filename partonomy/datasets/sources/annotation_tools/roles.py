"""Tells objects from parts among a tool's shapes, and which part belongs to which object.

In this order, the first that applies:

1. the attributes `object` and `part` of the shape;
2. a label with a separator: "car:wheel";
3. `--object_name`: a label that equals it is the object, every other one is a part of it;
4. the parent shape (Label Studio's tree of regions): the shape is a part of it;
5. the group of the shape: if it holds several labels, one of them names the object, namely the label that is known as
   an object from elsewhere, else the one whose shapes contain the others;
6. a label that names a part by rule 4 or 5 elsewhere names one here too;
7. else the label names an object.

Shapes of one group and label are one object. A part belongs to the object of its group or its parent, else to the
object of its class that contains it (`group_parts_by_object`).
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from partonomy.datasets.sources.annotation_tools.regions import Box
from partonomy.datasets.sources.annotation_tools.shapes import Collection, Naming, Shape, ToolConfig
from partonomy.datasets.sources.group_parts_by_object import MIN_CONTAINED
from partonomy.datasets.sources.records import (
    BACKGROUND,
    CocoRecords,
    RawAnnotation,
    SkippedAnnotations,
    UnusableAnnotation,
)
from partonomy.masks import intersection_area, rle_area, rle_bbox, union_masks
from partonomy.names import OBJECT_PART_SEPARATOR, clean_name, split_part_name
from partonomy.structures import RLE

PART_FIRST = ("partof", "of")
OTHER_SEPARATORS = ("/", ".", "|", "->", ">", "__", "::", "_", "-", " part-of ", " of ")
"""Separators that a message proposes where no label holds the one that was asked for."""
EMPTY_MASK = "shape whose mask covers no pixel"
BOXED_PART = "a box around a part, which says nothing about the part's pixels"


@dataclass(frozen=True)
class Role:
    """The object or part that a shape shows. Both are None for background, `raw_object` alone if only the part is."""

    raw_object: str | None
    raw_part: str | None

    @property
    def is_object(self) -> bool:
        """Whether it is an object."""
        return self.raw_part is None and self.raw_object is not None


def to_records(collection: Collection) -> CocoRecords:
    """Turn the collected shapes into records that are grouped and checked like every other source's.

    Raises:
        ValueError: no label names a part; or, unless bad records are collected, a shape's role or object is not known.
    """
    resolver = _Resolver(collection)
    return resolver.records()


class _Resolver:
    def __init__(self, collection: Collection) -> None:
        self._collection = collection
        self._config = collection.config
        self._skipped = {reason: list(numbers) for reason, numbers in collection.skipped.items()}
        self._unusable: list[UnusableAnnotation] = []
        self._next_number = collection.num_shapes
        self._roles = self._find_roles(collection.shapes)
        self._refuse_without_parts()

    def records(self) -> CocoRecords:
        by_image: dict[int, list[Shape]] = defaultdict(list)
        for shape in self._collection.shapes:
            by_image[shape.image.image_id].append(shape)
        annotations = [one for shapes in by_image.values() for one in self._read_image(shapes)]
        rows = tuple(SkippedAnnotations(reason, tuple(numbers)) for reason, numbers in self._skipped.items())
        return CocoRecords(tuple(self._collection.images), tuple(annotations), rows, tuple(self._unusable))

    def _find_roles(self, shapes: Sequence[Shape]) -> dict[int, Role | None]:
        """Return the role of every shape by its number; None where it is not known."""
        roles: dict[int, Role | None] = {}
        for shape in shapes:
            try:
                roles[shape.number] = None if shape.naming is None else named_role(shape.naming, self._config)
            except ValueError as error:
                roles[shape.number] = None
                self._leave_out(shape, error)
        groups = _groups_of_bare_labels(shapes, roles)
        known_objects = {role.raw_object for role in roles.values() if role and role.raw_object and role.raw_part}
        labels_of_parts = {
            shape.naming.label
            for shape in shapes
            if (role := roles[shape.number]) and shape.naming and role.raw_part and not role.raw_object
        }
        labels_of_objects: dict[str, str] = {}
        for group in groups:
            try:
                owner = _find_object_label(group, known_objects)
            except ValueError as error:
                for shape in group:
                    roles[shape.number] = None
                    self._leave_out(shape, error)
                continue
            labels_of_objects.setdefault(owner, group[0].where)
            labels_of_parts |= {_label(shape) for shape in group} - {owner}
        both = sorted(labels_of_objects.keys() & labels_of_parts)
        if both:
            raise ValueError(
                f"{labels_of_objects[both[0]]}: the label {both[0]!r} is the object of its group here and a part of "
                "another shape elsewhere; name the parts object:part"
            )
        for shape in shapes:
            role = roles[shape.number]
            if role and role.is_object and _is_bare(shape, role) and _label(shape) in labels_of_parts:
                roles[shape.number] = Role(None, _label(shape))
        return _unite_spellings(roles)

    def _refuse_without_parts(self) -> None:
        shapes = self._collection.shapes
        if not shapes or any(role.raw_part is not None for role in self._roles.values() if role):
            return
        labels = sorted({shape.naming.label for shape in shapes if shape.naming is not None})
        found = next((one for one in OTHER_SEPARATORS if any(one in label.strip(one) for label in labels)), None)
        hint = f"; pass --label_separator {found!r} if it separates object and part" if found else ""
        raise ValueError(
            f"{self._config.annotations}: none of the labels ({', '.join(map(repr, labels[:5]))}"
            f"{', ...' if len(labels) > 5 else ''}) names a part{hint}. Name parts object:part, group them with their "
            "object, or pass --object_name when all labels are parts of one object"
        )

    def _read_image(self, shapes: Sequence[Shape]) -> list[RawAnnotation]:
        objects, owners = self._read_objects(shapes)
        links = _Links(shapes, self._roles, owners)
        usable: list[tuple[Shape, Role, RLE]] = []
        lost: list[tuple[Shape, Role | None]] = []
        for shape in shapes:
            role = self._roles[shape.number]
            if role is not None and role.raw_object is None and role.raw_part is None:
                self._skip(BACKGROUND, shape)
            elif role is None or shape.region is None:
                lost.append((shape, role))
            elif role.is_object:
                if shape.number not in owners:
                    self._skip(shape.region.ignored or EMPTY_MASK, shape)
                    lost.append((shape, role))
            elif shape.region.mask is None or not rle_area(shape.region.mask):
                self._skip(_reason_of_part(shape), shape)
                lost.append((shape, role))
            else:
                usable.append((shape, role, shape.region.mask))
        parts = [one for row in usable if (one := self._read_part(*row, objects, links)) is not None]
        implied = links.implied_objects(parts, objects, self._next_number)
        self._next_number += len(implied)
        parts = [replace(one, object_id=links.find(one.annotation_id)) for one in parts]
        boxes = _boxes_by_role(shapes, self._roles)
        self._unusable += [one for row in lost for one in _describe_lost(*row, boxes, links)]
        return [*objects.values(), *implied, *parts]

    def _read_objects(self, shapes: Sequence[Shape]) -> tuple[dict[int, RawAnnotation], dict[int, int]]:
        """Return the objects of an image by number, and the number of the object that each of their shapes belongs to.

        Shapes of one group and label are one object, under the number of the first.
        """
        together: dict[tuple[str, str], list[Shape]] = defaultdict(list)
        for shape in shapes:
            role = self._roles[shape.number]
            if role is not None and role.is_object and _shows_object(shape):
                group = _group(shape)
                key = f"#{shape.number}" if group is None else f"group {group}"
                together[key, str(role.raw_object)].append(shape)
        objects: dict[int, RawAnnotation] = {}
        owners: dict[int, int] = {}
        for (_, raw_object), same in together.items():
            first = same[0]
            regions = [shape.region for shape in same if shape.region is not None]
            masks = [one.mask for one in regions if one.mask is not None and not one.is_box and rle_area(one.mask)]
            boxes = [one_box for shape in same if (one_box := _box(shape)) is not None]
            box = None if masks else _unite_boxes(boxes)
            mask = union_masks(masks) if masks else None
            objects[first.number] = RawAnnotation(
                first.number, first.image.image_id, raw_object, None, None, mask, box, False
            )
            owners |= {shape.number: first.number for shape in same}
        return objects, owners

    def _read_part(
        self, shape: Shape, role: Role, mask: RLE, objects: Mapping[int, RawAnnotation], links: "_Links"
    ) -> RawAnnotation | None:
        raw_object = role.raw_object
        linked = links.find(shape.number)
        if raw_object is None and linked is not None:
            raw_object = objects[linked].raw_object
        if raw_object is None and not objects:
            error = ValueError(
                f"nothing says which object the part {role.raw_part!r} belongs to; draw its object, name it "
                "object:part, or pass --object_name"
            )
            self._leave_out(shape, error)
            self._unusable.append(UnusableAnnotation(shape.image.image_id, None, role.raw_part))
            return None
        return RawAnnotation(shape.number, shape.image.image_id, raw_object, role.raw_part, linked, mask, None, False)

    def _leave_out(self, shape: Shape, error: ValueError) -> None:
        if shape.region is None:  # it was left out as a broken shape before
            return
        self._collection.add_fault(shape.where, error)
        self._skip(f"{shape.where}: {error}", shape)

    def _skip(self, reason: str, shape: Shape) -> None:
        self._skipped.setdefault(reason, []).append(shape.number)


def _unite_spellings(roles: Mapping[int, Role | None]) -> dict[int, Role | None]:
    """Give objects that differ in case, spaces or underscores alone one raw name, the first in reading order."""
    first: dict[str, str] = {}
    united: dict[int, Role | None] = {}
    for number, role in roles.items():
        united[number] = role
        if role is not None and role.raw_object is not None:
            key = " ".join(role.raw_object.replace("_", " ").lower().split())
            united[number] = replace(role, raw_object=first.setdefault(key, role.raw_object))
    return united


def named_role(naming: Naming, config: ToolConfig) -> Role:
    """Return the role of a shape by rules 1 to 4 and 7 of the module.

    Raises:
        ValueError: the label names an object or a part without a word in it.
    """
    if naming.label.strip("_ ").lower() == BACKGROUND:
        return Role(None, None)
    raw_object, raw_part = split_label(naming.label, config.label_separator)
    if naming.part_name is not None:
        return Role(naming.object_name or raw_object or naming.label, naming.part_name)
    if naming.object_name is not None:
        is_itself = clean_name(naming.label) == clean_name(naming.object_name)
        return Role(naming.object_name, None if is_itself else raw_part)
    if raw_object is not None:
        return Role(raw_object, raw_part)
    if config.object_name is not None:
        is_itself = clean_name(naming.label) == clean_name(config.object_name)
        return Role(config.object_name, None if is_itself else naming.label)
    return Role(naming.label, None) if naming.parent is None else Role(None, naming.label)


def split_label(label: str, separator: str) -> tuple[str | None, str]:
    """Split a label into the raw names of object and part.

    Args:
        label: the tool's label.
        separator: see `ToolConfig`.

    Returns:
        (object, part); object is None if the label has no separator.

    Raises:
        ValueError: one of the two is empty.
    """
    if separator == OBJECT_PART_SEPARATOR:
        raw_object, raw_part = split_part_name(label)
    elif separator in label:
        first, second = label.split(separator, 1)
        words = "".join(letter for letter in separator.lower() if letter.isalnum())
        raw_object, raw_part = (second, first) if words in PART_FIRST else (first, second)
    else:
        raw_object, raw_part = None, label
    if not raw_part.strip("_ ") or (raw_object is not None and not raw_object.strip("_ ")):
        raise ValueError(f"the label {label!r} does not name an object and a part; correct it in the tool")
    return (None if raw_object is None else raw_object.strip()), raw_part.strip()


class _Links:
    """Which object of an image each part belongs to, as far as groups and parents say."""

    def __init__(self, shapes: Sequence[Shape], roles: Mapping[int, Role | None], owners: Mapping[int, int]) -> None:
        self._found: dict[int, int] = {}
        self._groups: dict[int, str] = {}  # part -> its group, where the group holds no object of the part's class
        self._in_groups = {owners[one.number] for one in shapes if one.number in owners and _group(one) is not None}
        by_key = {shape.naming.key: shape for shape in shapes if shape.naming is not None and shape.naming.key}
        for shape in shapes:
            role, naming = roles[shape.number], shape.naming
            if role is None or naming is None or role.raw_part is None:
                continue
            owner = _find_ancestor(shape, by_key, owners)
            if owner is None and naming.group is not None:
                same = [one for one in shapes if _group(one) == naming.group]
                numbers = {owners[one.number] for one in same if _is_owner(one, role, roles, owners)}
                owner = min(numbers, default=None) if len(numbers) == 1 else None
                if not numbers and role.raw_object is not None:
                    self._groups[shape.number] = naming.group
            if owner is not None and role.raw_object in (None, _raw_object(owner, roles)):
                self._found[shape.number] = owner

    def find(self, number: int) -> int | None:
        """Return the object of a part; None if only its place in the image can tell."""
        return self._found.get(number)

    def implied_objects(
        self, parts: Sequence[RawAnnotation], objects: Mapping[int, RawAnnotation], last_number: int
    ) -> list[RawAnnotation]:
        """Return the objects that nobody drew: one for each group of parts without an object of their class.

        If the image shows an object of the class outside all groups, the place decides instead. Once there is such an
        object, parts without a group need one too, unless their class has a drawn object.
        """
        drawn = {one.raw_object for one in objects.values()}
        free = {one.raw_object for number, one in objects.items() if number not in self._in_groups}
        implied: dict[tuple[str, str], RawAnnotation] = {}
        for is_second_pass in (False, bool(self._groups)):
            for part in parts:
                group, raw_object = self._groups.get(part.annotation_id, ""), part.raw_object
                is_placed = raw_object in (free if group else drawn)
                if (
                    raw_object is None
                    or is_placed
                    or part.annotation_id in self._found
                    or bool(group) is is_second_pass
                ):
                    continue
                number = last_number + len(implied) + 1
                one = RawAnnotation(number, part.image_id, raw_object, None, None, None, None, False)
                self._found[part.annotation_id] = implied.setdefault((group, raw_object), one).annotation_id
            if not implied:
                break
        return list(implied.values())


def _raw_object(number: int, roles: Mapping[int, Role | None]) -> str | None:
    role = roles[number]
    return None if role is None else role.raw_object


def _is_owner(shape: Shape, part: Role, roles: Mapping[int, Role | None], owners: Mapping[int, int]) -> bool:
    return shape.number in owners and part.raw_object in (None, _raw_object(shape.number, roles))


def _find_ancestor(shape: Shape, by_key: Mapping[str, Shape], owners: Mapping[int, int]) -> int | None:
    """Return the object above a shape in the tree of regions; a part of a part belongs to the same object."""
    seen: set[str] = set()
    parent = shape.naming.parent if shape.naming is not None else None
    while parent is not None and parent not in seen:
        seen.add(parent)
        above = by_key.get(parent)
        if above is None or above.naming is None:
            return None
        if above.number in owners:
            return owners[above.number]
        parent = above.naming.parent
    return None


def _group(shape: Shape) -> str | None:
    return None if shape.naming is None else shape.naming.group


def _label(shape: Shape) -> str:
    return "" if shape.naming is None else shape.naming.label


def _is_bare(shape: Shape, role: Role) -> bool:
    """Return whether nothing but the lack of every other sign makes the shape an object."""
    naming = shape.naming
    return naming is not None and naming.object_name is None and role == Role(naming.label, None)


def _groups_of_bare_labels(shapes: Sequence[Shape], roles: Mapping[int, Role | None]) -> list[list[Shape]]:
    """Return the groups that hold several labels of which none says whether it is an object or a part."""
    groups: dict[tuple[int, str], list[Shape]] = defaultdict(list)
    for shape in shapes:
        role = roles[shape.number]
        if shape.naming is not None and shape.naming.group is not None and role and _is_bare(shape, role):
            groups[shape.image.image_id, shape.naming.group].append(shape)
    return [group for group in groups.values() if len({_label(shape) for shape in group}) > 1]


def _find_object_label(group: Sequence[Shape], known_objects: Iterable[str | None]) -> str:
    """Return the label of a group that names the object (rule 5).

    Raises:
        ValueError: none does, or several.
    """
    labels = sorted({_label(shape) for shape in group})
    known = [label for label in labels if label in set(known_objects)]
    if not known:
        known = [label for label in labels if _contains_others(label, group)]
    if len(known) != 1:
        raise ValueError(
            f"nothing says which of the labels {', '.join(map(repr, labels))} of this group is the object; name the "
            "parts object:part, or draw an outline of the object that contains them"
        )
    return known[0]


def _contains_others(label: str, group: Sequence[Shape]) -> bool:
    """Return whether the shapes of a label contain at least half of every other shape of their group."""
    own = [shape for shape in group if _label(shape) == label]
    others = [shape for shape in group if _label(shape) != label and shape.region is not None]
    masks = [shape.region.mask for shape in own if shape.region is not None and shape.region.mask is not None]
    boxes = [_box(shape) for shape in own]
    whole = union_masks(masks) if masks else None
    return all(_share_inside(other, whole, boxes) >= MIN_CONTAINED for other in others)


def _share_inside(shape: Shape, whole: RLE | None, boxes: Sequence[Box | None]) -> float:
    mask = shape.region.mask if shape.region is not None else None
    if mask is not None and whole is not None and rle_area(mask):
        return intersection_area(mask, whole) / rle_area(mask)
    own, owner = _box(shape), _unite_boxes([box for box in boxes if box is not None])
    if own is None or owner is None:
        return 0.0
    overlap = [max(0, min(own[i] + own[i + 2], owner[i] + owner[i + 2]) - max(own[i], owner[i])) for i in (0, 1)]
    return overlap[0] * overlap[1] / (own[2] * own[3])


def _shows_object(shape: Shape) -> bool:
    """Return whether a shape gives an object a mask or a box; points and lines do not."""
    region = shape.region
    if region is None:
        return False
    if region.mask is not None:
        return rle_area(region.mask) > 0
    return region.box is not None and region.is_box


def _reason_of_part(shape: Shape) -> str:
    region = shape.region
    if region is not None and region.is_box:
        return BOXED_PART
    return (region.ignored if region is not None else None) or EMPTY_MASK


def _box(shape: Shape) -> Box | None:
    region = shape.region
    if region is None:
        return None
    return region.box if region.mask is None else rle_bbox(region.mask)


def _unite_boxes(boxes: Sequence[Box]) -> Box | None:
    if not boxes:
        return None
    left, top = min(box[0] for box in boxes), min(box[1] for box in boxes)
    right, bottom = max(box[0] + box[2] for box in boxes), max(box[1] + box[3] for box in boxes)
    return left, top, right - left, bottom - top


def _boxes_by_role(shapes: Sequence[Shape], roles: Mapping[int, Role | None]) -> dict[Role, list[Box]]:
    """Return the boxes of what can be used, by role."""
    boxes: dict[Role, list[Box]] = defaultdict(list)
    for shape in shapes:
        role, region = roles[shape.number], shape.region
        is_usable = region is not None and region.mask is not None and rle_area(region.mask)
        box = _box(shape)
        if role is not None and box is not None and (is_usable or (role.is_object and _shows_object(shape))):
            boxes[role].append(box)
    return boxes


def _describe_lost(
    shape: Shape, role: Role | None, boxes: Mapping[Role, Sequence[Box]], links: _Links
) -> list[UnusableAnnotation]:
    """Return what a shape that was left out says about what is visible.

    A point, a line or a box in the middle of a usable shape with the same name shows the same thing once more.
    """
    image_id = shape.image.image_id
    if role is None:
        return [UnusableAnnotation(image_id), UnusableAnnotation(image_id, is_object=True)]
    box = _box(shape)
    if box is not None and any(_has_middle(one, box) for one in boxes.get(role, ())):
        return []
    return [
        UnusableAnnotation(image_id, role.raw_object, role.raw_part, links.find(shape.number), role.raw_part is None)
    ]


def _has_middle(outer: Box, inner: Box) -> bool:
    return all(outer[i] <= inner[i] + inner[i + 2] / 2 <= outer[i] + outer[i + 2] for i in (0, 1))
