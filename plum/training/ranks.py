"""The processes of a run: the rank of this one, and how they find each other."""

import contextlib
import logging
import os
import socket
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

import torch
import torch.distributed

from plum.train_config import EngineConfig
from plum.training.ports import find_free_port

Result = TypeVar("Result")

_SECONDS_TO_APPEAR = 60.0
"""How long a network file system may take to show a new file on another node."""


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


def on_main_rank(ranks: Ranks, action: Callable[[], Result]) -> Result:
    """Return what `action` returns on the main rank; no other rank calls it. Collective.

    Raises:
        OSError, ValueError, RuntimeError: on the main rank, whatever the action raises.
        SystemExit: on the other ranks in that case, so that one rank alone reports the error.
    """
    outcome: list[Result | None] = [None]
    error: Exception | None = None
    if ranks.is_main:
        try:
            outcome = [action()]
        except (OSError, ValueError, RuntimeError) as caught:
            error, outcome = caught, []
    if ranks.world_size > 1:
        shared = [outcome]
        torch.distributed.broadcast_object_list(shared)
        (outcome,) = shared
    if error is not None:
        raise error
    if not outcome:
        raise SystemExit(1)
    return outcome[0]  # type: ignore[return-value]  # None only where it is the action's own result


def require_shared_folder(folder: Path, ranks: Ranks) -> None:
    """Check that every rank sees what the main rank writes to `folder`. Collective.

    Raises:
        ValueError: a rank does not; the message names its node.
        SystemExit: on the other ranks in that case.
    """
    if ranks.world_size == 1:
        return
    token = [f".seen_by_all_ranks.{uuid.uuid4().hex}"]
    torch.distributed.broadcast_object_list(token)
    path = folder / token[0]
    if ranks.is_main:
        path.touch()
    ranks.barrier()
    end = time.monotonic() + _SECONDS_TO_APPEAR
    while not (is_seen := path.exists()) and time.monotonic() < end:
        time.sleep(0.5)
    nodes: list[str | None] = [None] * ranks.world_size
    torch.distributed.all_gather_object(nodes, None if is_seen else socket.gethostname())
    if ranks.is_main:
        path.unlink()
    if blind := sorted({node for node in nodes if node is not None}):
        if not ranks.is_main:
            raise SystemExit(1)
        raise ValueError(
            f"{folder} is not shared: {', '.join(blind)} does not see what {socket.gethostname()} writes there; put "
            "run_dir on a file system that all nodes mount at the same path"
        )


def start_ranks(config: EngineConfig) -> Ranks:
    """Join the process group that the launcher (deepspeed, torchrun) describes, or run as a single rank.

    Raises:
        ValueError: the plain engine was launched with several processes.
    """
    has_gpu = torch.cuda.is_available()
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    device = torch.device("cuda", local_rank) if has_gpu else torch.device("cpu")
    if has_gpu:
        torch.cuda.set_device(device)
    if config.kind == "plain":
        if (world_size := os.environ.get("WORLD_SIZE", "1")) != "1":
            raise ValueError(f"engine.kind: plain runs one process, not {world_size}; use ddp or deepspeed")
        return Ranks(0, 1, device)
    backend, timeout = "nccl" if has_gpu else "gloo", timedelta(minutes=config.timeout_minutes)
    with contextlib.nullcontext() if "RANK" in os.environ else _single_rank_environment():
        if config.kind == "ddp":
            torch.distributed.init_process_group(backend, timeout=timeout)
        else:
            _init_deepspeed(backend, timeout)
    return Ranks(torch.distributed.get_rank(), torch.distributed.get_world_size(), device)


def _init_deepspeed(backend: str, timeout: timedelta) -> None:
    import deepspeed  # noqa: PLC0415  (the other engines must run without it)

    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    if backend == "gloo":
        _skip_inference_operation()
    deepspeed.init_distributed(dist_backend=backend, timeout=timeout)


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
