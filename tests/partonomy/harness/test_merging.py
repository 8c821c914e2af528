import dataclasses
import json
from pathlib import Path

import pytest
from partonomy.harness.merging import merge_runs
from partonomy.harness.results import read_summary
from partonomy.harness.run_directory import EvaluationConfig, read_records

from partonomy.__main__ import main
from partonomy.harness.ranks import Rank
from tests.partonomy.running import DyingModel, make_config, run, run_model, untimed
from validate_partonomy import main as validate


def sharded(config: EvaluationConfig, shard: str) -> EvaluationConfig:
    """The same run on one shard, in a folder of its own."""
    return dataclasses.replace(config, shard=shard, output=f"{config.output}-{shard.replace('/', '-of-')}")


def run_shards(config: EvaluationConfig, count: int) -> list[Path]:
    """Run all shards; none gets a summary."""
    configs = [sharded(config, f"{number}/{count}") for number in range(1, count + 1)]
    assert [run(shard) for shard in configs] == [None] * count
    return [Path(shard.output) for shard in configs]


def test_shards_merge_to_the_very_numbers_of_one_process(question_file: Path, tmp_path: Path) -> None:
    single = run(make_config(question_file, tmp_path / "one", "random"))
    folders = run_shards(make_config(question_file, tmp_path / "part", "random"), 3)
    # Four images are dealt out to three shards: 2, 1, 1 images of 10 questions.
    assert [len(read_records(folder / "records.jsonl")) for folder in folders] == [20, 10, 10]
    merged = merge_runs(list(reversed(folders)), tmp_path / "whole", None, allow_missing=False)
    assert merged.num_missing == 0
    assert untimed(tmp_path / "whole") == untimed(tmp_path / "one")
    assert single is not None
    assert merged.summary.question_types == single.question_types  # bit for bit, intervals too
    written = read_summary(tmp_path / "whole" / "summary.json")
    assert written.question_types == single.question_types
    assert [entry["shard"] for entry in written.provenance["merged_from"]] == ["3/3", "2/3", "1/3"]
    assert [entry["num_records"] for entry in written.provenance["merged_from"]] == [10, 10, 20]
    assert written.provenance["model"] == "random"
    assert written.provenance["code_commit"] == single.provenance["code_commit"]
    # The merged folder is a finished run like any other.
    again = run(make_config(question_file, tmp_path / "whole", "random"), resume=True)
    assert again is not None
    assert again.question_types == single.question_types


def test_unfinished_runs_and_ranks_merge_too(question_file: Path, tmp_path: Path) -> None:
    single = run(make_config(question_file, tmp_path / "one"))
    config = make_config(question_file, tmp_path / "two")
    with pytest.raises(KeyboardInterrupt):
        run_model(config, DyingModel(13))
    ranked = dataclasses.replace(config, output=str(tmp_path / "ranked"))
    assert run(ranked, rank=Rank(1, 2)) is None
    with pytest.raises(ValueError, match=r"10 of 40 questions have no record, e\.g\. \['record-000020"):
        merge_runs([tmp_path / "two", tmp_path / "ranked"], tmp_path / "whole", None, allow_missing=False)
    assert not (tmp_path / "whole").exists()
    other = run(sharded(config, "1/2"))
    assert other is None
    folders = [tmp_path / "two", tmp_path / "ranked", tmp_path / "two-1-of-2"]
    merged = merge_runs(folders, tmp_path / "whole", None, allow_missing=False)  # the first 13 are there twice
    assert single is not None
    assert merged.summary.question_types == single.question_types


def test_missing_questions_count_as_failed_when_allowed(question_file: Path, tmp_path: Path) -> None:
    folders = run_shards(make_config(question_file, tmp_path / "part"), 4)
    merged = merge_runs(folders[1:], tmp_path / "whole", None, allow_missing=True)
    assert merged.num_missing == 10
    entry = merged.summary.question_types["identification"]
    assert (entry.num_expected, entry.num_scored, entry.num_failed) == (4, 3, 1)
    assert entry.reasons == {"no merged run holds a record of this question": 1}
    # Image 0 has one part of 1 + 2 + 3 + 4: 9 of 10 masks and 3 of 4 answers are right.
    assert entry.metrics["giou_micro_paired"].value == pytest.approx(9 / 10)
    assert entry.metrics["parts_accuracy"].value == pytest.approx(3 / 4)


