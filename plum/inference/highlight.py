"""Highlight to segment: the user names phrases or characters of an answer, and gets their masks (paper, section 4)."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from partonomy.models.contract import Turn
from partonomy.structures import CharSpan
from plum.data.sources.wordings import list_targets
from plum.inference.predictor import MAX_NEW_TOKENS, Prediction, Predictor
from plum.inputs.phrase_places import locate_highlights


@dataclass(frozen=True)
class Highlight:
    """What to segment instead of what the model tags.

    Attributes:
        phrases: words of the answer; "wheel#2" is the second "wheel".
        char_ranges: characters of the answer, end exclusive.
        answer: the answer the assistant is taken to have given; None: the model's own answer.
        is_forced: build the answer from the phrases: "It is the wheel.", "They are the wheel and door."
    """

    phrases: tuple[str, ...] = ()
    char_ranges: tuple[CharSpan, ...] = ()
    answer: str | None = None
    is_forced: bool = False

    def __post_init__(self) -> None:
        if self.is_forced and (not self.phrases or self.char_ranges or self.answer is not None):
            raise ValueError(
                "a forced answer is built from phrases alone: give phrases, no answer and no character ranges"
            )
        if self.answer is not None and not self.phrases and not self.char_ranges:
            raise ValueError("a given answer needs phrases or character ranges to segment in it")


NOTHING = Highlight()


def answer_question(
    predictor: Predictor,
    image: np.ndarray,
    turns: Sequence[Turn],
    highlight: Highlight = NOTHING,
    max_new_tokens: int = MAX_NEW_TOKENS,
) -> Prediction:
    """Answer a question and segment what the model tags itself, or what is highlighted.

    Args:
        predictor: the model.
        image: uint8 RGB (H, W, 3).
        turns: the conversation up to the user's last message.
        highlight: what to segment; NOTHING: what the model tags.
        max_new_tokens: maximum length of the model's own answer.

    Returns:
        The prediction; highlighted spans are in reading order and have the tag confidence 1.

    Raises:
        ValueError: a phrase is missing from the answer or occurs several times, or a range lies outside the answer.
    """
    (prediction,) = answer_about(predictor, (image,), turns, highlight, max_new_tokens)
    return prediction


def answer_about(
    predictor: Predictor,
    images: Sequence[np.ndarray],
    turns: Sequence[Turn],
    highlight: Highlight = NOTHING,
    max_new_tokens: int | None = None,
) -> tuple[Prediction, ...]:
    """Answer a question about one image or several; see `answer_question`.

    Args:
        predictor: the model.
        images: one or more, each uint8 RGB (H, W, 3); texts call them (IMAGE1), (IMAGE2), ...
        turns: the conversation up to the user's last message.
        highlight: what to segment, in every image; NOTHING: what the model tags, in the images that it names.
        max_new_tokens: maximum length of the model's own answer; None: `default_new_tokens`.

    Returns:
        A prediction per image, all with the same text.

    Raises:
        ValueError: see `answer_question`.
    """
    if highlight == NOTHING:
        return predictor.generate_about(images, turns, max_new_tokens)
    if highlight.is_forced:
        forced = list_targets(highlight.phrases)
        highlight = Highlight(char_ranges=tuple(forced.spans), answer=forced.text)
    written = predictor.write_about(images, turns, max_new_tokens) if highlight.answer is None else None
    answer = predictor.notation.words(written.text) if written is not None else highlight.answer
    if not answer:
        raise ValueError("the model's answer is empty, so nothing can be highlighted in it; give the answer")
    spans = [*locate_highlights(answer, highlight.phrases), *_check_ranges(answer, highlight.char_ranges)]
    spans = sorted(set(spans), key=lambda span: (span.start, span.end))
    limits = (None, None) if written is None else (written.finish_reason, written.num_tokens)
    return tuple(
        Prediction(answer, tuple(spans), (1.0,) * len(spans), found.masks, found.confidences, *limits)
        for found in predictor.segment_in(images, turns, answer, [spans] * len(images))
    )


def parse_char_range(text: str) -> CharSpan:
    """Parse a range such as "10:19".

    Raises:
        ValueError: the text is not a range.
    """
    match = re.fullmatch(r"(\d+):(\d+)", text.strip())
    if match is None or int(match[1]) >= int(match[2]):
        raise ValueError(f"{text!r} is not a range of characters; write START:END with START < END, such as 10:19")
    return CharSpan(int(match[1]), int(match[2]))


def _check_ranges(text: str, ranges: Sequence[CharSpan]) -> Sequence[CharSpan]:
    for span in ranges:
        if not 0 <= span.start < span.end <= len(text):
            raise ValueError(
                f"the characters {span.start}:{span.end} lie outside of the answer {text!r} of {len(text)} characters"
            )
        if not text[span.start : span.end].strip():
            raise ValueError(f"the characters {span.start}:{span.end} of the answer {text!r} are white space")
    return ranges
