"""Draws pairs of images from a source, without enumerating all pairs and without remembering those already drawn.

Two classes a and b with n_a and n_b images have a space of n_a * n_b image pairs. A keyed permutation of the numbers
below the size of the space gives its pairs in random order, each once; the place in that order is the only state. An
image pair may lie in the spaces of several pairs of classes. A keyed hash then chooses one of those in which it has
targets, and only a draw from that space is accepted. A task therefore has each image pair at most once, and exhausting
all spaces gives every image pair that has targets.
"""

import math
from array import array
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import accumulate

from partonomy.datasets.mixed_parts import PairTask
from partonomy.questions.draws import Draws
from partonomy.questions.mixed_parts.index import IndexedObject, SourceIndex

_MASK = (1 << 64) - 1
NUM_ROUNDS = 4
MAX_MISSES = 2000
"""A pair of classes is given up after so many draws in a row without a sample, unless its space ends before."""

Targets = tuple[tuple[str, ...], tuple[str, ...]]
"""Labels of the targets in the first and in the second image."""


class UniqueBy(StrEnum):
    """When a part counts as unique to one of two objects.

    `image`: it is not annotated for the other object in the other image. `taxonomy`: in addition, no object of the
    other class has it anywhere in the source, so that a part that is merely hidden or not annotated does not count.
    """

    IMAGE = "image"
    TAXONOMY = "taxonomy"


class ClassWeights(StrEnum):
    """How often a pair of classes is drawn: by the number of its image pairs, by the square root of it, or equally."""

    PRODUCT = "product"
    ROOT = "root"
    UNIFORM = "uniform"


@dataclass(frozen=True)
class SamplerSettings:
    """How pairs are drawn.

    Attributes:
        seed: Seed of every random decision.
        unique_by: See `UniqueBy`.
        class_weights: See `ClassWeights`.
        max_targets: Largest number of masks of an answer, owners included; image pairs with more are left out.
        max_per_image: Largest number of samples of a task that show one image.
        max_per_class_pair: Largest number of samples of a task and a pair of classes; None for any number.
    """

    seed: int = 0
    unique_by: UniqueBy = UniqueBy.IMAGE
    class_weights: ClassWeights = ClassWeights.PRODUCT
    max_targets: int = 40
    max_per_image: int = 300
    max_per_class_pair: int | None = None

    def __post_init__(self) -> None:
        for name, smallest in (("max_targets", 2), ("max_per_image", 1), ("max_per_class_pair", 1)):
            value = getattr(self, name)
            if value is not None and value < smallest:
                raise ValueError(f"--{name} must be at least {smallest}, got {value}")


@dataclass(frozen=True)
class DrawnPair:
    """A sample: places of the two images in their index, the class in each, and the targets.

    In the task `common_objects`, both labels are the class that the pair was drawn for, and the targets are all common
    objects; in the part tasks, the targets are parts of `labels`.
    """

    places: tuple[int, int]
    labels: tuple[str, str]
    targets: Targets


@dataclass
class DrawCounts:
    """What became of the draws of a task.

    Attributes:
        num_samples: Samples drawn.
        rejected: Draws that gave no sample, by reason.
        by_classes: Samples by pair of classes.
    """

    num_samples: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    by_classes: Counter[tuple[str, str]] = field(default_factory=Counter)


def mix(*numbers: int) -> int:
    """Return a 64-bit hash of integers (SplitMix64's finaliser over a running sum)."""
    state = 0
    for number in numbers:
        state = (state + number + 0x9E3779B97F4A7C15) & _MASK
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _MASK
        state ^= state >> 31
    return state


