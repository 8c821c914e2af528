"""CIDEr-D against values of pycocoevalcap 1.2, computed once on words that both tokenise alike."""

import pytest

from partonomy.metrics.cider import CiderScorer, words_of

REFERENCES = ("a red dog on the car", "the big man sits near a tree")
CAPTIONS = ("a red dog near the car", "the man sits near a big tree")
PYCOCOEVALCAP = (4.0, 5.375000000000001)


def test_values_of_pycocoevalcap() -> None:
    scorer = CiderScorer(REFERENCES)
    found = [scorer.score(caption, reference) for caption, reference in zip(CAPTIONS, REFERENCES, strict=True)]
    assert found == pytest.approx(PYCOCOEVALCAP, abs=1e-9)


def test_extremes() -> None:
    scorer = CiderScorer(REFERENCES)
    assert scorer.score("", REFERENCES[0]) == 0
    assert scorer.score("green grass", REFERENCES[0]) == 0
    assert scorer.score(REFERENCES[0], REFERENCES[0]) == pytest.approx(10)
    # Repeating the reference is penalised by its length.
    assert 1 < scorer.score(f"{REFERENCES[0]} {REFERENCES[0]}", REFERENCES[0]) < 9
    # In a corpus of one image, every n-gram is in every reference and weighs nothing.
    assert CiderScorer(REFERENCES[:1]).score(REFERENCES[0], REFERENCES[0]) == 0


def test_words() -> None:
    assert words_of("The dog's ball, left-hand side (2).") == ["the", "dog's", "ball", "left", "hand", "side", "2"]
