"""Times a training step of PLUM with random weights, and shows that its fast parts compute what the plain ones do.

python scripts/bench/train.py --size tiny|small|7b|13b [--parts masks,language,stages,feeding] [--trace step.json]

masks: the mask branch (query projection, decode loop with feedback, losses) against the loop over images and spans of
LISA and its forks, which scripts/bench/mask_loop.py holds in code: segment-anything's own decoder, one image and one
prompt a call. `ratio` is loop time / batched time, medians of runs in turn; deviations as in
scripts/bench/gradient_deviation.py.
language: the language model over a loaded batch with several conversations an image (not tiny), student forward and
backward and teacher, as a step runs it (common beginnings once, sequences of similar length together) against
conversations that run apart, padded to the longest (scripts/bench/conversations_apart.py). `state_deviation` is the
largest difference relative to the largest state; on a GPU both are bfloat16's rounding.
stages: where the time of a step goes: data, towers, LLM, teacher, heads, masks, losses forward and backward, engine.
feeding: tokens a second (of all conversations, common beginnings in each) with batches as they are loaded and with the
same batches made before; loading is no bottleneck while the two are within 5%.

Data are drawn (the embedded data set) into a temporary folder, or kept in --data. On a CPU the plain engine runs in
float32, on a GPU DeepSpeed ZeRO-2 in bfloat16. The last line of the output is JSON.
"""

import json
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import torch
from jsonargparse import CLI
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from plum.models.systems.registry import build_model
from plum.structures import Batch
from plum.train_config import TrainConfig
from plum.training.ranks import start_ranks
from scripts.bench.conversations_apart import LanguageStep
from scripts.bench.device_clock import seconds_now
from scripts.bench.gradient_deviation import compare_gradients
from scripts.bench.mask_loop import batched_loss, gradients, loop_loss, make_inputs
from scripts.bench.peak_memory import peak_bytes, reset_peak
from scripts.bench.run import BenchRun, build_run
from scripts.bench.sizes import Size, draw_data, image_sizes, only_mask_branch, training_config
from scripts.bench.stage_clock import OTHER, StageClock, watch

SPANS = (4, 5, 6)
"""Spans of the conversations of a batch, in turn."""


def main(
    *,
    size: Size = "tiny",
    parts: str = "masks,language,stages,feeding",
    stage: int = 1,
    batch: int = 6,
    steps: int = 20,
    repeats: int = 5,
    images: int = 120,
    num_workers: int | None = None,
    group_by_length: int = 0,
    gradient_checkpointing: bool | None = None,
    data: str | None = None,
    trace: str | None = None,
    seed: int = 0,
) -> None:
    """Print tables, and one JSON line last.

    Args:
        size: Of the model.
        parts: Which measurements, separated by commas.
        stage: Which of the two training stages; only stage 1 has adapters and a teacher in the tiny recipe.
        batch: Images a step.
        steps: Steps of each timed run.
        repeats: Timed runs of each kind, in turn; the median counts.
        images: Images to draw.
        num_workers: Loader processes; default: the configuration's.
        group_by_length: As `data.group_by_length` of a run.
        gradient_checkpointing: Default: the configuration's.
        data: Folder for the drawn data, kept and used again.
        trace: File for a trace of two steps (open it in chrome://tracing or Perfetto).
        seed: Of weights and inputs.
    """
    chosen = parts.split(",")
    if unknown := set(chosen) - {"masks", "language", "stages", "feeding"}:
        raise SystemExit(f"unknown parts {sorted(unknown)}; there are masks, language, stages and feeding")
    if min(batch, steps, repeats, images) < 1:
        raise SystemExit("batch, steps, repeats and images are at least 1")
    result: dict[str, object] = {"size": size, "batch": batch, "threads": torch.get_num_threads()}
    if "masks" in chosen:
        result["masks"] = bench_masks(size, batch, repeats, seed)
    if {"language", "stages", "feeding"} & set(chosen):
        with tempfile.TemporaryDirectory() as folder:
            drawn = Path(data or folder)
            draw_data(drawn, images, 192 if size == "tiny" else 480)
            config = training_config(size, stage, drawn)
            engine = replace(config.engine, micro_batch_size=batch, accumulation=1)
            if not torch.cuda.is_available():
                engine = replace(engine, kind="plain", precision="fp32")
            if num_workers is not None:
                engine = replace(engine, num_workers=num_workers)
            if gradient_checkpointing is not None:
                engine = replace(engine, gradient_checkpointing=gradient_checkpointing)
            config = replace(config, engine=engine, seed=seed)
            config = replace(config, data=replace(config.data, group_by_length=group_by_length))
            result |= bench_steps(config, chosen, steps, repeats, trace)
    print(json.dumps(result))


