"""Wrong answers: part sets a few mutations away from the right one (paper, appendix B).

Parts are indices into the sorted vocabulary, so that sorted indices are sorted labels. Three modes:
- `paper`: 1 to 3 mutations of the right answer; added parts come from the object's category.
- `authors`: as the authors' public code draws: 1 or 2 mutations (its upper bound of 3 is exclusive); the uniform share
  of added parts comes from the object and the concepts it is compared with (the paper: from the same category), the
  predicted share from all parts. As there, the parts of the right answer, under any of their names, are the only ones
  never added. Two things are not copied: that code may compare an object with its own class, and it inserts added parts
  at random places (here parts are always sorted).
- `balanced`: as `paper`, but wrong answers are also mutated from wrong ones. In the other two the right answer is the
  centre of the choices, which a blind guess can use (the paper admits it); here no choice is central.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from partonomy.questions.part_sampler import PartSampler

NUM_WRONG_ANSWERS = 4
NUM_TRIES = 20
MAX_MUTATIONS = 3
AUTHORS_MAX_MUTATIONS = 2


class MutationMode(StrEnum):
    """How wrong answers are derived; see the module's text."""

    PAPER = "paper"
    AUTHORS = "authors"
    BALANCED = "balanced"


class Operation(StrEnum):
    """One mutation."""

    ADD = "add"
    REMOVE = "remove"
    REPLACE = "replace"


OPERATIONS = (Operation.ADD, Operation.REMOVE, Operation.REPLACE)


@dataclass(frozen=True)
class MutationContext:
    """What the mutations of one question may use.

    Attributes:
        correct: the right answer's parts.
        category_parts: parts of any object of the category, sorted.
        query_parts: parts of the object and of the concepts it is compared with, sorted (`authors`); empty for the
            part-whole types, where the authors' code offers none.
    """

    correct: frozenset[int]
    category_parts: tuple[int, ...]
    query_parts: tuple[int, ...]


class AnswerMutator:
    """Draws wrong answers.

    Args:
        mode: see the module's text.
        sampler: draws the parts to add.
        synonyms: for every part, the parts that mean the same, itself included.
    """

    def __init__(self, mode: MutationMode, sampler: PartSampler, synonyms: Sequence[frozenset[int]]) -> None:
        self._mode = mode
        self._sampler = sampler
        self._synonyms = synonyms
        self._num_parts = len(synonyms)

    def draw_wrong_answers(
        self, context: MutationContext, generator: np.random.Generator
    ) -> tuple[frozenset[int], ...] | None:
        """Draw four wrong part sets: distinct, not empty, none right or right in other words.

        Returns:
            The sets, or None when one of them was not found in 20 tries.
        """
        answers = [context.correct]
        for parent in self._draw_parents(generator):
            answer = self._draw_distinct(answers[parent], answers, context, generator)
            if answer is None:
                return None
            answers.append(answer)
        return tuple(answers[1:])

    def _draw_parents(self, generator: np.random.Generator) -> tuple[int, ...]:
        """For wrong answers 1..4, the number of the answer (0 = the right one) each is mutated from."""
        if self._mode is not MutationMode.BALANCED:
            return (0,) * NUM_WRONG_ANSWERS
        return draw_tree(NUM_WRONG_ANSWERS + 1, generator)

    def _draw_distinct(
        self,
        start: frozenset[int],
        answers: Sequence[frozenset[int]],
        context: MutationContext,
        generator: np.random.Generator,
    ) -> frozenset[int] | None:
        for _ in range(NUM_TRIES):
            answer = self._mutate(start, context, generator)
            if answer and answer not in answers and not self._means_same(answer, context.correct):
                return answer
        return None

    def _mutate(
        self, start: frozenset[int], context: MutationContext, generator: np.random.Generator
    ) -> frozenset[int]:
        """Apply 1 to 3 mutations; a part touched once is not touched again; an impossible mutation is left out."""
        present, touched = set(start), set[int]()
        max_mutations = AUTHORS_MAX_MUTATIONS if self._mode is MutationMode.AUTHORS else MAX_MUTATIONS
        for _ in range(int(generator.integers(1, max_mutations + 1))):
            operation = OPERATIONS[int(generator.integers(len(OPERATIONS)))] if present else Operation.ADD
            removed = None if operation is Operation.ADD else _draw_one(sorted(present - touched), generator)
            added = (
                None if operation is Operation.REMOVE else self._draw_added(present, touched, start, context, generator)
            )
            if (operation is not Operation.ADD and removed is None) or (
                operation is not Operation.REMOVE and added is None
            ):
                continue
            if removed is not None:
                present.remove(removed)
                touched.add(removed)
            if added is not None:
                present.add(added)
                touched.add(added)
        return frozenset(present)

    def _draw_added(
        self,
        present: set[int],
        touched: set[int],
        start: frozenset[int],
        context: MutationContext,
        generator: np.random.Generator,
    ) -> int | None:
        """Draw a part that is neither touched nor a synonym of a part listed now or at the start.

        The start is the right answer, so no true part is added in other words. From a wrong start (`balanced`) true
        parts may come back: kept out, they would become rare in the wrong answers and give the right one away.
        """
        excluded = set(touched)
        for part in present | start:
            excluded |= self._synonyms[part]
        is_authors = self._mode is MutationMode.AUTHORS
        related_parts = context.query_parts if is_authors else context.category_parts
        related = [part for part in related_parts if part not in excluded]
        allowed = related
        if is_authors or not related:
            allowed = [part for part in range(self._num_parts) if part not in excluded]
        return self._sampler.sample(sorted(present), related, allowed, generator) if allowed else None

    def _means_same(self, answer: frozenset[int], correct: frozenset[int]) -> bool:
        """Whether two answers name the same parts, be it in other words."""
        return all(self._synonyms[part] & correct for part in answer) and all(
            self._synonyms[part] & answer for part in correct
        )


def draw_tree(num_nodes: int, generator: np.random.Generator) -> tuple[int, ...]:
    """Draw a uniformly random labelled tree (Pruefer code) and return it as seen from node 0.

    Every node is equally likely to be central in it, so where the right answer (node 0) sits says nothing.

    Returns:
        Parents of nodes 1..num_nodes-1, renumbered so that each parent comes before its children.
    """
    code = [int(value) for value in generator.integers(num_nodes, size=num_nodes - 2)]
    degrees = [1 + code.count(node) for node in range(num_nodes)]
    neighbours: dict[int, list[int]] = {node: [] for node in range(num_nodes)}

    def connect(first: int, second: int) -> None:
        neighbours[first].append(second)
        neighbours[second].append(first)
        degrees[first] -= 1
        degrees[second] -= 1

    for node in code:
        connect(degrees.index(1), node)
    first, second = (node for node in range(num_nodes) if degrees[node] == 1)
    connect(first, second)
    order, parents = [0], []
    for node in order:
        for child in sorted(neighbours[node]):
            if child not in order:
                parents.append(order.index(node))
                order.append(child)
    return tuple(parents)


def _draw_one(candidates: Sequence[int], generator: np.random.Generator) -> int | None:
    return candidates[int(generator.integers(len(candidates)))] if candidates else None
