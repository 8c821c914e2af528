"""Selects an answer by probability, and computes the score of a random guess (Partonomy/PLUM paper, 3.3 and A.1).

The paper takes "the argmax over the sequence-level probability of each answer choice". This is the selector `sequence`,
which favours short answers. `answer_mean` divides by the number of tokens; `conversation_mean` averages over prompt and
answer, like the authors' code. All three are recorded for every choice.

Choices tie if they share the best score. A tie counts 1/k if the right choice is one of the k tied ones, which is the
expectation of a uniform pick among them. Otherwise the first choice would win, and published record files list the
right one first.
"""

import math
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from partonomy.metrics.part_text import part_text_statistics
from partonomy.structures import ChoiceScore


class Selector(StrEnum):
    """The rule that turns the probabilities of a choice into its score."""

    SEQUENCE = "sequence"
    ANSWER_MEAN = "answer_mean"
    CONVERSATION_MEAN = "conversation_mean"


DEFAULT_SELECTOR = Selector.SEQUENCE


@dataclass(frozen=True)
class TiedChoices:
    """Indices of all choices with the best score under each selector, ascending; one index if there is no tie."""

    sequence: tuple[int, ...]
    answer_mean: tuple[int, ...]
    conversation_mean: tuple[int, ...]

    def indices(self, selector: Selector) -> tuple[int, ...]:
        """Return the best choices of one selector."""
        best: tuple[int, ...] = getattr(self, selector.value)
        return best


@dataclass(frozen=True)
class ChoiceSelection:
    """Index of the chosen answer under each selector, on a tie the first of the tied choices.

    Attributes:
        sequence, answer_mean, conversation_mean: The index.
        tied: All choices with the best score; None in records of earlier versions, whose ties count for the first.
    """

    sequence: int
    answer_mean: int
    conversation_mean: int
    tied: TiedChoices | None = None

    def index(self, selector: Selector) -> int:
        """Return the index of one selector's choice, on a tie the first."""
        return int(getattr(self, selector.value))

    def indices(self, selector: Selector) -> tuple[int, ...]:
        """Return the indices of all choices that count under a selector, each for an equal share."""
        return (self.index(selector),) if self.tied is None else self.tied.indices(selector)

    def credit(self, selector: Selector, correct_index: int) -> float:
        """Return the share of the right choice in a selector's best ones: 1, 0 or, on a tie, 1/k."""
        best = self.indices(selector)
        return 1 / len(best) if correct_index in best else 0.0


@dataclass(frozen=True)
class RandomBaseline:
    """Expected metrics of a uniformly random guess; precision, recall and F1 are ratios of expectations."""

    accuracy: float
    precision: float
    recall: float
    f1: float
    num_questions: int


@dataclass(frozen=True)
class LengthAccuracy:
    """Accuracy over the questions whose correct answer names `num_parts` parts."""

    num_parts: int
    num_questions: int
    num_correct: float

    @property
    def accuracy(self) -> float:
        """Fraction of correct choices; a tie counts its share."""
        return self.num_correct / self.num_questions


def selector_score(score: ChoiceScore, selector: Selector) -> float:
    """Return the score that a selector maximises, in nats (`sequence`) or nats per token.

    Raises:
        ValueError: A log-probability is not finite or a token count is below 1.
    """
    for log_prob, tokens in (
        (score.answer_log_prob, score.answer_tokens),
        (score.conversation_log_prob, score.conversation_tokens),
    ):
        if not math.isfinite(log_prob) or tokens < 1:
            raise ValueError(
                f"choice score {score} is not usable: a log-probability is not finite or a token count below 1"
            )
    if selector is Selector.SEQUENCE:
        return score.answer_log_prob
    if selector is Selector.ANSWER_MEAN:
        return score.answer_log_prob / score.answer_tokens
    return score.conversation_log_prob / score.conversation_tokens


