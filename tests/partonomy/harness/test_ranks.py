"""Several processes write the records of one; of ranks exactly one ends last, also when they end together."""

import dataclasses
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from partonomy.benchmarks.task import Item
from partonomy.harness.ranks import (
    RANKS_FILE,
    Rank,
    deal_batches,
    rank_from_environment,
    remove_finished_ranks,
    sign_off,
    sign_on,
    take_share,
)
from partonomy.sharding import Shard
from tests.partonomy.benchmark_world import gqa_task
from tests.partonomy.harness.conftest import World, numbers
from tests.partonomy.running import run, stored_records, untimed


@pytest.mark.parametrize("order", [(1, 0), (0, 1)])
def test_ranks_give_the_records_and_numbers_of_one(world: World, tmp_path: Path, order: tuple[int, int]) -> None:
    single = run(world.config(tmp_path / "one"))
    config = world.config(tmp_path / "two")
    assert run(config, rank=Rank(order[0], 2)) is None  # the other has not answered yet
    size = len(stored_records(tmp_path / "two", f"records.rank{order[0]}-of-2.jsonl"))
    assert size == world.num_items // 2
    double = run(config, rank=Rank(order[1], 2))
    assert untimed(tmp_path / "one") == untimed(tmp_path / "two")
    assert numbers(single) == numbers(double)


def test_worker_processes_give_the_records_and_numbers_of_one(world: World, tmp_path: Path) -> None:
    single = run(world.config(tmp_path / "one"))
    double = run(world.config(tmp_path / "two"), num_procs=2)
    assert untimed(tmp_path / "one") == untimed(tmp_path / "two")
    assert numbers(single) == numbers(double)
    assert not list((tmp_path / "two").glob("records.rank*"))


def test_launcher_and_workers_exclude_each_other(world: World, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--num_procs 2 cannot be combined with a launcher's 2 ranks"):
        run(world.config(tmp_path / "run"), rank=Rank(0, 2), num_procs=2)
    with pytest.raises(ValueError, match="--num_procs must be at least 1, got 0"):
        run(world.config(tmp_path / "run"), num_procs=0)
    assert not (tmp_path / "run").exists()


def test_one_process_is_always_the_last(tmp_path: Path) -> None:
    sign_on(tmp_path, Rank())
    assert sign_off(tmp_path, Rank())
    assert list(tmp_path.iterdir()) == []


def test_of_ranks_that_end_together_one_is_the_last(tmp_path: Path) -> None:
    for _ in range(5):
        ranks = [Rank(index, 8) for index in range(8)]
        start, last = threading.Barrier(8), list[int]()

        def end(rank: Rank, start: threading.Barrier = start, last: list[int] = last) -> None:
            sign_on(tmp_path, rank)
            start.wait()
            if sign_off(tmp_path, rank):
                last.append(rank.index)

        threads = [threading.Thread(target=end, args=(rank,)) for rank in ranks]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(last) == 1
        remove_finished_ranks(tmp_path)


def test_a_list_left_by_a_killed_run_counts_for_nobody_who_is_still_at_work(tmp_path: Path) -> None:
    sign_on(tmp_path, Rank(0, 2))
    assert not sign_off(tmp_path, Rank(0, 2))  # rank 1 is killed
    for rank in (Rank(0, 2), Rank(1, 2)):
        sign_on(tmp_path, rank)
    assert not sign_off(tmp_path, Rank(1, 2))
    assert sign_off(tmp_path, Rank(0, 2))


def test_another_number_of_ranks_starts_a_new_list(tmp_path: Path) -> None:
    assert not sign_off(tmp_path, Rank(0, 3))
    (tmp_path / RANKS_FILE).write_text("half a li")
    assert not sign_off(tmp_path, Rank(1, 3))
    assert not sign_off(tmp_path, Rank(0, 2))
    assert sign_off(tmp_path, Rank(1, 2))


def test_only_the_last_rank_has_the_summary_also_when_a_finished_run_is_resumed(world: World, tmp_path: Path) -> None:
    config = world.config(tmp_path / "run")
    assert run(config, rank=Rank(0, 2)) is None
    assert run(config, rank=Rank(1, 2)) is not None
    assert not (tmp_path / "run" / RANKS_FILE).exists()
    assert run(config, resume=True, rank=Rank(1, 2)) is None  # all records are there, but rank 0 is still to come
    assert run(config, resume=True, rank=Rank(0, 2)) is not None


def ids(batches: Sequence[Sequence[Item]]) -> list[tuple[str, ...]]:
    return [tuple(item.item_id for item in batch) for batch in batches]


@pytest.mark.parametrize(("num_images", "size"), [(100, 1), (130, 2), (1000, 4)])
def test_small_runs_are_dealt_image_by_image_and_large_ones_in_batches(
    tmp_path: Path, num_images: int, size: int
) -> None:
    first, second, *_ = gqa_task(tmp_path, 1).items
    items = [
        dataclasses.replace(item, item_id=f"{number}-{place}", image_id=str(number))
        for place, item in enumerate((first, second))  # the items of an image need not stand together
        for number in range(num_images)
    ]
    batches = deal_batches(items)
    assert [len(batch) for batch in batches[:-1]] == [2 * size] * (len(batches) - 1)
    assert ids(batches)[0] == tuple(f"{number}-{place}" for number in range(size) for place in (0, 1))
    shard = Shard(1, 3)
    dealt = [batch for rank in range(2) for batch in take_share(batches, shard, Rank(rank, 2))]
    assert sorted(ids(dealt)) == sorted(ids(batches[1::3]))  # the same batches, in a shard and in its ranks
    assert ids(take_share(batches, shard)) == ids(batches[1::3])


def test_ranks_come_from_the_launcher() -> None:
    assert rank_from_environment({"RANK": "1", "WORLD_SIZE": "3"}) == Rank(1, 3)
    assert rank_from_environment({}) == Rank(0, 1)
    with pytest.raises(ValueError, match=r"rank 3 does not lie in \[0, 3\)"):
        Rank(3, 3)
