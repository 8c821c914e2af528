import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from partonomy.files import write_text_atomically
from plum.train_config import TrainConfig
from plum.training.config_file import load_train_config
from plum.training.run_checkpoints import UpdateCut
from plum.training.run_directory import RunDirectory

TINY = ["--config", "configs/plum_tiny_stage0.yaml"]


@pytest.fixture
def config(tmp_path: Path) -> TrainConfig:
    return load_train_config([*TINY, "--run_dir", str(tmp_path / "run")])


def test_same_configuration_is_resumed(config: TrainConfig) -> None:
    RunDirectory(config).prepare()
    RunDirectory(config).prepare()
    provenance = json.loads((Path(config.run_dir) / "provenance.json").read_text())
    assert {"commit", "config_sha256", "packages"} <= set(provenance)


def start_training(config: TrainConfig) -> RunDirectory:
    """A folder in which an update was done and a checkpoint written; its process has ended."""
    run = RunDirectory(config)
    run.prepare()
    run.record_start(1, None)
    partial = run.checkpoints.partial(7)
    partial.mkdir(parents=True)
    (partial / "plain.pt").write_bytes(b"weights")
    run.checkpoints.commit(partial, 7, UpdateCut(1, 1, 1))
    assert run._lock is not None
    run._lock.close()
    return run


def change(config: TrainConfig, key: str, value: object) -> TrainConfig:
    """Replace the value of a dotted key."""
    group, _, name = key.rpartition(".")
    changes: dict[str, Any] = {name: value}
    if not group:
        return dataclasses.replace(config, **changes)
    return dataclasses.replace(config, **{group: dataclasses.replace(getattr(config, group), **changes)})


@pytest.mark.parametrize(
    ("key", "value"), [("optimizer.weight_decay", 1.0), ("seed", 7), ("losses.bio", 0.5), ("engine.zero_stage", 1)]
)
def test_another_configuration_is_refused_by_key_with_the_way_out(config: TrainConfig, key: str, value: object) -> None:
    run = start_training(config)
    before = (run.root / "config.yaml").read_bytes()
    way_out = f"{key}: .* there, {value} here.*--overwrite.*python -m plum export .*update_000007 FOLDER.*--init_from"
    with pytest.raises(ValueError, match=way_out):
        RunDirectory(change(config, key, value)).prepare()
    assert (run.root / "config.yaml").read_bytes() == before
    assert run.checkpoints.has_any()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("save_every", 3),
        ("save_every_minutes", 5.0),
        ("keep_checkpoints", 5),
        ("max_minutes", 90.0),
        ("log_every", 1),
        ("tensorboard", True),
        ("num_updates", 100_000),
        ("stop_after_skipped", 50),
        ("optimizer.learning_rate", 1e-5),
        ("optimizer.gradient_clip", 0.5),
        ("engine.timeout_minutes", 120.0),
        ("data.max_text_tokens", 4096),
    ],
)
def test_harmless_settings_may_change_and_are_recorded(config: TrainConfig, key: str, value: object) -> None:
    start_training(config)
    run = RunDirectory(change(config, key, value))
    run.prepare()
    run.record_start(1, None)
    first, second = [json.loads(line) for line in (run.root / "starts.jsonl").read_text().splitlines()]
    assert "changed" not in first
    assert list(second["changed"]) == [key]
    assert second["changed"][key][1] == value