def best_choices(scores: Sequence[ChoiceScore], selector: Selector) -> tuple[int, ...]:
    """Return the indices of all choices with the best score, ascending; two or more are tied.

    Raises:
        ValueError: There is no choice, or a score is not usable; see `selector_score`.
    """
    if not scores:
        raise ValueError("there is no choice to select from")
    values = [selector_score(score, selector) for score in scores]
    best = max(values)
    return tuple(index for index, value in enumerate(values) if value == best)


def select_choice(scores: Sequence[ChoiceScore], selector: Selector) -> int:
    """Return the index of the best choice, on a tie the first; see `best_choices`."""
    return best_choices(scores, selector)[0]


def select_all(scores: Sequence[ChoiceScore]) -> ChoiceSelection:
    """Select a choice with every selector; see `best_choices`."""
    return ChoiceSelection(
        sequence=select_choice(scores, Selector.SEQUENCE),
        answer_mean=select_choice(scores, Selector.ANSWER_MEAN),
        conversation_mean=select_choice(scores, Selector.CONVERSATION_MEAN),
        tied=TiedChoices(
            sequence=best_choices(scores, Selector.SEQUENCE),
            answer_mean=best_choices(scores, Selector.ANSWER_MEAN),
            conversation_mean=best_choices(scores, Selector.CONVERSATION_MEAN),
        ),
    )


def select_only(index: int) -> ChoiceSelection:
    """Return the selection of a model that names one choice, the same under every selector."""
    return ChoiceSelection(index, index, index, TiedChoices((index,), (index,), (index,)))


class GuessSums:
    """Adds up the exact expectation of a uniform guess over each question's choices (paper, row "Random": 20)."""

    def __init__(self) -> None:
        self._num_questions = 0
        self._accuracy = self._matched = self._predicted = self._true = 0.0

    def add(self, parts_of_choices: Sequence[Sequence[str]], correct_index: int) -> None:
        """Add a question.

        Args:
            parts_of_choices: For each choice, the part names.
            correct_index: The index of the correct choice.
        """
        truth = parts_of_choices[correct_index]
        statistics = [part_text_statistics(parts, truth) for parts in parts_of_choices]
        self._num_questions += 1
        self._accuracy += 1 / len(statistics)
        self._matched += sum(entry.num_matched for entry in statistics) / len(statistics)
        self._predicted += sum(entry.num_predicted for entry in statistics) / len(statistics)
        self._true += statistics[0].num_true

    @property
    def baseline(self) -> RandomBaseline | None:
        """The expectations; None if there are no questions."""
        if not self._num_questions:
            return None
        total = self._predicted + self._true
        return RandomBaseline(
            accuracy=self._accuracy / self._num_questions,
            precision=self._matched / self._predicted if self._predicted else 0.0,
            recall=self._matched / self._true if self._true else 0.0,
            f1=2 * self._matched / total if total else 0.0,
            num_questions=self._num_questions,
        )


def random_baseline(choice_parts: Sequence[Sequence[Sequence[str]]], correct: Sequence[int]) -> RandomBaseline | None:
    """Compute the exact expectation of a uniform guess; see `GuessSums`.

    Args:
        choice_parts: For each question and choice, the part names.
        correct: For each question, the index of the correct choice.

    Returns:
        The expectations; None if there are no questions.
    """
    sums = GuessSums()
    for parts_of_choices, correct_index in zip(choice_parts, correct, strict=True):
        sums.add(parts_of_choices, correct_index)
    return sums.baseline


def accuracy_by_length(num_parts: Sequence[int], credits: Sequence[float]) -> tuple[LengthAccuracy, ...]:
    """Compute the accuracy by the number of parts in the correct answer, in ascending order.

    Args:
        num_parts: For each question, the number of parts of the correct answer.
        credits: For each question, 1 if the correct answer was chosen, 0 if not, and the share of a tie.
    """
    outcomes: dict[int, array[float]] = {}
    for parts, outcome in zip(num_parts, credits, strict=True):
        outcomes.setdefault(parts, array("d")).append(outcome)
    return tuple(LengthAccuracy(parts, len(found), sum(found)) for parts, found in sorted(outcomes.items()))
