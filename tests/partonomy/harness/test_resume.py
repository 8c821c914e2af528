import dataclasses
import json
from pathlib import Path

import pytest

from partonomy.harness import provenance
from partonomy.harness.provenance import hash_checkpoint
from tests.partonomy.running import DyingModel, make_config, run, run_model, untimed

KEYS_OF_THE_FIRST_VERSION = (
    "model", "checkpoint", "questions", "questions_hash", "output", "question_types", "limit", "generate",
    "part_whole", "seed", "device", "training_metrics", "protocol_version", "checkpoint_hash",
)  # fmt: skip


def test_kill_and_resume_gives_the_same_records(question_file: Path, tmp_path: Path) -> None:
    whole = run(make_config(question_file, tmp_path / "whole"))
    config = make_config(question_file, tmp_path / "resumed")
    with pytest.raises(KeyboardInterrupt):
        run_model(config, DyingModel(13))
    partial = tmp_path / "resumed" / "records.jsonl"
    assert len(partial.read_text().splitlines()) == 13
    with partial.open("a") as file:  # the killed process had begun a line
        file.write('{"question_id": "record-0000')
    with pytest.raises(FileExistsError, match="--resume"):
        run(config)
    resumed = run(config, resume=True)
    assert resumed is not None
    assert whole is not None
    assert untimed(tmp_path / "resumed") == untimed(tmp_path / "whole")
    assert resumed.question_types == whole.question_types


def test_finished_results_are_refused_without_resume_and_kept_with_it(question_file: Path, tmp_path: Path) -> None:
    config = make_config(question_file, tmp_path / "run", "random")
    first = run(config)
    records = (tmp_path / "run" / "records.jsonl").read_bytes()
    with pytest.raises(FileExistsError, match="finished results.*--resume"):
        run(config)
    again = run(config, resume=True)
    assert first is not None
    assert again is not None
    assert (tmp_path / "run" / "records.jsonl").read_bytes() == records
    assert again.question_types == first.question_types


def test_resume_with_other_settings_names_the_keys(question_file: Path, tmp_path: Path) -> None:
    config = make_config(question_file, tmp_path / "run")
    run(config)
    other = dataclasses.replace(config, seed=4, part_whole="predicted")
    with pytest.raises(ValueError, match=r"part_whole \(was 'gold', now 'predicted'\), seed \(was 3, now 4\)"):
        run(other, resume=True)


def test_a_run_of_an_earlier_version_is_resumed(question_file: Path, tmp_path: Path) -> None:
    """Its configuration lacks the keys that came later; they have their defaults."""
    config = make_config(question_file, tmp_path / "run")
    with pytest.raises(KeyboardInterrupt):
        run_model(config, DyingModel(13))
    path = tmp_path / "run" / "config.json"
    old = json.loads(path.read_text())
    path.write_text(json.dumps({key: old[key] for key in KEYS_OF_THE_FIRST_VERSION}))
    with pytest.raises(ValueError, match=r"choice_protocol \(was 'likelihood', now 'listwise'\)"):
        run(dataclasses.replace(config, choice_protocol="listwise"), resume=True)
    assert run(config, resume=True) is not None
    assert json.loads(path.read_text()) == old


def test_other_weights_in_the_same_folder_are_another_run(question_file: Path, tmp_path: Path) -> None:
    checkpoint = tmp_path / "model"
    checkpoint.mkdir()
    (checkpoint / "model.safetensors").write_bytes(b"old weights")
    before = hash_checkpoint(checkpoint)
    (checkpoint / "README.md").write_text("a model card is no weight")
    assert hash_checkpoint(checkpoint) == before
    config = dataclasses.replace(make_config(question_file, tmp_path / "run"), checkpoint_hash=before)
    run(config)
    (checkpoint / "model.safetensors").write_bytes(b"new weights")
    with pytest.raises(ValueError, match="checkpoint_hash"):
        run(dataclasses.replace(config, checkpoint_hash=hash_checkpoint(checkpoint)), resume=True)
    moved = dataclasses.replace(config, checkpoint="elsewhere", training_metrics=("metrics.jsonl",))
    assert run(moved, resume=True) is not None


def test_provenance_names_the_code_that_made_the_records(
    question_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config(question_file, tmp_path / "run")
    monkeypatch.setattr(provenance, "_git", lambda *arguments: "first" if arguments[0] == "rev-parse" else "")
    with pytest.raises(KeyboardInterrupt):
        run_model(config, DyingModel(13))
    monkeypatch.setattr(provenance, "_git", lambda *arguments: "second" if arguments[0] == "rev-parse" else " M x.py")
    run(config, resume=True)
    monkeypatch.setattr(provenance, "_git", lambda *arguments: None)
    summary = run(config, resume=True)  # asks nothing, so it must not claim the records
    assert summary is not None
    assert summary.provenance["code_commit"] == "second"
    assert summary.provenance["code_is_modified"] is True
    assert summary.provenance["code_of_earlier_records"] == [{"commit": "first", "is_modified": False}]
    assert summary.provenance["code_commit_of_summary"] is None


def test_damaged_record_is_an_error_with_its_line(question_file: Path, tmp_path: Path) -> None:
    config = make_config(question_file, tmp_path / "run")
    run(config)
    path = tmp_path / "run" / "records.jsonl"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], lines[1][:50], *lines[2:]]) + "\n")
    with pytest.raises(ValueError, match=r"records\.jsonl, line 2"):
        run(config, resume=True)
