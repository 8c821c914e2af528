"""Memory estimates as text: one run in detail, or several as a Markdown table."""

from collections.abc import Sequence
from dataclasses import dataclass

from plum.doctor.memory import CONTEXT_BYTES, FRAGMENTATION, MemoryEstimate, estimate_memory
from plum.doctor.workload import Assumptions, training_dtype
from plum.train_config import TrainConfig

HEADER = (
    "| model | GPUs | parameters | trained | weights | optimizer | gradients, buffers | activations | peak per GPU |",
    "|---|---|---|---|---|---|---|---|---|",
)


@dataclass(frozen=True)
class NamedRun:
    """A run under the name it has in a table."""

    name: str
    config: TrainConfig


def markdown_table(runs: Sequence[NamedRun], gpu_counts: Sequence[int], assumptions: Assumptions) -> str:
    """Return the README's table, GB of 10^9 bytes; every row is an estimate."""
    rows = [
        _row(run.name, estimate_memory(run.config, num_gpus, assumptions)) for run in runs for num_gpus in gpu_counts
    ]
    return "\n".join([*HEADER, *rows])


def _row(name: str, estimate: MemoryEstimate) -> str:
    static = estimate.static
    cells = (
        name,
        str(estimate.num_gpus),
        f"{static.num_parameters:,}",
        f"{static.num_trained:,}",
        _gigabytes(static.weights),
        _gigabytes(static.master_weights + static.moments),
        _gigabytes(static.gradients + static.micro_batch_gradients + static.gradient_buffers),
        _gigabytes(estimate.activations.total),
        _gigabytes(estimate.peak),
    )
    return f"| {' | '.join(cells)} |"


def describe_estimate(config: TrainConfig, estimate: MemoryEstimate) -> str:
    """Return every part of one run's estimate."""
    work, static, activations = estimate.workload, estimate.static, estimate.activations
    engine = config.engine
    checkpointing = "with" if engine.gradient_checkpointing else "without"
    dtype = str(training_dtype(config)).removeprefix("torch.")
    lines = [
        f"Memory of each of {estimate.num_gpus} GPUs: {_gigabytes(estimate.peak)} GB, an estimate that no GPU has "
        "confirmed",
        f"  assumed micro-batch: {work.images} images, {work.conversations} conversations of {work.tokens} tokens, "
        f"{work.supervised} supervised tokens, {work.masks} masks of {work.image_pixels:,} pixels",
        f"  {engine.kind}, ZeRO-{engine.zero_stage}, {dtype}, {checkpointing} gradient checkpointing, "
        f"base_quantization {engine.base_quantization}",
        f"  {'weights':<34} {'parameters':>15} {'trained':>13} {'GB':>7}",
    ]
    for component in static.components:
        lines.append(
            f"    {component.component:<32} {component.num_parameters:>15,} {component.num_trained:>13,} "
            f"{_gigabytes(component.weight_bytes):>7}"
        )
    parts = (
        ("weights", static.weights),
        ("float32 master weights (share)", static.master_weights),
        ("Adam's moments (share)", static.moments),
        ("accumulated gradients, float32", static.gradients),
        ("gradients of a micro-batch", static.micro_batch_gradients),
        ("gradient buffers of DeepSpeed", static.gradient_buffers),
        ("activations: language model", activations.layers),
        ("activations: token loss", activations.token_loss),
        ("activations: tagger", activations.tagger),
        ("activations: queries, KL", activations.queries),
        ("activations: masks, feedback", activations.masks),
        ("activations: mask losses", activations.mask_losses),
    )
    lines += [f"  {name:<62} {_gigabytes(number):>9}" for name, number in parts]
    lines.append("  at once, beside weights and optimizer:")
    lines += [f"    {phase.name:<60} {_gigabytes(phase.num_bytes):>9}" for phase in estimate.phases]
    allowance = f"assumed: {_gigabytes(CONTEXT_BYTES)} for CUDA and NCCL, {FRAGMENTATION:.0%} lost by the allocator"
    lines.append(f"  {allowance:<62} {_gigabytes(estimate.allowance):>9}")
    return "\n".join(lines)


def _gigabytes(number: int) -> str:
    return f"{number / 1e9:.1f}"
