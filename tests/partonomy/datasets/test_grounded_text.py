"""Marked answers: what each [SEG] stands for, and which image its mask belongs to."""

import pytest

from partonomy.datasets.grounded_text import GroundedAnswer, GroundedMark, clean_label, mark_answer, read_marks
from partonomy.structures import CharSpan


@pytest.mark.parametrize(
    ("text", "num_images", "expected"),
    [
        ("<p> a dog </p> [SEG] (IMAGE1) [SEG] (IMAGE2).", 2, [("a dog", 0), ("a dog", 1)]),
        ("<p>a dog</p>[SEG](IMAGE2), <p> a cat </p> [SEG] (IMAGE1)", 2, [("a dog", 1), ("a cat", 0)]),
        ("The leg [SEG] (IMAGE1).", 2, [("", 0)]),
        ("<p> leg </p> [SEG].", 2, [("leg", None)]),
        ("<p> leg </p> [SEG] (IMAGE3), (IMAGE0).", 2, [("leg", None)]),
        ("<p> leg </p> [SEG] (IMAGE0).", 2, [("leg", None)]),
        # A number belongs to the mark before it, not to the next phrase's.
        ("<p> leg </p> [SEG] and <p> arm </p> [SEG] (IMAGE1)", 2, [("leg", None), ("arm", 0)]),
        ("<p> leg </p> [SEG] [SEG] (IMAGE2)", 2, [("leg", None), ("leg", 1)]),
        ("<p> the <p> leg </p> </p> [SEG] (IMAGE1)", 2, [("leg", 0)]),
        ("<p> leg </p> [SEG] (IMAGE1) <p> arm [SEG] (IMAGE2) [SEG] (IMAGE1)", 2, [("leg", 0), ("arm", 1), ("arm", 0)]),
        ("leg </p> [SEG] (IMAGE1)", 2, [("", 0)]),
        ("<p> leg </p> and nothing more", 2, []),
        ("", 2, []),
        ("<p> leg </p> [SEG].", 1, [("leg", 0)]),
        ("<p> leg </p> [SEG] (IMAGE2).", 1, [("leg", None)]),
        ("<p> leg </p> [SEG] (IMAGE3)", 3, [("leg", 2)]),
        ("<p> leg </p> [SEG] (IMAGE99999999999999999999)", 2, [("leg", None)]),
    ],
)
def test_marks(text: str, num_images: int, expected: list[tuple[str, int | None]]) -> None:
    assert read_marks(text, num_images) == tuple(GroundedMark(phrase, image) for phrase, image in expected)


ANSWER = GroundedAnswer("It has the leg and an arm.", (CharSpan(7, 14), CharSpan(7, 14), CharSpan(19, 25)), (0, 1, 1))


def test_marks_are_written_and_read_again() -> None:
    marked = mark_answer(ANSWER, 2)
    assert marked == "It has <p> the leg </p> [SEG] (IMAGE1) [SEG] (IMAGE2) and <p> an arm </p> [SEG] (IMAGE2)."
    phrases = [ANSWER.text[span.start : span.end] for span in ANSWER.spans]
    assert [(mark.phrase, mark.image) for mark in read_marks(marked, 2)] == list(
        zip(phrases, ANSWER.images, strict=True)
    )


def test_a_single_image_has_no_number() -> None:
    answer = GroundedAnswer("the leg", (CharSpan(0, 7),), (0,))
    assert mark_answer(answer, 1) == "<p> the leg </p> [SEG]"


@pytest.mark.parametrize(
    "answer",
    [
        GroundedAnswer("the leg", (CharSpan(0, 7),), (2,)),
        GroundedAnswer("the leg", (CharSpan(0, 7),), (-1,)),
        GroundedAnswer("the leg", (CharSpan(0, 8),), (0,)),
        GroundedAnswer("the leg", (CharSpan(4, 4),), (0,)),
        GroundedAnswer("the leg", (CharSpan(0, 3), CharSpan(2, 7)), (0, 0)),
    ],
)
def test_answers_that_cannot_be_marked(answer: GroundedAnswer) -> None:
    with pytest.raises(ValueError, match="must lie in|overlaps an earlier one"):
        mark_answer(answer, 2)


def test_phrases_and_images_must_agree() -> None:
    with pytest.raises(ValueError, match="need as many images"):
        GroundedAnswer("leg", (CharSpan(0, 3),), ())


@pytest.mark.parametrize(
    ("phrase", "label"),
    [
        (" The Legs. ", "legs"),
        ("an arm", "arm"),
        ("a", "a"),
        ("theatre", "theatre"),
        ("<p> the  back pillow </p> [SEG] (IMAGE1)", "back pillow"),
        ("", ""),
    ],
)
def test_labels(phrase: str, label: str) -> None:
    assert clean_label(phrase) == label