class Permutation:
    """A keyed permutation of the integers below `size`: a Feistel network that walks until it is inside the range.

    Args:
        size: Number of integers, at least 1.
        key: Chooses the permutation.
    """

    def __init__(self, size: int, key: int) -> None:
        self._size = size
        self._half = max(1, (max(size - 1, 1).bit_length() + 1) // 2)
        self._mask = (1 << self._half) - 1
        self._keys = [mix(key, number) for number in range(NUM_ROUNDS)]

    def __getitem__(self, index: int) -> int:
        while True:
            left, right = index >> self._half, index & self._mask
            for key in self._keys:
                word = (right + key) * 0x9E3779B97F4A7C15 & _MASK
                word = (word ^ (word >> 29)) * 0xBF58476D1CE4E5B9 & _MASK
                left, right = right, left ^ (word >> 32 & self._mask)
            index = left << self._half | right
            if index < self._size:
                return index


class _Space:
    """The image pairs of two classes, in random order.

    Args:
        labels: The classes, in order; the same one twice pairs its images with each other.
        having: Places of the images with each of the classes.
        key: Chooses the order.
    """

    def __init__(self, labels: tuple[str, str], having: tuple[Sequence[int], Sequence[int]], key: int) -> None:
        self.labels = labels
        self._having = having
        self._is_same = labels[0] == labels[1]
        first, second = len(having[0]), len(having[1])
        self.size = first * (first - 1) // 2 if self._is_same else first * second
        self._order = Permutation(self.size, key) if self.size else None
        self.next = 0
        self.num_misses = 0

    def draw(self) -> tuple[int, int]:
        """Return the next pair of places: an image with the first class and one with the second."""
        assert self._order is not None
        number = self._order[self.next]
        self.next += 1
        if self._is_same:
            high = (1 + math.isqrt(1 + 8 * number)) // 2
            return self._having[0][number - high * (high - 1) // 2], self._having[0][high]
        first, second = divmod(number, len(self._having[1]))
        return self._having[0][first], self._having[1][second]


class PairSampler:
    """Draws the samples of one task from one source.

    Args:
        index: The source.
        task: The task.
        comparable: Pairs of classes, in order, that may be compared; a class with itself included. Objects need none.
        settings: How to draw.
        key: Distinguishes the draws of this sampler from those of others with the same seed.
    """

    def __init__(
        self,
        index: SourceIndex,
        task: PairTask,
        comparable: Sequence[tuple[str, str]],
        settings: SamplerSettings,
        *,
        key: int,
    ) -> None:
        self._images, self._task, self._settings = index.images, task, settings
        self._taxonomy = index.taxonomy
        self._comparable = frozenset(comparable)
        self._key = mix(settings.seed, key)
        having: dict[str, list[int]] = defaultdict(list)
        for place, image in enumerate(index.images):
            for label, one in image.objects.items():
                if task is PairTask.COMMON_OBJECTS or one.parts:
                    having[label].append(place)
        pairs = [(label, label) for label in sorted(having)] if self._is_about_objects else sorted(self._comparable)
        self._number_of = {label: number for number, label in enumerate(sorted(having))}
        self._spaces = [
            _Space(pair, (having[pair[0]], having[pair[1]]), mix(self._key, number))
            for number, pair in enumerate(pairs)
            if pair[0] in having and pair[1] in having
        ]
        self._uses = array("q", bytes(8 * len(index.images)))
        self.counts = DrawCounts()

    @property
    def _is_about_objects(self) -> bool:
        return self._task is PairTask.COMMON_OBJECTS

    def draw(self, count: int) -> Iterator[DrawnPair]:
        """Yield at most `count` samples; fewer if there are no more, or if the limits allow no more."""
        draws = Draws([self._key >> 32, self._key & 0xFFFFFFFF])
        spaces = [space for space in self._spaces if space.size]
        while spaces and self.counts.num_samples < count:
            table = list(accumulate(self._weight(space) for space in spaces))
            alive, num_dead = [True] * len(spaces), 0
            # Dead spaces stay in the table until they are half of it, so that its sums are rarely built again.
            while num_dead * 2 <= len(spaces) and num_dead < len(spaces) and self.counts.num_samples < count:
                number = min(bisect_right(table, draws.random() * table[-1]), len(spaces) - 1)
                if not alive[number]:
                    continue
                found = self._try(spaces[number])
                if found is not None:
                    yield found
                if self._is_over(spaces[number]):
                    alive[number] = False
                    num_dead += 1
            spaces = [space for space, is_alive in zip(spaces, alive, strict=True) if is_alive]

    def _weight(self, space: _Space) -> float:
        match self._settings.class_weights:
            case ClassWeights.PRODUCT:
                return float(space.size)
            case ClassWeights.ROOT:
                return math.sqrt(space.size)
            case ClassWeights.UNIFORM:
                return 1.0

    def _is_over(self, space: _Space) -> bool:
        limit = self._settings.max_per_class_pair
        if limit is not None and self.counts.by_classes[space.labels] >= limit:
            return True
        return space.next == space.size or space.num_misses >= MAX_MISSES

    def _try(self, space: _Space) -> DrawnPair | None:
        """Draw a pair of images; None if it is no sample of this space."""
        first, second = space.draw()
        found = self._check(first, second, space.labels)
        if isinstance(found, str):
            self.counts.rejected[found] += 1
            space.num_misses += 1
            return None
        space.num_misses = 0
        self._uses[first] += 1
        self._uses[second] += 1
        self.counts.num_samples += 1
        self.counts.by_classes[space.labels] += 1
        # Which image comes first must not follow from the order of the labels or of the file.
        if mix(self._key, 1, first, second) & 1:
            return DrawnPair((second, first), (space.labels[1], space.labels[0]), (found[1], found[0]))
        return DrawnPair((first, second), space.labels, found)

    def _check(self, first: int, second: int, labels: tuple[str, str]) -> Targets | str:
        """Return the targets of two images under two classes, or the reason why they are no sample."""
        limit = self._settings.max_per_image
        if first == second:
            return "the same image twice"
        if self._uses[first] >= limit or self._uses[second] >= limit:
            return "an image is used often enough"
        options = self._options(first, second)
        if not options:
            return "no targets, or too many"
        # The two images may have the classes the other way round, too; a class pair is the same in both directions.
        chosen = (
            min(options, key=lambda one: self._rank(first, second, one)) if len(options) > 1 else next(iter(options))
        )
        return options[chosen] if chosen == labels else "drawn for another pair of classes"

    def _rank(self, first: int, second: int, labels: tuple[str, str]) -> int:
        one, other = (first, self._number_of[labels[0]]), (second, self._number_of[labels[1]])
        return mix(self._key, 2, *min(one, other), *max(one, other))

    def _options(self, first: int, second: int) -> Mapping[tuple[str, str], Targets]:
        """Return the targets of two images by the class in each, for every pair of classes that has some."""
        one, other = self._images[first], self._images[second]
        if self._is_about_objects:
            common = tuple(sorted(one.objects.keys() & other.objects.keys()))
            if not common or 2 * len(common) > self._settings.max_targets:
                return {}
            return {(label, label): (common, common) for label in common}
        options = {}
        for label, owner in one.objects.items():
            for other_label, other_owner in other.objects.items():
                pair = (label, other_label) if label <= other_label else (other_label, label)
                if pair not in self._comparable or not owner.parts or not other_owner.parts:
                    continue
                targets = self._targets(label, owner, other_label, other_owner)
                number = len(targets[0]) + len(targets[1])
                if number and number + 2 <= self._settings.max_targets:
                    options[label, other_label] = targets
        return options

    def _targets(self, label: str, owner: IndexedObject, other_label: str, other: IndexedObject) -> Targets:
        if self._task is PairTask.COMMON_PARTS:
            common = tuple(sorted(owner.parts.keys() & other.parts.keys()))
            return common, common
        if not owner.is_complete or not other.is_complete:
            return (), ()
        return self._only(owner, other, other_label), self._only(other, owner, label)

    def _only(self, owner: IndexedObject, other: IndexedObject, other_label: str) -> tuple[str, ...]:
        absent = other.seen
        if self._settings.unique_by is UniqueBy.TAXONOMY:
            absent = absent | self._taxonomy[other_label]
        return tuple(sorted(owner.parts.keys() - absent))


def split_places(keys: Iterable[int], shares: Sequence[float]) -> tuple[list[int], ...]:
    """Divide images at random, by a hash of each image, so that adding images moves no other one.

    Args:
        keys: Hashes of the images, 64 bits.
        shares: The parts' shares of all images; they sum to 1.

    Returns:
        For each share, the places of its images, in order.
    """
    bounds = [total * 2.0**64 for total in accumulate(shares)]
    bounds[-1] = math.inf
    parts: tuple[list[int], ...] = tuple([] for _ in shares)
    for place, key in enumerate(keys):
        parts[bisect_right(bounds, key)].append(place)
    return parts
