"""Launched on two ranks: one batch of one rank is poisoned; both skip that update, and learn whose it was."""

import itertools
import sys
from dataclasses import replace
from typing import Literal

import pytest
import torch
import torch.distributed

from plum.config import LoraConfig
from plum.data.collate import Collator
from plum.models.grounded_lmm import GroundedLMM
from plum.models.systems.registry import build_model
from plum.models.systems.special_tokens import with_special_tokens
from plum.models.tiny import tiny_model_config
from plum.models.trainable import set_trainable
from plum.structures import Batch
from plum.train_config import (
    DataConfig,
    EngineConfig,
    LossConfig,
    OptimizerConfig,
    SourceConfig,
    TrainableConfig,
)
from plum.training.engine import Engine, build_engine
from plum.training.objective import Objective
from plum.training.ranks import Ranks, start_ranks
from plum.training.skipped_updates import SkippedUpdates
from tests.plum.data.tokenizers_for_tests import byte_level
from tests.plum.training.test_engine import collate_mixed

POISONED_STEP = 3
"""Second micro-batch of the second update."""


def check(config: EngineConfig, ranks: Ranks) -> None:
    torch.manual_seed(0)
    tokenizer = byte_level()
    sizes = with_special_tokens(tiny_model_config(len(tokenizer), lora=LoraConfig()), tokenizer)
    model = build_model(sizes)
    set_trainable(model, TrainableConfig())
    engine = build_engine(Objective(model, LossConfig()), config, OptimizerConfig(warmup_updates=4), 8, ranks)
    collator = Collator(tokenizer, sizes, DataConfig(sources=(SourceConfig("part_vqa", "unused"),)))
    skipped = SkippedUpdates(stop_after=2, ranks=ranks)
    states = [weights(model)]
    rates = [engine.learning_rate]
    for step in range(6):
        batch = collate_mixed(collator, step, ranks.rank)
        is_poisoned = step == POISONED_STEP and ranks.rank == 1
        run(engine, skipped, replace(batch, clip_pixels=batch.clip_pixels * float("nan")) if is_poisoned else batch)
        if step % 2:
            assert engine.was_skipped == (step == POISONED_STEP), step
            skipped.end_update(engine.num_updates_done, engine.was_skipped)
            states.append(weights(model))
            rates.append(engine.learning_rate)
    assert engine.num_updates_done == 3
    assert [torch.equal(one, other) for one, other in zip(states, states[1:], strict=False)] == [False, True, False]
    assert rates == sorted(set(rates)), "the schedule goes by the update's number"
    assert torch.isfinite(states[-1]).all()
    gathered = [torch.zeros_like(states[-1]) for _ in range(2)]
    torch.distributed.all_gather(gathered, states[-1])
    assert torch.equal(gathered[0], gathered[1])
    check_message(skipped, collator, ranks)
    if ranks.is_main:
        kind = config.kind if config.kind == "ddp" else f"ZeRO-{config.zero_stage}"
        sys.stdout.write(f"skipped together in {config.precision}, {kind}\n")


def run(engine: Engine, skipped: SkippedUpdates, batch: Batch) -> None:
    """One micro-batch as the trainer does it."""
    total = engine.forward(batch).total
    is_finite = torch.isfinite(total.detach())
    skipped.add(batch, is_finite)
    engine.backward(total * torch.where(is_finite, 1.0, torch.nan))
    engine.step()


def check_message(skipped: SkippedUpdates, collator: Collator, ranks: Ranks) -> None:
    """Two skipped updates in a row: every rank stops, and each knows the samples of both."""
    batches = [collate_mixed(collator, 2, rank) for rank in range(2)]  # other samples on each rank
    skipped.add(batches[ranks.rank], torch.tensor(ranks.rank == 0))
    skipped.end_update(4, was_skipped=True)
    skipped.add(batches[ranks.rank], torch.tensor(True))
    names = "; ".join(f"rank {rank}, samples {', '.join(batch.sample_ids)}" for rank, batch in enumerate(batches))
    expected = f"^update 5: gradient is not finite, {names}"
    with pytest.raises(FloatingPointError, match=expected):
        skipped.end_update(5, was_skipped=True)


def weights(model: GroundedLMM) -> torch.Tensor:
    """Trained weights as one vector."""
    return torch.cat([p.detach().flatten().float().clone() for p in model.parameters() if p.requires_grad])


def main() -> None:
    ranks = start_ranks(EngineConfig())
    base = EngineConfig(micro_batch_size=3, accumulation=2, gradient_checkpointing=False)
    precisions: tuple[Literal["fp32", "bf16"], ...] = ("fp32", "bf16")
    for precision, stage in itertools.product(precisions, (1, 2)):
        check(replace(base, precision=precision, zero_stage=stage), ranks)
    for precision in precisions:
        check(replace(base, kind="ddp", precision=precision), ranks)
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
