"""Draws wrong answers to "What is the object?": siblings, preferring those with similar names.

Paper, section 3.2: objects whose names are similar by Sentence Transformers. The softmax over the similarities of
siblings and the model all-mpnet-base-v2 are those of the authors' public code; the paper does not name them.
"""

import hashlib
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np

from partonomy.datasets.concept_graph import ConceptGraph
from partonomy.metrics.part_embedding import NUM_DECIMALS, Embedding
from partonomy.questions.draws import Draws


@dataclass(frozen=True)
class _Candidates:
    """The objects that may be drawn, their probabilities, and the end of each one's share of [0, 1)."""

    labels: Sequence[str]
    chances: Sequence[float]
    ends: Sequence[float]


class ObjectSampler:
    """Draws wrong objects.

    Args:
        graph: objects and their siblings.
        similarities: (objects, objects), similarities of the names of `graph.objects`, in that order.
        model_name: the model that embedded the names.
    """

    def __init__(self, graph: ConceptGraph, similarities: np.ndarray, model_name: str) -> None:
        self.model_name = model_name
        self.similarities = similarities
        self._graph = graph
        self._index: Mapping[str, int] = {label: number for number, label in enumerate(graph.objects)}
        self._candidates: dict[tuple[str, int], _Candidates] = {}

    @classmethod
    def from_embedding(cls, graph: ConceptGraph, embedding: Embedding) -> "ObjectSampler":
        """Compare the embeddings of `graph.objects`, in that order, rounded to be the same on every machine."""
        similarities = np.round(embedding.vectors @ embedding.vectors.T, NUM_DECIMALS)
        return cls(graph, similarities, embedding.model_name)

    def content_hash(self) -> str:
        """Return a hash that changes with anything that changes the draws."""
        return hashlib.sha256(self.model_name.encode() + self.similarities.tobytes()).hexdigest()

    def sample(self, label: str, num_samples: int, generator: Draws) -> tuple[str, ...]:
        """Draw distinct objects other than `label`: its siblings, or all objects if there are too few siblings.

        Raises:
            ValueError: there are fewer than `num_samples` other objects.
        """
        if (label, num_samples) not in self._candidates:
            self._candidates[label, num_samples] = self._find_candidates(label, num_samples)
        found = self._candidates[label, num_samples]
        return tuple(
            found.labels[number] for number in draw_distinct(found.chances, num_samples, generator, found.ends)
        )

    def _find_candidates(self, label: str, num_samples: int) -> _Candidates:
        candidates: Sequence[str] = self._graph.siblings(label)
        if len(candidates) < num_samples:
            candidates = [other for other in self._graph.objects if other != label]
        if len(candidates) < num_samples:
            raise ValueError(f"{label!r}: {num_samples} wrong objects needed, only {len(candidates)} others exist")
        similarity = self.similarities[self._index[label], [self._index[other] for other in candidates]]
        weights = np.exp(similarity - similarity.max())
        chances = (weights / weights.sum()).tolist()
        return _Candidates(candidates, chances, _share_ends(chances))


def draw_distinct(
    chances: Sequence[float], num_samples: int, generator: Draws, ends: Sequence[float] | None = None
) -> list[int]:
    """Draw `num_samples` distinct positions with the given probabilities.

    The result equals NumPy's `Generator.choice(len(chances), num_samples, replace=False, p=chances)`, whose checks take
    ten times as long as the draw.

    Args:
        chances: the probability of every position.
        num_samples: the number of positions to draw.
        generator: source of randomness.
        ends: `_share_ends(chances)`, if already known.
    """
    draws = [generator.random() for _ in range(num_samples)]
    ends = ends or _share_ends(chances)
    chosen = list(dict.fromkeys([bisect_right(ends, draw) for draw in draws]))
    left = list(chances)
    while len(chosen) < num_samples:
        draws = [generator.random() for _ in range(num_samples - len(chosen))]
        for number in chosen:
            left[number] = 0.0
        ends = _share_ends(left)
        chosen += dict.fromkeys(bisect_right(ends, draw) for draw in draws)
    return chosen


def _share_ends(chances: Sequence[float]) -> list[float]:
    """Return the end of each position's share of [0, 1)."""
    cumulative = list(accumulate(chances))
    return [value / cumulative[-1] for value in cumulative]
