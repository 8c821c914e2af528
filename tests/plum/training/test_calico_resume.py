"""A CALICO run on pairs that is stopped and resumed equals the uninterrupted one to the bit."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from partonomy.__main__ import main
from plum.checkpoints.store import load_pretrained, save_pretrained
from plum.config import AdaptationConfig, LoraConfig, ModelConfig
from plum.models.systems.registry import build_model
from plum.models.systems.special_tokens import with_special_tokens
from plum.models.tiny import tiny_calico_config
from plum.train_config import (
    DataConfig,
    EngineConfig,
    LossConfig,
    OptimizerConfig,
    SourceConfig,
    TrainableConfig,
    TrainConfig,
)
from plum.training.run import train
from plum.training.trainer import Trainer
from tests.partonomy.questions.mixed_parts.pair_world import draw_dataset, store_dataset
from tests.plum.models.test_several_images import TOKENIZER
from tests.plum.training.launching import train_forked
from tests.plum.training.training_world import largest_difference

FLAGS = ("--num_train", "40", "--num_val", "0", "--num_test", "4", "--shares", "0.7,0,0.3", "--min_pixels", "1")


def make_model_config(lora: LoraConfig | None) -> ModelConfig:
    config = tiny_calico_config(len(TOKENIZER), lora=lora)
    assert config.calico is not None
    calico = replace(config.calico, adaptation=AdaptationConfig(num_modules=1, init="zero_guide"))
    language = replace(config.llava.language, max_positions=1024)
    return replace(config, calico=calico, llava=replace(config.llava, language=language))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pairs, and a model to start from."""
    root = tmp_path_factory.mktemp("calico")
    dataset = store_dataset(draw_dataset("own", 24, root), root / "own")
    assert main(["build-mixedparts", str(dataset), "--output", str(root / "pairs"), *FLAGS]) == 0
    torch.manual_seed(3)
    start = build_model(with_special_tokens(make_model_config(None), TOKENIZER))
    save_pretrained(start, TOKENIZER, root / "start", "")
    return root


def make_run(folder: Path, name: str, kind: str = "plain") -> TrainConfig:
    """Adapters with dropout, which a resumed run has to repeat."""
    is_plain = kind == "plain"
    return TrainConfig(
        run_dir=str(folder / name),
        model=make_model_config(LoraConfig(rank=2, dropout=0.1)),
        data=DataConfig(sources=(SourceConfig("mixed_parts", str(folder / "pairs")),), max_text_tokens=900),
        init_from=str(folder / "start"),
        num_updates=4 if is_plain else 2,
        losses=LossConfig(kl=0.0, bio=0.0),
        trainable=TrainableConfig(query_projection=False),
        optimizer=OptimizerConfig(learning_rate=1e-3, warmup_updates=1),
        engine=EngineConfig(
            kind="plain" if is_plain else "deepspeed",
            precision="fp32",
            micro_batch_size=1,
            accumulation=2,
            gradient_checkpointing=True,
            num_workers=0,
        ),
        log_every=1,
        save_every=2 if is_plain else 1,
    )


def metrics(config: TrainConfig) -> list[dict[str, float]]:
    """The run's lines, without how long things took."""
    lines = [json.loads(line) for line in (Path(config.run_dir) / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key.startswith(("loss", "update", "grad"))} for line in lines]


def parts_that_moved(folder: Path, model: Path) -> set[str]:
    before = load_pretrained(folder / "start").model.state_dict()
    after = load_pretrained(model).model.state_dict()
    moved = {name for name, tensor in before.items() if name in after and not torch.equal(tensor, after[name])}
    return {name.split(".")[1] for name in moved if name.startswith("llava.")}


class _StopError(Exception):
    pass


def test_a_resumed_run_equals_the_uninterrupted_one(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, stopped = make_run(folder, "whole"), make_run(folder, "stopped")
    train(whole)
    run_micro_batch = Trainer.run_micro_batch

    def stop_at_the_sixth(self: Trainer, micro_batch: int, batch: object) -> object:
        if micro_batch == 6:  # update 3 is done and logged, the checkpoint is of update 2
            raise _StopError
        return run_micro_batch(self, micro_batch, batch)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "run_micro_batch", stop_at_the_sixth)
        with pytest.raises(_StopError):
            train(stopped)
    train(stopped)
    models = [Path(run.run_dir) / "model" for run in (whole, stopped)]
    assert largest_difference(*models) == 0.0
    assert metrics(whole) == metrics(stopped)
    assert [line["update"] for line in metrics(whole)] == [1, 2, 3, 4]
    assert len({line["loss_total"] for line in metrics(whole)}) == 4
    assert parts_that_moved(folder, models[0]) == {"adaptation", "correspondence"}


@pytest.mark.distributed
def test_two_zero2_ranks_resume_exactly(folder: Path) -> None:
    whole = make_run(folder, "two_ranks", "deepspeed")
    model = train_forked(whole, num_ranks=2)
    resumed = replace(whole, run_dir=str(folder / "two_ranks_resumed"))
    root = Path(shutil.copytree(whole.run_dir, resumed.run_dir))
    shutil.rmtree(root / "checkpoints" / "update_000002")
    shutil.rmtree(root / "model")
    for name in ("finished.json", "metrics.jsonl", "config.yaml"):  # the last names the other folder
        (root / name).unlink()
    assert largest_difference(model, train_forked(resumed, num_ranks=2)) == 0.0
    assert metrics(whole)[1:] == metrics(resumed)
    assert parts_that_moved(folder, model) == {"adaptation", "correspondence"}
