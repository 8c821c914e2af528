"""The training benchmarks: the loop equals the batched mask branch, stages add up, FLOPs equal torch's own count."""

import json
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from plum.config import LanguageConfig, LoraConfig
from plum.doctor.step_flops import count_step, count_tokens, language_flops, tagger_flops, teacher_flops
from plum.models.backbones.shared_beginnings import lay_out
from plum.models.batch_plan import find_constrained
from plum.models.systems.registry import build_model
from plum.models.tiny import TINY_TOKENS, tiny_batch, tiny_model_config
from plum.models.trainable import set_trainable
from plum.structures import TEXT_ONLY, ConversationImages
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


def test_language_flops_golden() -> None:
    # Width 2, one head, hidden 3: 4 * 2 * 2 + 3 * 2 * 3 = 34 weights, 3 tokens, frozen with a gradient passing:
    # 4 * 34 * 3 = 408. Attention: 3 * 4 / 2 = 6 pairs, 4 * 6 * 2 = 48 forward, 96 backward. Without: 2 * 34 * 3 + 48.
    language = LanguageConfig(8, hidden_size=2, intermediate_size=3, num_layers=1, num_heads=1, num_key_value_heads=1)
    assert language_flops(language, None, 3, 6, 4) == 408 + 144
    assert language_flops(language, None, 3, 6, 2) == 204 + 48
    # Rank 1 on q and v: 2 * (2 + 2) trained weights, 6 FLOPs each a token.
    assert language_flops(language, LoraConfig(rank=1), 3, 6, 4) == 408 + 144 + 6 * 8 * 3


def test_common_beginnings_count_once() -> None:
    # <image> 5 6, <image> 5 7 and <image> 5, two of them in common: 4 tokens. Two see 1 and 2, each of the others 3.
    image = TINY_TOKENS.image
    ids, mask = torch.tensor([[image, 5, 6], [image, 5, 7], [image, 5, 0]]), torch.tensor([[1, 1, 1]] * 2 + [[1, 1, 0]])
    one_image = ConversationImages.of_one_image(3, 1, ids.device)
    assert count_tokens(ids, mask, one_image, TINY_TOKENS) == (4, 1 + 2 + 3 + 3)
    three_images = ConversationImages(torch.arange(3)[:, None], (1, 1, 1))
    assert count_tokens(ids, mask, three_images, TINY_TOKENS) == (8, 6 + 6 + 3)


def test_tagger_and_teacher_flops_golden() -> None:
    """Two conversations of 23 tokens about an image, 5 of them in common; 12 tagged each; spans end at 13 and 16."""
    config = tiny_model_config(400, TINY_TOKENS, LoraConfig(rank=2))
    run = replace(training_config("tiny", 1, Path("unused")), model=config)
    batch = tiny_batch(config, (1, 2), torch.Generator().manual_seed(0), conversations_per_image=2)
    # Width 32, hidden 64: keys, values and MLP of 5 + 2 x 18 = 41 tokens; queries, output, hidden layers, tags of 24.
    weights = 4 * 32 * 32 * 41 + (2 * 32 * 32 + 2 * 32 * 64 + 3 * 32) * 24
    assert tagger_flops(run, batch, TINY_TOKENS) == 6 * weights + 12 * (24 * 23) * 32
    # Cross-attention to 4 image tokens: queries and outputs of 24 tokens, keys and values of 2 x 4.
    assert config.tagger is not None
    attentive = replace(run, model=replace(config, tagger=replace(config.tagger, use_cross_attention=True)))
    own = 6 * 2 * 32 * 32 * (24 + 8) + 12 * (24 * 4) * 32
    assert tagger_flops(attentive, batch, TINY_TOKENS) == tagger_flops(run, batch, TINY_TOKENS) + own
    # The teacher reads 5 + 8 + 11 = 24 tokens: 15 pairs among the first five, then 5 x 8 + 36 and 5 x 11 + 66.
    weights = 2 * (4 * 32 * 32 + 3 * 32 * 64) * 24  # two layers
    assert teacher_flops(run, batch, TINY_TOKENS) == 2 * weights + 2 * 4 * (15 + 76 + 121) * 32


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


@pytest.mark.parametrize(("spans", "per_image"), [((2, TEXT_ONLY, 4, 1), 1), ((2, 4, 1), 3)])
def test_flops_equal_torchs_count(spans: tuple[int, ...], per_image: int) -> None:
    """Products and convolutions as torch counts them in a real step; it counts unseen pairs of attention too."""
    sizes = tiny_model_config(400, TINY_TOKENS, LoraConfig(rank=2))
    torch.manual_seed(0)
    model = build_model(sizes)
    base = training_config("tiny", 1, Path("unused"))
    set_trainable(model, base.trainable)
    batch = tiny_batch(sizes, spans, torch.Generator().manual_seed(0), per_image)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        Objective(model, base.losses)(batch).total.backward()
    needed = count_step(replace(base, model=sizes), batch, TINY_TOKENS)
    unseen = 0
    for rows, passes in (
        (torch.arange(len(batch.input_ids)), 3),
        (batch.spans.conversation.unique(), 1),
    ):  # student, forward and back; teacher
        ids, mask, index = batch.input_ids[rows], batch.attention_mask[rows], batch.shown[rows]
        if passes == 1:
            mask = find_constrained(batch.spans)[1].long()
            ids = ids[:, : mask.shape[1]]
        run = sum(one.branches.shape[0] * one.branches.shape[1] ** 2 for one in lay_out(ids, mask, index, 3, 0).passes)
        unseen += passes * (run - count_tokens(ids, mask, index, TINY_TOKENS)[1])
    language = sizes.llava.language
    counted = counter.get_total_flops() - 4 * unseen * language.hidden_size * language.num_layers
    assert needed.total == pytest.approx(counted, rel=0.06)
    assert min(needed.masks, needed.language, needed.teacher, needed.sam_encoder, needed.clip, needed.heads) > 0


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
