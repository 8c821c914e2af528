import threading
from collections.abc import Iterator, Sequence

import pytest
import torch

from plum.data.build import build_mixture
from plum.data.collate import Collator
from plum.data.loader import RankPositions, load_batches
from plum.data.mixture import MixtureDataset
from plum.models.tiny import tiny_model_config
from plum.structures import Batch, Sample
from plum.train_config import DataConfig, SourceConfig
from tests.plum.data.part_world import write_world
from tests.plum.data.tokenizers_for_tests import byte_level

GROUPED = {"group_by_length": 8}


@pytest.fixture(scope="module", params=[{}, GROUPED, {"spread_lengths": 8}], ids=["as drawn", "grouped", "spread"])
def setup(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[MixtureDataset, Collator]:
    folder = tmp_path_factory.mktemp("world")
    write_world(folder)
    kinds = ("explanatory", "part_referring", "part_vqa")
    data = DataConfig(tuple(SourceConfig(kind, str(folder)) for kind in kinds), **request.param)
    return build_mixture(data, seed=3), Collator(byte_level(), tiny_model_config(len(byte_level())), data)


def _batches(
    setup: tuple[MixtureDataset, Collator],
    *,
    rank: int = 0,
    world_size: int = 1,
    size: int = 4,
    start: int = 0,
    count: int = 3,
    workers: int = 0,
) -> Iterator[Batch]:
    mixture, collator = setup
    return load_batches(
        mixture,
        collator,
        rank=rank,
        world_size=world_size,
        micro_batch_size=size,
        start_micro_batch=start,
        num_workers=workers,
        num_micro_batches=count,
    )


def _load(setup: tuple[MixtureDataset, Collator], **changes: int) -> list[Batch]:
    return list(_batches(setup, **changes))


def test_positions_follow_the_formula() -> None:
    assert list(RankPositions(rank=1, world_size=2, micro_batch_size=3, start=4, count=2)) == [
        [27, 28, 29],  # (4 * 2 + 1) * 3
        [33, 34, 35],  # (5 * 2 + 1) * 3
    ]


def test_one_rank_with_eight_sees_what_two_ranks_with_four_see(setup: tuple[MixtureDataset, Collator]) -> None:
    one = _load(setup, size=8)
    first, second = _load(setup, rank=0, world_size=2), _load(setup, rank=1, world_size=2)
    for whole, left, right in zip(one, first, second, strict=True):
        assert whole.sample_ids == left.sample_ids + right.sample_ids
        assert torch.equal(whole.sam_pixels, torch.cat([left.sam_pixels, right.sam_pixels]))


def test_resuming_continues_the_stream(setup: tuple[MixtureDataset, Collator]) -> None:
    whole, rest = _load(setup, count=5), _load(setup, start=2, count=3)
    for expected, found in zip(whole[2:], rest, strict=True):
        assert expected.sample_ids == found.sample_ids
        assert torch.equal(expected.input_ids, found.input_ids)
        assert torch.equal(expected.tags, found.tags)


def test_workers_keep_the_order(setup: tuple[MixtureDataset, Collator]) -> None:
    for expected, found in zip(_load(setup, count=5), _load(setup, count=5, workers=2), strict=True):
        assert expected.sample_ids == found.sample_ids
        assert torch.equal(expected.input_ids, found.input_ids)
        assert torch.equal(expected.clip_pixels, found.clip_pixels)


def test_an_update_sees_the_same_samples_however_it_is_cut(setup: tuple[MixtureDataset, Collator]) -> None:
    """Two micro-batches of 4 on one rank, or one of 4 on each of two ranks."""
    accumulated = _load(setup, count=6)
    ranks = [_load(setup, rank=rank, world_size=2) for rank in range(2)]
    for update in range(3):
        ours = [sample for batch in accumulated[2 * update : 2 * update + 2] for sample in batch.sample_ids]
        assert ours == [sample for rank in ranks for sample in rank[update].sample_ids]


@pytest.mark.parametrize("setup", [GROUPED], indirect=True)
def test_grouping_leaves_less_padding(setup: tuple[MixtureDataset, Collator]) -> None:
    mixture, collator = setup
    plain = MixtureDataset(mixture.sources, mixture.block_counts, mixture.seed, mixture.part_vocabulary)
    padding = [
        sum(int((batch.attention_mask == 0).sum()) for batch in _load((one, collator), count=40))
        for one in (mixture, plain)
    ]
    # What is left is mostly inside samples: up to three conversations about an image, of different lengths.
    assert padding[0] < 0.7 * padding[1]


def test_impossible_loaders_are_refused() -> None:
    with pytest.raises(ValueError, match="rank 2 of 2"):
        RankPositions(rank=2, world_size=2, micro_batch_size=1, start=0, count=1)


class _Watched(Collator):
    """Remembers the thread of every call, and fails in its third one when told to."""

    def __init__(self, collator: Collator, is_breaking: bool) -> None:
        self.__dict__.update(collator.__dict__)
        self.is_breaking = is_breaking
        self.threads: list[int] = []

    def __call__(self, samples: Sequence[Sample]) -> Batch:
        self.threads.append(threading.get_ident())
        if self.is_breaking and len(self.threads) == 3:
            raise ValueError(f"{samples[0].sample_id} is broken")
        return super().__call__(samples)


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_comes_after_the_batches_before_it(setup: tuple[MixtureDataset, Collator], workers: int) -> None:
    batches = _batches((setup[0], _Watched(setup[1], is_breaking=True)), count=5, workers=workers)
    next(batches)
    next(batches)
    with pytest.raises(ValueError, match="is broken"):
        next(batches)


def test_the_next_batch_is_loaded_meanwhile_and_no_more(setup: tuple[MixtureDataset, Collator]) -> None:
    watched = _Watched(setup[1], is_breaking=False)
    batches = _batches((setup[0], watched), count=5)
    next(batches)
    next(batches)
    batches.close()  # type: ignore[attr-defined]  # a generator; waits for what is being loaded
    assert len(watched.threads) == 3
    assert threading.get_ident() not in watched.threads
