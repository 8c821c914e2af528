"""Starts a program on every rank and watches over it; `scripts/launch.sh` explains the settings.

On one node this process starts the ranks itself. It is their parent, so it knows how each of them ended, a signal to it
reaches all of them, and if it is killed itself, the kernel sends them SIGTERM. Several nodes are started by DeepSpeed's
runner over pdsh, after a check of what it needs.
"""

import contextlib
import ctypes
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from plum.training.exit_status import INTERRUPTED, REQUEUE, TERMINATED
from plum.training.ports import find_free_port, is_free

CPU_RANKS = 2
"""Number of ranks on a node without a GPU."""
STOP_STATUSES = (INTERRUPTED, TERMINATED, REQUEUE)
SECONDS_TO_FAIL = 1.0
"""How long the other ranks may go on after one has failed, before they get SIGTERM."""
SECONDS_TO_END = 10.0
"""How long after a failure the other ranks are killed: one of them may wait for the lost one in a collective."""
SECONDS_TO_LEAVE = 60.0
"""The same after a rank that has stopped as it was told to: the others have saved, too, and are about to end."""
SECONDS_BETWEEN_REPEATS = 1.0
"""A signal that comes again within this time is the same request: schedulers signal the launcher and the ranks."""
SSH_TIMEOUT = 15
PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of prctl(2)
HOST_LINE = re.compile(r"(\S+)\s+slots=(\d+)(?:\s|$)")
COUNT_GPUS = "import torch; print(torch.cuda.device_count())"


ALLOCATOR_VARIABLES = ("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF")
ALLOCATOR = "expandable_segments:True"
"""Setting of torch's CUDA allocator, unless the user has one: batches differ in length, and fixed segments of all their
sizes would fragment the memory."""
EXPORTED = (*ALLOCATOR_VARIABLES, "TOKENIZERS_PARALLELISM", "OMP_NUM_THREADS", "HF_HOME", "HF_HUB_OFFLINE")
"""Variables that ranks on other nodes need. DeepSpeed's runner itself exports those of Python, NCCL, UCX, MVAPICH and
MLflow alone."""
DEEPSPEED_FILE_VARIABLE, DEEPSPEED_FILE = "DS_ENV_FILE", ".deepspeed_env"
"""The file in the home folder or the current one from which DeepSpeed's runner exports variables, and the variable that
names another one."""


class LaunchError(Exception):
    """A setting that cannot be launched; the message is one line."""


@dataclass(frozen=True)
class LocalRanks:
    """Ranks of this node; `gpus` are the visible devices, empty where the ranks see what the launcher sees."""

    num_ranks: int
    gpus: tuple[str, ...] = ()
    threads: str | None = None
    """OMP_NUM_THREADS of each rank; None to leave it as it is."""


@dataclass(frozen=True)
class Nodes:
    """Several nodes of a hostfile, and the number of ranks on each."""

    hostfile: Path
    slots: Mapping[str, int]


def plan_launch(environment: Mapping[str, str], caller: Path, count_gpus: Callable[[], int]) -> LocalRanks | Nodes:
    """Decide which ranks are started where.

    Args:
        environment: NUM_RANKS, INCLUDE, HOSTFILE, CUDA_VISIBLE_DEVICES and OMP_NUM_THREADS are read.
        caller: folder from which the user called; HOSTFILE is relative to it.
        count_gpus: counts the GPUs that are visible. It takes seconds, so it is called only if something depends on it.

    Raises:
        LaunchError: a setting is wrong; the message names it and says what to do.
    """
    include, hostfile = environment.get("INCLUDE", ""), environment.get("HOSTFILE", "")
    threads = environment.get("OMP_NUM_THREADS")
    if include and hostfile:
        raise LaunchError("set INCLUDE (GPUs of this node) or HOSTFILE (several nodes), not both")
    wanted = _read_number(environment.get("NUM_RANKS", ""))
    if hostfile:
        path = caller / hostfile
        slots = read_hostfile(path)
        if len(slots) > 1:
            return Nodes(path, slots)
        ((host, number),) = slots.items()
        if host not in _names_of_this_node():
            raise LaunchError(f"HOSTFILE {path} names one node, {host}, which is not this one; start the run on {host}")
        return LocalRanks(number, (), threads)
    if include:
        gpus = _read_include(include)
        return LocalRanks(len(gpus), gpus, threads)
    visible = tuple(filter(None, environment.get("CUDA_VISIBLE_DEVICES", "").split(",")))
    if wanted and threads is not None and not visible:
        return LocalRanks(wanted, (), threads)
    found = count_gpus()
    if found == 0:  # CPU ranks share the cores; one thread each unless told otherwise
        return LocalRanks(wanted or CPU_RANKS, (), threads or "1")
    if wanted > found:
        raise LaunchError(f"NUM_RANKS is {wanted}, but {found} GPUs are visible; each rank needs its own")
    return LocalRanks(wanted or found, visible[: wanted or found], threads)


