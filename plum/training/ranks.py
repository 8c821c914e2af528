"""The processes of a run: the rank of this one, and how they find each other."""

import contextlib
import logging
import os
import random
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed

from plum.train_config import EngineConfig

PROCESS_GROUP_TIMEOUT = timedelta(minutes=30)
"""How long a rank waits for the others before it gives up (a hang becomes an error)."""
PORTS = range(20000, 32000)
"""Range in which a single-rank run looks for the port of its process group."""


@dataclass(frozen=True)
class Ranks:
    """This process among the run's processes."""

    rank: int
    world_size: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and shows progress."""
        return self.rank == 0

    def barrier(self) -> None:
        """Wait for the other ranks."""
        if self.world_size > 1:
            torch.distributed.barrier()


def start_ranks(config: EngineConfig) -> Ranks:
    """Join the process group that the launcher (deepspeed, torchrun) describes, or run as a single rank."""
    has_gpu = torch.cuda.is_available()
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    device = torch.device("cuda", local_rank) if has_gpu else torch.device("cpu")
    if has_gpu:
        torch.cuda.set_device(device)
    if config.kind == "plain":
        if (world_size := os.environ.get("WORLD_SIZE", "1")) != "1":
            raise ValueError(f"engine.kind: plain runs one process, not {world_size}; use deepspeed")
        return Ranks(0, 1, device)
    import deepspeed  # noqa: PLC0415

    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    if not has_gpu:
        _skip_inference_operation()
    with contextlib.nullcontext() if "RANK" in os.environ else _single_rank_environment():
        deepspeed.init_distributed(dist_backend="nccl" if has_gpu else "gloo", timeout=PROCESS_GROUP_TIMEOUT)
    return Ranks(torch.distributed.get_rank(), torch.distributed.get_world_size(), device)


def _skip_inference_operation() -> None:
    """Keep DeepSpeed from compiling its shared-memory operation, which only serves inference over several CPU ranks.

    DeepSpeed compiles it anew for every environment, under a lock on disk. A run that is killed meanwhile leaves the
    lock behind, and every later run waits for it forever.
    """
    from deepspeed.ops import __compatible_ops__  # noqa: PLC0415
    from deepspeed.ops.op_builder.cpu import ShareMemCommBuilder  # noqa: PLC0415

    __compatible_ops__[ShareMemCommBuilder.NAME] = False


@contextlib.contextmanager
def _single_rank_environment() -> Iterator[None]:
    """Set the variables that a launcher would set for one process (`python train.py` without the deepspeed launcher).

    They are removed once the process has joined; otherwise a child process would try to use the same port.
    LOCAL_RANK stays, since DeepSpeed's engine reads it later.
    """
    os.environ["LOCAL_RANK"] = "0"
    meeting = {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(find_free_port())}
    before = {name: os.environ.get(name) for name in meeting}
    os.environ.update(meeting)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def find_free_port() -> int:
    """Return a free port.

    It lies below Linux's ephemeral ports, so that no outgoing connection can take it before it is used.

    Raises:
        OSError: all of a hundred sampled ports are taken.
    """
    for port in random.SystemRandom().sample(PORTS, 100):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("", port))
            return port
    raise OSError(f"no free port among a hundred sampled from {PORTS.start} to {PORTS.stop - 1}")
