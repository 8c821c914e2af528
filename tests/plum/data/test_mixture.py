from collections import Counter
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plum.data.mixture import BLOCK, Draw, MixtureDataset
from plum.structures import Exchange, Sample


class CountingSource:
    """Samples that say which record and which random number they were made of."""

    def __init__(self, name: str, length: int) -> None:
        self.name = name
        self.length = length

    def __len__(self) -> int:
        return self.length

    def sample(self, index: int, generator: np.random.Generator) -> Sample:
        return Sample(f"{self.name}/{index}/{generator.integers(1 << 30)}", self.name, None, ((Exchange("q", "a"),),))

    def exchanges(self) -> Iterator[Exchange]:
        yield Exchange("q", "a")


def _mixture(lengths: tuple[int, ...], weights: tuple[float, ...], seed: int = 0) -> MixtureDataset:
    return MixtureDataset([CountingSource(f"s{i}", n) for i, n in enumerate(lengths)], weights, seed)


@settings(max_examples=20, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 50), min_size=1, max_size=4),
    weights=st.lists(st.floats(0.1, 5.0), min_size=4, max_size=4),
    seed=st.integers(0, 5),
)
def test_every_record_is_used_once_before_any_again(lengths: list[int], weights: list[float], seed: int) -> None:
    mixture = _mixture(tuple(lengths), tuple(weights[: len(lengths)]), seed)
    draws = [mixture.locate(k) for k in range(0, BLOCK + 300)]
    for source, length in enumerate(lengths):
        indices = [draw.index for draw in draws if draw.source == source]
        for start in range(0, len(indices) - length + 1, length):
            assert sorted(indices[start : start + length]) == list(range(length))
        epochs = [draw.epoch for draw in draws if draw.source == source]
        assert epochs == [i // length for i in range(len(epochs))]


def test_each_block_holds_the_exact_shares() -> None:
    mixture = _mixture((7, 8, 9), (1.0, 2.0, 4.0))
    assert mixture.block_counts == (143, 286, 571)  # 142.86, 285.71, 571.43 by largest remainder
    for block in range(2):
        counts = Counter(mixture.locate(block * BLOCK + k).source for k in range(BLOCK))
        assert [counts[source] for source in range(3)] == [143, 286, 571]


def test_position_and_seed_alone_decide() -> None:
    mixture, again = _mixture((5, 6), (1.0, 1.0)), _mixture((5, 6), (1.0, 1.0))
    forwards = [mixture[k].sample_id for k in range(40)]
    backwards = [again[k].sample_id for k in reversed(range(40))]
    assert forwards == backwards[::-1]
    other = _mixture((5, 6), (1.0, 1.0), seed=1)
    assert forwards != [other[k].sample_id for k in range(40)]


def test_with_replacement_records_repeat_and_positions_alone_decide() -> None:
    sources = [CountingSource("a", 20), CountingSource("b", 3)]
    mixture = MixtureDataset(sources, (3.0, 1.0), 7, with_replacement=True)
    ordered = MixtureDataset(sources, (3.0, 1.0), 7)
    draws = [mixture.locate(k) for k in range(3 * BLOCK)]
    assert [draw.source for draw in draws] == [ordered.locate(k).source for k in range(3 * BLOCK)], "exact shares"
    first = [draw.index for draw in draws if draw.source == 0]
    assert len(set(first[:20])) < 20, "20 draws without any repetition have a chance of 2e-8"
    counts = Counter(first)
    assert sorted(counts) == list(range(20))
    # 2,250 draws: 112.5 each, standard deviation 10.3
    assert all(abs(count - 112.5) < 50 for count in counts.values())
    again = MixtureDataset(sources, (3.0, 1.0), 7, with_replacement=True)
    assert [again[k].sample_id for k in (2500, 3, 999)] == [mixture[k].sample_id for k in (2500, 3, 999)]
    other = MixtureDataset(sources, (3.0, 1.0), 8, with_replacement=True)
    assert [other.locate(k).index for k in range(50)] != [draw.index for draw in draws[:50]]


def test_a_record_comes_with_new_randomness_each_time() -> None:
    mixture = _mixture((1,), (1.0,))
    assert mixture.locate(5) == Draw(source=0, index=0, epoch=5)
    assert len({mixture[k].sample_id for k in range(20)}) == 20


@pytest.mark.parametrize(
    ("lengths", "weights", "message"),
    [
        ((), (), "one weight per source, got 0"),
        ((1, 1), (1.0,), "2 sources and 1 weights"),
        ((1, 0), (1.0, 1.0), "s1 is empty"),
        ((1, 1), (1.0, 0.0), "s1: weight 0.0 gives it no sample"),
        ((1, 1), (1.0, 1e-9), "s1: weight 1e-09 gives it no sample"),
        ((1,), (-1.0,), "s0: weight -1.0"),
    ],
)
def test_impossible_mixtures_are_refused(lengths: tuple[int, ...], weights: tuple[float, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _mixture(lengths, weights)


def test_negative_positions_are_refused() -> None:
    with pytest.raises(IndexError, match="start at 0"):
        _mixture((1,), (1.0,)).locate(-1)
