"""Real processes, really killed: --num_procs and torchrun give the records of one process, also after kill -9."""

import fcntl
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest

from partonomy.__main__ import main as partonomy
from partonomy.harness.records import RecordWriter
from partonomy.harness.summary import read_summary
from tests.partonomy.harness.conftest import World, numbers
from tests.partonomy.running import run, stored_records, untimed

pytestmark = pytest.mark.distributed

# One kind of record a fault is enough where the processes are what is tried; each kind is killed and resumed.
of_partonomy = pytest.mark.parametrize("world", ["partonomy"], indirect=True)
of_pope = pytest.mark.parametrize("world", ["pope"], indirect=True)
ROOT = Path(__file__).resolve().parents[3]
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")
DEADLY = "tests.partonomy.harness.deadly_run"


def flags(world: World, output: Path) -> list[str]:
    """A run of the random model; options as in `World.config`."""
    options = ["--generate", "all"] if world.benchmark == "partonomy" else []
    places = [world.root_flag, str(world.root), "--output", str(output)]
    return [world.benchmark, "--model", "random", "--seed", "3", *options, *places]


def start(
    words: Sequence[str], world: World, output: Path, *further: str, after: int = -1, target: str = "self"
) -> tuple[int, str]:
    """Run the random model in processes of its own.

    Returns:
        Exit status and stderr, once every process has let go of it.
    """
    deadly = {"DEADLY_RANK": "1" if target == "self" else "0", "DEADLY_AFTER": str(after), "DEADLY_TARGET": target}
    command = [sys.executable, *words, *flags(world, output), *further]
    environment = os.environ | deadly | {"OMP_NUM_THREADS": "1"}
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    return result.returncode, result.stderr


@pytest.fixture
def whole(world: World, tmp_path: Path) -> Path:
    """The same run in one process."""
    run(world.config(tmp_path / "whole"))
    return tmp_path / "whole"


def num_lines(output: Path, rank: int) -> int:
    """Records that a rank of two has written."""
    return len(stored_records(output, f"records.rank{rank}-of-2.jsonl"))


def check_equal(output: Path, whole: Path) -> None:
    """No record is lost or there twice, and every number is the same."""
    records = untimed(output)
    assert set(Counter(record.item_id for record in records).values()) == {1}
    assert records == untimed(whole)
    assert numbers(read_summary(output / "summary.json")) == numbers(read_summary(whole / "summary.json"))


@of_partonomy
def test_a_killed_worker_and_a_resumed_run(world: World, tmp_path: Path, whole: Path) -> None:
    output = tmp_path / "run"
    after = world.per_image // 2
    status, errors = start(["-m", DEADLY], world, output, "--num_procs", "2", after=after)
    assert status != 0
    assert "rank 1 (exit code -9); continue with --resume" in errors.replace("\n", " ")
    assert (num_lines(output, 0), num_lines(output, 1)) == (world.num_items // 2, after)
    assert not (output / "summary.json").exists()
    status, errors = start(["-m", "partonomy", "run"], world, output, "--num_procs", "2", "--resume")
    assert status == 0, errors
    check_equal(output, whole)


@of_pope
def test_a_worker_without_memory_ends_the_run_and_fails_nothing(world: World, tmp_path: Path, whole: Path) -> None:
    output = tmp_path / "run"
    after = world.per_image // 2
    status, errors = start(["-m", DEADLY], world, output, "--num_procs", "2", after=after, target="memory")
    assert status != 0
    assert "error in rank 0: MemoryError: no memory is left - this is a fault of the machine" in errors
    assert (num_lines(output, 0), num_lines(output, 1)) == (after, world.num_items // 2)
    status, errors = start(["-m", "partonomy", "run"], world, output, "--num_procs", "2", "--resume")
    assert status == 0, errors
    check_equal(output, whole)


@of_pope
def test_workers_end_with_the_process_that_started_them(world: World, tmp_path: Path, whole: Path) -> None:
    output = tmp_path / "run"
    status, _ = start(["-m", DEADLY], world, output, "--num_procs", "2", after=1, target="parent")
    assert status == -9
    assert num_lines(output, 0) == world.per_image  # the image that was being asked about, not the next one
    status, errors = start(["-m", "partonomy", "run"], world, output, "--num_procs", "2", "--resume")
    assert status == 0, errors
    check_equal(output, whole)


@of_partonomy
def test_torchrun_with_a_killed_rank_and_a_resumed_run(world: World, tmp_path: Path, whole: Path) -> None:
    pytest.importorskip("torch")
    output = tmp_path / "run"
    after = world.per_image // 2
    status, errors = start([*TORCHRUN, "--module", DEADLY], world, output, after=after)
    assert status != 0
    assert "Signal 9 (SIGKILL)" in errors
    assert num_lines(output, 1) == after
    assert not (output / "summary.json").exists()
    status, errors = start([*TORCHRUN, "--module", "partonomy", "run"], world, output, "--resume")
    assert status == 0, errors
    check_equal(output, whole)


def test_two_writers_of_one_file_are_refused(
    world: World, tmp_path: Path, whole: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "records.jsonl"
    with RecordWriter(path), pytest.raises(BlockingIOError, match="being written by another process"):
        RecordWriter(path)
    with RecordWriter(path) as writer:
        writer.write(stored_records(whole)[0])
    with (whole / ".records.jsonl.lock").open("w") as file:  # a run that goes on elsewhere
        fcntl.flock(file, fcntl.LOCK_EX)
        assert partonomy(["run", *flags(world, whole), "--resume"]) == 1
    assert "another process" in capsys.readouterr().err
