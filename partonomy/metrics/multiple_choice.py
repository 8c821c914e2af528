"""Selects an answer by probability, and computes the score of a random guess (Partonomy/PLUM paper, 3.3 and A.1).

The paper takes "the argmax over the sequence-level probability of each answer choice". This is the selector `sequence`,
which favours short answers. `answer_mean` divides by the number of tokens; `conversation_mean` averages over prompt and
answer, like the authors' code. All three are recorded for every choice.
"""

import math
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
class ChoiceSelection:
    """Index of the chosen answer under each selector."""

    sequence: int
    answer_mean: int
    conversation_mean: int

    def index(self, selector: Selector) -> int:
        """Return the index of one selector's choice."""
        return int(getattr(self, selector.value))


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
    num_correct: int

    @property
    def accuracy(self) -> float:
        """Fraction of correct choices."""
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


def select_choice(scores: Sequence[ChoiceScore], selector: Selector) -> int:
    """Return the index of the best choice, on a tie the first."""
    if not scores:
        raise ValueError("there is no choice to select from")
    values = [selector_score(score, selector) for score in scores]
    return values.index(max(values))


def select_all(scores: Sequence[ChoiceScore]) -> ChoiceSelection:
    """Select a choice with every selector."""
    return ChoiceSelection(
        sequence=select_choice(scores, Selector.SEQUENCE),
        answer_mean=select_choice(scores, Selector.ANSWER_MEAN),
        conversation_mean=select_choice(scores, Selector.CONVERSATION_MEAN),
    )


def random_baseline(choice_parts: Sequence[Sequence[Sequence[str]]], correct: Sequence[int]) -> RandomBaseline | None:
    """Compute the exact expectation of a uniform guess over each question's choices (paper, row "Random": accuracy 20).

    Args:
        choice_parts: For each question and choice, the part names.
        correct: For each question, the index of the correct choice.

    Returns:
        The expectations; None if there are no questions.
    """
    if not choice_parts:
        return None
    accuracy = matched = predicted = true = 0.0
    for parts_of_choices, correct_index in zip(choice_parts, correct, strict=True):
        truth = parts_of_choices[correct_index]
        statistics = [part_text_statistics(parts, truth) for parts in parts_of_choices]
        accuracy += 1 / len(statistics)
        matched += sum(entry.num_matched for entry in statistics) / len(statistics)
        predicted += sum(entry.num_predicted for entry in statistics) / len(statistics)
        true += statistics[0].num_true
    return RandomBaseline(
        accuracy=accuracy / len(choice_parts),
        precision=matched / predicted if predicted else 0.0,
        recall=matched / true if true else 0.0,
        f1=2 * matched / (predicted + true) if predicted + true else 0.0,
        num_questions=len(choice_parts),
    )


def accuracy_by_length(num_parts: Sequence[int], is_correct: Sequence[bool]) -> tuple[LengthAccuracy, ...]:
    """Compute the accuracy by the number of parts in the correct answer, in ascending order.

    Args:
        num_parts: For each question, the number of parts of the correct answer.
        is_correct: For each question, whether the correct answer was chosen.
    """
    pairs = list(zip(num_parts, is_correct, strict=True))
    rows = []
    for length in sorted(set(num_parts)):
        outcomes = [outcome for parts, outcome in pairs if parts == length]
        rows.append(LengthAccuracy(length, len(outcomes), sum(outcomes)))
    return tuple(rows)
