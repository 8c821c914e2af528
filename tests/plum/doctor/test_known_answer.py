"""The known-answer check: the same weights pass, changed ones fail, others are unknown."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from partonomy.images import hash_image
from partonomy.masks import encode_mask
from partonomy.structures import CharSpan
from plum.doctor.known_answer import (
    KnownAnswer,
    Verdict,
    compare,
    read_answers,
    record_answer,
    standard_image,
)


def square(size: int, at: int = 10) -> np.ndarray:
    mask = np.zeros((100, 100), dtype=bool)
    mask[at : at + size, at : at + size] = True
    return mask


def answer(*masks: np.ndarray, text: str = "the wheel", weights: str = "w") -> KnownAnswer:
    spans = (CharSpan(4, 9),) * len(masks)
    return KnownAnswer(weights, "image", "what?", "float32", text, spans, tuple(map(encode_mask, masks)))


def test_equal_answers_pass_and_are_kept_by_weights_and_question(tmp_path: Path) -> None:
    path = tmp_path / "answers" / "known.json"
    record_answer(path, answer(square(40)))
    record_answer(path, answer(square(20), weights="others"))
    assert read_answers(path) == (answer(square(40)), answer(square(20), weights="others"))
    record_answer(path, answer(square(41)))  # in the place of the first
    assert read_answers(path) == (answer(square(20), weights="others"), answer(square(41)))
    assert compare(read_answers(path), answer(square(41))).verdict is Verdict.PASS


@pytest.mark.parametrize(
    ("given", "verdict", "line"),
    [
        # 39 x 39 inside 40 x 40: IoU 1521 / 1600 = 0.9506, area 4.9% smaller.
        (answer(square(39)), Verdict.PASS, "mask 0: area 1521, recorded 1600, IoU 0.9506"),
        # 38 x 38: IoU 1444 / 1600 = 0.9025.
        (answer(square(38)), Verdict.FAIL, "mask 0: area 1444, recorded 1600, IoU 0.9025"),
        (answer(square(40, at=50)), Verdict.FAIL, "mask 0: area 1600, recorded 1600, IoU 0.0000"),
        (answer(square(40), text="a wheel"), Verdict.FAIL, "  recorded: 'the wheel'"),
        (answer(), Verdict.FAIL, "phrases: 0, recorded 1, or at other positions"),
        (answer(square(40), weights="v"), Verdict.UNKNOWN, "weights v: no answer is recorded for them"),
    ],
)
def test_changes_are_told(given: KnownAnswer, verdict: Verdict, line: str) -> None:
    found = compare([answer(square(40))], given)
    assert found.verdict is verdict
    assert line in found.lines


def test_another_dtype_or_image_is_another_question() -> None:
    known = [answer(square(40))]
    assert compare(known, replace(known[0], dtype="bfloat16")).verdict is Verdict.UNKNOWN
    assert compare(known, replace(known[0], image="other")).verdict is Verdict.UNKNOWN


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "known.json"
    path.write_text('[{"weights": "w"}]')
    with pytest.raises(ValueError, match=r"known.json: 0.image: Field required"):
        read_answers(path)


def test_the_drawn_image_is_always_the_same() -> None:
    """Recorded answers depend on every pixel of it."""
    image = standard_image()
    assert (image.shape, image.dtype) == ((480, 640, 3), np.uint8)
    # Sky at the top left, the cart's body, a wheel's rim and its hub.
    assert [tuple(int(value) for value in image[place]) for place in ((0, 0), (250, 300), (345, 260), (345, 220))] == [
        (120, 170, 235),
        (178, 44, 38),
        (38, 38, 42),
        (190, 190, 196),
    ]
    assert hash_image(image) == hash_image(standard_image()) != hash_image(image[::-1])
