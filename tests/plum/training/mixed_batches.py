"""Launched on two ranks: text-only, span-free and many-span batches side by side, two updates each way.

The system is PLUM, or M2SA with the argument `m2sa`.
"""

import sys

import torch
import torch.distributed

from plum.config import LoraConfig
from plum.data.collate import Collator
from plum.models.registry import build_model
from plum.models.special_tokens import with_special_tokens
from plum.models.tiny import tiny_model_config
from plum.models.trainable import set_trainable
from plum.train_config import (
    DataConfig,
    EngineConfig,
    LossConfig,
    OptimizerConfig,
    SourceConfig,
    TrainableConfig,
)
from plum.training.engine import build_engine
from plum.training.objective import Objective
from plum.training.ranks import start_ranks
from tests.plum.data.tokenizers_for_tests import byte_level
from tests.plum.models.sisters_world import seg_tokenizer, sister_config
from tests.plum.training.test_engine import collate_mixed


def main() -> None:
    config = EngineConfig(precision="fp32", micro_batch_size=3, accumulation=2, gradient_checkpointing=False)
    ranks = start_ranks(config)
    torch.manual_seed(0)
    tokenizer = byte_level()
    sizes = tiny_model_config(len(tokenizer), lora=LoraConfig())
    trainable, losses = TrainableConfig(), LossConfig()
    if sys.argv[1:] == ["m2sa"]:
        tokenizer, sizes = seg_tokenizer(), sister_config("m2sa")
        trainable, losses = TrainableConfig(embeddings=True), LossConfig(bio=0.0, kl=0.0, overlap="dice")
    sizes = with_special_tokens(sizes, tokenizer)
    model = build_model(sizes)
    set_trainable(model, trainable)
    before = torch.cat([p.detach().flatten() for p in model.parameters() if p.requires_grad])
    engine = build_engine(Objective(model, losses), config, OptimizerConfig(), 4, ranks)
    collator = Collator(tokenizer, sizes, DataConfig(sources=(SourceConfig("part_vqa", "unused"),)))
    for step in range(8):
        result = engine.forward(collate_mixed(collator, step, ranks.rank))
        engine.backward(result.total)
        engine.step()
    assert engine.num_updates_done == 4
    weights = torch.cat([p.detach().flatten() for p in model.parameters() if p.requires_grad])
    assert torch.isfinite(weights).all()
    assert float((weights - before).abs().max()) > 1e-5
    gathered = [torch.zeros_like(weights) for _ in range(ranks.world_size)]
    torch.distributed.all_gather(gathered, weights)
    assert torch.equal(gathered[0], gathered[1])
    torch.distributed.barrier()
    if ranks.is_main:
        sys.stdout.write("weights agree on 2 ranks\n")
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
