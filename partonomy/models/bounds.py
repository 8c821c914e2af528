"""Models without weights: upper and lower bounds for real models.

`oracle` answers with the truth, `random` guesses, and `empty` predicts nothing. Only `oracle` and `random` receive the
right answer (`prepare`). `random` uses only the item's id, which seeds the guess, the answers among which it may
choose, and the phrases to draw rectangles for.
"""

import hashlib
from collections.abc import Callable, Sequence
from typing import Final

import numpy as np

from partonomy.masks import decode_mask
from partonomy.models.contract import (
    ChoiceScore,
    Generation,
    Gold,
    GroundedModel,
    GroundedPhrase,
    GroundedReply,
    Hint,
    Turn,
)
from partonomy.structures import CharSpan


class OracleModel:
    """Knows the right answers and their masks, so every score must be 1.

    If no single answer gets a full score (TextVQA if people disagree), its answer is the best possible one.
    """

    name: str = "oracle"

    def __init__(self) -> None:
        self._gold: Gold | None = None

    def prepare(self, hint: Hint) -> None:
        """Remember the right answer to the next request."""
        self._gold = hint.gold

    def score_choices(self, image: np.ndarray, turns: Sequence[Turn], choices: Sequence[str]) -> list[ChoiceScore]:
        """Return log-probability 0 for the right answer and -100 for any other."""
        right = self.reply(image, turns)
        return [_score(0.0 if choice == right else -100.0) for choice in choices]

    def reply(self, image: np.ndarray, turns: Sequence[Turn]) -> str:
        """Return the text of the right answer."""
        gold = _known(self._gold)
        if gold.text is None:
            raise NotImplementedError("the right answer is not given in words")
        return gold.text

    def segment(self, image: np.ndarray, turns: Sequence[Turn], answer: str, spans: Sequence[CharSpan]) -> np.ndarray:
        """Return the true masks."""
        return self._true_masks(image)

    def generate(self, image: np.ndarray, turns: Sequence[Turn]) -> Generation:
        """Return the right answer with its phrases and their true masks."""
        gold = _known(self._gold)
        return Generation(self.reply(image, turns), gold.spans, self._true_masks(image), (1.0,) * len(gold.spans))

    def answer_images(self, images: Sequence[np.ndarray], question: str) -> GroundedReply:
        """Return the right answer with its phrases and their true masks."""
        gold = _known(self._gold)
        text = self.reply(images[0], ())
        phrases = tuple(
            GroundedPhrase(text[span.start : span.end], image, decode_mask(mask))
            for span, image, mask in zip(gold.spans, gold.images, gold.masks, strict=True)
        )
        return GroundedReply(text, phrases)

    def _true_masks(self, image: np.ndarray) -> np.ndarray:
        masks = _known(self._gold).masks
        if not masks:
            return np.zeros((0, *image.shape[:2]), dtype=bool)
        return np.stack([decode_mask(mask) for mask in masks])