def _read_number(text: str) -> int:
    if text and not (text.isascii() and text.isdigit() and int(text) > 0):
        raise LaunchError(f"NUM_RANKS is {text!r}, it must be a number of processes, at least 1")
    return int(text or 0)


def _read_include(text: str) -> tuple[str, ...]:
    host, _, listed = text.partition(":")
    gpus = tuple(listed.split(","))
    if host not in _names_of_this_node() or not all(gpu.isdigit() for gpu in gpus) or len(set(gpus)) < len(gpus):
        raise LaunchError(f"INCLUDE is {text!r}, it must list GPUs of this node: INCLUDE=localhost:0,3")
    return gpus


def _names_of_this_node() -> set[str]:
    name = socket.gethostname()
    return {"localhost", "127.0.0.1", name, name.split(".")[0], socket.getfqdn()}


def read_hostfile(path: Path) -> dict[str, int]:
    """Return the slots of each host, in the file's order (DeepSpeed's format, one `HOST slots=NUMBER` a line).

    Raises:
        LaunchError: the file is missing, unreadable or empty, or a line is wrong. DeepSpeed itself would take a missing
            file for none and train on this node alone.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError as error:
        raise LaunchError(f"HOSTFILE {path} does not exist; correct the name, or unset HOSTFILE") from error
    except (OSError, UnicodeDecodeError) as error:
        raise LaunchError(f"HOSTFILE {path} cannot be read ({error})") from error
    slots: dict[str, int] = {}
    for number, line in enumerate(lines, start=1):
        text = line.split("#")[0].strip()
        if not text:
            continue
        match = HOST_LINE.fullmatch(text)
        if match is None or int(match[2]) == 0:
            raise LaunchError(f"HOSTFILE {path}, line {number}: {text!r} is not `HOST slots=NUMBER`")
        if match[1] in slots:
            raise LaunchError(f"HOSTFILE {path}, line {number}: {match[1]} is named a second time")
        slots[match[1]] = int(match[2])
    if not slots:
        raise LaunchError(f"HOSTFILE {path} names no host; write one line `HOST slots=NUMBER` for each node")
    return slots


def check_nodes(nodes: Nodes) -> None:
    """Check that DeepSpeed's runner can reach every node.

    Raises:
        LaunchError: pdsh, ssh or deepspeed is missing, or a host does not answer without a password; the message names
            it.
    """
    for program in ("pdsh", "ssh", "deepspeed"):
        if shutil.which(program) is None:
            raise LaunchError(
                f"HOSTFILE names {len(nodes.slots)} nodes, which needs {program}: install it on this node, or start "
                "train.py by torchrun or srun (docs/train/multi_node_slurm.md)"
            )

    def reach(host: str) -> bool:
        command = ["ssh", "-o", "BatchMode=yes", "-o", f"ConnectTimeout={SSH_TIMEOUT}", host, "true"]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0

    with ThreadPoolExecutor(max_workers=32) as pool:
        reached = list(pool.map(reach, nodes.slots))
    if missing := [host for host, is_reached in zip(nodes.slots, reached, strict=True) if not is_reached]:
        raise LaunchError(
            f"HOSTFILE {nodes.hostfile}: {', '.join(missing)} cannot be reached by ssh without a password; set up keys "
            f"(`ssh {missing[0]} true` must work)"
        )


def choose_port(given: str | None, is_local: bool) -> int:
    """Return the port at which the ranks meet: MASTER_PORT, or a free one.

    Raises:
        LaunchError: MASTER_PORT is no port, or it is in use on this node.
    """
    if not given:
        return find_free_port()
    if not (given.isascii() and given.isdigit() and 0 < int(given) < 2**16):
        raise LaunchError(f"MASTER_PORT is {given!r}, it must be a port number; leave it unset for a free one")
    if is_local and not is_free(int(given)):
        raise LaunchError(f"MASTER_PORT {given} is in use on this node; leave it unset for a free one")
    return int(given)


def place_configs(arguments: Sequence[str], caller: Path, root: Path) -> list[str]:
    """Return the arguments with each `--config FILE` found from the caller's folder, else from the repository's root.

    Raises:
        LaunchError: a file is in neither.
    """
    placed: list[str] = []
    for place, argument in enumerate(arguments):
        is_value = place > 0 and arguments[place - 1] == "--config"
        if is_value or argument.startswith("--config="):
            name = argument if is_value else argument.removeprefix("--config=")
            found = next((path for path in (caller / name, root / name) if path.is_file()), None)
            if found is None:
                where = f"{caller}" if caller == root else f"{caller} or {root}"
                raise LaunchError(f"--config {name}: there is no such file in {where}")
            inside = found.is_relative_to(root)
            place_found = str(found.relative_to(root) if inside else found)
            placed.append(place_found if is_value else f"--config={place_found}")
        else:
            placed.append(argument)
    return placed


class Watch:
    """Starts processes, passes signals on to them, and waits until all of them are gone."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.processes: list[subprocess.Popen[bytes]] = []
        self.received: int | None = None
        self._received_at = 0.0
        self._deadlines: dict[int, float] = {}
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
            signal.signal(number, self._pass_on)

    def start(self, command: Sequence[str], environment: Mapping[str, str], *, is_bound: bool) -> None:
        """Start a process in a group of its own, so that a terminal's Ctrl-C reaches it through this process alone.

        Args:
            command: the program and its arguments.
            environment: its variables.
            is_bound: whether the process gets SIGTERM if this one dies.
        """
        hook = _die_with_parent if is_bound and sys.platform == "linux" else None
        process = subprocess.Popen(command, env=environment, process_group=0, preexec_fn=hook)  # noqa: PLW1509  no threads
        self.processes.append(process)
        if self.received is not None:  # a signal that came while the ranks were being started
            self._signal_all(self.received)

    def wait(self) -> int:
        """Wait until every process has ended, and end the others if one fails.

        Returns:
            0 if all have ended with 0; otherwise the status of the first that has not, as a shell counts it.
        """
        first: tuple[int, int] | None = None
        waiting = dict(enumerate(self.processes))
        while waiting:
            for rank, process in list(waiting.items()):
                code = process.poll()
                if code is not None:
                    del waiting[rank]
                    if code != 0 and first is None:
                        first = (rank, code)
                        self._set_deadlines(code)
            self._end_overdue()
            time.sleep(0.05)
        for process in self.processes:
            _signal_group(process, signal.SIGKILL)  # what a rank has left behind, such as a loader process
        return 0 if first is None else self._explain(*first)

    def _pass_on(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        number = signal.SIGTERM if number == signal.SIGHUP else number
        is_stopping = self.received not in (None, signal.SIGUSR1)
        if is_stopping and now - self._received_at > SECONDS_BETWEEN_REPEATS and number != signal.SIGUSR1:
            self._deadlines[signal.SIGKILL] = now
            return
        if not is_stopping:
            self.received, self._received_at = number, now
        self._signal_all(number)

    def _signal_all(self, number: int) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.send_signal(number)

    def _set_deadlines(self, code: int) -> None:
        now = time.monotonic()
        if code in STOP_STATUSES:
            self._deadlines.setdefault(signal.SIGKILL, now + SECONDS_TO_LEAVE)
            return
        self._deadlines.setdefault(signal.SIGTERM, now + SECONDS_TO_FAIL)
        self._deadlines[signal.SIGKILL] = min(now + SECONDS_TO_END, self._deadlines.get(signal.SIGKILL, float("inf")))

    def _end_overdue(self) -> None:
        for number, deadline in list(self._deadlines.items()):
            if time.monotonic() >= deadline:
                del self._deadlines[number]
                for process in self.processes:
                    if process.poll() is None:
                        _signal_group(process, number)

    def _explain(self, rank: int, code: int) -> int:
        if code == -signal.SIGUSR1:
            return REQUEUE
        status = code if code > 0 else 128 - code
        if status in STOP_STATUSES and self.received is not None:
            sys.stderr.write(f"{self.name} was stopped by {signal.Signals(self.received).name}: status {status}\n")
        elif status not in STOP_STATUSES:
            how = "ended with an error, which stands above" if code > 0 else "was killed"
            sys.stderr.write(f"{self.name} ended with status {status}: process {rank} {how} (return code = {code})\n")
        return status


def _die_with_parent() -> None:
    ctypes.CDLL(None, use_errno=True).prctl(PARENT_DEATH_SIGNAL, signal.SIGTERM)


def _signal_group(process: "subprocess.Popen[bytes]", number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)


def run_here(ranks: LocalRanks, port: int, command: Sequence[str]) -> int:
    """Start a program on the ranks of this node and wait for them; see `Watch.wait`."""
    environment = dict(os.environ)
    environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(ranks.num_ranks)}
    environment |= {"LOCAL_SIZE": str(ranks.num_ranks), "CROSS_RANK": "0", "CROSS_SIZE": "1"}
    if ranks.gpus:
        environment["CUDA_VISIBLE_DEVICES"] = ",".join(ranks.gpus)
    if ranks.threads is not None:
        environment["OMP_NUM_THREADS"] = ranks.threads
    watch = Watch(command[0])
    for rank in range(ranks.num_ranks):
        own = environment | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
        watch.start([sys.executable, "-u", *command], own, is_bound=True)
    return watch.wait()