def bench_masks(size: Size, batch: int, repeats: int, seed: int) -> dict[str, object]:
    """Compare the mask branch with the loop, forward alone and with the backward pass."""
    config = training_config(size, 0, Path("unused"))
    torch.manual_seed(seed)
    torch.backends.cudnn.allow_tf32 = False  # equality is shown in float32
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with device:
        model = build_model(only_mask_branch(config.model)).eval()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.split(".")[0] in ("query_projection", "feedback", "sam"))
    model.sam.image_encoder.requires_grad_(False)
    spans = [SPANS[n % len(SPANS)] for n in range(batch)]
    sizes = list(image_sizes(size, batch))
    inputs = make_inputs(config.model, sizes, spans, torch.Generator().manual_seed(seed), device)
    ways = {"batched": batched_loss, "loop": loop_loss}
    losses = {name: way(model, inputs, config.losses) for name, way in ways.items()}
    found = {name: gradients(model, inputs, loss) for name, loss in losses.items()}
    deviations = compare_gradients(found["batched"], found["loop"])
    loss = {name: float(value.detach()) for name, value in losses.items()}
    del losses, found

    def forward(name: str) -> None:
        with torch.no_grad():
            ways[name](model, inputs, config.losses)

    def both(name: str) -> None:
        gradients(model, inputs, ways[name](model, inputs, config.losses))

    seconds = {kind: in_turn(run, list(ways), repeats) for kind, run in (("forward", forward), ("training", both))}
    result: dict[str, object] = {
        "spans": spans,
        "loss_deviation": abs(loss["batched"] - loss["loop"]) / abs(loss["loop"]),
        **deviations,
    }
    return result | print_ratios("mask branch", "loop", "batched", seconds)


def bench_language(run: BenchRun, repeats: int) -> dict[str, object]:
    """Compare conversations about one image together with conversations apart."""
    step = LanguageStep(run.objective.model, next(run.load(0, 1)).to(run.device))
    run.objective.eval()  # dropout is drawn for other tokens
    with torch.no_grad():
        teachers = [step.teacher(way) for way in ("together", "apart")]
    students = [step.student(way) for way in ("together", "apart")]
    states = [_deviation(*pair) for pair in (students, teachers)]
    deviations = compare_gradients(*(step.gradients(student) for student in students))
    result: dict[str, object] = {"state_deviation": max(states), **deviations, **step.count_tokens()}
    del students, teachers  # with their graphs
    run.objective.train()

    def student(way: str) -> None:
        step.gradients(step.student(way))  # type: ignore[arg-type]

    def teacher(way: str) -> None:
        step.teacher(way)  # type: ignore[arg-type]

    kinds = (("student", student), ("teacher", teacher))
    seconds = {kind: in_turn(run_way, ["together", "apart"], repeats) for kind, run_way in kinds}
    return result | print_ratios("language model", "apart", "together", seconds)


def _deviation(ours: Tensor, theirs: Tensor) -> float:
    return float((ours - theirs).detach().abs().max() / theirs.detach().abs().max())


