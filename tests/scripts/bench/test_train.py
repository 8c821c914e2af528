"""The training benchmarks: the loop equals the batched mask branch, stages add up."""

import json
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
import torch

from plum.config import LoraConfig
from plum.models.systems.registry import build_model
from plum.models.tiny import TINY_TOKENS, tiny_batch, tiny_model_config
from plum.models.trainable import set_trainable
from plum.train_config import LossConfig
from plum.training.config_file import load_train_config
from plum.training.objective import Objective
from scripts.bench import gpu as bench_gpu
from scripts.bench import train as bench_train
from scripts.bench.conversations_apart import LanguageStep, Way
from scripts.bench.gradient_deviation import compare_gradients
from scripts.bench.mask_loop import batched_loss, gradients, loop_loss, make_inputs
from scripts.bench.peak_memory import peak_bytes, reset_peak
from scripts.bench.run import BenchRun
from scripts.bench.sizes import only_mask_branch, small_model, training_config
from scripts.bench.stage_clock import OTHER, StageClock, watch

CPU = torch.device("cpu")


def test_the_loop_and_the_batched_branch_have_one_loss_and_one_gradient() -> None:
    config = tiny_model_config(40, TINY_TOKENS)
    torch.manual_seed(0)
    model = build_model(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "modulations" in name:  # zero at the start: give them an effect
                torch.nn.init.normal_(parameter, std=0.3)
    sizes = [(20, 32), (32, 20), (20, 32)]
    inputs = make_inputs(config, sizes, [4, 6, 1], torch.Generator().manual_seed(1), CPU)
    losses = [way(model, inputs, LossConfig()) for way in (batched_loss, loop_loss)]
    torch.testing.assert_close(losses[0], losses[1], atol=1e-5, rtol=1e-5)
    ours, theirs = (gradients(model, inputs, loss) for loss in losses)
    largest = max(float(gradient.abs().max()) for gradient in theirs)
    assert max(float((a - b).abs().max()) for a, b in zip(ours, theirs, strict=True)) < 1e-5 * largest
    assert sum(bool(gradient.any()) for gradient in theirs) > 40


def _watched_step() -> StageClock:
    torch.manual_seed(0)
    model = build_model(tiny_model_config(40, TINY_TOKENS, LoraConfig(rank=2)))
    set_trainable(model, training_config("tiny", 1, Path("unused")).trainable)
    clock = StageClock(CPU)
    watch(model, clock)
    clock.reset()
    result = Objective(model, LossConfig())(tiny_batch(model.config, (2, 0, 3), torch.Generator().manual_seed(0)))
    clock.enter("backward: losses")
    result.total.backward()
    clock.enter(OTHER)
    return clock


def test_stages_are_all_there_and_add_up() -> None:
    start = time.perf_counter()
    clock = _watched_step()
    passed = time.perf_counter() - start
    parts = ("masks", "tagger and lm_head", "language model", "losses")
    forward = {f"forward: {name}" for name in (*parts, "towers", "teacher")}
    assert forward | {f"backward: {name}" for name in parts} <= set(clock.seconds)
    assert "backward: towers" not in clock.seconds  # frozen
    assert 0 < sum(clock.seconds.values()) <= passed


@pytest.mark.parametrize("way", ["together", "apart"])
def test_apart_is_apart_and_both_are_equal(way: Way) -> None:
    config = tiny_model_config(400, TINY_TOKENS, LoraConfig(rank=2, dropout=0.0))
    torch.manual_seed(0)
    model = build_model(config)
    set_trainable(model, training_config("tiny", 1, Path("unused")).trainable)
    batch = tiny_batch(config, (1, 2, 0, 4), torch.Generator().manual_seed(0), conversations_per_image=2)
    step = LanguageStep(model, batch)
    shapes: list[tuple[int, ...]] = []
    handle = model.llava.stock.model.language_model.register_forward_pre_hook(
        lambda module, arguments, named: shapes.append(tuple(named["inputs_embeds"].shape[:2])), with_kwargs=True
    )
    states, teacher = step.student(way), step.teacher(way)
    handle.remove()
    counts = step.count_tokens()
    assert shapes[0][0] * shapes[0][1] == counts[f"run_{way}"]
    # 5 + 2 x 18 tokens an image. The teacher's conversations end at 13, 16 and 22; the third has no span.
    assert shapes == ([(2, 41), (2, 24)] if way == "together" else [(4, 23), (3, 22)])
    assert "shared_hidden_states" not in vars(model.llava)
    plain = model.llava.hidden_states(batch.input_ids, batch.attention_mask, batch.shown, step.image_tokens)
    torch.testing.assert_close(states, plain, atol=1e-5, rtol=1e-5)
    deviations = compare_gradients(step.gradients(states), step.gradients(plain))
    assert max(deviations.values()) < 1e-5
    torch.testing.assert_close(teacher, step.teacher("apart"), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("size", ["tiny", "small"])
def test_the_mask_branch_alone_is_the_models_own(size: str) -> None:
    config = training_config(size, 0, Path("unused")).model  # type: ignore[arg-type]
    with torch.device("meta"):
        whole, alone = build_model(config), build_model(only_mask_branch(config))
    shapes = [
        {name: tuple(p.shape) for name, p in model.named_parameters() if name.startswith(("feedback.", "query_"))}
        for model in (whole, alone)
    ]
    assert shapes[0] == shapes[1] != {}


def test_small_keeps_the_tokens_and_the_decoder_of_full_size() -> None:
    full = training_config("7b", 0, Path("unused")).model
    small = small_model(full)
    assert small.llava.vision.num_image_tokens == full.llava.vision.num_image_tokens == 256
    assert (small.llava.language.num_layers, small.llava.language.hidden_size) == (4, 512)
    for name in ("prompt_dim", "decoder_depth", "decoder_heads", "decoder_mlp_dim", "mask_in_channels"):
        assert getattr(small.sam, name) == getattr(full.sam, name)


@pytest.mark.slow
def test_bench_train_prints_all_its_parts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trace = tmp_path / "trace.json"
    bench_train.main(size="tiny", batch=2, steps=2, repeats=1, images=40, data=str(tmp_path), trace=str(trace))
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["masks"]["loss_deviation"] < 1e-5
    assert result["masks"]["gradient_deviation"] < 1e-5
    assert result["masks"]["training"]["ratio"] > 0
    assert result["language"]["gradient_deviation"] < 1e-5
    assert result["language"]["state_deviation"] < 1e-5
    assert {"data", "forward: teacher", "forward: masks", "backward: language model"} <= set(result["stages"])
    assert result["feeding"]["tokens_per_second_loaded"] > 0
    assert json.loads(trace.read_text())["traceEvents"]


@pytest.mark.slow
def test_bench_gpu_runs_without_a_gpu(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_gpu, "measure_copy_rate", lambda device: 1e9)
    bench_gpu.main(size="tiny", batch=2, steps=2, images=40, num_workers=0)
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert 0 < result["mfu"] < 1
    assert result["tflops_needed"] > 0
    assert result["doctor_estimate_gb"] > 0
    assert result["peak_memory_gb"] > 0


def test_a_micro_batch_moves_what_it_computes_with() -> None:
    config = load_train_config(["--config", "configs/plum_tiny_stage1.yaml", "--engine.kind", "plain"])
    model = build_model(config.model)
    set_trainable(model, config.trainable)
    objective = Objective(model, config.losses)
    weights = {name: parameter.numel() for name, parameter in model.named_parameters() if "embed_tokens" not in name}
    towers = ("vision_tower", "projector.", "image_encoder")
    frozen = sum(count for name, count in weights.items() if any(part in name for part in towers))
    teacher = sum(count for name, count in weights.items() if "language_model." in name and "lora_" not in name)
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    for accumulation in (1, 10):
        engine = replace(config.engine, accumulation=accumulation)
        run = SimpleNamespace(config=replace(config, engine=engine), objective=objective)
        expected = 4 * (2 * sum(weights.values()) - frozen + teacher) + 24 * trained / accumulation
        assert bench_gpu.bytes_moved(cast(BenchRun, run)) == pytest.approx(expected)


def test_peak_memory_is_that_of_the_stretch() -> None:
    reset_peak(CPU)
    before = peak_bytes(CPU)
    block = torch.ones(2**26)  # 256 MiB
    grown = peak_bytes(CPU)
    del block
    reset_peak(CPU)
    assert grown - before > 200 * 2**20
    assert peak_bytes(CPU) < grown - 200 * 2**20


def test_unknown_parts_are_refused() -> None:
    with pytest.raises(SystemExit, match="unknown parts"):
        bench_train.main(parts="masks,speed")
