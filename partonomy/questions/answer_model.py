"""A random walk over part sets that preserves the distribution of right answers (mutation mode `balanced`).

A blind guess has no hints if the choices are exchangeable. They are exchangeable if they are the nodes of a uniformly
random tree whose edges are steps of one reversible random walk, and the right answer, drawn from the walk's stationary
distribution, is a random node: the tree then looks the same from every node. The walk must therefore be reversible with
respect to the distribution of right answers, here approximated by

    pi(S) proportional to g(|S|) * product of odds w_p over the parts p of S,   S not empty.

Every step adds, removes or replaces one part, at a rate proportional to the square root of pi(after) / pi(before)
(locally balanced: Zanella, "Informed proposals for local MCMC in discrete spaces", 2020). Two approximations remain: a
step always moves (the sum of the rates is nearly, not exactly, the same everywhere), and choices are redrawn until they
differ. `balanced_models` compensates for both when it fits w and g.
"""

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import NamedTuple

import numpy as np

from partonomy.questions.draws import Draws

SMALLEST = 1e-300
MAX_KEPT_MOVES = 256
"""Part sets per model whose moves are kept: a fit meets those of a small class thousands of times."""


@dataclass(frozen=True)
class AnswerKind:
    """A group of right answers: one form of question about objects of one category (answers are spread within it), or
    about one object class (wrong answers are drawn from its model)."""

    form: str
    category: str


class _Moves(NamedTuple):
    """The moves from one part set: the sums of the rates up to each part, and the rates of the three kinds of step."""

    present: list[int]
    candidates: list[int]
    adds: list[float]
    removes: list[float]
    up: float
    down: float
    swap: float


@dataclass(frozen=True)
class AnswerModel:
    """Model for drawing the wrong answers of one kind: by the walk or, if there are few right answers, from those.

    Attributes:
        root_odds: square root of w_p for every part that may be listed, by part index; sorted.
        up: up[s] multiplies the rate of adding a part to a set of s parts.
        down: down[s] multiplies the rate of removing a part.
        swap: swap[s] multiplies the rate of replacing a part.
        few: every right answer of the kind with its share, sorted; empty if there are many.
        hint_shares: the share of the kind's right answers that list each part.
        hint_weights: the weights of `hints.HINTS` in the choice of wrong answers; empty to take the first ones.
    """

    root_odds: Mapping[int, float]
    up: tuple[float, ...]
    down: tuple[float, ...]
    swap: tuple[float, ...]
    few: Mapping[frozenset[int], float] = field(default_factory=dict)
    hint_shares: Mapping[int, float] = field(default_factory=dict)
    hint_weights: tuple[float, ...] = ()
    _moves: dict[tuple[frozenset[int], frozenset[int], tuple[int, ...]], _Moves] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def step(
        self,
        answer: frozenset[int],
        vocabulary: Sequence[int],
        generator: Draws,
        listed: frozenset[int] | None = None,
    ) -> frozenset[int]:
        """Make one step of the walk.

        Args:
            answer: a non-empty part set.
            vocabulary: the parts that may be added, but for those already listed.
            generator: source of randomness.
            listed: the set's parts and all that mean the same; None if no two parts do.

        Returns:
            The next set; the same set if no step is possible.
        """
        key = answer, answer if listed is None else listed, tuple(vocabulary)
        moves = self._moves.get(key)
        if moves is None:
            if len(self._moves) >= MAX_KEPT_MOVES:
                self._moves.clear()
            moves = self._moves[key] = self._find_moves(*key)
        present, candidates, adds, removes, up, down, swap = moves
        if up + down + swap <= 0.0:
            return answer
        place = generator.random() * (up + down + swap)
        kept = present.copy()
        if place >= up:
            kept.pop(draw_place(removes, generator))
        if place < up or place >= up + down:
            kept.append(candidates[draw_place(adds, generator)])
        return frozenset(kept)

    def _find_moves(self, answer: frozenset[int], listed: frozenset[int], vocabulary: Sequence[int]) -> _Moves:
        size, present, odds = len(answer), sorted(answer), self.root_odds
        candidates = [part for part in vocabulary if part not in listed]
        adds = list(accumulate([odds[part] for part in candidates]))
        removes = list(accumulate([1.0 / odds[part] for part in present]))
        total_add, total_remove = adds[-1] if adds else 0.0, removes[-1]
        return _Moves(
            present,
            candidates,
            adds,
            removes,
            up=self.up[size] * total_add,
            down=self.down[size] * total_remove,
            swap=self.swap[size] * total_add * total_remove,
        )


def make_answer_model(shares: Mapping[int, float], size_weights: Sequence[float]) -> AnswerModel:
    """Set up the walk for given part frequencies and sizes.

    Args:
        shares: for each of the N parts that may be listed, the share of right answers that list it, in (0, 1), by part
            index.
        size_weights: unnormalised frequencies of right answers with 1, 2, ..., N parts, all above 0.
    """
    shares = dict(sorted(shares.items()))
    root_odds = {part: math.sqrt(share / (1.0 - share)) for part, share in shares.items()}
    sizes = _size_distribution(list(shares.values()))
    num_parts, mean_size = len(shares), sum(shares.values())
    # Typical sums over the parts outside and inside a set, per part. With them, about a third of the steps each add,
    # remove and replace. They depend only on the size, so the walk stays reversible.
    outside = sum((1.0 - share) * root_odds[part] for part, share in shares.items()) / (num_parts - mean_size)
    inside = sum(share / root_odds[part] for part, share in shares.items()) / mean_size
    up, down, swap = ([0.0] * (num_parts + 1) for _ in range(3))
    for size in range(1, num_parts):
        ratio = size_weights[size] / size_weights[size - 1] * sizes[size] / sizes[size + 1]  # g(size + 1) / g(size)
        rate = 1.0 / (3.0 * math.sqrt((num_parts - size) * outside * (size + 1) * inside))
        up[size] = rate * math.sqrt(ratio)
        down[size + 1] = rate / math.sqrt(ratio)
        swap[size] = 1.0 / (3.0 * (num_parts - size) * outside * size * inside)
    return AnswerModel(root_odds, tuple(up), tuple(down), tuple(swap))


def make_flat_model(parts: Sequence[int]) -> AnswerModel:
    """Set up a model for unknown right answers: all sizes are equally likely, and so are all parts.

    Args:
        parts: the parts that may be listed.
    """
    return make_answer_model(dict.fromkeys(parts, 0.5), [1.0] * len(parts))


def draw_place(cumulative: Sequence[float], generator: Draws) -> int:
    """Draw an index with probability proportional to its increment of a cumulative sum."""
    return min(bisect_right(cumulative, generator.random() * cumulative[-1]), len(cumulative) - 1)


def _size_distribution(shares: Sequence[float]) -> list[float]:
    """Return the probabilities of 0, 1, ..., N independently drawn parts (Poisson binomial), each at least 1e-300."""
    sizes = np.ones(1)
    for share in shares:
        sizes = np.append(sizes * (1.0 - share), 0.0) + np.append(0.0, sizes * share)
    return [max(float(probability), SMALLEST) for probability in sizes]