class RandomModel:
    """Guesses: a uniform score per choice, a uniform choice as its own answer, a uniform rectangle per phrase.

    The guess depends only on (seed, item id), so neither order nor sharding changes it.
    """

    name: str = "random"

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._gold: Gold | None = None
        self._generator = np.random.default_rng(seed)

    def prepare(self, hint: Hint) -> None:
        """Restart the generator at the first request of an item."""
        if hint.number == 0:
            digest = hashlib.sha256(f"{self._seed}:{hint.item_id}".encode()).digest()
            self._generator = np.random.default_rng(int.from_bytes(digest[:8], "big"))
        self._gold = hint.gold

    def score_choices(self, image: np.ndarray, turns: Sequence[Turn], choices: Sequence[str]) -> list[ChoiceScore]:
        """Return uniformly drawn log-probabilities with the same order under every selector."""
        return [_score(float(np.log(value))) for value in 1.0 - self._generator.random(len(choices))]

    def reply(self, image: np.ndarray, turns: Sequence[Turn]) -> str:
        """Return the text of a uniformly drawn answer.

        Raises:
            NotImplementedError: Answers are free, so there is nothing to choose from.
            RuntimeError: `prepare` was not called before.
        """
        return self._guess()[0]

    def segment(self, image: np.ndarray, turns: Sequence[Turn], answer: str, spans: Sequence[CharSpan]) -> np.ndarray:
        """Return one rectangle per span, with corners drawn uniformly over the image."""
        height, width = image.shape[:2]
        masks = np.zeros((len(spans), height, width), dtype=bool)
        for mask in masks:
            top, bottom = np.sort(self._generator.integers(0, height + 1, size=2))
            left, right = np.sort(self._generator.integers(0, width + 1, size=2))
            mask[top:bottom, left:right] = True
        return masks

    def generate(self, image: np.ndarray, turns: Sequence[Turn]) -> Generation:
        """Return a uniformly drawn answer, with rectangles.

        Raises:
            NotImplementedError: Answers are free, so there is nothing to choose from.
            RuntimeError: `prepare` was not called before.
        """
        text, spans = self._guess()
        return Generation(text, spans, self.segment(image, turns, text, spans), (0.5,) * len(spans))

    def answer_images(self, images: Sequence[np.ndarray], question: str) -> GroundedReply:
        """Return a uniformly drawn answer, with a rectangle in a uniformly drawn image for each of its phrases.

        Raises:
            NotImplementedError: Answers are free, so there is nothing to choose from.
            RuntimeError: `prepare` was not called before.
        """
        text, spans = self._guess()
        phrases = []
        for span in spans:
            number = int(self._generator.integers(len(images)))
            (mask,) = self.segment(images[number], (), text, (span,))
            phrases.append(GroundedPhrase(text[span.start : span.end], number, mask))
        return GroundedReply(text, tuple(phrases))

    def _guess(self) -> tuple[str, tuple[CharSpan, ...]]:
        guesses = _known(self._gold).guesses
        if not guesses:
            raise NotImplementedError("answers are free, so a guess has nothing to choose from")
        return guesses[int(self._generator.integers(len(guesses)))]


class EmptyModel:
    """Predicts empty masks, says nothing, and finds every choice equally likely, which scores as a random guess."""

    name: str = "empty"

    def score_choices(self, image: np.ndarray, turns: Sequence[Turn], choices: Sequence[str]) -> list[ChoiceScore]:
        """Return the same log-probability for each choice."""
        return [_score(-float(np.log(len(choices)))) for _ in choices]

    def reply(self, image: np.ndarray, turns: Sequence[Turn]) -> str:
        """Return an empty reply."""
        return ""

    def segment(self, image: np.ndarray, turns: Sequence[Turn], answer: str, spans: Sequence[CharSpan]) -> np.ndarray:
        """Return one empty mask per span."""
        return np.zeros((len(spans), *image.shape[:2]), dtype=bool)

    def generate(self, image: np.ndarray, turns: Sequence[Turn]) -> Generation:
        """Return no text, no span and no mask."""
        return Generation("", (), np.zeros((0, *image.shape[:2]), dtype=bool), ())

    def answer_images(self, images: Sequence[np.ndarray], question: str) -> GroundedReply:
        """Return no text and no mask."""
        return GroundedReply("", ())


BUILTIN_MODELS: Final[dict[str, Callable[[int], GroundedModel]]] = {
    "oracle": lambda seed: OracleModel(),
    "random": RandomModel,
    "empty": lambda seed: EmptyModel(),
}
"""Model name -> function that builds the model from a seed."""


def _score(log_prob: float) -> ChoiceScore:
    return ChoiceScore(answer_log_prob=log_prob, answer_tokens=1, conversation_log_prob=log_prob, conversation_tokens=1)


def _known(gold: Gold | None) -> Gold:
    if gold is None:
        raise RuntimeError("prepare(hint) must be called before this model is asked")
    return gold
