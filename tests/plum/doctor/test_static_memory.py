"""Weights, gradients and optimizer: counted without weights, equal to what torch and DeepSpeed hold."""

from dataclasses import replace

import pytest
import torch

from plum.config import LoraConfig
from plum.doctor.static_memory import DEEPSPEED_BUCKET, count_static_memory
from plum.models.registry import build_model
from plum.models.tiny import TINY_TOKENS, tiny_batch, tiny_model_config
from plum.models.trainable import set_trainable
from plum.train_config import EngineConfig, OptimizerConfig, TrainableConfig
from plum.training.objective import Objective
from plum.training.optimizer import build_optimizer
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
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = build_optimizer(parameters, OptimizerConfig())
    batch = tiny_batch(model_config, (2, 1), torch.Generator().manual_seed(1))
    Objective(model, replace(config.losses, kl=0.1 if kind == "lora" else 0.0))(batch).total.backward()
    optimizer.step()
    counted = count_static_memory(config, 1)
    assert counted.weights == sum(parameter.nbytes for parameter in model.parameters())
    assert counted.gradients == sum(p.grad.nbytes for p in model.parameters() if p.grad is not None)
    states = [tensor for state in optimizer.state.values() for tensor in state.values()]
    # Adam also counts steps: one float32 number per tensor.
    assert counted.moments == sum(tensor.nbytes for tensor in states) - 4 * len(parameters)
    assert counted.master_weights == 0
    assert counted.num_parameters == sum(parameter.numel() for parameter in model.parameters())


def test_bfloat16_halves_the_weights() -> None:
    whole = count_static_memory(tiny_run(TINY, PLAIN), 1)
    half = count_static_memory(tiny_run(TINY, EngineConfig()), 1)
    assert 2 * half.weights == whole.weights


def test_zero_shards_what_it_says() -> None:
    """218 M numbers are trained at 13B: 12 bytes each of float32 weights and moments, 2 of gradients."""
    config = shipped("plum_13b_0shot")
    one, eight = count_static_memory(config, 1), count_static_memory(config, 8)
    trained = 217_802_331
    assert one.num_trained == eight.num_trained == trained
    assert (one.master_weights + one.moments, one.gradients) == (12 * trained, 2 * trained)
    share = -(-trained // 8)
    assert (eight.master_weights + eight.moments, eight.gradients) == (12 * share, 2 * share)
    assert one.weights == eight.weights == 2 * one.num_parameters
    assert one.gradient_buffers == 2 * 2 * DEEPSPEED_BUCKET
    stage_1 = replace(config, engine=replace(config.engine, zero_stage=1))
    assert count_static_memory(stage_1, 8).gradients == 2 * trained


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
    """One process, ZeRO-2, bf16: master weights and moments but for the padding of the flat groups."""
    pytest.importorskip("deepspeed")
    from plum.training.engine import DeepSpeedEngine
    from plum.training.ranks import start_ranks

    engine_config = EngineConfig(micro_batch_size=2, accumulation=1, gradient_checkpointing=False)
    config = tiny_run(TINY, engine_config)
    ranks = start_ranks(engine_config)
    try:
        torch.manual_seed(0)
        model = build_model(TINY)
        set_trainable(model, config.trainable)
        engine = DeepSpeedEngine(Objective(model, config.losses), engine_config, OptimizerConfig(), 4, ranks)
        batch = tiny_batch(TINY, (2, 1), torch.Generator().manual_seed(1))
        engine.backward(engine.forward(batch).total)
        engine.step()
        counted = count_static_memory(config, 1)
        assert sum(parameter.nbytes for parameter in model.parameters()) == counted.weights
        flat = engine._engine.optimizer.single_partition_of_fp32_groups
        padding = 4 * len(flat) * 1024
        assert 0 <= sum(group.nbytes for group in flat) - counted.master_weights <= padding
        moments = [
            tensor.nbytes
            for state in engine._engine.optimizer.optimizer.state.values()
            for tensor in state.values()
            if isinstance(tensor, torch.Tensor) and tensor.numel() > 1
        ]
        assert 0 <= sum(moments) - counted.moments <= 2 * padding
    finally:
        torch.distributed.destroy_process_group()
