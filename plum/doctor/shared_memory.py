"""Check that the loader processes' batches fit in /dev/shm, through which they leave these processes."""

import shutil
from pathlib import Path

import torch

from plum.data.loader import PREFETCHED
from plum.doctor.findings import Finding, State
from plum.doctor.memory import batch_bytes
from plum.doctor.workload import Workload
from plum.train_config import TrainConfig

SHARED_MEMORY = Path("/dev/shm")


def examine_shared_memory(
    config: TrainConfig, work: Workload, num_ranks: int, folder: Path = SHARED_MEMORY
) -> list[Finding]:
    """Compare the batches that loader processes keep ready with the free shared memory of this machine.

    Docker grants 64 MB by default, and a loader process that finds no room dies of a bus error.

    Args:
        config: the run.
        work: the heaviest usual micro-batch.
        num_ranks: ranks on this machine.
        folder: where shared memory is mounted; without it there is nothing to examine.
    """
    if config.engine.num_workers == 0 or not folder.is_dir():
        return []
    workers = config.engine.num_workers
    needed = num_ranks * workers * PREFETCHED * batch_bytes(config, work)
    free = shutil.disk_usage(folder).free
    found = (
        f"{needed / 1e9:.2f} GB needed ({num_ranks} ranks x {workers} workers x {PREFETCHED} batches), "
        f"{free / 1e9:.2f} GB free on this machine"
    )
    if needed <= free:
        return [Finding(State.FINE, str(folder), found)]
    # Without a GPU, this is probably not the machine that trains.
    state = State.MISSING if torch.cuda.is_available() else State.REMARK
    to_do = "start the container with a larger --shm-size, or lower engine.num_workers (0: no loader processes)"
    return [Finding(state, str(folder), found, to_do)]
