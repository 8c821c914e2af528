"""Programs under the real DeepSpeed launcher, as users start them."""

import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import yaml

from plum.train_config import TrainConfig
from plum.training.ranks import find_free_port

TIMEOUT = 600
"""Seconds after which a start counts as hung."""


def launch_process(program: str, arguments: list[str], num_ranks: int, **variables: str) -> "subprocess.Popen[str]":
    """Start scripts/launch.sh in a session of its own; its two outputs are one."""
    environment = {key: value for key, value in os.environ.items() if key not in ("INCLUDE", "HOSTFILE")}
    environment |= {
        "OMP_NUM_THREADS": "1",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": os.getcwd(),
        "NUM_RANKS": str(num_ranks),
        "MASTER_PORT": str(find_free_port()),
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


def launch(program: str, arguments: list[str], num_ranks: int, **variables: str) -> str:
    """Run a program to its end, which must be a good one; return what it printed."""
    with launch_process(program, arguments, num_ranks, **variables) as process:
        printed, _ = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 0, printed[-6000:]
    return printed


def write_config(config: TrainConfig) -> list[str]:
    """Write a configuration beside its run; return the arguments that name it."""
    path = Path(config.run_dir).with_suffix(".yaml")
    path.write_text(yaml.safe_dump(_as_plain(asdict(config))))
    return ["--config", str(path)]


def train_launched(config: TrainConfig, num_ranks: int) -> Path:
    """Train to the end; return the folder of the model."""
    launch("train.py", write_config(config), num_ranks)
    return Path(config.run_dir) / "model"


def _as_plain(value: object) -> object:
    if isinstance(value, dict):
        return {key: _as_plain(item) for key, item in value.items()}
    return [_as_plain(item) for item in value] if isinstance(value, (list, tuple)) else value
