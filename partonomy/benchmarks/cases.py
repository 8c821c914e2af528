"""Describes an item and its outcome for report pages; nothing is drawn here."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from partonomy.structures import RLE, CharSpan
from partonomy.visualize import Colour, part_colours


@dataclass(frozen=True)
class Verdict:
    """One answer of an item that is right or wrong, such as a choice among given answers.

    Attributes:
        subject: What was asked for, e.g. "parts".
        is_right: Whether the answer is correct; False if the item failed.
        correct: Names in the correct answer.
        given: Names in the model's answer; empty if the item failed.
    """

    subject: str
    is_right: bool
    correct: tuple[str, ...]
    given: tuple[str, ...]


@dataclass(frozen=True)
class CasePicture:
    """The item's image with masks in original-image pixels, one colour per mask.

    `has_box` draws the box of the instance that the item is about, if it has one.
    """

    title: str
    masks: tuple[RLE, ...] = ()
    colours: tuple[Colour, ...] = ()
    has_box: bool = False


@dataclass(frozen=True)
class CaseLabel:
    """The name of a mask in its colour, and its IoU; None if nothing was compared."""

    name: str
    colour: Colour
    iou: float | None


@dataclass(frozen=True)
class CaseText:
    """A text under a heading, with spans in colours; overlapping later spans stay unmarked."""

    heading: str
    text: str
    spans: tuple[CharSpan, ...] = ()
    colours: tuple[Colour, ...] = ()


@dataclass(frozen=True)
class CaseChoice:
    """One choice of a multiple-choice question; `log_prob` is None if the model gave none."""

    text: str
    is_correct: bool
    is_chosen: bool
    log_prob: float | None


@dataclass(frozen=True)
class CaseChoices:
    """A multiple-choice question."""

    heading: str
    choices: tuple[CaseChoice, ...]


@dataclass(frozen=True)
class Case:
    """The content of a page about one item and its record.

    Attributes:
        title: The item's subject.
        pictures: Empty if the item, and therefore the image, is no longer available.
        labels: The legend of the pictures.
        texts: In reading order.
        choices: Multiple-choice questions.
    """

    title: str
    pictures: tuple[CasePicture, ...] = ()
    labels: tuple[CaseLabel, ...] = ()
    texts: tuple[CaseText, ...] = ()
    choices: tuple[CaseChoices, ...] = ()


IMAGE = CasePicture("image", has_box=True)
"""The image without masks."""


def mask_pictures(true: Sequence[RLE], predicted: Sequence[RLE | None]) -> tuple[CasePicture, ...]:
    """The image, the true masks and the predicted ones, side by side.

    Args:
        true: M masks.
        predicted: At least M masks; the k-th has the colour of the k-th true mask, further ones have their own
            colours. None if there is no prediction.
    """
    colours = part_colours(max(len(true), len(predicted)))
    found = [(mask, colour) for mask, colour in zip(predicted, colours, strict=False) if mask is not None]
    return (
        IMAGE,
        CasePicture("true", tuple(true), colours[: len(true)]),
        CasePicture("predicted", tuple(mask for mask, _ in found), tuple(colour for _, colour in found)),
    )


def count_words(words: Sequence[str]) -> str:
    """Join answers on one line, the most frequent first, e.g. "C (4), AB (3), wing"."""
    return ", ".join(word if count == 1 else f"{word} ({count})" for word, count in Counter(words).most_common())
