"""What a blind guesser sees of multiple-choice questions: numbers of each choice, none of the image or the question."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

NUM_FOLDS = 5
"""Folds of images for everything that is learned from right answers."""
FOLD_SEED = 0


@dataclass(frozen=True)
class BlindQuestion:
    """A question's choices, without image and question.

    Attributes:
        image_id: unit of the bootstrap and of the folds.
        texts: the choices as written.
        items: of each choice its part names, or the words of its object's name.
        correct_index: the right one.
    """

    image_id: int
    texts: tuple[str, ...]
    items: tuple[tuple[str, ...], ...]
    correct_index: int


class Feature(StrEnum):
    """A number of a choice.

    characters, words: length of the text.
    items: how many parts.
    middle: minus the distance of that number to its mean over the choices.
    centrality: minus the sum of symmetric differences to the other choices' item sets (edit distance).
    choice_frequency: mean over its items of how many choices of the type list it.
    truth_frequency: the same over right answers, those of other folds of images alone. In a small set, or one that
        holds every class equally often, the rarest is right a little too often: what is right here is missing there.
    alphabet: rank of the text among the choices.
    position: where the choice stands.
    """

    CHARACTERS = "characters"
    WORDS = "words"
    ITEMS = "items"
    MIDDLE = "middle"
    CENTRALITY = "centrality"
    CHOICE_FREQUENCY = "choice_frequency"
    TRUTH_FREQUENCY = "truth_frequency"
    ALPHABET = "alphabet"
    POSITION = "position"


def choice_features(questions: Sequence[BlindQuestion]) -> dict[Feature, np.ndarray]:
    """Every feature of every choice of the questions of one type.

    Returns:
        float64 (Q, C) each, C the largest number of choices; NaN where a question has fewer. All numbers are sums of
        integers divided once, so that equal choices have equal features, to the last bit.
    """
    folds = image_folds([question.image_id for question in questions])
    in_choices = Counter(item for question in questions for items in question.items for item in set(items))
    in_truths = [
        Counter(
            item
            for question, own in zip(questions, folds, strict=True)
            if own != fold
            for item in set(question.items[question.correct_index])
        )
        for fold in range(NUM_FOLDS)
    ]
    per_choice: dict[Feature, Callable[[BlindQuestion], list[float]]] = {
        Feature.CHARACTERS: lambda question: [float(len(text)) for text in question.texts],
        Feature.WORDS: lambda question: [float(len(text.split())) for text in question.texts],
        Feature.ITEMS: lambda question: [float(len(set(items))) for items in question.items],
        Feature.MIDDLE: _middle,
        Feature.CENTRALITY: _centrality,
        Feature.CHOICE_FREQUENCY: lambda question: [_mean_count(items, in_choices) for items in question.items],
        Feature.ALPHABET: _alphabet,
        Feature.POSITION: lambda question: [float(place) for place in range(len(question.texts))],
    }
    rows = {feature: [function(question) for question in questions] for feature, function in per_choice.items()}
    rows[Feature.TRUTH_FREQUENCY] = [
        [_mean_count(items, in_truths[fold]) for items in question.items]
        for question, fold in zip(questions, folds, strict=True)
    ]
    return {feature: _pad(rows[feature]) for feature in Feature}


def image_folds(image_ids: Sequence[int]) -> np.ndarray:
    """Fold of every question, int64 (Q,): all questions of an image are in one fold, folds differ by at most an image.

    Which images share a fold is drawn from a fixed seed.
    """
    images, rows = np.unique(np.asarray(image_ids, dtype=np.int64), return_inverse=True)
    order = np.random.default_rng(FOLD_SEED).permutation(len(images))
    return (order % NUM_FOLDS)[rows]


def _middle(question: BlindQuestion) -> list[float]:
    """Numbers of items times the number of choices are compared, so that the mean stays an integer."""
    counts = [len(set(items)) for items in question.items]
    return [-float(abs(count * len(counts) - sum(counts))) for count in counts]


def _centrality(question: BlindQuestion) -> list[float]:
    sets = [frozenset(items) for items in question.items]
    return [-float(sum(len(one ^ other) for other in sets)) for one in sets]


def _mean_count(items: Sequence[str], counts: Counter[str]) -> float:
    distinct = set(items)
    return sum(counts[item] for item in distinct) / len(distinct) if distinct else 0.0


def _alphabet(question: BlindQuestion) -> list[float]:
    ordered = sorted({text.casefold() for text in question.texts})
    return [float(ordered.index(text.casefold())) for text in question.texts]


def _pad(rows: Sequence[Sequence[float]]) -> np.ndarray:
    padded = np.full((len(rows), max((len(row) for row in rows), default=0)), np.nan)
    for number, row in enumerate(rows):
        padded[number, : len(row)] = row
    return padded
