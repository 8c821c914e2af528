"""Programs of several ranks: under the launcher, as users start them, or as forked processes.

Under the launcher, every rank imports torch and DeepSpeed before its first batch, which takes seconds of a core. A
forked rank takes next to nothing: `fork_ranks` forks its ranks from one process that has the imports. Each is a process
of its own all the same, has the variables that the launcher sets, and meets the others over gloo. `launch` shows what
needs the launcher: how a start ends when a rank does, and that ranks with different hash seeds, started one after the
other, agree to the bit.
"""

import contextlib
import functools
import gc
import multiprocessing
import multiprocessing.connection
import multiprocessing.context
import multiprocessing.forkserver
import os
import runpy
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from unittest import mock

import torch
import yaml

from plum.train_config import TrainConfig
from plum.training.ports import find_free_port

TIMEOUT = 600
"""Seconds after which a start counts as hung."""
HERE = "127.0.0.1"
PRELOADED = [
    "train",
    "plum.training.smoke_overfit",
    "deepspeed",
    # What `deepspeed.initialize` imports later; the first of them brings torch's compiler, a second of a core.
    "deepspeed.runtime.zero.muon.muon_optimizer",
    "deepspeed.ops.op_builder.all_ops",
    "deepspeed.module_inject.auto_ep_layer",
    "transformers.models.clip.modeling_clip",
]
"""Modules that forked ranks find imported. None of them may start a thread, which a fork would lose."""


def launch_process(program: str, arguments: list[str], num_ranks: int, **variables: str) -> "subprocess.Popen[str]":
    """Start scripts/launch.sh in a session of its own; its two outputs are one."""
    environment = {key: value for key, value in os.environ.items() if key not in ("INCLUDE", "HOSTFILE", "MASTER_PORT")}
    environment |= {
        "OMP_NUM_THREADS": "1",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": os.getcwd(),
        "NUM_RANKS": str(num_ranks),
        **variables,
    }
    return subprocess.Popen(
        ["bash", "scripts/launch.sh", program, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
        start_new_session=True,
    )


def kill_session(leader: int) -> None:
    """Kill every process of a session at once, as when a node loses power: stopped first, none sees another's end."""
    members = [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit() and _session(path) == leader]
    for number in (signal.SIGSTOP, signal.SIGKILL):
        for member in members:
            with contextlib.suppress(ProcessLookupError):
                os.kill(member, number)


def _session(process: Path) -> int | None:
    try:
        return int((process / "stat").read_text().rpartition(")")[2].split()[3])
    except OSError:
        return None


def launch(program: str, arguments: list[str], num_ranks: int, **variables: str) -> str:
    """Run a program under the launcher to its end, which must be a good one; return what it printed."""
    with launch_process(program, arguments, num_ranks, **variables) as process:
        printed, _ = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 0, printed[-6000:]
    return printed


@functools.cache
def _server() -> multiprocessing.context.ForkServerContext:
    """The process that has the imports, one for each test process; it ends with this one."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    with mock.patch.dict(os.environ, {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.getcwd()}):
        multiprocessing.forkserver.ensure_running()
    return context


def _be_rank(program: str, arguments: list[str], environment: dict[str, str], output: str) -> None:
    """Run a program in this forked process as `python PROGRAM ARGUMENTS` would."""
    assert len(os.listdir(f"/proc/{os.getppid()}/task")) == 1, "a preloaded module has started a thread"
    assert "deepspeed" in sys.modules, "the modules are not preloaded: importing one of them failed"
    with Path(output).open("ab", buffering=0) as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.environ.clear()
    os.environ.update(environment)
    torch.set_num_threads(1)
    gc.freeze()  # what the server has imported stays: DeepSpeed collects garbage often, and each time would walk it
    sys.argv = [program, *arguments]
    runpy.run_path(program, run_name="__main__")


def fork_ranks_to_their_ends(
    program: str, arguments: list[str], num_ranks: int, output: Path, **variables: str
) -> tuple[list[int], str]:
    """Run a program on forked ranks; if one fails, end the others, as the launcher does.

    Returns:
        Exit status of every rank (-15: ended because of another), and what they printed, which `output` holds too.

    Raises:
        TimeoutError: it took longer than `TIMEOUT`.
    """
    common = {"WORLD_SIZE": str(num_ranks), "LOCAL_SIZE": str(num_ranks), "CROSS_RANK": "0", "CROSS_SIZE": "1"}
    common |= {"MASTER_ADDR": HERE, "MASTER_PORT": str(find_free_port()), "OMP_NUM_THREADS": "1"}
    ranks = [
        {**os.environ, **common, **variables, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(num_ranks)
    ]
    output.write_bytes(b"")
    processes = [
        _server().Process(target=_be_rank, args=(program, arguments, environment, str(output))) for environment in ranks
    ]
    for process in processes:
        process.start()
    waiting = {process.sentinel: process for process in processes}
    end = time.monotonic() + TIMEOUT
    try:
        while waiting:
            ended = multiprocessing.connection.wait(list(waiting), timeout=end - time.monotonic())
            if not ended:
                raise TimeoutError(output.read_text()[-6000:])
            done = [waiting.pop(sentinel) for sentinel in ended]  # type: ignore[index]
            for process in done:
                process.join()
            if any(process.exitcode for process in done):
                break
    finally:
        for process in processes:
            process.terminate()
            process.join()
    return [int(process.exitcode or 0) for process in processes], output.read_text()


def fork_ranks(program: str, arguments: list[str], num_ranks: int, output: Path) -> str:
    """Run a program on forked ranks to its end, which must be a good one; return what it printed."""
    statuses, printed = fork_ranks_to_their_ends(program, arguments, num_ranks, output)
    assert statuses == [0] * num_ranks, printed[-6000:]
    return printed


def write_config(config: TrainConfig) -> list[str]:
    """Write a configuration beside its run; return the arguments that name it."""
    path = Path(config.run_dir).with_suffix(".yaml")
    path.write_text(yaml.safe_dump(_as_plain(asdict(config))))
    return ["--config", str(path)]


def train_launched(config: TrainConfig, num_ranks: int) -> Path:
    """Train to the end under the launcher; return the folder of the model."""
    launch("train.py", write_config(config), num_ranks)
    return Path(config.run_dir) / "model"


def train_forked(config: TrainConfig, num_ranks: int) -> Path:
    """Train to the end on forked ranks; return the folder of the model."""
    fork_ranks("train.py", write_config(config), num_ranks, Path(config.run_dir).with_suffix(".log"))
    return Path(config.run_dir) / "model"


def _as_plain(value: object) -> object:
    if isinstance(value, dict):
        return {key: _as_plain(item) for key, item in value.items()}
    return [_as_plain(item) for item in value] if isinstance(value, (list, tuple)) else value
