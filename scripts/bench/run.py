"""A training run as the benchmarks drive it: the project's own model, data, engine and step, nothing saved."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from plum.data.build import build_mixture
from plum.data.collate import Collator
from plum.data.loader import load_batches
from plum.data.mixture import MixtureDataset
from plum.models.systems.registry import build_model
from plum.models.systems.special_tokens import add_written_tokens, with_special_tokens
from plum.models.trainable import set_trainable
from plum.structures import Batch
from plum.train_config import EngineConfig, OptimizerConfig, TrainConfig
from plum.training.engine import Engine, build_engine
from plum.training.objective import Objective
from plum.training.ranks import Ranks
from plum.training.run import build_objective
from scripts.bench.sizes import read_tokenizer
from scripts.bench.stage_clock import ENGINE, OTHER, StageClock


@dataclass(frozen=True)
class BenchRun:
    """Everything between a configuration and an update."""

    config: TrainConfig
    ranks: Ranks
    objective: Objective
    engine: Engine
    mixture: MixtureDataset
    collator: Collator

    @property
    def device(self) -> torch.device:
        """Where this rank computes."""
        return self.ranks.device

    def load(self, first: int, count: int) -> Iterator[Batch]:
        """Return `count` micro-batches of this rank."""
        return load_batches(
            self.mixture,
            self.collator,
            rank=self.ranks.rank,
            world_size=self.ranks.world_size,
            micro_batch_size=self.config.engine.micro_batch_size,
            start_micro_batch=first,
            num_workers=self.config.engine.num_workers,
            num_micro_batches=count,
        )

    def train(self, batches: Iterator[Batch], clock: StageClock | None = None) -> None:
        """Take one step per batch."""
        for batch in batches:
            result = self.engine.forward(batch.to(self.device))
            if clock is not None:
                clock.enter("backward: losses")
            self.engine.backward(result.total)
            if clock is not None:
                clock.enter(ENGINE)
            self.engine.step()
            if clock is not None:
                clock.enter(OTHER)


EngineFactory = Callable[[Objective, EngineConfig, OptimizerConfig, int, Ranks], Engine]


def build_run(config: TrainConfig, ranks: Ranks, make_engine: EngineFactory = build_engine) -> BenchRun:
    """Build a run with random weights, made on its device (a full-size model is faster drawn there)."""
    tokenizer = read_tokenizer(config)
    add_written_tokens(config.model, tokenizer)
    torch.manual_seed(config.seed)
    with ranks.device:
        model = build_model(with_special_tokens(config.model, tokenizer))
    if config.engine.precision == "bf16":
        model.to(torch.bfloat16)  # here, not in the engine: two copies of a large model need not fit
    set_trainable(model, config.trainable)
    collator = Collator(tokenizer, model.config, config.data)
    has_marks, has_pretext = model.config.seg_token is not None, config.part_pretext is not None
    mixture = build_mixture(config.data, config.seed, collator.encoder, with_part_maps=has_pretext, has_marks=has_marks)
    with ranks.device:
        objective = build_objective(model, config, mixture.class_pixels)
    if config.engine.gradient_checkpointing:
        model.enable_gradient_checkpointing()
    engine = make_engine(objective, config.engine, config.optimizer, config.num_updates, ranks)
    return BenchRun(config, ranks, objective, engine, mixture, collator)
