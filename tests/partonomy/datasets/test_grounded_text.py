"""Answers with masks, and the labels of their phrases."""

import pytest

from partonomy.datasets.grounded_text import GroundedAnswer, clean_label
from partonomy.structures import CharSpan


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
