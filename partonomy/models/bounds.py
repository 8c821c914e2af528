"""Models that need no weights: the bounds between which every real model lies.

`oracle` answers with the truth, `random` guesses, `empty` predicts nothing. Only `oracle` and `random` look at the
question record (`prepare`); `random` takes from it nothing but its id, which seeds the guess, and a choice to say.
"""

import hashlib
from collections.abc import Callable, Sequence
from typing import Final

import numpy as np

from partonomy.masks import decode_mask
from partonomy.models.contract import Generation, GroundedModel, Turn
from partonomy.structures import CharSpan, ChoiceScore, Question


class OracleModel:
    """Knows the correct answers and their masks: every metric must be 1."""

    name: str = "oracle"

    def __init__(self) -> None:
        self._question: Question | None = None

    def prepare(self, question: Question) -> None:
        """Remember the truth of the question that is about to be asked."""
        self._question = question

    def score_choices(self, image: np.ndarray, turns: Sequence[Turn], choices: Sequence[str]) -> list[ChoiceScore]:
        """Log-probability 0 for the correct answer, -100 for any other."""
        correct = self.reply(image, turns)
        return [_score(0.0 if choice == correct else -100.0) for choice in choices]

    def reply(self, image: np.ndarray, turns: Sequence[Turn]) -> str:
        """The text of the correct answer."""
        question = _prepared(self._question)
        if _asks_for_object(question, turns):
            assert question.object_question is not None
            return question.object_question.correct_choice.text
        return question.correct_choice.text

    def segment(self, image: np.ndarray, turns: Sequence[Turn], answer: str, spans: Sequence[CharSpan]) -> np.ndarray:
        """The true masks."""
        return self._true_masks()

    def generate(self, image: np.ndarray, turns: Sequence[Turn]) -> Generation:
        """The correct answer with its parts and their true masks."""
        choice = _prepared(self._question).correct_choice
        return Generation(choice.text, choice.part_spans, self._true_masks(), (1.0,) * len(choice.part_spans))

    def _true_masks(self) -> np.ndarray:
        question = _prepared(self._question)
        if not question.masks:
            return np.zeros((0, question.height, question.width), dtype=bool)
        return np.stack([decode_mask(part.mask) for part in question.masks])


class RandomModel:
    """Guesses: a uniform score per choice, a uniform choice as its own answer, a uniform rectangle per phrase.

    The guess depends on (seed, question id) alone, so that neither order nor sharding changes it.
    """

    name: str = "random"

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._question: Question | None = None
        self._generator = np.random.default_rng(seed)

    def prepare(self, question: Question) -> None:
        """Restart the generator for this question."""
        digest = hashlib.sha256(f"{self._seed}:{question.question_id}".encode()).digest()
        self._generator = np.random.default_rng(int.from_bytes(digest[:8], "big"))
        self._question = question

    def score_choices(self, image: np.ndarray, turns: Sequence[Turn], choices: Sequence[str]) -> list[ChoiceScore]:
        """Uniform log-probabilities, the same order under every selector."""
        return [_score(float(np.log(value))) for value in 1.0 - self._generator.random(len(choices))]

    def reply(self, image: np.ndarray, turns: Sequence[Turn]) -> str:
        """The text of a uniformly drawn choice."""
        question = _prepared(self._question)
        texts = [choice.text for choice in question.choices]
        if _asks_for_object(question, turns):
            assert question.object_question is not None
            texts = [choice.text for choice in question.object_question.choices]
        return texts[int(self._generator.integers(len(texts)))]

    def segment(self, image: np.ndarray, turns: Sequence[Turn], answer: str, spans: Sequence[CharSpan]) -> np.ndarray:
        """One rectangle per span, its corners uniform over the image."""
        height, width = image.shape[:2]
        masks = np.zeros((len(spans), height, width), dtype=bool)
        for mask in masks:
            top, bottom = np.sort(self._generator.integers(0, height + 1, size=2))
            left, right = np.sort(self._generator.integers(0, width + 1, size=2))
            mask[top:bottom, left:right] = True
        return masks

    def generate(self, image: np.ndarray, turns: Sequence[Turn]) -> Generation:
        """A uniformly drawn choice, with rectangles."""
        choices = _prepared(self._question).choices
        choice = choices[int(self._generator.integers(len(choices)))]
        masks = self.segment(image, turns, choice.text, choice.part_spans)
        return Generation(choice.text, choice.part_spans, masks, (0.5,) * len(choice.part_spans))


class EmptyModel:
    """Predicts empty masks, says nothing, and finds every choice equally likely (ties go to the first choice)."""

    name: str = "empty"

    def score_choices(self, image: np.ndarray, turns: Sequence[Turn], choices: Sequence[str]) -> list[ChoiceScore]:
        """The same log-probability for each."""
        return [_score(-float(np.log(len(choices)))) for _ in choices]

    def reply(self, image: np.ndarray, turns: Sequence[Turn]) -> str:
        """Nothing."""
        return ""

    def segment(self, image: np.ndarray, turns: Sequence[Turn], answer: str, spans: Sequence[CharSpan]) -> np.ndarray:
        """One empty mask per span."""
        return np.zeros((len(spans), *image.shape[:2]), dtype=bool)

    def generate(self, image: np.ndarray, turns: Sequence[Turn]) -> Generation:
        """No text, no span, no mask."""
        return Generation("", (), np.zeros((0, *image.shape[:2]), dtype=bool), ())


BUILTIN_MODELS: Final[dict[str, Callable[[int], GroundedModel]]] = {
    "oracle": lambda seed: OracleModel(),
    "random": RandomModel,
    "empty": lambda seed: EmptyModel(),
}
"""Model name -> builder from a seed."""


def _score(log_prob: float) -> ChoiceScore:
    return ChoiceScore(answer_log_prob=log_prob, answer_tokens=1, conversation_log_prob=log_prob, conversation_tokens=1)


def _asks_for_object(question: Question, turns: Sequence[Turn]) -> bool:
    """Whether the last turn is the object question, with or without its choices below it."""
    asked = turns[-1].text.split("\n", 1)[0]
    return question.object_question is not None and asked == question.object_question.text.split("\n", 1)[0]


def _prepared(question: Question | None) -> Question:
    if question is None:
        raise RuntimeError("prepare(question) must be called before this model is asked")
    return question
