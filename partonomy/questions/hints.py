"""What the choices of a question give away, and how to choose among drawn wrong answers so that it is little.

A class of few parts that are mostly all visible leaves no wrong answers that resemble the right one in every respect.
Of its own parts, every other set is smaller, and a foreign part gives itself away to anyone who knows the class. Where
one hint has to be given, the other one is not: several sets of wrong answers are drawn, and one of them is chosen with
a probability that falls with the hints that it gives, each weighted by how much the questions of its kind give it.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np

from partonomy.questions.draws import Draws

NUM_CHOSEN_FROM = 12
"""Sets of wrong answers that are drawn for a question."""
NUM_WEIGHT_STEPS = 800
WEIGHT_STEP = 0.3
WEIGHT_PER_EXCESS = 300.0
"""Weight of a hint per excess over chance. It is bounded, because a choice that is all but forced is a hint itself."""
NUM_WEIGHT_DECIMALS = 6
SOFT_FACTOR = 0.1
"""Factor of that bound for second places, which no simple rule picks, and for rules that are right less often than
chance: they are evened out as far as the other hints allow."""
CLASS_FACTOR = 5.0
"""Factor of that bound for the parts of the object's class, the hint that is hardest to avoid."""
HINTS = (
    *("most parts", "fewest parts", "middle number of parts", "central choice", "outermost choice"),
    *("second most parts", "second fewest parts", "second most central choice"),
    *("longest text", "shortest text", "most words", "fewest words", "commonest parts", "rarest parts"),
    *("first by alphabet", "last by alphabet"),
    "parts of the object's class",
)
"""Rules of `partonomy.metrics.blind` that depend on the parts that are listed."""


@dataclass(frozen=True)
class PartWords:
    """The number of characters and of words of every part's name, by part index."""

    characters: tuple[int, ...]
    words: tuple[int, ...]

    @classmethod
    def of(cls, labels: Sequence[str]) -> "PartWords":
        """Count those of the names."""
        return cls(tuple(map(len, labels)), tuple(len(label.split()) for label in labels))


@dataclass(frozen=True)
class Listable:
    """The parts that the wrong answers about an object may list.

    Attributes:
        parts: those that are not foreign to the object, sorted; the right answer's are among them.
        more: the same and foreign ones, sorted.
        own: the parts of the object's class.
    """

    parts: tuple[int, ...]
    more: tuple[int, ...]
    own: frozenset[int]


class Hints:
    """Computes the hints of sets of wrong answers.

    Args:
        words: of the parts' names.
        shares: the share of the right answers of the kind that list each part.
    """

    def __init__(self, words: PartWords, shares: Mapping[int, float]) -> None:
        self._words = words
        self._shares = shares

    def find(self, correct: frozenset[int], wrong: Sequence[frozenset[int]], own: frozenset[int]) -> list[float]:
        """Return, for every one of `HINTS`, the probability that the rule is right; ties count by share."""
        choices = [correct, *wrong]
        sizes = [len(one) for one in choices]
        total = sum(sizes)
        distances = [sum(len(one ^ other) for other in choices) for one in choices]
        characters = [sum(self._words.characters[part] + 2 for part in one) for one in choices]
        words = [sum(self._words.words[part] for part in one) for one in choices]
        # The parts' order is that of their names. In a text, a comma sorts before the full stop that ends a list.
        listed = [[*sorted(one), math.inf] for one in choices]
        order = sorted(listed)
        places = [order.index(one) for one in listed]
        common = [round(sum(self._shares.get(part, 0.0) for part in one) / len(one), 9) for one in choices]
        return [
            _hit(sizes),
            _hit([-size for size in sizes]),
            _hit([-abs(size * len(choices) - total) for size in sizes]),
            _hit([-distance for distance in distances]),
            _hit(distances),
            _hit_second(sizes),
            _hit_second([-size for size in sizes]),
            _hit_second([-distance for distance in distances]),
            _hit(characters),
            _hit([-count for count in characters]),
            _hit(words),
            _hit([-count for count in words]),
            _hit(common),
            _hit([-value for value in common]),
            _hit([-place for place in places]),
            _hit(places),
            _hit([one <= own for one in choices]),
        ]


def _hit(values: Sequence[float]) -> float:
    """Return the probability that the highest value is the first one, if ties are broken uniformly."""
    highest = max(values)
    return 1.0 / values.count(highest) if values[0] == highest else 0.0


def _hit_second(values: Sequence[float]) -> float:
    """Return the probability that the second highest value is the first one, if ties are broken uniformly."""
    num_higher, num_equal = sum(value > values[0] for value in values), values.count(values[0])
    return 1.0 / num_equal if num_higher <= 1 < num_higher + num_equal else 0.0


def choose_set(hints: Sequence[Sequence[float]], weights: Sequence[float], generator: Draws) -> int:
    """Draw the index of a set of wrong answers, with a probability that falls with its weighted hints."""
    costs = [sum(weight * hint for weight, hint in zip(weights, row, strict=True)) for row in hints]
    lowest = min(costs)
    cumulative = list(accumulate(math.exp(lowest - cost) for cost in costs))
    place = generator.random() * cumulative[-1]
    return next((number for number, end in enumerate(cumulative) if place < end), len(costs) - 1)


def fit_weights(hints: np.ndarray) -> tuple[float, ...]:
    """Find the weights under which every hint is right about as often as chance, as far as the sets allow it.

    Args:
        hints: (N, K, H), the hints of the K sets that were drawn for each of N questions.

    Returns:
        H weights, negative for a hint that is right less often than chance.
    """
    chance = 1.0 / 5
    weights, flat = np.zeros(hints.shape[2]), hints.reshape(-1, hints.shape[2])
    bounds = np.full(hints.shape[2], WEIGHT_PER_EXCESS)
    bounds[-1] *= CLASS_FACTOR
    bounds[[name.startswith("second") for name in HINTS]] *= SOFT_FACTOR
    for _ in range(NUM_WEIGHT_STEPS):
        costs = hints @ weights
        chances = np.exp(costs.min(axis=1, keepdims=True) - costs)
        chances /= chances.sum(axis=1, keepdims=True)
        means = chances.ravel() @ flat / len(hints)
        limits = np.where(weights < 0.0, bounds * SOFT_FACTOR, bounds)
        weights += WEIGHT_STEP * (means - chance - weights / limits)
    return tuple(np.round(weights, NUM_WEIGHT_DECIMALS).tolist())
