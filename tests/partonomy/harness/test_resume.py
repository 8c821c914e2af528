"""Runs that stopped go on where they stopped, and only as the runs that they were."""

import dataclasses
import json
from pathlib import Path

import pytest

from partonomy.harness import provenance
from partonomy.models.bounds import OracleModel
from partonomy.models.contract import Hint, ModelUnavailable
from partonomy.models.registry import hash_checkpoint
from partonomy.structures import QuestionType
from tests.partonomy.harness.conftest import World, numbers
from tests.partonomy.running import DyingModel, ask_model, make_config, run, run_model, untimed
from tests.unsigned import unsigned


def test_kill_and_resume_gives_the_same_records(world: World, tmp_path: Path) -> None:
    whole = run(world.config(tmp_path / "whole", "oracle"))
    config = world.config(tmp_path / "resumed", "oracle")
    num_answered = world.per_image + 2  # in the midst of the second image
    with pytest.raises(KeyboardInterrupt):
        run_model(config, DyingModel(num_answered))
    partial = tmp_path / "resumed" / "records.jsonl"
    assert len(partial.read_text().splitlines()) == num_answered
    with partial.open("a") as file:  # the killed process had begun a line
        file.write('{"item_id": "record-0000')
    with pytest.raises(FileExistsError, match="--resume"):
        run(config)
    resumed = run(config, resume=True)
    assert untimed(tmp_path / "resumed") == untimed(tmp_path / "whole")
    assert numbers(resumed) == numbers(whole)


class GoneModel(OracleModel):
    """Cannot be asked any more from the third image on."""

    def __init__(self, image_of: dict[str, object], gone: object) -> None:
        super().__init__()
        self.image_of, self.gone, self.asked = image_of, gone, list[str]()

    def prepare(self, hint: Hint) -> None:
        """Be gone."""
        if self.image_of[hint.item_id] == self.gone:
            raise ModelUnavailable("no connection")
        self.asked += [hint.item_id] if hint.number == 0 else []
        super().prepare(hint)


def test_a_model_that_is_gone_ends_the_run_and_fails_nothing(world: World, tmp_path: Path) -> None:
    config = world.config(tmp_path / "run", "oracle")
    items = config.load_task().items
    image_of = {item.item_id: item.image_id for item in items}
    third = list(dict.fromkeys(image_of.values()))[2]
    with pytest.raises(ModelUnavailable):
        run_model(config, GoneModel(image_of, third))
    assert len((tmp_path / "run" / "records.jsonl").read_text().splitlines()) == 2 * world.per_image
    model = GoneModel(image_of, None)
    summary = ask_model(config, model, resume=True)
    assert summary is not None
    assert len(model.asked) == 2 * world.per_image
    assert summary.num_failed == 0
    model = GoneModel(image_of, None)
    assert numbers(ask_model(config, model, resume=True)) == numbers(summary)
    assert model.asked == []


def test_finished_results_are_refused_without_resume_and_kept_with_it(world: World, tmp_path: Path) -> None:
    config = world.config(tmp_path / "run")
    first = run(config)
    records = (tmp_path / "run" / "records.jsonl").read_bytes()
    with pytest.raises(FileExistsError, match=r"finished results.*--resume"):
        run(config)
    again = run(config, resume=True)
    assert (tmp_path / "run" / "records.jsonl").read_bytes() == records
    assert numbers(again) == numbers(first)


def test_resume_with_other_settings_names_them(world: World, tmp_path: Path) -> None:
    config = world.config(tmp_path / "run")
    run(config)
    name, value = world.setting
    other = dataclasses.replace(world.with_other_setting(config), seed=4)
    with pytest.raises(ValueError, match=rf"options\.{name} \(was '\w+', now '{value}'\), seed \(was 3, now 4\)"):
        run(other, resume=True)


def test_other_weights_in_the_same_folder_are_another_run(world: World, tmp_path: Path) -> None:
    checkpoint = tmp_path / "model"
    checkpoint.mkdir()
    (checkpoint / "model.safetensors").write_bytes(b"old weights")
    before = hash_checkpoint(checkpoint)
    (checkpoint / "README.md").write_text("a model card is no weight")
    assert hash_checkpoint(checkpoint) == before
    config = dataclasses.replace(world.config(tmp_path / "run"), checkpoint_hash=before)
    run(config)
    (checkpoint / "model.safetensors").write_bytes(b"new weights")
    after = hash_checkpoint(checkpoint)
    with pytest.raises(ValueError, match=rf"checkpoint_hash \(was '{before}', now '{after}'\)"):
        run(dataclasses.replace(config, checkpoint_hash=after), resume=True)
    (tmp_path / "data").rename(tmp_path / "moved")
    root = str(world.root).replace(str(tmp_path / "data"), str(tmp_path / "moved"))
    model = dataclasses.replace(config.model, checkpoint="elsewhere")
    assert run(dataclasses.replace(config, root=root, model=model), resume=True) is not None


