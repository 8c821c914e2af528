"""The padding benchmark: its arithmetic by hand, and that grouping helps where it says so."""

import json

import numpy as np
import pytest

from scripts.bench import padding as bench_padding
from scripts.bench.padding import DialogueSource, Rows, padding_share, shares_of_passes

IMAGE = 3


def blank(*lengths: list[int]) -> list[Rows]:
    return [[(IMAGE, *[7] * (length - 1)) for length in sample] for sample in lengths]


def test_padding_share_golden() -> None:
    # Batches of two: rows 4, 2, 2 pad to 4 each (12 places, 8 tokens); rows 5, 5 need none; the rest is left out.
    assert padding_share(blank([4, 2], [2], [5], [5], [100]), 2) == pytest.approx(1 - 18 / 22)
    assert padding_share(blank([3], [3]), 2) == 0.0
    # One of 2,000 and nine of 300 tokens: 20,000 places in one pass, 4,700 and no padding in two.
    long_and_short = blank([2000], *[[300]] * 9)
    assert padding_share(long_and_short, 10) == pytest.approx(1 - 4700 / 20000)
    assert shares_of_passes(long_and_short, 10, IMAGE) == (0.0, 0.0)
    # Two conversations of 4 and 5 tokens begin with the same 3: 6 of 9 are run, beside another image's 4, padded to 6.
    rows: list[Rows] = [[(IMAGE, 5, 6, 7), (IMAGE, 5, 6, 8, 9)], [(IMAGE, 5, 6, 7)]]
    assert shares_of_passes(rows, 2, IMAGE) == (pytest.approx(1 - 10 / 13), pytest.approx(1 - 10 / 12))


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
    for name, one in mixtures.items():
        assert 0 <= one["grouped"] < one["padding"] < 1
        if "full size" in name:  # three conversations an image
            assert one["repeated"] > 0.3
        else:
            assert one["repeated"] == 0
            assert one["passes"] <= one["padding"]
