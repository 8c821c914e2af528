"""train.py with one fault in it, described by the environment variable FAULT: launched in its place."""

import json
import os
import random
import resource
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import torch

import plum.checkpoints.store
import train
from plum.structures import Batch
from plum.training.engine import DeepSpeedEngine, Engine, TorchEngine
from plum.training.objective import StepResult
from plum.training.run_checkpoints import RunCheckpoints, UpdateCut
from plum.training.trainer import Trainer


def kill_at_step(chance: random.Random, num_micro_batches: int) -> None:
    """Die at a random moment of a random micro-batch: in forward, reduction, update, or logging."""
    chosen, delay = chance.randrange(num_micro_batches), chance.uniform(0.0, 0.1)
    run_micro_batch = Trainer.run_micro_batch

    def run(self: Trainer, micro_batch: int, batch: Batch) -> StepResult:
        if micro_batch >= chosen:
            threading.Timer(delay, _die).start()
        return run_micro_batch(self, micro_batch, batch)

    Trainer.run_micro_batch = run  # type: ignore[method-assign]


def terminate_itself(chance: random.Random, micro_batch_of_signal: int) -> None:
    """Get SIGTERM in a micro-batch, as if the scheduler had signalled this rank alone."""
    run_micro_batch = Trainer.run_micro_batch

    def run(self: Trainer, micro_batch: int, batch: Batch) -> StepResult:
        if micro_batch == micro_batch_of_signal:
            os.kill(os.getpid(), signal.SIGTERM)
        return run_micro_batch(self, micro_batch, batch)

    Trainer.run_micro_batch = run  # type: ignore[method-assign]


def kill_in_write(chance: random.Random, num_checkpoints: int) -> None:
    """Die with a random part of a checkpoint's file written."""
    save, calls = torch.save, _Countdown(chance.randrange(num_checkpoints))

    def save_part(state: object, path: str, **options: bool) -> None:  # as DeepSpeed calls it
        save(state, path, **options)
        if calls.is_over():
            os.truncate(path, int(Path(path).stat().st_size * chance.uniform(0.0, 0.95)))
            _die()

    torch.save = save_part


def kill_in_commit(chance: random.Random, num_checkpoints: int) -> None:
    """Die between two steps of making a checkpoint count."""
    commit, fsync = RunCheckpoints.commit, os.fsync
    calls, place = _Countdown(chance.randrange(num_checkpoints)), _Countdown(chance.randrange(5))

    def commit_part(self: RunCheckpoints, partial: Path, update: int, cut: UpdateCut) -> None:
        if calls.is_over():
            os.fsync = _then(fsync, lambda: _die() if place.is_over() else None)
        commit(self, partial, update, cut)

    RunCheckpoints.commit = commit_part  # type: ignore[method-assign]


def no_space(chance: random.Random, num_checkpoints: int) -> None:
    """Let no file grow beyond a random size from a random checkpoint on."""
    calls = _Countdown(chance.randrange(num_checkpoints))

    def limited(save: Callable[[Engine, Path], None]) -> Callable[[Engine, Path], None]:
        def save_with_limit(self: Engine, folder: Path) -> None:
            if calls.is_over():
                _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
                resource.setrlimit(resource.RLIMIT_FSIZE, (chance.randrange(1, 50_000), hard))
            save(self, folder)

        return save_with_limit

    for engine in (DeepSpeedEngine, TorchEngine):
        engine.save = limited(engine.save)  # type: ignore[assignment,arg-type,method-assign]


def kill_in_model(chance: random.Random, num_checkpoints: int) -> None:
    """Die with the final model half written."""
    plum.checkpoints.store.write_tensors = _then(plum.checkpoints.store.write_tensors, _die)


FAULTS: dict[str, Callable[[random.Random, int], None]] = {
    "kill_at_step": kill_at_step,
    "terminate_itself": terminate_itself,
    "kill_in_write": kill_in_write,
    "kill_in_commit": kill_in_commit,
    "no_space": no_space,
    "kill_in_model": kill_in_model,
}


class _Countdown:
    """True once after so many calls that were false, and from then on."""

    def __init__(self, calls: int) -> None:
        self.left = calls

    def is_over(self) -> bool:
        self.left -= 1
        return self.left < 0


def _then(first: Callable[..., object], after: Callable[[], object]) -> Callable[..., object]:
    """`first`, followed by `after`."""

    def both(*arguments: BinaryIO | Path | int | str) -> object:
        result = first(*arguments)
        after()
        return result

    return both


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def main() -> None:
    fault = json.loads(os.environ["FAULT"])
    if int(os.environ["RANK"]) == fault["rank"]:
        FAULTS[fault["name"]](random.Random(fault["seed"]), fault["times"])
    train.main()


if __name__ == "__main__":
    main()