def with_allocator(environment: Mapping[str, str]) -> dict[str, str]:
    """Return an environment with the CUDA allocator's setting, unless it has one."""
    if any(name in environment for name in ALLOCATOR_VARIABLES):
        return dict(environment)
    return {**environment, ALLOCATOR_VARIABLES[0]: ALLOCATOR}


def exported_lines(environment: Mapping[str, str], folders: Sequence[Path]) -> list[str]:
    """Return what ranks on other nodes get, one `NAME=VALUE` a line as in DeepSpeed's `.deepspeed_env`.

    Args:
        environment: this process's, of which the variables of `EXPORTED` are taken.
        folders: where DeepSpeed's runner would look for the user's own file; its variables win.
    """
    variables = {name: environment[name] for name in EXPORTED if name in environment}
    for folder in folders:
        path = folder / environment.get(DEEPSPEED_FILE_VARIABLE, DEEPSPEED_FILE)
        if path.is_file():
            lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
            variables |= dict(line.split("=", maxsplit=1) for line in lines if "=" in line)
    return [f"{name}={value}" for name, value in variables.items()]


def run_on_nodes(nodes: Nodes, port: int, command: Sequence[str]) -> int:
    """Start a program on several nodes by DeepSpeed's runner and wait for it; see `Watch.wait`."""
    runner = ["deepspeed", "--no_local_rank", "--hostfile", str(nodes.hostfile), "--master_port", str(port)]
    watch = Watch(command[0])
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / DEEPSPEED_FILE
        file.write_text("".join(f"{line}\n" for line in exported_lines(os.environ, (Path.home(), Path.cwd()))))
        watch.start([*runner, *command], {**os.environ, DEEPSPEED_FILE_VARIABLE: str(file)}, is_bound=True)
        return watch.wait()


def main(arguments: Sequence[str]) -> int:
    """Launch `arguments[1:]` for a user who stands in the folder `arguments[0]`; return the exit status."""
    caller, program = Path(arguments[0]), list(arguments[1:])

    def count_gpus() -> int:
        counted = subprocess.run([sys.executable, "-c", COUNT_GPUS], capture_output=True, text=True, check=True)
        return int(counted.stdout)

    try:
        if not program:
            raise LaunchError("name a program: bash scripts/launch.sh PROGRAM.py [arguments]")
        command = [program[0], *place_configs(program[1:], caller, Path.cwd())]
        os.environ.update(with_allocator(os.environ))
        plan = plan_launch(os.environ, caller, count_gpus)
        port = choose_port(os.environ.get("MASTER_PORT"), isinstance(plan, LocalRanks))
        if isinstance(plan, Nodes):
            check_nodes(plan)
            return run_on_nodes(plan, port, command)
        return run_here(plan, port, command)
    except LaunchError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
