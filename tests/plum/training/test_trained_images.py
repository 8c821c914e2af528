"""The list of training images follows a model from stage 0 over stage 1 to its export and beside its scores."""

import json
import logging
from dataclasses import replace
from pathlib import Path

import pytest

from partonomy.datasets.photographs import TRAINING_IMAGES_FILE, image_key, read_training_images
from plum.config import LoraConfig
from plum.export.merged import ExportRequest, export_merged
from plum.train_config import SourceConfig, TrainableConfig, TrainConfig
from plum.training.run import train
from tests.plum.data.part_world import write_world
from tests.plum.training.training_world import make_config, write_inputs
from validate_partonomy import main as validate


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rectangles to train on, and a benchmark that shows the first of them and two of its own."""
    folder = tmp_path_factory.mktemp("training")
    write_inputs(folder)
    write_world(folder / "benchmark")
    for number in (2, 4):
        path = folder / "benchmark" / "images" / f"{number:03d}.png"
        path.write_bytes(path.read_bytes() + b" ")
    return folder


def run(folder: Path, name: str, exclude: bool, init_from: Path | None = None) -> Path:
    """Train two updates on part names alone; a second stage adds adapters."""
    config = make_config(folder, name, num_updates=1)
    benchmark = (str(folder / "benchmark"),)
    sources = (SourceConfig("part_referring", str(folder / "world")),)
    data = replace(
        config.data,
        sources=sources,
        exclude_images=benchmark if exclude else (),
        count_images=() if exclude else benchmark,
    )
    config = replace(config, data=data)
    train(config if init_from is None else stage_1(config, init_from))
    return folder / name / "model"


def stage_1(config: TrainConfig, init_from: Path) -> TrainConfig:
    model = replace(config.model, lora=LoraConfig())
    return replace(config, model=model, trainable=TrainableConfig(), init_from=str(init_from), tokenizer=None)


@pytest.fixture(scope="module")
def stage_0(folder: Path) -> Path:
    return run(folder, "stage_0", exclude=False)


def score(folder: Path, checkpoint: Path, name: str) -> str:
    """The overlap in the summary of a validation on the benchmark."""
    flags = ["--questions", str(folder / "benchmark"), "--output", str(folder / name), "--generate", "none"]
    flags += ["--question_types", "identification_with_label", "--limit", "1", "--device", "cpu"]
    validate(["--model", "plum", "--checkpoint", str(checkpoint), *flags])
    found = json.loads((folder / name / "summary.json").read_text())["provenance"]["training_overlap"]
    return f"{found['num_trained_on']} of {found['num_images']}"


def test_a_run_lists_its_images_and_the_overlap(folder: Path, stage_0: Path) -> None:
    found = read_training_images(stage_0)
    assert found is not None
    images = sorted((folder / "world" / "images").glob("*.png"))
    assert found.images == {image_key(path) for path in images}
    (stage,) = found.stages
    assert (stage.run, stage.num_images, stage.num_left_out, stage.num_counted) == ("stage_0", 6, 0, 1)
    assert (stage.excluded_from, stage.counted_from) == ((), (str(folder / "benchmark"),))
    assert (stage_0.parent / TRAINING_IMAGES_FILE).read_bytes() == (stage_0 / TRAINING_IMAGES_FILE).read_bytes()


def test_later_stages_and_exports_keep_the_list(
    folder: Path, stage_0: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    second = run(folder, "stage_1", exclude=True, init_from=stage_0)
    found = read_training_images(second)
    assert found is not None
    assert [stage.run for stage in found.stages] == ["stage_0", "stage_1"]
    assert (found.stages[1].num_images, found.stages[1].num_left_out) == (5, 1)
    export_merged(ExportRequest(second.parent, folder / "exported"))
    # stage 1 left the shared image out, but stage 0 had trained on it
    assert score(folder, folder / "exported", "validated") == "1 of 3"
    assert "Images of this benchmark that the model was trained on: 1 of 3" in capsys.readouterr().out


def test_a_benchmark_that_was_left_out_is_not_trained_on(folder: Path) -> None:
    assert score(folder, run(folder, "clean", exclude=True), "clean_validated") == "0 of 3"


def test_a_trained_model_without_a_list_leaves_it_unknown(
    folder: Path, stage_0: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    older = folder / "older"
    export_merged(ExportRequest(stage_0, older))
    (older / TRAINING_IMAGES_FILE).unlink()
    with caplog.at_level(logging.WARNING):
        second = run(folder, "after_older", exclude=True, init_from=older)
    assert "the overlap with the benchmark is unknown" in caplog.text
    assert read_training_images(second) is None
    assert score(folder, second, "unknown_validated") == "None of 3"
    assert "Images of this benchmark that the model was trained on: unknown" in capsys.readouterr().out
