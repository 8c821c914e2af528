from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from partonomy.models.contract import Role, Turn
from partonomy.structures import CharSpan
from plum.inference.highlight import Highlight, answer_question, locate_highlights, parse_char_range
from plum.inference.predictor import PredictedMasks, Prediction

TEXT = "It has a front wheel, a wheel and a Propeller; the wheels turn."
#       0123456789...  front wheel 9:20, wheel in it 15:20, wheel 24:29, Propeller 36:45


@pytest.mark.parametrize(
    ("phrases", "expected"),
    [
        (["propeller"], [(36, 45)]),
        (["wheel", "front wheel"], [(24, 29), (9, 20)]),  # not the one inside the longer phrase
        (["wheel#1"], [(15, 20)]),
        (["wheel#2", "wheel#1"], [(24, 29), (15, 20)]),
        (["wheel", "wheel"], [(15, 20), (24, 29)]),  # as often as it is there
        (["wheel", "wheel#2"], [(15, 20), (24, 29)]),
        (["wheels"], [(51, 57)]),
    ],
)
def test_phrases_are_located(phrases: list[str], expected: list[tuple[int, int]]) -> None:
    assert locate_highlights(TEXT, phrases) == tuple(CharSpan(*bounds) for bounds in expected)


@pytest.mark.parametrize(
    ("phrases", "message"),
    [
        (["door"], "'door' is not in the answer"),
        (["whee"], "'whee' is not in the answer"),
        (["wheel"], "several times .*15:20, 24:29.* wheel#1"),
        (["wheel#0"], "no wheel#0"),
        (["wheel#3"], "occurs 2 times .* no wheel#3"),
        (["door#1"], "'door' is not in the answer"),
        (["propeller", "propeller"], "asked for 2 times, .* has 1"),
    ],
)
def test_absent_and_ambiguous_phrases_are_explained(phrases: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        locate_highlights(TEXT, phrases)


def test_ranges_of_characters() -> None:
    assert parse_char_range(" 10:19 ") == CharSpan(10, 19)
    for text in ("19:10", "5:5", "-1:5", "5", "a:b", "1:2:3"):
        with pytest.raises(ValueError, match="START:END"):
            parse_char_range(text)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"phrases": ("wheel",), "char_ranges": (CharSpan(0, 2),)},
        {"phrases": ("wheel",), "answer": TEXT},
        {"char_ranges": (CharSpan(0, 2),)},
    ],
)
def test_a_forced_answer_is_built_from_phrases_alone(fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="built from phrases alone"):
        Highlight(is_forced=True, **fields)


def test_a_given_answer_needs_something_to_segment() -> None:
    with pytest.raises(ValueError, match="needs phrases or character ranges"):
        Highlight(answer=TEXT)


class Segmenter:
    """Stands in for the predictor: one empty mask for each span, with the confidence .25."""

    def segment_in(
        self,
        images: Sequence[np.ndarray],
        turns: Sequence[Turn],
        answer: str,
        spans_of_images: Sequence[Sequence[CharSpan]],
    ) -> list[PredictedMasks]:
        return [
            PredictedMasks(np.zeros((len(spans), *image.shape[:2]), dtype=bool), (0.25,) * len(spans))
            for image, spans in zip(images, spans_of_images, strict=True)
        ]


def answer_with(highlight: Highlight) -> Prediction:
    predictor: Any = Segmenter()
    return answer_question(predictor, np.zeros((2, 3, 3), np.uint8), (Turn(Role.USER, "What?"),), highlight)


def test_highlighted_spans_are_in_reading_order_and_certain() -> None:
    found = answer_with(Highlight(("propeller", "wheel#1"), (CharSpan(0, 2), CharSpan(36, 45)), TEXT))
    assert found.spans == (CharSpan(0, 2), CharSpan(15, 20), CharSpan(36, 45))
    assert found.tag_confidences == (1.0,) * 3
    assert found.mask_confidences == (0.25,) * 3
    assert answer_with(Highlight(("wheel", "door"), is_forced=True)).text == "They are the wheel and door."


@pytest.mark.parametrize("span", [CharSpan(-1, 3), CharSpan(3, 3), CharSpan(0, len(TEXT) + 1)])
def test_ranges_outside_of_the_answer_are_refused(span: CharSpan) -> None:
    with pytest.raises(ValueError, match="outside of the answer"):
        answer_with(Highlight(char_ranges=(span,), answer=TEXT))


def test_a_range_of_white_space_is_refused() -> None:
    with pytest.raises(ValueError, match="2:3 .* are white space"):
        answer_with(Highlight(char_ranges=(CharSpan(2, 3),), answer=TEXT))