def test_a_run_goes_on_from_another_place(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    run = start_training(config)
    moved = run.root.rename(run.root.with_name("moved"))
    RunDirectory(change(config, "run_dir", str(moved))).prepare()
    monkeypatch.chdir(moved.parent)
    other = RunDirectory(change(config, "run_dir", "moved"))
    other.prepare()
    assert other.checkpoints.has_any()


def test_a_folder_named_in_another_way_is_the_same(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    start_training(change(config, "tokenizer", "data/tokenizer"))
    RunDirectory(change(config, "tokenizer", str(Path("data/tokenizer").resolve()))).prepare()
    with pytest.raises(ValueError, match="tokenizer: .*data/tokenizer there, .*data/words here"):
        RunDirectory(change(config, "tokenizer", "data/words")).prepare()


def test_a_run_without_an_update_is_taken_over(config: TrainConfig) -> None:
    run = RunDirectory(config)
    run.prepare()
    run.record_start(1, None)
    (run.root / "training_images.json").write_text("{}")
    other = RunDirectory(change(config, "seed", 7))
    other.prepare()
    assert yaml.safe_load((run.root / "config.yaml").read_text())["seed"] == 7
    assert not (run.root / "training_images.json").exists()
    (run.root / "metrics.jsonl").write_text('{"update": 1}\n')
    with pytest.raises(ValueError, match="seed: 7 there, 8 here"):
        RunDirectory(change(config, "seed", 8)).prepare()


def test_overwrite_removes_the_run_and_nothing_else(config: TrainConfig) -> None:
    run = start_training(config)
    (run.root / "notes.txt").write_text("mine")
    (run.root / "model").mkdir()
    RunDirectory(change(config, "seed", 7)).prepare(overwrite=True)
    assert sorted(path.name for path in run.root.iterdir()) == ["config.yaml", "lock", "notes.txt", "provenance.json"]


def test_a_finished_run_is_not_prolonged(config: TrainConfig) -> None:
    run = start_training(config)
    run.model_dir.mkdir()
    run.finish({})
    RunDirectory(change(config, "log_every", 1)).prepare()
    with pytest.raises(ValueError, match=r"finished after .* updates.*--init_from .*run/model --run_dir"):
        RunDirectory(change(config, "num_updates", 10**6)).prepare()


@pytest.mark.parametrize("content", ["", "seed: [", "- 1"])
def test_a_damaged_configuration_is_named(config: TrainConfig, content: str) -> None:
    run = start_training(config)
    (run.root / "config.yaml").write_text(content)
    with pytest.raises(ValueError, match=r"run/config\.yaml is damaged.*--overwrite"):
        RunDirectory(config).prepare()


def test_a_key_younger_than_the_run_means_its_default(config: TrainConfig) -> None:
    run = start_training(config)
    path = run.root / "config.yaml"
    young = ("reset_modules", "  timeout_minutes")
    path.write_text("".join(line for line in path.open() if not line.startswith(young)))
    again = RunDirectory(config)
    again.prepare()
    assert again._changes == {}
    with pytest.raises(ValueError, match="reset_modules"):
        RunDirectory(dataclasses.replace(config, reset_modules=("tagger",))).prepare()


def test_how_the_work_is_divided_may_change_and_is_recorded(config: TrainConfig) -> None:
    run = RunDirectory(config)
    run.prepare()
    run.record_start(2, None)
    engine = dataclasses.replace(config.engine, micro_batch_size=4, accumulation=2, num_workers=3)
    other = RunDirectory(dataclasses.replace(config, engine=engine))
    other.prepare()
    other.record_start(4, run.root / "checkpoints" / "update_000400")
    starts = [json.loads(line) for line in (run.root / "starts.jsonl").read_text().splitlines()]
    assert [(start["num_ranks"], start["micro_batch_size"], start["from"]) for start in starts] == [
        (2, config.engine.micro_batch_size, None),
        (4, 4, "update_000400"),
    ]
    assert yaml.safe_load((run.root / "config.yaml").read_text())["engine"]["accumulation"] == 2


HOLD = """
import sys
from plum.training.config_file import load_train_config
from plum.training.run_directory import RunDirectory
run = RunDirectory(load_train_config(sys.argv[1:]))
run.prepare()
print("held", flush=True)
sys.stdin.read()
"""


def test_a_folder_in_training_is_refused_until_its_process_ends(config: TrainConfig) -> None:
    command = [sys.executable, "-c", HOLD, *TINY, "--run_dir", config.run_dir]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(ValueError, match=rf"being trained by another process \(process {holder.pid} on "):
            RunDirectory(config).prepare()
        holder.kill()
    RunDirectory(config).prepare()


def test_write_atomically_leaves_no_remains(tmp_path: Path) -> None:
    write_text_atomically(tmp_path / "a", "one")
    write_text_atomically(tmp_path / "a", "two")
    assert [p.name for p in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_text() == "two"
