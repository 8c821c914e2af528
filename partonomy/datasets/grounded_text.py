"""Answers whose phrases stand for masks in one or several images.

How a model marks such an answer, as in `<p> the leg </p> [SEG] (IMAGE1) [SEG] (IMAGE2)`, is the model's own matter.
"""

import re
from dataclasses import dataclass

from partonomy.structures import CharSpan

MASK_MARK = "[SEG]"
PHRASE_START, PHRASE_END = "<p>", "</p>"
IMAGE_NUMBER = re.compile(r"\(IMAGE([0-9]{1,9})\)")
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


def clean_label(phrase: str) -> str:
    """Return the form of a phrase that label metrics compare: lower case, without marks and leading article."""
    for mark in (PHRASE_START, PHRASE_END, MASK_MARK):
        phrase = phrase.replace(mark, " ")
    words = " ".join(IMAGE_NUMBER.sub(" ", phrase).split()).strip(" .,;:!?").lower()
    return _ARTICLE.sub("", words, count=1) if _ARTICLE.match(words) else words