def test_what_only_tables_and_reports_read_may_change(question_file: Path, tmp_path: Path) -> None:
    config = World("partonomy", question_file, 10, ("", "")).config(tmp_path / "run")
    run(config)
    changes = {"training_metrics": "metrics.jsonl", "text_matching": "char-ngram-tfidf"}
    summary = run(dataclasses.replace(config, options={**config.options, **changes}), resume=True)
    assert summary is not None
    assert "parts_f1_embedding" in summary.groups["positive"].metrics


def test_provenance_names_the_code_that_made_the_records(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = world.config(tmp_path / "run", "oracle")
    monkeypatch.setattr(provenance, "_git", lambda *arguments: "first" if arguments[0] == "rev-parse" else "")
    with pytest.raises(KeyboardInterrupt):
        run_model(config, DyingModel(world.per_image + 1))
    monkeypatch.setattr(provenance, "_git", lambda *arguments: "second" if arguments[0] == "rev-parse" else " M x.py")
    run(config, resume=True)
    monkeypatch.setattr(provenance, "_git", lambda *arguments: None)
    summary = run(config, resume=True)  # asks nothing, so it must not claim the records
    assert summary is not None
    assert summary.provenance["code_commit"] == "second"
    assert summary.provenance["code_is_modified"] is True
    assert summary.provenance["code_of_earlier_records"] == [{"commit": "first", "is_modified": False}]
    assert summary.provenance["code_commit_of_summary"] is None


def test_a_damaged_record_is_an_error_with_its_line(world: World, tmp_path: Path) -> None:
    config = world.config(tmp_path / "run")
    run(config)
    path = tmp_path / "run" / "records.jsonl"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], lines[1][:50], *lines[2:]]) + "\n")
    with pytest.raises(ValueError, match=r"records\.jsonl, line 2: not a record of an item.*delete that line"):
        run(config, resume=True)
    path.write_text("\n".join([json.dumps({**unsigned(lines[0]), "item_id": "x"}), *lines]) + "\n")
    with pytest.raises(ValueError, match=r"records of items that the run does not ask: \['x'\]"):
        run(config, resume=True)


KEYS_OF_THE_FIRST_VERSION = (
    "questions", "questions_hash", "output", "question_types", "limit", "generate", "part_whole", "seed", "device",
    "training_metrics", "protocol_version", "checkpoint_hash", "model", "checkpoint",
)  # fmt: skip


def test_a_run_of_the_first_version_is_resumed(question_file: Path, tmp_path: Path) -> None:
    """Its configuration lacks the keys that came later; they have their defaults."""
    config = make_config(question_file, tmp_path / "run")
    with pytest.raises(KeyboardInterrupt):
        run_model(config, DyingModel(13))
    path = tmp_path / "run" / "config.json"
    today = json.loads(path.read_text())
    types = [question_type.value for question_type in QuestionType]
    old = {
        **{key: today.get(key) for key in KEYS_OF_THE_FIRST_VERSION},
        "model": "oracle",
        "device": "cpu",
        "questions": today["root"],
        "questions_hash": today["content_hash"],
        "question_types": types,
        "generate": types,
        "part_whole": "gold",
        "training_metrics": [],
    }
    path.write_text(json.dumps(old))
    listwise = dataclasses.replace(config, options={**config.options, "choice_protocol": "listwise"})
    with pytest.raises(ValueError, match=r"options\.choice_protocol \(was 'likelihood', now 'listwise'\)"):
        run(listwise, resume=True)
    assert run(config, resume=True) is not None
    assert json.loads(path.read_text()) == today


def test_a_run_of_a_later_version_is_refused(world: World, tmp_path: Path) -> None:
    config = world.config(tmp_path / "run")
    run(config)
    path = tmp_path / "run" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"schema": 3}))
    with pytest.raises(ValueError, match=r"config\.json: written by a later version of this code \(schema 3\)"):
        run(config, resume=True)
