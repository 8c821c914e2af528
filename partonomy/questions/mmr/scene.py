"""The scene of an image: its annotated objects and parts as targets of MMR's schema."""

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from partonomy.datasets.sources.mmr import Granularity, Kind, MmrQuestion, MmrTarget
from partonomy.masks import rle_area, rle_bbox, union_masks
from partonomy.names import OBJECT_PART_SEPARATOR, clean_name, lemmatize
from partonomy.structures import RLE, AnnotatedImage, ObjectInstance

_WORD = re.compile(r"[a-z0-9]+")
_POSSESSIVE = re.compile(r"['’]s?(?!\w)")


@dataclass(frozen=True)
class SceneTarget:
    """One annotated object or part.

    Attributes:
        target: the target in the schema's form; a part's category is "object:part".
        object_name, part_name: cleaned names; `part_name` is None for an object.
        numbered: a name that is unique in the image (paper, Figure 6): "pickup_truck_1's front_wheel".
        box: (x, y, width, height) in pixels.
    """

    target: MmrTarget
    object_name: str
    part_name: str | None
    numbered: str
    box: tuple[int, int, int, int]

    @property
    def phrase(self) -> str:
        """Its name in an answer: "pickup truck's front wheel"."""
        return self.object_name if self.part_name is None else f"{self.object_name}'s {self.part_name}"


@dataclass(frozen=True)
class Scene:
    """All targets of an image.

    Attributes:
        image: the annotated image.
        targets: objects by name and from left to right, each followed by its parts.
        unmasked: names of objects with an instance that has no mask; an answer about them would be incomplete.
        num_empty: number of annotations without pixels, which are not targets.
    """

    image: AnnotatedImage
    targets: tuple[SceneTarget, ...]
    unmasked: frozenset[str]
    num_empty: int


def read_scene(image: AnnotatedImage) -> Scene:
    """List the targets of an image."""
    by_name: defaultdict[str, list[ObjectInstance]] = defaultdict(list)
    for instance in image.objects:
        by_name[clean_name(instance.label)].append(instance)
    targets: list[SceneTarget] = []
    num_empty = 0
    for name in sorted(by_name):
        for number, instance in enumerate(sorted(by_name[name], key=_place), start=1):
            listed = _targets_of(instance, number)
            filled = [one for one in listed if rle_area(one.target.mask)]
            num_empty += len(listed) - len(filled)
            targets += filled
    unmasked = frozenset(clean_name(one.label) for one in image.objects if one.mask is None)
    return Scene(image, tuple(targets), unmasked, num_empty)


def kind_of(question: MmrQuestion) -> Kind:
    """Return whether a question's targets are objects, parts or both."""
    granularities = {target.granularity for target in question.targets}
    if len(granularities) > 1:
        return Kind.MIXED
    return Kind.PART if Granularity.PART in granularities else Kind.OBJECT


def word_keys(text: str) -> list[str]:
    """Return a text's words for comparison: lower case, singular, without possessive endings and underscores."""
    plain = _POSSESSIVE.sub("", text.lower().replace("_", " "))
    return [lemmatize(word) for word in _WORD.findall(plain)]


def says_name(keys: Sequence[str], name: str) -> bool:
    """Return whether a text, given as `word_keys`, contains a name or its last word ("wheel" for "front wheel")."""
    *_, last = wanted = _name_keys(name)
    length = len(wanted)
    return last in keys or any(tuple(keys[at : at + length]) == wanted for at in range(len(keys) - length + 1))


@lru_cache(maxsize=4096)
def _name_keys(name: str) -> tuple[str, ...]:
    return tuple(word_keys(name)) or (name,)


def _targets_of(instance: ObjectInstance, number: int) -> list[SceneTarget]:
    """Return the object, if it has a mask, and its parts by name."""
    name = clean_name(instance.label)
    numbered = f"{name.replace(' ', '_')}_{number}"
    targets = []
    if instance.mask is not None:
        whole = MmrTarget(instance.label, instance.mask, Granularity.OBJECT)
        targets.append(SceneTarget(whole, name, None, numbered, rle_bbox(instance.mask)))
    for part in sorted(instance.parts, key=lambda one: one.label):
        category = f"{instance.label}{OBJECT_PART_SEPARATOR}{part.label}"
        part_name = clean_name(part.label)
        called = f"{numbered}'s {part_name.replace(' ', '_')}"
        target = MmrTarget(category, part.mask, Granularity.PART)
        targets.append(SceneTarget(target, name, part_name, called, rle_bbox(part.mask)))
    return targets


def _place(instance: ObjectInstance) -> tuple[int, int, int]:
    """Return the sort key: from left to right, then from top to bottom."""
    masks: list[RLE] = [part.mask for part in instance.parts] if instance.mask is None else [instance.mask]
    x, y, *_ = rle_bbox(union_masks(masks)) if masks else (0, 0)
    return x, y, instance.instance_id
