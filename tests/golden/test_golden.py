"""Every number of every benchmark is the one that was stored, and the folder's records are the same however asked.

Only command lines are called and only files are read, so that the code behind them may be reorganised. `python -m
tests.golden.capture` writes the values anew; do so only for a change of the numbers that is meant.
"""

from pathlib import Path

import pytest

from partonomy.__main__ import main as partonomy
from tests.golden.capture import BENCHMARKS_FILE, PARTONOMY_FILE, QUESTIONS_FILE, read_golden
from tests.golden.comparison import EXACT, NETWORK, check
from tests.golden.runs import (
    BENCHMARK_RUNS,
    PARTONOMY_RUNS,
    Finished,
    benchmark_scores,
    partonomy_scores,
    read_summary,
    run_benchmark,
    run_partonomy,
    untimed_records,
)
from tests.golden.world import World, hash_world


def test_questions_are_the_same_bytes(world: World) -> None:
    check(hash_world(world), read_golden(QUESTIONS_FILE), 0.0)


@pytest.mark.parametrize("name", PARTONOMY_RUNS)
def test_partonomy(world: World, finished: Finished, name: str) -> None:
    tolerance = NETWORK if name.startswith("plum") else EXACT
    check(partonomy_scores(world, finished(name)), read_golden(PARTONOMY_FILE)[name], tolerance)


@pytest.mark.parametrize("name", BENCHMARK_RUNS)
def test_benchmark(world: World, finished: Finished, name: str) -> None:
    check(benchmark_scores(world, finished(name)), read_golden(BENCHMARKS_FILE)[name], NETWORK)


def test_every_stored_run_is_made() -> None:
    assert list(read_golden(PARTONOMY_FILE)) == list(PARTONOMY_RUNS)
    assert list(read_golden(BENCHMARKS_FILE)) == list(BENCHMARK_RUNS)


@pytest.mark.parametrize("name", ["random_predicted", "oracle_damaged", "plum_listwise"])
def test_partonomy_in_shards(world: World, finished: Finished, tmp_path: Path, name: str) -> None:
    flags = ("--limit", "3") if name.startswith("plum") else ()
    whole = tmp_path / "whole" if flags else finished(name)
    if flags:
        run_partonomy(world, whole, PARTONOMY_RUNS[name], *flags)
    parts = [tmp_path / "part1", tmp_path / "part2"]
    for number, part in enumerate(parts, start=1):
        run_partonomy(world, part, PARTONOMY_RUNS[name], *flags, "--shard", f"{number}/2")
    assert sum(len(untimed_records(part)) for part in parts) == len(untimed_records(whole))
    assert partonomy(["merge-runs", *map(str, parts), "--output", str(tmp_path / "merged")]) == 0
    assert untimed_records(tmp_path / "merged") == untimed_records(whole)
    assert read_summary(tmp_path / "merged")["groups"] == read_summary(whole)["groups"]


@pytest.mark.parametrize("name", ["refcocom_generated", "grefcoco", "instructpart_generated", "mmr_generate", "pope"])
def test_benchmark_in_shards(world: World, finished: Finished, tmp_path: Path, name: str) -> None:
    whole = finished(name)
    parts = [tmp_path / "part1", tmp_path / "part2"]
    for number, part in enumerate(parts, start=1):
        run_benchmark(world, part, BENCHMARK_RUNS[name], "--shard", f"{number}/2")
    assert sum(len(untimed_records(part)) for part in parts) == len(untimed_records(whole))
    assert partonomy(["merge-runs", *map(str, parts), "--output", str(tmp_path / "merged")]) == 0
    assert untimed_records(tmp_path / "merged") == untimed_records(whole)
    assert benchmark_scores(world, tmp_path / "merged") == benchmark_scores(world, whole)


@pytest.mark.distributed
def test_two_processes_write_what_one_writes(world: World, finished: Finished, tmp_path: Path) -> None:
    one = finished("random")
    run_partonomy(world, tmp_path / "two", PARTONOMY_RUNS["random"], "--num_procs", "2")
    assert untimed_records(tmp_path / "two") == untimed_records(one)
    assert partonomy_scores(world, tmp_path / "two") == partonomy_scores(world, one)
    one = finished("mmr_generate")
    run_benchmark(world, tmp_path / "mmr_two", BENCHMARK_RUNS["mmr_generate"], "--num_procs", "2")
    assert untimed_records(tmp_path / "mmr_two") == untimed_records(one)
    assert benchmark_scores(world, tmp_path / "mmr_two") == benchmark_scores(world, one)
