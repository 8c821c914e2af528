"""Draws wrong answers without hints: nodes of a random tree in which any node may be the right answer (`balanced`).

See `answer_model` for the reason why no choice stands out.
"""

from collections.abc import Sequence
from itertools import accumulate

from partonomy.questions.answer_model import AnswerModel, draw_place
from partonomy.questions.draws import Draws

MAX_STEPS = 3
NUM_TRIES = 20


class BalancedAnswers:
    """Draws wrong answers.

    Args:
        synonyms: for every part, the parts that mean the same, including itself.
    """

    def __init__(self, synonyms: Sequence[frozenset[int]]) -> None:
        self._synonyms = synonyms
        self._has_synonyms = any(len(group) > 1 for group in synonyms)
        self._first_words = [min(group) for group in synonyms]

    def draw(
        self, correct: frozenset[int], num_wrong: int, model: AnswerModel, generator: Draws
    ) -> tuple[frozenset[int], ...] | None:
        """Draw wrong part sets.

        Each set is 1 to 3 steps of the model's walk away from another answer, right or wrong. If the kind has few right
        answers, it is the right answer of another question. A true part is never listed under another name, and no two
        answers mean the same.

        Args:
            correct: the right answer's parts.
            num_wrong: the number of sets to draw.
            model: the distribution of right answers of this kind.
            generator: source of randomness.

        Returns:
            The sets; None if one of them was not found in 20 tries.
        """
        few = self._draw_from_few(correct, num_wrong, model, generator) if len(model.few) >= num_wrong else None
        if few is not None:
            return few
        vocabulary: Sequence[int] = list(model.root_odds)
        if self._has_synonyms:
            vocabulary = [part for part in vocabulary if part in correct or not self._synonyms[part] & correct]
        answers = [correct]
        meanings = {self._meaning(correct)}
        for parent in draw_tree(num_wrong + 1, generator):
            for _ in range(NUM_TRIES):
                answer = self._walk(answers[parent], vocabulary, model, generator)
                meaning = self._meaning(answer)
                if meaning not in meanings:
                    break
            else:
                return None
            answers.append(answer)
            meanings.add(meaning)
        return tuple(answers[1:])

    def _draw_from_few(
        self, correct: frozenset[int], num_wrong: int, model: AnswerModel, generator: Draws
    ) -> tuple[frozenset[int], ...] | None:
        """Draw other right answers of the kind by their shares, without replacement; None if there are not enough."""
        left = {
            self._meaning(answer): (answer, share)
            for answer, share in model.few.items()
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
            listed = answer
            if self._has_synonyms:
                listed = answer.union(*(self._synonyms[part] for part in answer))
            answer = model.step(answer, [part for part in vocabulary if part not in listed], generator)
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
    code = [generator.below(num_nodes) for _ in range(num_nodes - 2)]
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
