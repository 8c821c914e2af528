"""Weights, gradients and optimizer: counted without weights, equal to what torch and DeepSpeed hold."""

from dataclasses import replace
from typing import Literal

import pytest
import torch

from plum.config import LoraConfig
from plum.doctor.memory import count_static_memory
from plum.models.systems.registry import build_model
from plum.models.tiny import TINY_TOKENS, tiny_batch, tiny_model_config
from plum.models.trainable import set_trainable
from plum.train_config import EngineConfig, OptimizerConfig, TrainableConfig
from plum.training.engine import DdpEngine, DeepSpeedEngine, PlainEngine
from plum.training.objective import Objective
from plum.training.ranks import Ranks, start_ranks
from tests.plum.deepspeed_groups import forget_deepspeed_groups
from tests.plum.doctor.runs import shipped, tiny_run

TINY = tiny_model_config(40, TINY_TOKENS, LoraConfig(rank=2))
PLAIN = EngineConfig(kind="plain", precision="fp32")


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_one_step_holds_exactly_what_is_counted(kind: str) -> None:
    model_config = TINY if kind == "lora" else replace(TINY, lora=None)
    config = replace(tiny_run(model_config, PLAIN), trainable=TrainableConfig(language_model=kind))
    torch.manual_seed(0)
    model = build_model(model_config)
    set_trainable(model, config.trainable)
    losses = replace(config.losses, kl=0.1 if kind == "lora" else 0.0)
    engine_config = replace(PLAIN, accumulation=1)
    engine = PlainEngine(
        Objective(model, losses), engine_config, OptimizerConfig(), 4, Ranks(0, 1, torch.device("cpu"))
    )
    batch = tiny_batch(model_config, (2, 1), torch.Generator().manual_seed(1))
    engine.backward(engine.forward(batch).total)
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    engine.step()
    counted = count_static_memory(config, 1)
    assert counted.weights == sum(parameter.nbytes for parameter in model.parameters())
    assert counted.gradients == sum(gradient.nbytes for gradient in gradients)
    states = [tensor for state in engine._optimizer.state.values() for tensor in state.values()]
    # Adam also counts steps: one float32 number per tensor.
    assert counted.moments == sum(tensor.nbytes for tensor in states) - 4 * len(gradients)
    assert counted.master_weights == 0
    assert counted.num_parameters == sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_ddp_holds_exactly_what_is_counted(precision: Literal["fp32", "bf16"]) -> None:
    engine_config = EngineConfig(kind="ddp", precision=precision, accumulation=1)
    config = tiny_run(TINY, engine_config)
    torch.manual_seed(0)
    model = build_model(TINY)
    set_trainable(model, config.trainable)
    ranks = start_ranks(engine_config)
    try:
        engine = DdpEngine(Objective(model, config.losses), engine_config, OptimizerConfig(), 4, ranks)
        batch = tiny_batch(TINY, (2, 1), torch.Generator().manual_seed(1))
        counted = count_static_memory(config, 1)
        for update in range(3):
            engine.backward(engine.forward(batch).total)
            gradients = [weight.grad for weight in engine._weights.values() if weight.grad is not None]
            assert sum(gradient.nbytes for gradient in gradients) == counted.gradients == counted.gradient_buffers
            buckets = {gradient.untyped_storage().data_ptr() for gradient in gradients}
            assert len(buckets) == 1, f"update {update}: not in one bucket"
            engine.step()
    finally:
        torch.distributed.destroy_process_group()
    assert sum(parameter.nbytes for parameter in model.parameters()) == counted.weights
    own = sum(weight.nbytes for weight in engine._weights.values())
    assert counted.master_weights == (own if precision == "bf16" else 0)
    states = [tensor for state in engine._optimizer.state.values() for tensor in state.values() if tensor.numel() > 1]
    assert 0 <= counted.moments - sum(tensor.nbytes for tensor in states) <= 16, "all but single numbers"


def test_a_bucket_is_no_larger_than_what_is_trained() -> None:
    config = tiny_run(TINY, EngineConfig())
    counted = count_static_memory(config, 1)
    assert counted.gradient_buffers == counted.num_trained * (2 + 2 + 4)


def test_bfloat16_halves_the_weights() -> None:
    whole = count_static_memory(tiny_run(TINY, PLAIN), 1)
    half = count_static_memory(tiny_run(TINY, EngineConfig()), 1)
    assert 2 * half.weights == whole.weights