def print_ratios(title: str, plain: str, fast: str, seconds: dict[str, dict[str, float]]) -> dict[str, object]:
    """Print and return plain time / fast time of each kind."""
    print(f"{title:<28}{plain:>10}{fast:>10}{'ratio':>8}")
    result: dict[str, object] = {}
    for kind, times in seconds.items():
        ratio = times[plain] / times[fast]
        print(f"{kind:<28}{times[plain]:>9.3f}s{times[fast]:>9.3f}s{ratio:>8.2f}")
        result[kind] = {f"{plain}_seconds": times[plain], f"{fast}_seconds": times[fast], "ratio": ratio}
    return result


def in_turn(run: Callable[[str], None], names: list[str], repeats: int) -> dict[str, float]:
    """Return the median seconds of each way; ways take turns, so that a busy machine slows them alike."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for repeat in range(repeats + 1):
        for name in names:
            start = seconds_now(device)
            run(name)
            passed = seconds_now(device) - start
            if repeat:  # the first one warms up
                seconds[name].append(passed)
    return {name: statistics.median(values) for name, values in seconds.items()}


def bench_steps(
    config: TrainConfig, chosen: list[str], steps: int, repeats: int, trace: str | None
) -> dict[str, object]:
    """Time whole training steps."""
    run = build_run(config, start_ranks(config.engine))
    result: dict[str, object] = {"peak_memory_gb": None}
    run.train(run.load(0, 2))  # warm-up
    if "language" in chosen:
        result["language"] = bench_language(run, repeats)
    if "feeding" in chosen:
        result["feeding"] = bench_feeding(run, steps, repeats)
    if trace is not None:
        activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if torch.cuda.is_available() else [])]
        with profile(activities=activities) as profiler:
            run.train(run.load(0, 2))
        profiler.export_chrome_trace(trace)
    if "stages" in chosen:
        reset_peak(run.device)  # what was compared before is not part of a step
        result["stages"] = bench_stages(run, steps)
        result["peak_memory_gb"] = peak_bytes(run.device) / 1e9
    return result


def bench_feeding(run: BenchRun, steps: int, repeats: int) -> dict[str, object]:
    """Compare loaded batches with batches made before; both are the same batches."""
    ready = list(run.load(0, steps))
    num_tokens = sum(int(batch.attention_mask.sum()) for batch in ready)
    num_places = sum(batch.attention_mask.numel() for batch in ready)

    def feed(name: str) -> None:
        run.train(iter(ready) if name == "ready" else run.load(0, steps))

    seconds = in_turn(feed, ["loaded", "ready"], repeats)
    rates = {name: num_tokens / value for name, value in seconds.items()}
    share = 1 - rates["loaded"] / rates["ready"]
    print(f"tokens/s: {rates['loaded']:.0f} loaded, {rates['ready']:.0f} made before; loading costs {share:.1%}")
    return {
        "tokens_per_second_loaded": rates["loaded"],
        "tokens_per_second_ready": rates["ready"],
        "loading_share": share,
        "padding_share": 1 - num_tokens / num_places,
        "seconds_per_step": seconds["loaded"] / steps,
    }


def bench_stages(run: BenchRun, steps: int) -> dict[str, float]:
    """Return seconds per step of each stage."""
    clock = StageClock(run.device)
    watch(run.objective.model, clock)
    run.train(run.load(0, 2))
    clock.reset()
    run.train(_timed(run.load(0, steps), clock), clock)
    clock.enter(OTHER)
    total = sum(clock.seconds.values())
    print(f"\n{'stage':<40}{'ms/step':>10}{'share':>8}")
    for stage, seconds in sorted(clock.seconds.items(), key=lambda item: -item[1]):
        print(f"{stage:<40}{1000 * seconds / steps:>10.1f}{seconds / total:>8.1%}")
    print(f"{'all':<40}{1000 * total / steps:>10.1f}")
    return {stage: seconds / steps for stage, seconds in clock.seconds.items()}


def _timed(batches: Iterator[Batch], clock: StageClock) -> Iterator[Batch]:
    """Count the wait for each batch as data."""
    while True:
        clock.enter("data")
        batch = next(batches, None)
        clock.enter(OTHER)
        if batch is None:
            return
        yield batch


if __name__ == "__main__":
    CLI(main, as_positional=False)
