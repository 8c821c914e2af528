import dataclasses
import json
from pathlib import Path

import pytest

from plum.config import TrainConfig
from plum.training.config_file import load_train_config
from plum.training.run_directory import RunDirectory, write_atomically

TINY = ["--config", "configs/plum_tiny_stage0.yaml"]


@pytest.fixture
def config(tmp_path: Path) -> TrainConfig:
    return load_train_config([*TINY, "--run_dir", str(tmp_path / "run")])


def test_same_configuration_is_resumed(config: TrainConfig) -> None:
    RunDirectory(config).prepare()
    RunDirectory(config).prepare()
    provenance = json.loads((Path(config.run_dir) / "provenance.json").read_text())
    assert {"commit", "config_sha256", "packages"} <= set(provenance)


def test_another_configuration_is_refused_by_key(config: TrainConfig) -> None:
    RunDirectory(config).prepare()
    other = dataclasses.replace(config, optimizer=dataclasses.replace(config.optimizer, learning_rate=1.0))
    with pytest.raises(ValueError, match=r"optimizer\.learning_rate"):
        RunDirectory(other).prepare()


def test_a_key_younger_than_the_run_means_its_default(config: TrainConfig) -> None:
    run = RunDirectory(config)
    run.prepare()
    path = run.root / "config.yaml"
    path.write_text("".join(line for line in path.open() if not line.startswith("save_model")))
    RunDirectory(config).prepare()
    with pytest.raises(ValueError, match="save_model"):
        RunDirectory(dataclasses.replace(config, save_model="trained")).prepare()


def test_checkpoint_counts_only_when_complete(config: TrainConfig) -> None:
    run = RunDirectory(config)
    run.prepare()
    assert run.latest_checkpoint() is None
    for update in (10, 20, 30):
        partial = run.partial_checkpoint(update)
        partial.mkdir(parents=True)
        expected = None if update == 10 else run.checkpoints / f"update_{update - 10:06d}"
        assert run.latest_checkpoint() == expected
        run.commit_checkpoint(partial)
    assert run.latest_checkpoint() == run.checkpoints / "update_000030"
    assert sorted(p.name for p in run.checkpoints.iterdir()) == ["latest", "update_000020", "update_000030"]


def test_write_atomically_leaves_no_remains(tmp_path: Path) -> None:
    write_atomically(tmp_path / "a", "one")
    write_atomically(tmp_path / "a", "two")
    assert [p.name for p in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_text() == "two"