def test_zero_shards_what_it_says() -> None:
    """546 M numbers are trained at 13B: 12 bytes each of float32 weights and moments, 4 of accumulated gradients."""
    config = shipped("plum_13b_0shot")
    one, eight = count_static_memory(config, 1), count_static_memory(config, 8)
    trained = 546_137_691
    assert one.num_trained == eight.num_trained == trained
    assert (one.master_weights + one.moments, one.gradients) == (12 * trained, 4 * trained)
    share = -(-trained // 8)
    assert (eight.master_weights + eight.moments, eight.gradients) == (12 * share, 4 * share)
    assert one.weights == eight.weights == 2 * one.num_parameters
    assert one.micro_batch_gradients == eight.micro_batch_gradients == 2 * trained
    # embed_tokens and lm_head are larger than a bucket: two copies of one, in 16 and in 32 bits.
    assert eight.gradient_buffers == 2 * 50_000_000 + (2 + 4) * 32_064 * 5120
    assert eight.step_gradients == 0


def test_zero_1_and_float32_hold_gradients_otherwise() -> None:
    config = shipped("plum_13b_0shot")
    trained, share = 546_137_691, -(-546_137_691 // 8)
    stage_1 = count_static_memory(replace(config, engine=replace(config.engine, zero_stage=1)), 8)
    assert (stage_1.gradients, stage_1.gradient_buffers, stage_1.step_gradients) == (6 * trained, 4 * trained, 0)
    for stage, gradients in ((1, 4 * trained), (2, 4 * share)):
        engine = replace(config.engine, precision="fp32", zero_stage=stage, reduce_bucket_size=200_000_000)
        full = count_static_memory(replace(config, engine=engine), 8)
        assert (full.gradients, full.micro_batch_gradients) == (gradients, 4 * trained)
        assert (full.gradient_buffers, full.step_gradients) == (2 * 4 * 200_000_000, 4 * share)


@pytest.mark.parametrize(
    ("kind", "bytes_per_weight"), [("int8", (1.0, 1.002)), ("nf4", (0.515, 0.517))], ids=["int8", "nf4"]
)
def test_a_quantized_base_packs_its_linear_layers_alone(kind: str, bytes_per_weight: tuple[float, float]) -> None:
    """nf4: half a byte, an 8-bit scale per 64 weights (0.0156), a float32 number per 256 of those (0.0002)."""
    config = shipped("plum_7b_0shot")
    packed = replace(config, engine=replace(config.engine, base_quantization=kind))
    before = {one.component: one for one in count_static_memory(config, 1).components}
    after = {one.component: one for one in count_static_memory(packed, 1).components}
    changed = {name for name in before if before[name].weight_bytes != after[name].weight_bytes}
    assert changed == {"llava.language_model"}
    language = after["llava.language_model"]
    # All but the norms, 65 x 4096, which stay in 16 bits.
    ratio = (language.weight_bytes - 2 * 65 * 4096) / (language.num_parameters - 65 * 4096)
    assert bytes_per_weight[0] < ratio < bytes_per_weight[1]


@pytest.mark.slow
def test_deepspeed_holds_what_is_counted() -> None:
    """One process, bf16: gradients, master weights and moments but for the padding of the flat groups."""
    pytest.importorskip("deepspeed")
    forget_deepspeed_groups()
    ranks = start_ranks(EngineConfig())
    try:
        for stage in (1, 2):
            _hold_against_deepspeed(stage, ranks)
    finally:
        torch.distributed.destroy_process_group()


def _hold_against_deepspeed(stage: int, ranks: Ranks) -> None:
    engine_config = EngineConfig(micro_batch_size=2, accumulation=2, zero_stage=stage, gradient_checkpointing=False)
    config = tiny_run(TINY, engine_config)
    torch.manual_seed(0)
    model = build_model(TINY)
    set_trainable(model, config.trainable)
    engine = DeepSpeedEngine(Objective(model, config.losses), engine_config, OptimizerConfig(), 4, ranks)
    zero = engine._engine.optimizer
    batch = tiny_batch(TINY, (2, 1), torch.Generator().manual_seed(1))
    counted = count_static_memory(config, 1)
    padding = 4 * 1024
    for _ in range(2):
        engine.backward(engine.forward(batch).total)
        gradients = sum(parameter.grad.nbytes for parameter in model.parameters() if parameter.grad is not None)
        assert (gradients > 0) == (stage == 1)
        if stage == 1:
            gradients += sum(flat.nbytes for flat in zero.fp32_groups_gradients_flat)
        else:
            gradients += sum(group.flat_partition.nbytes for group in zero.averaged_gradients.values())
        assert 0 <= gradients - counted.gradients <= padding
        engine.step()
    assert sum(parameter.nbytes for parameter in model.parameters()) == counted.weights
    flat = zero.fp32_groups_flat_partition if stage == 1 else zero.single_partition_of_fp32_groups
    assert 0 <= sum(group.nbytes for group in flat) - counted.master_weights <= padding
    states = [tensor for state in zero.optimizer.state.values() for tensor in state.values()]
    moments = sum(tensor.nbytes for tensor in states if isinstance(tensor, torch.Tensor) and tensor.numel() > 1)
    assert 0 <= moments - counted.moments <= 2 * padding
