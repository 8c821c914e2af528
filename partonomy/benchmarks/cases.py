"""Describes an item and its outcome for report pages; nothing is drawn here."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from partonomy.masks import rle_area
from partonomy.structures import RLE, CharSpan
from partonomy.visualize import Colour, part_colours


@dataclass(frozen=True)
class Verdict:
    """One answer of an item that is right or wrong, such as a choice among given answers.

    Attributes:
        subject: What was asked for, e.g. "parts".
        credit: 1 if the answer is correct, 0 if it is wrong or the item failed, and the share of a tie that includes
            the correct answer.
        correct: Names in the correct answer.
        given: Names in the model's answer, on a tie in the first; empty if the item failed.
    """

    subject: str
    credit: float
    correct: tuple[str, ...]
    given: tuple[str, ...]


@dataclass(frozen=True)
class CasePicture:
    """The item's image with masks in original-image pixels, one colour per mask.

    Attributes:
        title: The caption.
        masks, colours: The masks and their colours.
        has_box: Whether to draw the box of the instance that the item is about, if it has one.
        note: What the caption adds, e.g. that no mask is to be seen.
        image: Index of the image among those of the item.
    """

    title: str
    masks: tuple[RLE, ...] = ()
    colours: tuple[Colour, ...] = ()
    has_box: bool = False
    note: str = ""
    image: int = 0


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
    """One choice of a multiple-choice question.

    Attributes:
        text: The choice.
        is_correct: Whether it is the right one.
        is_chosen: Whether the model chose it, alone or tied with others.
        log_prob: Its log-probability; None if the model gave none.
        is_tied: Whether it shares the best score with another choice.
    """

    text: str
    is_correct: bool
    is_chosen: bool
    log_prob: float | None
    is_tied: bool = False


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
NO_MASK = "no mask"
"""Note of a picture without a mask; it looks like the image alone."""


def mask_pictures(true: Sequence[RLE], predicted: Sequence[RLE | None]) -> tuple[CasePicture, ...]:
    """Return the image, the true masks and the predicted ones, side by side.

    Args:
        true: M masks.
        predicted: At least M masks; the k-th has the colour of the k-th true mask, further ones have their own
            colours. None if there is no prediction.
    """
    colours = part_colours(max(len(true), len(predicted)))
    found = [(mask, colour) for mask, colour in zip(predicted, colours, strict=False) if mask is not None]
    return (
        IMAGE,
        _masked("true", true, colours[: len(true)]),
        _masked("predicted", [mask for mask, _ in found], [colour for _, colour in found]),
    )


def _masked(title: str, masks: Sequence[RLE], colours: Sequence[Colour]) -> CasePicture:
    note = "" if any(map(rle_area, masks)) else NO_MASK
    return CasePicture(title, tuple(masks), tuple(colours), note=note)


def count_words(words: Sequence[str]) -> str:
    """Join answers on one line, the most frequent first, e.g. "C (4), AB (3), wing"."""
    return ", ".join(word if count == 1 else f"{word} ({count})" for word, count in Counter(words).most_common())
