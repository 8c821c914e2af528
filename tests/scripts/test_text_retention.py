"""What scripts/text_retention.py counts, by hand; test_language_weights.py runs it on real weights."""

import math

import pytest
import torch

from scripts.text_retention import MIN_WORDS, _Sums, prose_paragraphs


def test_sums_by_hand() -> None:
    base = torch.tensor([[0.4, 0.6, 0.0], [0.8, 0.2, 0.0]]).log()
    trained = torch.tensor([[0.25, 0.75, 0.0], [0.4, 0.6, 0.0]]).log()
    sums = _Sums()
    sums.add(base[:1], trained[:1], torch.tensor([1]))
    sums.add(base[1:], trained[1:], torch.tensor([0]))
    found = sums.result()
    assert found.num_tokens == 2
    assert found.base_perplexity == pytest.approx((0.6 * 0.8) ** -0.5)
    assert found.trained_perplexity == pytest.approx((0.75 * 0.4) ** -0.5)
    first = 0.4 * math.log(0.4 / 0.25) + 0.6 * math.log(0.6 / 0.75)
    second = 0.8 * math.log(0.8 / 0.4) + 0.2 * math.log(0.2 / 0.6)
    assert found.divergence == pytest.approx((first + second) / 2)
    assert found.same_choice == 0.5


def test_the_prose_is_prose() -> None:
    paragraphs = prose_paragraphs()
    assert len(paragraphs) > 20
    assert all(len(paragraph.split()) >= MIN_WORDS and "\n" not in paragraph for paragraph in paragraphs)
    assert not any(paragraph.startswith((".. ", ":", "===")) for paragraph in paragraphs)
