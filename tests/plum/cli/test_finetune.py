"""Fine-tuning in one command: what it chooses, what it refuses, and a run from annotations to the report."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from partonomy.__main__ import main as partonomy
from plum.checkpoints.store import load_pretrained, save_pretrained
from plum.cli.main import main
from plum.doctor.finetune_plan import USABLE_SHARE, FineTuneRequest, Machine, plan_finetune
from plum.doctor.memory import estimate_memory
from plum.models.systems.registry import build_model
from plum.models.systems.special_tokens import with_special_tokens
from plum.models.tiny import tiny_model_config
from plum.training.config_file import load_train_config
from tests.plum.data.part_world import write_world
from tests.plum.data.tokenizers_for_tests import byte_level

CPU = Machine(num_ranks=2, gpu_bytes=None)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A merged model without adapters, a set of six images, and a built set of drawn ones."""
    folder = tmp_path_factory.mktemp("finetune")
    tokenizer = byte_level()
    config = with_special_tokens(replace(tiny_model_config(len(tokenizer)), lora=None), tokenizer)
    save_pretrained(build_model(config), tokenizer, folder / "model", "A random model.")
    write_world(folder / "six")
    flags = ["--images", "30", "--image_size", "64", "--embedding_model", "char-ngram-tfidf"]
    assert partonomy(["build", "--source", "synthetic", *flags, "--output", str(folder / "drawn")]) == 0
    return folder


def request(world: Path, **settings: object) -> FineTuneRequest:
    return FineTuneRequest(
        world / "drawn",
        world / "six",
        world / "model",
        world / "run",
        **settings,  # type: ignore[arg-type]
    )


def test_a_few_images_get_many_epochs(world: Path) -> None:
    config = plan_finetune(request(world), CPU).config
    assert config.num_updates == 200
    assert (config.engine.micro_batch_size, config.engine.accumulation) == (8, 1)
    assert config.engine.precision == "fp32"
    assert config.optimizer.learning_rate == 1e-3
    assert config.model.lora is not None
    assert config.trainable.language_model == "lora"
    assert config.validation is not None
    assert (config.validation.every, config.validation.patience) == (20, 4)
    assert [one.path for one in config.validation.sources] == [str(world / "six")]
    assert {one.kind: one.weight for one in config.data.sources} == {
        "explanatory": 6,
        "part_referring": 1,
        "part_vqa": 1,
    }
    assert config.part_pretext is None


def test_given_numbers_are_taken(world: Path) -> None:
    plan = plan_finetune(request(world, epochs=4, learning_rate=2e-4, images_per_update=5, seed=3), CPU)
    config = plan.config
    assert config.num_updates == 20  # 4 epochs of 30 images, 6 an update: two processes share them
    assert config.engine.micro_batch_size * config.engine.accumulation * 2 == 6
    assert (config.optimizer.learning_rate, config.seed) == (2e-4, 3)
    assert any("4.0 epochs" in line for line in plan.choices)


def test_micro_batches_fit_the_gpu(world: Path) -> None:
    roomy = plan_finetune(request(world), Machine(1, 80 * 10**9))
    assert roomy.config.engine.micro_batch_size == 16
    assert roomy.config.engine.precision == "bf16"
    assert roomy.config.save_model == "trained"
    assert any("of 80 GB per GPU" in line for line in roomy.choices)
    peak = estimate_memory(roomy.config, 1).peak
    tight = plan_finetune(request(world), Machine(1, int(peak / USABLE_SHARE) - 10**6))
    assert tight.config.engine.micro_batch_size * tight.config.engine.accumulation == 16
    assert tight.config.engine.accumulation > 1
    with pytest.raises(ValueError, match=r"needs an estimated .* GB per GPU with one image at a time"):
        plan_finetune(request(world), Machine(1, 10**9))