def test_runs_that_do_not_belong_together_are_refused(question_file: Path, tmp_path: Path) -> None:
    config = make_config(question_file, tmp_path / "part", "random")
    first, second = run_shards(config, 2)
    run(dataclasses.replace(sharded(config, "1/2"), output=str(tmp_path / "other"), seed=4))
    with pytest.raises(ValueError, match=r"different settings: seed \(3, 4\)"):
        merge_runs([first, tmp_path / "other"], tmp_path / "whole", None, allow_missing=False)
    lines = (first / "records.jsonl").read_text().splitlines()
    changed = json.loads(lines[0])
    changed["status"], changed["reason"] = "failed", "out of memory"
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy" / "config.json").write_bytes((first / "config.json").read_bytes())
    (tmp_path / "copy" / "records.jsonl").write_text(json.dumps(changed) + "\n")
    with pytest.raises(ValueError, match=r"answer the question record-000000 differently \(status, reason\)"):
        merge_runs([first, tmp_path / "copy", second], tmp_path / "whole", None, allow_missing=False)
    with pytest.raises(FileExistsError, match="not empty"):
        merge_runs([first, second], second, None, allow_missing=False)
    with pytest.raises(FileNotFoundError, match=r"config\.json does not exist"):
        merge_runs([first, tmp_path], tmp_path / "whole", None, allow_missing=False)
    assert not (tmp_path / "whole").exists()


def test_runs_of_other_machines_are_merged_where_the_questions_are_now(question_file: Path, tmp_path: Path) -> None:
    folders = run_shards(make_config(question_file, tmp_path / "part"), 2)
    here = tmp_path / "here"
    here.mkdir()
    for path in [question_file, *question_file.parent.glob("*.png")]:
        path.rename(here / path.name)
    with pytest.raises(FileNotFoundError, match="--questions"):
        merge_runs(folders, tmp_path / "whole", None, allow_missing=False)
    merged = merge_runs(folders, tmp_path / "whole", here / question_file.name, allow_missing=False)
    assert merged.summary.question_types["identification"].num_scored == 4
    assert {Path(record.image_path).parent for record in read_records(tmp_path / "whole" / "records.jsonl")} == {here}
    (here / question_file.name).write_text((here / question_file.name).read_text() + "\n")
    with pytest.raises(ValueError, match="changed since"):
        merge_runs(folders, tmp_path / "again", here / question_file.name, allow_missing=False)


def test_unreadable_records_belong_to_the_first_shard(question_file: Path, tmp_path: Path) -> None:
    records = json.loads(question_file.read_text())
    records[5]["segmentations"] = {}
    question_file.write_text(json.dumps(records))
    single = run(make_config(question_file, tmp_path / "one"))
    folders = run_shards(make_config(question_file, tmp_path / "part"), 2)
    merged = merge_runs(folders, tmp_path / "whole", None, allow_missing=False)
    assert single is not None
    assert merged.summary.question_types == single.question_types
    assert sum(entry.num_failed for entry in merged.summary.question_types.values()) == 1


def test_command_line(question_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--model", "random", "--questions", str(question_file)]
    for number in (1, 2):
        assert validate([*flags, "--shard", f"{number}/2", "--output", str(tmp_path / f"shard{number}")]) is None
    assert "merge-runs" in capsys.readouterr().out
    folders = [str(tmp_path / "shard1"), str(tmp_path / "shard2")]
    assert main(["merge-runs", *folders, "--output", str(tmp_path / "whole")]) == 0
    assert "summary.json" in capsys.readouterr().out
    assert main(["merge-runs", folders[0], "--output", str(tmp_path / "half"), "--allow_missing"]) == 0
    assert "20 questions have no record" in capsys.readouterr().out
    assert main(["merge-runs", folders[0], "--output", str(tmp_path / "less")]) == 1
    assert "--allow_missing" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="e.g. 2/8"):
        validate([*flags, "--shard", "3/2", "--output", str(tmp_path / "shard3")])
