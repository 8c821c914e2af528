"""Shards, worker processes and kills of `plum validate`: the records and numbers of one process, to the byte."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from partonomy.harness.benchmark_merging import merge_benchmark_runs
from partonomy.harness.benchmark_run import run_benchmark
from partonomy.harness.benchmark_settings import BenchmarkSettings, read_task
from partonomy.harness.benchmark_tasks import SegmentationTask, VqaTask

from partonomy.__main__ import main
from partonomy.benchmarks.segmentation import SegmentationMode
from partonomy.harness.ranks import Rank
from tests.partonomy.benchmark_world import SIZE, ScriptedModel, draw, make_config
from tests.partonomy.benchmarks.vqa_world import gqa_record

ROOT = Path(__file__).resolve().parents[3]
NUM_IMAGES = 5


def write_gqa_root(root: Path) -> Path:
    """Two questions about each of five images."""
    questions = {}
    for number in range(NUM_IMAGES):
        draw(root / "images" / f"n{number}.jpg", number, SIZE)
        for kind, answer in (("query", "cat"), ("verify", "dog")):
            questions[f"{number}{kind}"] = gqa_record(f"n{number}", f"What is {number}?", answer, answer, kind)
    (root / "testdev_balanced_questions.json").write_text(json.dumps(questions))
    return root


def build_scripted(rank: Rank) -> ScriptedModel:
    return ScriptedModel()


def build_deadly(target: str, rank: Rank) -> ScriptedModel:
    """On rank 1 a model that sends kill -9: at its third question to itself, at its first to who started it."""

    def answer(prompt: str) -> str:
        if len(model.prompts) == (3 if target == "self" else 1):
            os.kill(os.getpid() if target == "self" else os.getppid(), signal.SIGKILL)
            time.sleep(0.5)
        return "cat"

    model = ScriptedModel(answer)
    return model if rank.index == 1 else ScriptedModel()


def run(root: Path, output: Path, shard: str | None = None, **arguments: Any) -> Path:
    """Run the scripted model on GQA; a run without records of its own has a summary, a shard none."""
    task = read_task(BenchmarkSettings("gqa", "testdev"), root)
    assert isinstance(task, VqaTask)
    config = make_config(task, root=str(root), shard=shard)
    build = arguments.pop("build", build_scripted)
    settings = {"resume": False, "rank": Rank()} | arguments
    summary = run_benchmark(task, config, output, build, **settings)
    assert (summary is None) == (shard is not None)
    return output


def untimed(output: Path) -> str:
    """Bytes of the records and of the metrics, without the seconds they took."""
    lines = (output / "records.jsonl").read_text().splitlines()
    summary = json.loads((output / "summary.json").read_text())
    for key in ("provenance", "seconds_total"):
        del summary[key]
    return json.dumps([{**json.loads(line), "seconds": 0} for line in lines]) + json.dumps(summary)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_gqa_root(tmp_path / "gqa")


@pytest.fixture
def whole(root: Path, tmp_path: Path) -> Path:
    return run(root, tmp_path / "whole")


@pytest.mark.parametrize("count", [2, 7])
def test_shards_merge_to_the_bytes_of_one_process(root: Path, whole: Path, tmp_path: Path, count: int) -> None:
    folders = [run(root, tmp_path / f"part{number}", f"{number}/{count}") for number in range(1, count + 1)]
    sizes = [len((folder / "records.jsonl").read_text().splitlines()) for folder in folders]
    assert sizes == ([6, 4] if count == 2 else [2, 2, 2, 2, 2, 0, 0])  # whole images, two questions each
    assert not any((folder / "summary.json").exists() for folder in folders)
    merged = tmp_path / "merged"
    assert main(["merge-runs", *(str(folder) for folder in reversed(folders)), "--output", str(merged)]) == 0
    assert untimed(merged) == untimed(whole)
    provenance = json.loads((merged / "summary.json").read_text())["provenance"]
    assert [entry["shard"] for entry in provenance["merged_from"]] == [f"{n}/{count}" for n in range(count, 0, -1)]
    assert provenance["model"]["name"] == "scripted"
    run(root, merged, resume=True)  # a finished run like any other
    assert untimed(merged) == untimed(whole)


def test_workers_give_the_bytes_of_one_process(root: Path, whole: Path, tmp_path: Path) -> None:
    assert untimed(run(root, tmp_path / "workers", num_procs=2)) == untimed(whole)
    with pytest.raises(ValueError, match="cannot be combined with a launcher's 2 ranks"):
        run(root, tmp_path / "both", num_procs=2, rank=Rank(0, 2))


@pytest.mark.distributed
@pytest.mark.parametrize("target", ["self", "parent"])
def test_a_killed_run_goes_on_where_it_stopped(root: Path, whole: Path, tmp_path: Path, target: str) -> None:
    output = tmp_path / "run"
    command = [
        sys.executable,
        "-m",
        "tests.partonomy.harness.test_benchmark_merging",
        str(root),
        str(output),
        target,
    ]
    killed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=300)
    assert killed.returncode != 0
    if target == "self":
        assert "rank 1 (exit code -9); pass --resume" in killed.stderr.replace("\n", " ")
    # a worker whose parent is gone ends after the image it is asking about, two questions
    assert len((output / "records.rank1-of-2.jsonl").read_text().splitlines()) == 2
    assert not (output / "summary.json").exists()
    run(root, output, resume=True, num_procs=2)
    assert untimed(output) == untimed(whole)


def test_segmentation_runs_merge_too(tmp_path: Path) -> None:
    from tests.plum.cli.benchmark_folders import write_segmentation_root

    write_segmentation_root(tmp_path / "data")
    settings = BenchmarkSettings("reasonseg", "val", SegmentationMode.GENERATED)
    task = read_task(settings, tmp_path / "data")
    assert isinstance(task, SegmentationTask)
    config = make_config(task, root=str(tmp_path / "data"))
    go = partial(run_benchmark, resume=False, rank=Rank())
    go(task, config, tmp_path / "whole", build_scripted)
    parts = []
    for shard in ("1/2", "2/2"):
        parts.append(tmp_path / shard.replace("/", "of"))
        go(task, dataclasses.replace(config, shard=shard), parts[-1], build_scripted)
    merge_benchmark_runs(parts, tmp_path / "merged", None, allow_missing=False)
    assert untimed(tmp_path / "merged") == untimed(tmp_path / "whole")


def test_what_is_missing_or_differs_is_refused(root: Path, whole: Path, tmp_path: Path) -> None:
    first, second = run(root, tmp_path / "first", "1/2"), run(root, tmp_path / "second", "2/2")
    output = tmp_path / "out"
    with pytest.raises(ValueError, match=r"4 of 10 items have no record, e\.g\. \['1query'"):
        merge_benchmark_runs([first], output, None, allow_missing=False)
    joined = merge_benchmark_runs([first], output, None, allow_missing=True)
    assert (joined.num_missing, joined.summary.num_failed) == (4, 4)
    with pytest.raises(FileExistsError, match="is not empty"):
        merge_benchmark_runs([first, second], output, None, allow_missing=False)
    config = json.loads((second / "config.json").read_text())
    (second / "config.json").write_text(json.dumps(config | {"checkpoint_hash": "tea"}))
    with pytest.raises(ValueError, match=r"different settings: checkpoint_hash \(was 'c0ffee', now 'tea'\)"):
        merge_benchmark_runs([first, second], tmp_path / "other", None, allow_missing=False)
    moved = write_gqa_root(tmp_path / "moved")
    text = (moved / "testdev_balanced_questions.json").read_text().replace("dog", "cow")
    (moved / "testdev_balanced_questions.json").write_text(text)
    with pytest.raises(ValueError, match="not the items of the runs"):
        merge_benchmark_runs([first], tmp_path / "other", moved, allow_missing=True)


def test_the_command_tells_both_kinds_of_runs_apart(
    root: Path, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "questions_run").mkdir()
    (tmp_path / "questions_run" / "config.json").write_text("{}")
    assert main(["merge-runs", str(whole), str(tmp_path / "questions_run"), "--output", str(tmp_path / "out")]) == 1
    assert "merge them apart" in capsys.readouterr().err
    assert main(["merge-runs", str(whole), "--questions", "x", "--output", str(tmp_path / "out")]) == 1
    assert "pass --root" in capsys.readouterr().err
    assert main(["merge-runs", str(tmp_path / "questions_run"), "--root", "x", "--output", str(tmp_path / "out")]) == 1
    assert "pass --questions" in capsys.readouterr().err


def test_an_unknown_configuration_is_refused(whole: Path, tmp_path: Path) -> None:
    config = json.loads((whole / "config.json").read_text())
    del config["protocol"]
    (whole / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"not the configuration of `plum validate` \(protocol"):
        merge_benchmark_runs([whole], tmp_path / "out", None, allow_missing=False)


if __name__ == "__main__":
    run(Path(sys.argv[1]), Path(sys.argv[2]), build=partial(build_deadly, sys.argv[3]), num_procs=2)
