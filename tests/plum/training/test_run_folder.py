import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from partonomy.files import write_text_atomically
from plum.config import Fit
from plum.train_config import TrainConfig
from plum.training.config_file import load_train_config
from plum.training.run_folder import RunFolder

TINY = ["--config", "configs/plum_tiny_stage0.yaml"]


@pytest.fixture
def config(tmp_path: Path) -> TrainConfig:
    return load_train_config([*TINY, "--run_dir", str(tmp_path / "run")])


def test_same_configuration_is_resumed(config: TrainConfig) -> None:
    RunFolder(config).prepare()
    RunFolder(config).prepare()
    provenance = json.loads((Path(config.run_dir) / "provenance.json").read_text())
    assert {"commit", "config_sha256", "packages"} <= set(provenance)


def test_another_configuration_is_refused_by_key(config: TrainConfig) -> None:
    RunFolder(config).prepare()
    other = dataclasses.replace(config, optimizer=dataclasses.replace(config.optimizer, learning_rate=1.0))
    with pytest.raises(ValueError, match=r"optimizer\.learning_rate"):
        RunFolder(other).prepare()


def test_a_key_younger_than_the_run_means_its_default(config: TrainConfig) -> None:
    run = RunFolder(config)
    run.prepare()
    path = run.root / "config.yaml"
    path.write_text("".join(line for line in path.open() if not line.startswith("save_model")))
    RunFolder(config).prepare()
    with pytest.raises(ValueError, match="save_model"):
        RunFolder(dataclasses.replace(config, save_model="trained")).prepare()


def test_a_nested_key_younger_than_the_run_means_what_the_code_then_did(config: TrainConfig) -> None:
    """A run from before the switches of docs/fidelity.md resumes, with the fit that its template then had."""
    run = RunFolder(config)
    run.prepare()
    recorded = yaml.safe_load((run.root / "config.yaml").read_text())
    del recorded["new_token_rows"], recorded["losses"]["bio_scope"], recorded["data"]["sources"][0]["group"]
    del recorded["model"]["tagger"]["order"], recorded["model"]["feedback"]["position_in"]
    del recorded["model"]["llava"]["vision"]["fit"]
    write_text_atomically(run.root / "config.yaml", yaml.safe_dump(recorded))
    losses, llava = config.losses, config.model.llava

    def with_fit(fit: Fit | None) -> TrainConfig:
        vision = dataclasses.replace(llava.vision, fit=fit)
        return dataclasses.replace(
            config, model=dataclasses.replace(config.model, llava=dataclasses.replace(llava, vision=vision))
        )

    for same in (config, with_fit(None)):
        RunFolder(same).prepare()
    with pytest.raises(ValueError, match=r"other settings \(losses\.bio_scope\)"):
        RunFolder(dataclasses.replace(config, losses=dataclasses.replace(losses, bio_scope="all"))).prepare()
    with pytest.raises(ValueError, match=r"other settings \(model\.llava\.vision\.fit\)"):
        RunFolder(with_fit("crop")).prepare()


@pytest.mark.parametrize("init_from", [None, "weights/base"])
def test_an_earlier_run_of_llava_weights_was_padded(config: TrainConfig, init_from: str | None) -> None:
    llava = dataclasses.replace(config.model.llava, conversation="llava_v1")

    def with_fit(fit: Fit | None) -> TrainConfig:
        model = dataclasses.replace(
            config.model, llava=dataclasses.replace(llava, vision=dataclasses.replace(llava.vision, fit=fit))
        )
        return dataclasses.replace(config, init_from=init_from, model=model)

    run = RunFolder(with_fit("pad"))
    run.prepare()
    recorded = yaml.safe_load((run.root / "config.yaml").read_text())
    del recorded["model"]["llava"]["vision"]["fit"]
    write_text_atomically(run.root / "config.yaml", yaml.safe_dump(recorded))
    RunFolder(with_fit("pad")).prepare()
    with pytest.raises(ValueError, match=r"model\.llava\.vision\.fit"):
        RunFolder(with_fit("crop")).prepare()
    if init_from is None:
        with pytest.raises(ValueError, match=r"model\.llava\.vision\.fit"):
            RunFolder(with_fit(None)).prepare()  # from scratch it would now crop
    else:
        RunFolder(with_fit(None)).prepare()


def test_how_the_work_is_divided_may_change_and_is_recorded(config: TrainConfig) -> None:
    run = RunFolder(config)
    run.prepare()
    run.record_start(2, None)
    engine = dataclasses.replace(config.engine, micro_batch_size=4, accumulation=2, num_workers=3)
    other = RunFolder(dataclasses.replace(config, engine=engine))
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
from plum.training.run_folder import RunFolder
run = RunFolder(load_train_config(sys.argv[1:]))
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
            RunFolder(config).prepare()
        holder.kill()
    RunFolder(config).prepare()


def test_write_atomically_leaves_no_remains(tmp_path: Path) -> None:
    write_text_atomically(tmp_path / "a", "one")
    write_text_atomically(tmp_path / "a", "two")
    assert [p.name for p in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_text() == "two"
