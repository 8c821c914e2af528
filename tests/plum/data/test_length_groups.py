"""Orders by length: permutations within windows, alike in length or spread, functions of seed and position alone."""

import hashlib
from collections.abc import Iterator

import numpy as np
import pytest

from plum.data.length_groups import WINDOW_GROUPS, group_lengths, spread_lengths
from plum.data.mixture import MixtureDataset
from plum.structures import Exchange, Sample

GROUP = 6
WINDOW = GROUP * WINDOW_GROUPS


class TextSource:
    """Answers whose length depends on the record and on chance."""

    name = "texts"

    def __len__(self) -> int:
        return 70

    def sample(self, index: int, generator: np.random.Generator) -> Sample:
        answer = "a" * (index % 7 + 10 * int(generator.integers(5)) + 1)
        return Sample(f"{index}/{generator.integers(1 << 30)}", self.name, None, ((Exchange("", answer),),))

    def text_length(self, index: int, generator: np.random.Generator) -> int:
        return _length(self.sample(index, generator))

    def exchanges(self) -> Iterator[Exchange]:
        yield Exchange("q", "a")


def _length(sample: Sample) -> int:
    return len(sample.conversations[0][0].answer)


def _mixture(group_by_length: int, seed: int = 0, spread: int = 0) -> MixtureDataset:
    sources = [TextSource(), TextSource()]
    return MixtureDataset(sources, [1.0, 2.0], seed, group_by_length=group_by_length, spread_lengths=spread)


def test_groups_are_sorted_runs_in_random_order() -> None:
    # Sorted: 0 (place 5), 1 (1), 2 (4), 3 (3), 4 (2), 5 (0); cut in pairs.
    order = group_lengths(np.array([5, 1, 4, 3, 2, 0]), 2, np.random.default_rng(0))
    assert sorted(map(tuple, order.reshape(-1, 2).tolist())) == [(2, 0), (4, 3), (5, 1)]
    orders = {tuple(group_lengths(np.arange(6), 2, np.random.default_rng(seed))) for seed in range(40)}
    assert len(orders) == 6  # every order of three groups


def test_equal_lengths_stay_as_drawn() -> None:
    order = group_lengths(np.zeros(8, dtype=int), 8, np.random.default_rng(0))
    assert order.tolist() == list(range(8))


def test_each_window_holds_its_own_samples_once_and_groups_do_not_overlap() -> None:
    grouped, plain = _mixture(GROUP), _mixture(0)
    for window in range(2):
        places = range(window * WINDOW, (window + 1) * WINDOW)
        assert sorted(grouped.drawn_position(k) for k in places) == list(places)
        assert sorted(grouped[k].sample_id for k in places) == sorted(plain[k].sample_id for k in places)
        lengths = np.array([_length(grouped[k]) for k in places]).reshape(-1, GROUP)
        by_length = lengths[lengths[:, 0].argsort(kind="stable")]
        assert (np.diff(by_length.min(1)) >= 0).all()
        assert (by_length[:-1].max(1) <= by_length[1:].min(1)).all()
        assert not (np.diff(lengths[:, 0]) >= 0).all(), "groups are shuffled: no run ends with its longest samples"


def test_sorted_samples_are_dealt_to_halves_and_quarters() -> None:
    lengths = np.array([70, 10, 30, 20, 80, 60, 50, 40])
    order = spread_lengths(lengths)
    assert lengths[order].tolist() == [10, 50, 30, 70, 20, 60, 40, 80]
    assert sorted(spread_lengths(np.zeros(6, dtype=int)).tolist()) == list(range(6))  # no power of two, all equal
    assert spread_lengths(np.array([5])).tolist() == [0]


def test_spread_updates_keep_their_samples_and_ranks_get_alike_ones() -> None:
    size = 16
    spread, plain = _mixture(0, spread=size), _mixture(0)
    waits = {"spread": 0, "plain": 0}
    for update in range(30):
        places = range(update * size, (update + 1) * size)
        assert sorted(spread.drawn_position(k) for k in places) == list(places)
        for name, mixture in (("spread", spread), ("plain", plain)):
            lengths = np.array([_length(mixture[k]) for k in places]).reshape(2, -1)
            waits[name] += abs(int(np.diff(lengths.max(1))[0]))
            if name == "spread":
                assert abs(np.diff(lengths.sum(1))[0]) <= lengths.max() - lengths.min()
    assert waits["spread"] < 0.7 * waits["plain"]


def test_two_orders_at_once_are_refused() -> None:
    with pytest.raises(ValueError, match="set one of the two to 0"):
        _mixture(GROUP, spread=8)


@pytest.mark.parametrize("order", [{"group_by_length": GROUP}, {"group_by_length": 0, "spread": 16}], ids=str)
def test_position_and_seed_alone_decide(order: dict[str, int]) -> None:
    places = [*range(0, 2 * WINDOW, 7), 3, 2 * WINDOW - 1, 0]
    forwards = {k: _mixture(**order)[k].sample_id for k in places}
    one = _mixture(**order)
    assert {k: one[k].sample_id for k in reversed(places)} == forwards
    assert {k: _mixture(**order, seed=1)[k].sample_id for k in places} != forwards


def test_ungrouped_stream_is_what_it_always_was() -> None:
    """Sample k is made by its own generator (seed, 2, k) from `locate(k)`; the digest was taken before grouping was."""
    plain = _mixture(0)
    ids = [plain[k].sample_id for k in range(200)]
    draws = [plain.locate(k) for k in range(200)]
    rebuilt = [plain.sources[d.source].sample(d.index, np.random.default_rng((0, 2, k))) for k, d in enumerate(draws)]
    assert ids == [sample.sample_id for sample in rebuilt]
    assert hashlib.sha256(" ".join(ids).encode()).hexdigest()[:16] == "df8e4e2b2b0f3696"
    assert [plain.drawn_position(k) for k in (0, 7, 12345)] == [0, 7, 12345]


def test_negative_positions_are_refused() -> None:
    with pytest.raises(IndexError, match="start at 0"):
        _mixture(GROUP)[-1]
