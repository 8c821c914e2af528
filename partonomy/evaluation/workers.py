"""Worker processes of an evaluation on one machine: one per rank, each ends when the process that started it does."""

import multiprocessing
import os
from collections.abc import Callable

from partonomy.evaluation.sharding import Rank


def run_workers(work: Callable[[Rank], None], num_procs: int) -> None:
    """Start one process per rank and wait for all.

    Args:
        work: what a process does as its rank; a module-level function or a partial of one, so that it can be sent.
        num_procs: processes.

    Raises:
        ChildProcessError: A process died; `--resume` goes on where all of them stopped.
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
        raise ChildProcessError(f"worker processes ended early: {', '.join(dead)}; pass --resume to continue")


def end_with_parent() -> None:
    """End a worker whose run was killed, so that a resumed run does not find it still writing."""
    parent = multiprocessing.parent_process()
    if parent is not None and not parent.is_alive():
        raise RuntimeError("the process that started this worker has ended")
