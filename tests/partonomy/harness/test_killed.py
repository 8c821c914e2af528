"""Real processes, really killed: --num_procs and torchrun give the records of one process, also after kill -9."""

import fcntl
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest
from partonomy.harness.results import read_summary
from partonomy.harness.run_directory import RecordWriter, read_records

from tests.partonomy.running import untimed
from validate_partonomy import main as validate

pytestmark = pytest.mark.distributed

ROOT = Path(__file__).resolve().parents[3]
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")
DEADLY = "tests.partonomy.harness.deadly_validation"


def start(
    words: Sequence[str], questions: Path, output: Path, after: int = -1, target: str = "self"
) -> tuple[int, str]:
    """Run a validation of the random model in processes of its own.

    Returns:
        Exit status and stderr, once every process has let go of it.
    """
    deadly = {"DEADLY_RANK": "1" if target == "self" else "0", "DEADLY_AFTER": str(after), "DEADLY_TARGET": target}
    command = [sys.executable, *words, "--model", "random", "--questions", str(questions), "--output", str(output)]
    environment = os.environ | deadly | {"OMP_NUM_THREADS": "1"}
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    return result.returncode, result.stderr


@pytest.fixture
def whole(question_file: Path, tmp_path: Path) -> Path:
    """The same run in one process."""
    validate(["--model", "random", "--questions", str(question_file), "--output", str(tmp_path / "whole")])
    return tmp_path / "whole"


def num_lines(output: Path, rank: int) -> int:
    """Records that a rank of two has written."""
    return len(read_records(output / f"records.rank{rank}-of-2.jsonl"))


def check_equal(output: Path, whole: Path) -> None:
    """No record is lost or there twice, and every number is the same."""
    records = untimed(output)
    assert set(Counter(record.question_id for record in records).values()) == {1}
    assert records == untimed(whole)
    merged, single = read_summary(output / "summary.json"), read_summary(whole / "summary.json")
    assert merged.question_types == single.question_types


def test_a_killed_worker_and_a_resumed_run(question_file: Path, tmp_path: Path, whole: Path) -> None:
    output = tmp_path / "run"
    status, errors = start(["-m", DEADLY, "--num_procs", "2"], question_file, output, after=5)
    assert status != 0
    assert "rank 1 (exit code -9); pass --resume" in errors.replace("\n", " ")
    assert (num_lines(output, 0), num_lines(output, 1)) == (20, 5)
    assert not (output / "summary.json").exists()
    status, errors = start(["validate_partonomy.py", "--num_procs", "2", "--resume"], question_file, output)
    assert status == 0, errors
    check_equal(output, whole)


def test_workers_end_with_the_process_that_started_them(question_file: Path, tmp_path: Path, whole: Path) -> None:
    output = tmp_path / "run"
    status, _ = start(["-m", DEADLY, "--num_procs", "2"], question_file, output, after=5, target="parent")
    assert status == -9
    assert num_lines(output, 0) == 10  # the image that was being asked about, not the next one
    status, errors = start(["validate_partonomy.py", "--num_procs", "2", "--resume"], question_file, output)
    assert status == 0, errors
    check_equal(output, whole)


def test_torchrun_with_a_killed_rank_and_a_resumed_run(question_file: Path, tmp_path: Path, whole: Path) -> None:
    pytest.importorskip("torch")
    output = tmp_path / "run"
    status, errors = start([*TORCHRUN, "--module", DEADLY], question_file, output, after=5)
    assert status != 0
    assert "Signal 9 (SIGKILL)" in errors
    assert num_lines(output, 1) == 5
    assert not (output / "summary.json").exists()
    status, errors = start([*TORCHRUN, "validate_partonomy.py", "--resume"], question_file, output)
    assert status == 0, errors
    check_equal(output, whole)


def test_two_writers_of_one_file_are_refused(question_file: Path, tmp_path: Path, whole: Path) -> None:
    path = tmp_path / "records.jsonl"
    with RecordWriter(path), pytest.raises(BlockingIOError, match="being written by another process"):
        RecordWriter(path)
    with RecordWriter(path) as writer:
        writer.write(read_records(whole / "records.jsonl")[0])
    flags = ["--model", "random", "--questions", str(question_file), "--output", str(whole), "--resume"]
    with (whole / "records.jsonl").open() as file:  # a run that goes on elsewhere
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(SystemExit, match="another process"):
            validate(flags)
