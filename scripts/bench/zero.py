"""Times updates under ZeRO-2 and ZeRO-1, and under ZeRO-2 with losses given straight to DeepSpeed.

NUM_RANKS=2 bash scripts/launch.sh scripts/bench/zero.py [--size tiny|small] [--batch 4] [--steps 20] [--repeats 5]

straight: DeepSpeed meets gradients as the backward pass completes them, which is right only while all ranks' batches
run the same modules (plum/training/gradients.py says why); `zero_2` and `zero_1` are the engine's own ways. They take
turns over the same drawn batches with the same dropout. `seconds` are medians over repeats, of a micro-batch;
`deviation` is the largest difference of a trained weight from ZeRO-2's after all updates. The last line of the output
is JSON.
"""

import json
import statistics
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import torch
import torch.distributed
from jsonargparse import CLI
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from plum.train_config import TrainConfig
from plum.training.engine import DeepSpeedEngine, build_engine
from plum.training.ranks import Ranks, start_ranks
from scripts.bench.device_clock import seconds_now
from scripts.bench.run import BenchRun, build_run
from scripts.bench.sizes import Size, draw_data, training_config

WAYS = {"zero_2": 2, "straight": 2, "zero_1": 1}
"""Ways and their stages; the others are compared with the first."""


class StraightEngine(DeepSpeedEngine):
    """Leaves the backward pass to DeepSpeed; tensors that the loss does not depend on get zeros."""

    def backward(self, loss: Tensor) -> None:
        """See Engine."""
        nothing = torch.stack([parameter.flatten()[0] for parameter in self._parameters]).float().sum() * 0
        self._engine.backward(loss + nothing)


def main(
    *, size: Size = "tiny", stage: int = 1, batch: int = 4, accumulation: int = 1, steps: int = 20, repeats: int = 5
) -> None:
    """Time `repeats` x `steps` micro-batches of `batch` images a way."""
    ranks = start_ranks(training_config(size, stage, Path()).engine)
    with tempfile.TemporaryDirectory() as folder:
        shared: list[str | None] = [folder]
        if ranks.is_main:
            draw_data(Path(folder), max(2 * batch * ranks.world_size, 24), 192)
        if ranks.world_size > 1:
            torch.distributed.broadcast_object_list(shared)
        assert shared[0] is not None
        config = training_config(size, stage, Path(shared[0]))
        engine = replace(config.engine, micro_batch_size=batch, accumulation=accumulation, num_workers=0)
        config = replace(config, engine=engine, num_updates=steps * repeats)
        runs = {way: make_run(way, config, ranks) for way in WAYS}
        batches = list(runs["zero_2"].load(0, steps))
        ranks.barrier()  # the folder goes with the main rank
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    for run in runs.values():
        torch.manual_seed(0)
        run.train(iter(batches[:accumulation]))  # warm-up, the same for all
    for repeat in range(repeats):
        for way, run in runs.items():
            torch.manual_seed(repeat + 1)  # dropout is the same for all
            ranks.barrier()
            started = seconds_now(run.device)
            run.train(iter(batches))
            seconds[way].append((seconds_now(run.device) - started) / steps)
    reference = weights(runs["zero_2"])
    report = {
        way: {
            "seconds": round(statistics.median(seconds[way]), 4),
            "deviation": float((weights(run) - reference).abs().max()),
        }
        for way, run in runs.items()
    }
    if ranks.is_main:
        sys.stdout.write(json.dumps({"ranks": ranks.world_size, "size": size, "batch": batch, **report}) + "\n")
    torch.distributed.destroy_process_group()


def make_run(way: str, config: TrainConfig, ranks: Ranks) -> BenchRun:
    """Build a run whose engine works in the given way."""
    config = replace(config, engine=replace(config.engine, zero_stage=WAYS[way]))
    return build_run(config, ranks, StraightEngine if way == "straight" else build_engine)


def weights(run: BenchRun) -> Tensor:
    """Trained weights as one float32 vector."""
    return torch.cat([p.detach().flatten().float() for p in run.objective.parameters() if p.requires_grad])


if __name__ == "__main__":
    CLI(main, as_positional=False)
