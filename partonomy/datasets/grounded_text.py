"""Answers whose phrases stand for masks in one or several images, and their marked form.

The marked form is the one of GLaMM and CALICO: `<p> phrase </p> [SEG]`. With several images, the number of the image
follows each [SEG], as in `<p> the leg </p> [SEG] (IMAGE1) [SEG] (IMAGE2)`: one phrase, a mask in each of two images.
The numbers in the text count from 1; the indices in the code count from 0.
"""

import re
from dataclasses import dataclass

from partonomy.structures import CharSpan

MASK_MARK = "[SEG]"
PHRASE_START, PHRASE_END = "<p>", "</p>"
IMAGE_NUMBER = re.compile(r"\(IMAGE([0-9]{1,9})\)")
_BREAK = re.compile(r"\[SEG\]|<p>")
_ARTICLE = re.compile(r"(?:a|an|the)\s+", flags=re.IGNORECASE)


@dataclass(frozen=True)
class GroundedAnswer:
    """A plain answer and its masks' places in it.

    Attributes:
        text: The answer without marks.
        spans: The phrase of each mask, in reading order. Masks of one phrase in several images repeat its span.
        images: The index of each mask's image, from 0.
    """

    text: str
    spans: tuple[CharSpan, ...]
    images: tuple[int, ...]

    def __post_init__(self) -> None:
        if len(self.spans) != len(self.images):
            raise ValueError(f"{len(self.spans)} phrases need as many images, got {len(self.images)}")


@dataclass(frozen=True)
class GroundedMark:
    """What a marked answer says about one of its [SEG] marks.

    Attributes:
        phrase: The phrase as written, without surrounding blanks; empty if none precedes the mark.
        image: The index of the mask's image, from 0; None if the text names no image or one that does not exist. Such
            a mask belongs to no image and is to be dropped.
    """

    phrase: str
    image: int | None


def mark_answer(answer: GroundedAnswer, num_images: int) -> str:
    """Write the marks of an answer into its text.

    Args:
        answer: The answer; the spans of different phrases do not overlap.
        num_images: Number of images of the conversation; a single one gets no number.

    Raises:
        ValueError: An image does not exist, or phrases overlap or are out of order.
    """
    if any(not 0 <= image < num_images for image in answer.images):
        raise ValueError(f"images {answer.images} of an answer must lie in [0, {num_images})")
    text, position = "", 0
    last: CharSpan | None = None
    for span, image in zip(answer.spans, answer.images, strict=True):
        if span != last:
            if not position <= span.start < span.end <= len(answer.text):
                raise ValueError(f"the phrase {span} is empty, overlaps an earlier one or lies outside the answer")
            phrase = answer.text[span.start : span.end]
            text += f"{answer.text[position : span.start]}{PHRASE_START} {phrase} {PHRASE_END}"
            position, last = span.end, span
        number = f" (IMAGE{image + 1})" if num_images > 1 else ""
        text += f" {MASK_MARK}{number}"
    return text + answer.text[position:]


def read_marks(text: str, num_images: int) -> tuple[GroundedMark, ...]:
    """Read the phrase and the image of every [SEG] of a marked answer.

    The phrase is what follows the last `<p>` before the mark, up to `</p>` or, if it was never closed, up to the first
    [SEG]. The image is the first `(IMAGEk)` between the mark and the next [SEG] or `<p>`. If there is only one image,
    a mark without a number belongs to it.

    Args:
        text: The answer with its marks, as a model writes it.
        num_images: Number of images of the conversation.

    Returns:
        One entry per [SEG], in reading order.
    """
    marks = []
    position = text.find(MASK_MARK)
    while position >= 0:
        after = position + len(MASK_MARK)
        end = _BREAK.search(text, after)
        found = IMAGE_NUMBER.search(text, after, end.start() if end else len(text))
        number = int(found[1]) if found else 1 if num_images == 1 else 0
        marks.append(GroundedMark(_phrase_before(text, position), number - 1 if 1 <= number <= num_images else None))
        position = text.find(MASK_MARK, after)
    return tuple(marks)


def clean_label(phrase: str) -> str:
    """Return the form of a phrase that label metrics compare: lower case, without marks and leading article."""
    for mark in (PHRASE_START, PHRASE_END, MASK_MARK):
        phrase = phrase.replace(mark, " ")
    words = " ".join(IMAGE_NUMBER.sub(" ", phrase).split()).strip(" .,;:!?").lower()
    return _ARTICLE.sub("", words, count=1) if _ARTICLE.match(words) else words


def _phrase_before(text: str, position: int) -> str:
    start = text.rfind(PHRASE_START, 0, position)
    if start < 0:
        return ""
    start += len(PHRASE_START)
    ends = [text.find(mark, start, position) for mark in (PHRASE_END, MASK_MARK)]
    return text[start : min([end for end in ends if end >= 0], default=position)].strip()
