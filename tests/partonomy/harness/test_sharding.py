from pathlib import Path

import pytest
from partonomy.harness.runner import Job, run_evaluation

from partonomy.harness.ranks import Rank
from tests.partonomy.running import make_config, run, untimed


def test_ranks_give_the_records_and_numbers_of_one(question_file: Path, tmp_path: Path) -> None:
    single = run(make_config(question_file, tmp_path / "one", "random"))
    config = make_config(question_file, tmp_path / "two", "random")
    assert run(config, rank=Rank(1, 2)) is None  # rank 0 has not answered yet
    double = run(config, rank=Rank(0, 2))
    assert single is not None
    assert double is not None
    assert untimed(tmp_path / "one") == untimed(tmp_path / "two")
    assert single.question_types == double.question_types


def test_worker_processes_give_the_records_and_numbers_of_one(question_file: Path, tmp_path: Path) -> None:
    # The builder must be importable by the workers: validate_partonomy's own is.
    from validate_partonomy import build_model

    single = run(make_config(question_file, tmp_path / "one", "random"))
    job = Job(make_config(question_file, tmp_path / "two", "random"), build_model)
    double = run_evaluation(job, job.load_questions(), False, Rank(), num_procs=2)
    assert single is not None
    assert double is not None
    assert untimed(tmp_path / "one") == untimed(tmp_path / "two")
    assert single.question_types == double.question_types
    assert not list((tmp_path / "two").glob("records.rank*"))


def test_launcher_and_workers_exclude_each_other(question_file: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cannot be combined"):
        run(make_config(question_file, tmp_path / "run"), rank=Rank(0, 2), num_procs=2)