@pytest.mark.parametrize("name", ["epochs", "learning_rate", "images_per_update"])
def test_numbers_out_of_range_are_refused(world: Path, name: str) -> None:
    with pytest.raises(ValueError, match=f"--{name} is -1, it must be above 0"):
        plan_finetune(request(world, **{name: -1}), CPU)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--data", "nowhere"], "--data nowhere: there is no such file or folder"),
        (["--data", "{world}/six/images"], "the folder has no questions.jsonl; name a folder that"),
        (["--data", "{world}/six/annotations.json"], "is a file: add --images FOLDER"),
        (["--data", "{world}/six", "--object_name", "car"], "--images and --object_name belong to a COCO-style file"),
        (["--data", "{world}/six", "--init_from", "{world}/nothing"], "nothing: there is no such folder"),
        (["--data", "{world}/six", "--init_from", "{world}/six"], "six"),
        (["--data", "{world}/drawn", "--val", "{world}/six", "--set", "losses.kl"], "--set losses.kl: write KEY=VALUE"),
    ],
)
def test_mistakes_are_named(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: list[str], message: str
) -> None:
    words = [word.format(world=world) for word in flags]
    if "--init_from" not in words:
        words += ["--init_from", str(world / "model")]
    assert main(["finetune", *words, "--output", str(tmp_path / "out")]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert not (tmp_path / "out" / "run").exists()


def test_plan_only_writes_a_configuration_that_train_takes(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--data", str(world / "drawn"), "--init_from", str(world / "model"), "--output", str(tmp_path / "out")]
    assert main(["finetune", *flags, "--plan_only"]) == 0
    printed = capsys.readouterr().out
    assert "python -m partonomy split" in printed
    assert f"To train: python -m plum train --config {tmp_path / 'out' / 'train.yaml'}" in printed
    config = load_train_config(["--config", str(tmp_path / "out" / "train.yaml")])
    assert config.run_dir == str(tmp_path / "out" / "run")
    sides = [
        yaml.safe_load((tmp_path / "out" / "data" / side / "dataset.json").read_text()) for side in ("train", "val")
    ]
    assert all(sides)
    assert not (tmp_path / "out" / "run").exists()


def test_from_annotations_to_the_report(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("NUM_RANKS", "1")
    output = tmp_path / "out"
    flags = ["--data", str(world / "drawn"), "--val", str(world / "six"), "--init_from", str(world / "model")]
    flags += [
        "--output",
        str(output),
        "--images_per_update",
        "4",
        "--set",
        "num_updates=2",
        "--set",
        "validation.every=1",
    ]
    assert main(["finetune", *flags]) == 0
    assert (output / "report.html").is_file()
    loaded = load_pretrained(output / "model")
    assert loaded.config.lora is None, "the adapters are merged"
    before = load_pretrained(world / "model").model.state_dict()
    assert any(not before[name].equal(tensor) for name, tensor in loaded.model.state_dict().items())
    summaries = [
        json.loads((output / name / "summary.json").read_text()) for name in ("validation", "validation_before")
    ]
    assert summaries[0]["groups"].keys() == summaries[1]["groups"].keys()
    capsys.readouterr()
    stamp = (output / "model" / "config.json").stat().st_mtime_ns
    assert main(["finetune", *flags]) == 0, "every step is finished"
    assert "plum export" not in capsys.readouterr().out
    assert (output / "model" / "config.json").stat().st_mtime_ns == stamp


def test_from_a_file_of_questions_and_masks_to_the_scores(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("NUM_RANKS", "1")
    images = world / "six" / "images"
    box = [[4, 16, 8, 16, 8, 20, 4, 20]]
    records = [
        {"image": str(path), "question": "Parts?", "answer": "It has a wheel.", "phrases": ["wheel"], "masks": [box]}
        for path in sorted(images.iterdir())
    ]
    data, output = tmp_path / "mine.json", tmp_path / "out"
    data.write_text(json.dumps(records))
    flags = ["--data", str(data), "--init_from", str(world / "model"), "--output", str(output)]
    assert main(["finetune", *flags, "--images", str(images), "--plan_only"]) == 1
    assert "names its own images" in capsys.readouterr().err
    assert main(["finetune", *flags, "--images_per_update", "2", "--set", "num_updates=2"]) == 0
    printed = capsys.readouterr().out
    assert "5 images to train on, 1 held out" in printed
    assert "Held-out images before training: loss" in printed
    assert "Held-out images with the saved weights (update " in printed
    assert load_pretrained(output / "model").config.lora is None
    lines = [json.loads(line) for line in (output / "run" / "validations.jsonl").read_text().splitlines()]
    assert [line["update"] for line in lines] == [0, 2]
    assert {line["num_masks"] for line in lines} == {1}
