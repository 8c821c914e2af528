"""Times training steps of a full-size model with random weights on one device: samples/s, FLOPs utilisation, memory.

python scripts/bench/gpu.py --size 7b|13b|small|qwen3_vl_4b|small_qwen3_vl|calico_7b|small_calico [--batch 6]
    [--gradient_checkpointing true|false]

The first thing timed is one step with cuDNN's attention allowed and one without it (`seconds_by_attention`, each after
a warm-up of the same batch): cuDNN plans for each shape, and lengths change with every micro-batch. Everything after
that runs as torch decides by default.

`mfu` = FLOPs that the step needs (formula: plum/doctor/step_flops.py) / seconds per step / the device's own matrix
rate, which is measured first: the fastest of several products of two square matrices, 8192 wide in bfloat16 on a GPU,
2048 wide in float32 on a CPU. Whole updates are timed, the optimizer's share in them. The floors of a micro-batch:
`floor_flops_seconds` is its time at that rate, `floor_bytes_seconds` the time to read every weight forward, the
language model's once more for the teacher, those that gradients pass through backward, and a micro-batch's share of the
optimizer's state (read and written once an update), at the measured copy rate. `tokens_per_second` counts the tokens
of all conversations, common beginnings in each; the FLOPs count these once.
Peak memory is reported with `python -m plum doctor`'s estimate, or with the reason why there is none. The last line is
JSON.
"""

import json
import statistics
import sys
import tempfile
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path

import torch
from jsonargparse import CLI

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from plum.doctor.memory import estimate_memory
from plum.doctor.step_flops import StepCounter
from plum.doctor.workload import Assumptions
from plum.models.parameter_counts import parameters_by_component
from plum.structures import Batch
from plum.train_config import TrainConfig
from plum.training.ranks import start_ranks
from scripts.bench.device_clock import seconds_now
from scripts.bench.peak_memory import peak_bytes, reset_peak
from scripts.bench.run import BenchRun, build_run
from scripts.bench.sizes import Size, draw_data, training_config

INPUT_SIDE = ("llava.vision_tower", "llava.projector", "sam.image_encoder")
"""Components with no gradient beneath them: where they are frozen, nothing passes back."""


def main(
    *,
    size: Size = "small",
    stage: int = 1,
    batch: int = 6,
    steps: int = 10,
    images: int = 120,
    gradient_checkpointing: bool = False,
    num_workers: int = 4,
    seed: int = 0,
) -> None:
    """Print one JSON line.

    Args:
        size: Of the model.
        stage: Which of the two training stages' losses and parts.
        batch: Images a micro-batch.
        steps: Micro-batches that are timed at least; made up to whole updates.
        images: Images to draw.
        gradient_checkpointing: Recompute the language model's layers in the backward pass.
        num_workers: Loader processes.
        seed: Of weights and data.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    matrix_rate, copy_rate = measure_matrix_rate(device), measure_copy_rate(device)
    with tempfile.TemporaryDirectory() as folder:
        draw_data(Path(folder), images, 480)
        config = training_config(size, stage, Path(folder))
        engine = replace(
            config.engine,
            micro_batch_size=batch,
            num_workers=num_workers,
            gradient_checkpointing=gradient_checkpointing,
        )
        if device.type == "cpu":
            engine = replace(engine, kind="plain", precision="fp32", accumulation=1)
        config = replace(config, engine=engine, seed=seed)
        run = build_run(config, start_ranks(config.engine))
        num_updates = -(-steps // engine.accumulation)
        batches = list(run.load(0, num_updates * engine.accumulation))
        by_attention = time_attention(run, batches)
        sys.stderr.write(json.dumps({"size": size, "seconds_by_attention": by_attention}) + "\n")
        run.train(iter(batches[: engine.accumulation]))  # warm-up
        reset_peak(device)
        seconds = time_steps(run, batches) / len(batches)
    special_tokens = run.objective.model.llava.special_tokens
    counter = StepCounter(config, special_tokens)
    flops = [counter.count(one) for one in batches]
    needed = statistics.fmean(one.total for one in flops)
    estimate, no_estimate = doctor_estimate(config, batches)
    result = {
        "size": size,
        "device": torch.cuda.get_device_name() if device.type == "cuda" else f"{torch.get_num_threads()} CPU threads",
        "batch": batch,
        "accumulation": engine.accumulation,
        "micro_batches": len(batches),
        "gradient_checkpointing": gradient_checkpointing,
        "seconds_by_attention": by_attention,
        "seconds_per_micro_batch": seconds,
        "samples_per_second": batch / seconds,
        "tokens_per_second": statistics.fmean(int(one.attention_mask.sum()) for one in batches) / seconds,
        "tflops_needed": needed / 1e12,
        "tflops_by_part": {name: value / 1e12 for name, value in asdict(flops[0]).items()},
        "matrix_tflops_per_second": matrix_rate / 1e12,
        "mfu": needed / seconds / matrix_rate,
        "floor_flops_seconds": needed / matrix_rate,
        "floor_bytes_seconds": bytes_moved(run) / copy_rate,
        "peak_memory_gb": peak_bytes(device) / 1e9,
        "doctor_estimate_gb": None if estimate is None else estimate / 1e9,
        "no_estimate": no_estimate,
    }
    print(json.dumps(result))


def time_steps(run: BenchRun, batches: list[Batch]) -> float:
    """Seconds of whole updates: every micro-batch's forward and backward pass, every update's optimizer step."""
    start = seconds_now(run.device)
    run.train(iter(batches))
    return seconds_now(run.device) - start


def time_attention(run: BenchRun, batches: list[Batch]) -> dict[str, float]:
    """Return seconds of one micro-batch with and without cuDNN's attention.

    An update is completed before and after, so that neither contains an optimizer's step.
    """
    allowed = torch.backends.cuda.cudnn_sdp_enabled()
    seconds = {}
    try:
        for name, is_allowed in (("cudnn", True), ("without_cudnn", False)):
            torch.backends.cuda.enable_cudnn_sdp(is_allowed)
            times = [time_pass(run, batches[0]) for _ in range(2)]
            seconds[name] = times[1]  # the first one warms up
    finally:
        torch.backends.cuda.enable_cudnn_sdp(allowed)
    return seconds


def time_pass(run: BenchRun, batch: Batch) -> float:
    """Return seconds of a micro-batch's forward and backward pass, its gradients thrown away."""
    batch = batch.to(run.device)
    start = seconds_now(run.device)
    run.objective(batch).total.backward()
    passed = seconds_now(run.device) - start
    run.objective.zero_grad(set_to_none=True)
    return passed


