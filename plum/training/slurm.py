"""Ranks that SLURM's `srun` starts without a launcher: its variables, in the names that torch and DeepSpeed read."""

import re
from collections.abc import Mapping

_BRACKETS = re.compile(r"\[([^\]]*)\]")
_FIRST_PORT, _NUM_PORTS = 15000, 16000
"""Ports below those that Linux gives to connections (32768 and above)."""
_NEEDED = ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID")


def launcher_variables(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that a launcher would have set for a task of `srun`.

    They are RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR (the first host of the step) and MASTER_PORT (the same for all
    tasks of a job). Nothing is returned if a launcher has set them already, for a single task, and in a batch script
    outside of `srun`, where SLURM_NTASKS counts tasks that nothing has started.

    Args:
        environment: variables of this process.

    Raises:
        ValueError: a variable of SLURM is not a number, or the list of hosts is missing or damaged.
    """
    if "RANK" in environment or "WORLD_SIZE" in environment or not all(name in environment for name in _NEEDED):
        return {}
    is_step = "SLURM_STEP_ID" in environment or "SLURM_STEP_NUM_TASKS" in environment
    if "SLURM_JOB_ID" in environment and not is_step:
        return {}
    tasks = "SLURM_STEP_NUM_TASKS" if "SLURM_STEP_NUM_TASKS" in environment else "SLURM_NTASKS"
    world_size, rank = _number(environment, tasks), _number(environment, "SLURM_PROCID")
    if world_size <= 1:
        return {}
    local_rank = _number(environment, "SLURM_LOCALID")
    gpus = [gpu for gpu in environment.get("CUDA_VISIBLE_DEVICES", "").split(",") if gpu]
    if gpus:  # with --gpus-per-task, each task sees its own GPUs only
        local_rank %= len(gpus)
    hosts = environment.get("SLURM_STEP_NODELIST") or environment.get("SLURM_JOB_NODELIST", "")
    job = _number(environment, "SLURM_JOB_ID") if "SLURM_JOB_ID" in environment else 0
    return {
        "RANK": str(rank),
        "WORLD_SIZE": str(world_size),
        "LOCAL_RANK": str(local_rank),
        "MASTER_ADDR": environment.get("MASTER_ADDR") or first_host(hosts),
        "MASTER_PORT": environment.get("MASTER_PORT") or str(_FIRST_PORT + job % _NUM_PORTS),
    }


def first_host(hosts: str) -> str:
    """Return the first host of a SLURM host list, such as `gpu[003-010,12],login1`.

    Raises:
        ValueError: the list is empty or damaged.
    """
    first = re.match(r"(?:\[[^\]]*\]|[^,\[\]])+", hosts.strip())
    name = "" if first is None else _BRACKETS.sub(lambda match: re.split(r"[-,]", match[1])[0], first[0])
    if not re.fullmatch(r"[A-Za-z0-9_.:-]+", name):
        raise ValueError(
            f"SLURM_JOB_NODELIST is {hosts!r}, which names no host; start the tasks with srun, or set MASTER_ADDR"
        )
    return name


def _number(environment: Mapping[str, str], name: str) -> int:
    text = environment[name]
    if not (text.isascii() and text.isdigit()):
        raise ValueError(f"{name} is {text!r}, it must be a number; start the tasks with srun")
    return int(text)
