"""Installation, weights and data: what is missing is named with the way to get it."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from plum.checkpoints.store import save_pretrained
from plum.doctor.environment import examine_environment, examine_package, examine_packages, read_pins
from plum.doctor.findings import State
from plum.doctor.folders import examine_data, examine_weights
from plum.models.systems.registry import build_model
from plum.models.systems.special_tokens import with_special_tokens
from plum.models.tiny import tiny_calico_config, tiny_model_config
from plum.train_config import DataConfig, EngineConfig, GroupConfig, SourceConfig
from tests.plum.data.tokenizers_for_tests import byte_level
from tests.plum.doctor.runs import tiny_run


def test_packages_are_compared_with_the_pins(tmp_path: Path) -> None:
    pins = tmp_path / "requirements.txt"
    pins.write_text("torch==0.1\nno-such-package==1.0   # why\njsonargparse[signatures]==4.53.0\n# a comment\n")
    assert [name for name, _ in read_pins(pins)] == ["torch", "no-such-package", "jsonargparse"]
    found = {one.what: one for one in examine_environment(EngineConfig(kind="plain"), pins)}
    assert found["torch"].state is State.REMARK
    assert "0.1" in found["torch"].to_do
    assert found["no-such-package"].state is State.MISSING
    assert found["no-such-package"].to_do == "pip install no-such-package==1.0"
    assert found["python"].state is State.FINE
    assert examine_package("torch", torch.__version__.split("+")[0]).state is State.FINE


def test_the_projects_own_pins_are_found() -> None:
    names = [name for name, _ in read_pins(Path(__file__).parents[3] / "requirements.txt")]
    assert {"torch", "deepspeed", "segment-anything", "jsonargparse"} <= set(names)


def test_an_installed_package_is_compared_with_its_ranges(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    ranges = ["numpy>=1", "jsonargparse[signatures]>=99", "no-such-package>=2,<3", 'no-such-extra>=1; extra == "train"']
    monkeypatch.setattr("importlib.metadata.requires", lambda name: ranges)
    found = {one.what: one for one in examine_packages(tmp_path / "none.txt")}
    assert {name: one.state for name, one in found.items()} == {
        "numpy": State.FINE,
        "jsonargparse": State.MISSING,
        "no-such-package": State.MISSING,
    }
    assert found["jsonargparse"].to_do == "pip install 'jsonargparse>=99'"
    assert found["no-such-package"].to_do == "pip install 'no-such-package<3,>=2'"


def test_bitsandbytes_is_needed_only_when_asked_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    pins = tmp_path / "none.txt"
    pins.write_text("")
    plain = examine_environment(EngineConfig(kind="plain"), pins)
    assert not [one for one in plain if "bitsandbytes" in one.what]
    asked = examine_environment(EngineConfig(kind="plain", base_quantization="nf4"), pins)
    (finding,) = [one for one in asked if "bitsandbytes" in one.what]
    assert (finding.state, finding.to_do) == (State.MISSING, "pip install bitsandbytes")


def test_weights_are_found_hashed_and_compared(tmp_path: Path) -> None:
    tokenizer = byte_level()
    config = tiny_model_config(len(tokenizer))
    save_pretrained(build_model(with_special_tokens(config, tokenizer)), tokenizer, tmp_path / "base", "")
    run = replace(tiny_run(config), init_from=str(tmp_path / "base"))
    cache = tmp_path / "hashes.json"
    first, *hashes = examine_weights(run, cache, is_quiet=True)
    assert first.state is State.FINE
    assert [len(one.found) for one in hashes] == [64, 64]
    language = replace(config.llava.language, rms_norm_eps=1e-6)
    other = replace(run, model=replace(config, llava=replace(config.llava, language=language)))
    (finding,) = examine_weights(other, cache, is_quiet=True)
    assert finding.state is State.MISSING
    assert "llava.language.rms_norm_eps: 1e-05, 1e-06" in finding.found


@pytest.mark.parametrize(
    ("folder", "way"),
    [("weights/base", "python -m plum convert-llava LLAVA_FOLDER"), ("runs/stage0/model", "train that one first")],
)
def test_absent_weights_say_how_they_are_made(tmp_path: Path, folder: str, way: str) -> None:
    run = replace(tiny_run(tiny_model_config(40)), init_from=str(tmp_path / folder), tokenizer=str(tmp_path / "t"))
    weights, tokenizer = examine_weights(run, tmp_path / "hashes.json")
    assert (weights.state, tokenizer.state) == (State.MISSING, State.MISSING)
    assert way in weights.to_do
    calico = replace(run, model=tiny_calico_config(40))
    way = way.replace("convert-llava LLAVA_FOLDER", f"convert GLAMM_FOLDER {tmp_path / folder} --system calico --blip")
    assert way in examine_weights(calico, tmp_path / "hashes.json")[0].to_do


def test_data_is_looked_at_source_by_source(tmp_path: Path) -> None:
    (tmp_path / "reason_seg" / "ReasonSeg" / "train").mkdir(parents=True)
    data = DataConfig(
        sources=(
            SourceConfig("reasoning", group="all"),
            SourceConfig("llava_instruct", group="all"),
            SourceConfig("part_semantic", str(tmp_path / "paco"), group="all"),
        ),
        groups=(GroupConfig("all", 1),),
        dataset_dir=str(tmp_path),
        exclude_images=(str(tmp_path / "val"),),
    )
    reasoning, dialogues, parts, excluded = examine_data(data)
    assert reasoning.state is State.MISSING
    assert "training images 0" in reasoning.found
    assert "--missing" in reasoning.to_do
    assert dialogues.state is parts.state is excluded.state is State.MISSING
    assert "partonomy build" in parts.to_do
    states = [one.state for one in examine_data(replace(data, allow_missing=True))]
    # Half a download is an error when it is read, and so are excluded images that nobody can name.
    assert states == [State.MISSING, State.REMARK, State.REMARK, State.MISSING]
