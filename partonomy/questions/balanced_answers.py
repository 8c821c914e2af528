"""Draws wrong answers without hints: nodes of a random tree in which any node may be the right answer (`balanced`).

See `answer_model` for the reason why no choice stands out. `image_questions.py` shuffles the choices.
"""

from collections.abc import Sequence
from dataclasses import replace
from enum import StrEnum
from functools import lru_cache
from itertools import accumulate

from partonomy.questions.answer_model import AnswerModel, draw_place, make_flat_model
from partonomy.questions.draws import Draws
from partonomy.questions.hints import NUM_CHOSEN_FROM, Hints, Listable, PartWords, choose_set

MAX_STEPS = 3
NUM_TRIES = 20
FOREIGN_ONE_IN = 3


class Foreign(StrEnum):
    """The wrong answers that may list parts foreign to the object: none, the last one, or any, one in three."""

    NONE = "none"
    LAST = "last"  # no other one is derived from it
    ANY = "any"


KINDS_OF_FOREIGN = tuple(Foreign)


class BalancedAnswers:
    """Draws wrong answers.

    Args:
        synonyms: for every part, the parts that mean the same, including itself.
        words: the length of the parts' names; None if no model weighs hints.
    """

    def __init__(self, synonyms: Sequence[frozenset[int]], words: PartWords | None = None) -> None:
        self._synonyms = synonyms
        self.words = words or PartWords((1,) * len(synonyms), (1,) * len(synonyms))
        self._has_synonyms = any(len(group) > 1 for group in synonyms)
        self._first_words = [min(group) for group in synonyms]

    def draw(
        self,
        correct: frozenset[int],
        num_wrong: int,
        model: AnswerModel,
        generator: Draws,
        listable: Listable | None = None,
    ) -> tuple[frozenset[int], ...] | None:
        """Draw wrong part sets: several times, if the model weighs hints, to choose those that give little away.

        Args:
            correct: the right answer's parts.
            num_wrong: the number of sets to draw.
            model: the distribution of right answers of this kind.
            generator: source of randomness.
            listable: the parts that the sets may list; None for all of the model's.

        Returns:
            The sets; None if one of them was not found in 20 tries.
        """
        if listable is None:
            return self.draw_one(correct, num_wrong, model, generator)
        drawn = self.draw_several(correct, num_wrong, model, generator, listable) if model.hint_weights else []
        if not drawn:  # the walk hardly leaves the sizes of right answers, and a small class has few sets of those
            every = replace(listable, parts=listable.more)
            return self.draw_one(correct, num_wrong, model, generator, every) or self.draw_one(
                correct, num_wrong, make_flat_model(listable.more), generator, every
            )
        hints = Hints(self.words, model.hint_shares)
        return drawn[
            choose_set([hints.find(correct, wrong, listable.own) for wrong in drawn], model.hint_weights, generator)
        ]

    def draw_several(
        self, correct: frozenset[int], num_wrong: int, model: AnswerModel, generator: Draws, listable: Listable
    ) -> list[tuple[frozenset[int], ...]]:
        """Draw the sets of wrong answers to choose from; two in three may list foreign parts."""
        drawn = []
        for number in range(NUM_CHOSEN_FROM):
            wrong = self.draw_one(correct, num_wrong, model, generator, listable, foreign=KINDS_OF_FOREIGN[number % 3])
            if wrong is not None:
                drawn.append(wrong)
        return drawn

    def draw_one(
        self,
        correct: frozenset[int],
        num_wrong: int,
        model: AnswerModel,
        generator: Draws,
        listable: Listable | None = None,
        *,
        foreign: Foreign = Foreign.NONE,
    ) -> tuple[frozenset[int], ...] | None:
        """Draw wrong part sets once.

        Each set is 1 to 3 steps of the model's walk away from another answer, right or wrong. If the kind has few right
        answers, it is the right answer of another question. A true part is never listed under another name, and no two
        answers mean the same.

        Args:
            correct: the right answer's parts.
            num_wrong: the number of sets to draw.
            model: the distribution of right answers of this kind.
            generator: source of randomness.
            listable: the parts that the sets may list; None for all of the model's.
            foreign: which sets may list parts that are foreign to the object.

        Returns:
            The sets; None if one of them was not found in 20 tries.
        """
        vocabulary: Sequence[int] = tuple(model.root_odds) if listable is None else listable.parts
        more = self._without_true(vocabulary if listable is None else listable.more, correct)
        if len(model.few) >= num_wrong and foreign is Foreign.NONE:
            few = self._draw_from_few(correct, num_wrong, model, generator, frozenset(vocabulary))
            if few is not None:
                return few
        vocabulary = self._without_true(vocabulary, correct)
        answers = [correct]
        meanings = {self._meaning(correct)}
        for node, parent in enumerate(draw_tree(num_wrong + 1, generator), start=1):
            is_foreign = node == num_wrong if foreign is Foreign.LAST else generator.below(FOREIGN_ONE_IN) == 0
            listed = more if foreign is not Foreign.NONE and is_foreign else vocabulary
            for _ in range(NUM_TRIES):
                answer = self._walk(answers[parent], listed, model, generator)
                meaning = self._meaning(answer)
                if meaning not in meanings:
                    break
            else:
                return None
            answers.append(answer)
            meanings.add(meaning)
        return tuple(answers[1:])

    def _without_true(self, vocabulary: Sequence[int], correct: frozenset[int]) -> Sequence[int]:
        """Leave out true parts in other words."""
        if not self._has_synonyms:
            return vocabulary
        return tuple([part for part in vocabulary if part in correct or not self._synonyms[part] & correct])

    def _draw_from_few(
        self,
        correct: frozenset[int],
        num_wrong: int,
        model: AnswerModel,
        generator: Draws,
        listable: frozenset[int],
    ) -> tuple[frozenset[int], ...] | None:
        """Draw other right answers of the kind by their shares, without replacement; None if there are not enough."""
        left = {
            self._meaning(answer): (answer, share)
            for answer, share in model.few.items()
            if answer <= listable
            if not (self._has_synonyms and any(self._synonyms[part] & correct for part in answer - correct))
        }
        left.pop(self._meaning(correct), None)
        if len(left) < num_wrong:
            return None
        drawn = []
        for _ in range(num_wrong):
            meanings = list(left)
            place = draw_place(list(accumulate([left[meaning][1] for meaning in meanings])), generator)
            drawn.append(left.pop(meanings[place])[0])
        return tuple(drawn)

    def _walk(
        self, answer: frozenset[int], vocabulary: Sequence[int], model: AnswerModel, generator: Draws
    ) -> frozenset[int]:
        for _ in range(1 + generator.below(MAX_STEPS)):
            listed = answer.union(*(self._synonyms[part] for part in answer)) if self._has_synonyms else answer
            answer = model.step(answer, vocabulary, generator, listed)
        return answer

    def _meaning(self, answer: frozenset[int]) -> frozenset[int]:
        """Return the answer with every part replaced by its first synonym."""
        return frozenset(self._first_words[part] for part in answer) if self._has_synonyms else answer


def draw_tree(num_nodes: int, generator: Draws) -> tuple[int, ...]:
    """Draw a uniformly random labelled tree (Pruefer code) and return it with node 0 as root.

    Every node is equally likely to be central, so the position of the right answer (node 0) gives no hint.

    Returns:
        Parents of nodes 1..num_nodes-1, renumbered so that each parent comes before its children.
    """
    return _tree_of(num_nodes, tuple([generator.below(num_nodes) for _ in range(num_nodes - 2)]))


@lru_cache(maxsize=1024)
def _tree_of(num_nodes: int, code: tuple[int, ...]) -> tuple[int, ...]:
    """Return the tree of a Pruefer code; the fit draws the 125 trees of five nodes hundreds of thousands of times."""
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
