"""A run small enough for tests: rectangles, a tiny model, byte-level tokenizer."""

from dataclasses import replace
from pathlib import Path

import torch

from plum.checkpoints.store import load_pretrained
from plum.config import TaggerConfig
from plum.models.tiny import tiny_model_config
from plum.train_config import (
    DataConfig,
    EngineConfig,
    LossConfig,
    OptimizerConfig,
    SourceConfig,
    TrainableConfig,
    TrainConfig,
)
from tests.plum.data.part_world import write_world
from tests.plum.data.tokenizers_for_tests import byte_level

FULL = TrainableConfig(
    language_model="full", vision_tower=True, projector=True, sam_image_encoder=True, sam_prompt_encoder=True
)


def write_inputs(folder: Path) -> None:
    """Write data and tokenizer that `make_config` refers to."""
    write_world(folder / "world")
    byte_level().save_pretrained(str(folder / "tokenizer"))


def make_config(folder: Path, name: str, num_updates: int = 4, num_workers: int = 0) -> TrainConfig:
    """A run of everything from scratch with dropout on, so that resuming has randomness to repeat."""
    world = str(folder / "world")
    return TrainConfig(
        run_dir=str(folder / name),
        model=tiny_model_config(len(byte_level()), tagger=TaggerConfig(num_heads=4, feedforward_dim=64, dropout=0.1)),
        data=DataConfig(
            sources=tuple(SourceConfig(kind, world) for kind in ("explanatory", "part_vqa", "part_referring"))
        ),
        tokenizer=str(folder / "tokenizer"),
        num_updates=num_updates,
        losses=LossConfig(kl=0.0),
        trainable=FULL,
        optimizer=OptimizerConfig(learning_rate=1e-3, warmup_updates=2),
        engine=EngineConfig(
            kind="plain",
            precision="fp32",
            micro_batch_size=2,
            accumulation=2,
            gradient_checkpointing=False,
            num_workers=num_workers,
        ),
        log_every=1,
        save_every=2,
    )


def with_engine(config: TrainConfig, kind: str, micro_batch_size: int, accumulation: int) -> TrainConfig:
    """The same run on another engine or another cut into micro-batches."""
    return replace(
        config,
        engine=replace(config.engine, kind=kind, micro_batch_size=micro_batch_size, accumulation=accumulation),
    )


def largest_difference(first: Path, second: Path) -> float:
    """Largest absolute difference between two saved models' tensors."""
    one, other = (load_pretrained(folder).model.state_dict() for folder in (first, second))
    assert one.keys() == other.keys()
    return max(float((one[name].float() - other[name].float()).abs().max()) for name in one if one[name].numel())


def moved(before: dict[str, torch.Tensor], folder: Path) -> float:
    """How far training moved the weights, so that a comparison of two runs cannot pass by standing still."""
    after = load_pretrained(folder).model.state_dict()
    return max(float((after[name] - before[name]).abs().max()) for name in before if before[name].numel())