def measure_matrix_rate(device: torch.device) -> float:
    """FLOPs a second of the fastest of several square matrix products."""
    is_gpu = device.type == "cuda"
    width, dtype = (8192, torch.bfloat16) if is_gpu else (2048, torch.float32)
    left, right = (torch.randn(width, width, device=device, dtype=dtype) for _ in range(2))
    return 2 * width**3 / _fastest(lambda: left @ right, device)


def measure_copy_rate(device: torch.device) -> float:
    """Bytes a second of a copy, read and written ones together."""
    source = torch.zeros(2**28 if device.type == "cuda" else 2**25, device=device)
    target = torch.empty_like(source)
    return 2 * source.numel() * source.element_size() / _fastest(lambda: target.copy_(source), device)


def bytes_moved(run: BenchRun) -> float:
    """Bytes of weights and optimizer that a micro-batch has to touch at least.

    Of the word embeddings only a batch's rows are read, which counts as nothing, unless they are the output layer too;
    frozen towers have no backward pass.
    """
    config, model = run.config, run.objective.model
    is_tied = model.backbone.stock.get_input_embeddings().weight is model.backbone.stock.get_output_embeddings().weight
    size = 2 if config.engine.precision == "bf16" else 4
    all_weights, trained = Counter[str](), Counter[str]()
    for component, name, parameter in parameters_by_component(model):
        all_weights[component] += 0 if "embed_tokens" in name and not is_tied else parameter.numel()
        trained[component] += parameter.numel() * parameter.requires_grad
    backward = sum(count for part, count in all_weights.items() if part not in INPUT_SIDE or trained[part])
    teacher = all_weights["llava.language_model"] if config.losses.kl else 0
    optimizer = 2 * 12 * trained.total() / config.engine.accumulation  # float32 weight, two moments: read and written
    return float(size * (all_weights.total() + teacher + backward) + optimizer)


def doctor_estimate(config: TrainConfig, batches: list[Batch]) -> tuple[int | None, str | None]:
    """Return the peak that the doctor estimates for micro-batches like these, or why it has no estimate."""
    patches = max(max(one.shown.lengths) for one in batches)
    spans = [len(one.spans) / max(1, len(one.spans.conversation.unique())) for one in batches]
    assumptions = Assumptions(
        text_tokens=max(one.input_ids.shape[1] for one in batches) - patches,
        supervised_tokens=max(int((one.labels >= 0).sum(1).max()) for one in batches),
        spans_per_conversation=round(max(spans)),
        image_size=batches[0].frames[0].original,
        images_per_conversation=1,
    )
    try:
        return estimate_memory(config, num_gpus=1, assumptions=assumptions).peak, None
    except ValueError as error:
        return None, str(error)


def _fastest(run: object, device: torch.device, rounds: int = 10) -> float:
    assert callable(run)
    seconds = []
    for _ in range(rounds):
        start = seconds_now(device)
        run()
        seconds.append(seconds_now(device) - start)
    return min(seconds)


if __name__ == "__main__":
    CLI(main, as_positional=False)
