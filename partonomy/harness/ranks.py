"""Divides the items of a run among shards and ranks, by whole images so that statistics merge exactly.

A shard is a part of the images that the user chooses (`--shard 2/8`), for machines without a common launcher. A rank is
one of the processes that work on a shard, on one machine or on several under one launcher. The last rank to end joins
all records.
"""

import json
import multiprocessing
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from partonomy.benchmarks.task import Item
from partonomy.files import is_integer, write_text_atomically
from partonomy.locks import hold_lock
from partonomy.sharding import Shard

MAX_IMAGES_PER_BATCH = 4
MIN_BATCHES = 64
"""Minimum number of batches if a run has enough images; shards and ranks receive whole batches."""
RANKS_FILE = "finished_ranks.json"

Batch = tuple[Item, ...]
"""All items of some images."""


@dataclass(frozen=True)
class Rank:
    """One of `world_size` processes that share the images of a run."""

    index: int = 0
    world_size: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.index < self.world_size:
            raise ValueError(f"rank {self.index} does not lie in [0, {self.world_size})")


def rank_from_environment(environment: Mapping[str, str] | None = None) -> Rank:
    """Return the rank that a launcher (torchrun, deepspeed) sets in RANK and WORLD_SIZE, or rank 0 of 1."""
    variables = os.environ if environment is None else environment
    return Rank(int(variables.get("RANK", "0")), int(variables.get("WORLD_SIZE", "1")))


def deal_batches(items: Sequence[Item]) -> tuple[Batch, ...]:
    """Divide all items of a run into batches of whole images, in order of the images' first appearance.

    The composition of a batch affects the rounding of a model's numbers. Batches are therefore cut from the items of
    the whole run, independently of the process that asks them.
    """
    images: dict[int | str, list[Item]] = {}
    for item in items:
        images.setdefault(item.image_id, []).append(item)
    groups = list(images.values())
    size = max(1, min(MAX_IMAGES_PER_BATCH, len(groups) // MIN_BATCHES))
    return tuple(
        tuple(item for group in groups[start : start + size] for item in group) for start in range(0, len(groups), size)
    )


def take_share(batches: Sequence[Any], shard: Shard, rank: Rank | None = None) -> tuple[Any, ...]:
    """Return the batches of a shard or, given a rank, that rank's batches of it. Batches are dealt out in turn."""
    own = batches[shard.index :: shard.count]
    return tuple(own if rank is None else own[rank.index :: rank.world_size])


def run_workers(work: Callable[[Rank], None], num_procs: int) -> None:
    """Start one process per rank and wait for all of them.

    Args:
        work: The work of a rank's process; a module-level function or a partial of one, so that it can be pickled.
        num_procs: Number of processes.

    Raises:
        ChildProcessError: A process died; `--resume` continues where all of them stopped.
    """
    # Each worker would otherwise start as many threads as there are cores.
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // num_procs)))
    context = multiprocessing.get_context("spawn")
    workers = [
        context.Process(target=work, args=(Rank(index, num_procs),), name=f"rank {index}") for index in range(num_procs)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    dead = [f"{worker.name} (exit code {worker.exitcode})" for worker in workers if worker.exitcode != 0]
    if dead:
        raise ChildProcessError(f"worker processes ended early: {', '.join(dead)}; continue with --resume")


def end_with_parent() -> None:
    """End a worker whose run was killed, so that a resumed run does not find it still writing.

    Raises:
        RuntimeError: The process that started this worker has ended.
    """
    parent = multiprocessing.parent_process()
    if parent is not None and not parent.is_alive():
        raise RuntimeError("the process that started this worker has ended")


def sign_on(output: Path, rank: Rank) -> None:
    """Remove a starting rank from the list of finished ranks, where an earlier killed run may have left it."""
    if rank.world_size > 1:
        with _locked(output):
            _write(output, rank, _read(output, rank) - {rank.index})


def sign_off(output: Path, rank: Rank) -> bool:
    """Add a rank that has asked all its items to the list of finished ranks.

    Looking for the other ranks' records would not be enough: two ranks that end together would both find all of them.
    The rank that completes the list is the last.

    Returns:
        Whether this rank is the last one.
    """
    if rank.world_size == 1:
        return True
    with _locked(output):
        finished = _read(output, rank) | {rank.index}
        _write(output, rank, finished)
    return len(finished) == rank.world_size


def remove_finished_ranks(output: Path) -> None:
    """Delete the list of finished ranks after their records are joined."""
    (output / RANKS_FILE).unlink(missing_ok=True)


@contextmanager
def _locked(output: Path) -> Iterator[None]:
    with hold_lock(output / RANKS_FILE, f"{output / RANKS_FILE} is locked by another rank", wait=True):
        yield


def _read(output: Path, rank: Rank) -> set[int]:
    """Read the ranks on the list; a damaged list, or one for another number of ranks, counts as empty."""
    path = output / RANKS_FILE
    try:
        content = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        is_own = content.get("world_size") == rank.world_size
        return {index for index in content["finished"] if is_integer(index)} if is_own else set()
    except (ValueError, KeyError, TypeError, AttributeError):
        return set()


def _write(output: Path, rank: Rank, finished: set[int]) -> None:
    content = {"world_size": rank.world_size, "finished": sorted(finished)}
    write_text_atomically(output / RANKS_FILE, json.dumps(content) + "\n")
