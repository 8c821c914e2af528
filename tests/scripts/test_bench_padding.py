"""The padding benchmark: its arithmetic by hand, and that grouping helps where it says so."""

import json

import numpy as np
import pytest

from scripts import bench_padding
from scripts.bench_padding import DialogueSource, padding_share


def test_padding_share_golden() -> None:
    # Batches of two: rows 4, 2, 2 pad to 4 each (12 places, 8 tokens); rows 5, 5 need none; the rest is left out.
    assert padding_share([[4, 2], [2], [5], [5], [100]], 2) == pytest.approx(1 - 18 / 22)
    assert padding_share([[3], [3]], 2) == 0.0
    # One of 2,000 and nine of 300 tokens: 20,000 places in one pass, 4,700 and no padding in two.
    long_and_short = [[2000], *[[300]] * 9]
    assert padding_share(long_and_short, 10) == pytest.approx(1 - 4700 / 20000)
    assert padding_share(long_and_short, 10, in_passes=True) == 0.0


def test_dialogues_have_the_stated_lengths() -> None:
    counts = [
        len(DialogueSource().sample(i, np.random.default_rng(i)).conversations[0][0].answer.split()) for i in range(300)
    ]
    assert 40 <= min(counts) < 60
    assert 380 < max(counts) < 400


@pytest.mark.slow
def test_grouping_cuts_padding(capsys: pytest.CaptureFixture[str]) -> None:
    bench_padding.main(batch=4, group=8, samples=160, images=40)
    mixtures = json.loads(capsys.readouterr().out.splitlines()[-1])["mixtures"]
    assert len(mixtures) == 6
    assert all(
        0 <= one["grouped"] < one["padding"] < 1 and one["passes"] <= one["padding"] for one in mixtures.values()
    )
