"""Joining the process group."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from plum.training import ports
from plum.training.ports import find_free_port

JOIN = """
from plum.train_config import EngineConfig
from plum.training.ranks import start_ranks

print("rank", start_ranks(EngineConfig(kind="deepspeed")).rank)
"""
JOIN_TWICE = f"""{JOIN}
import subprocess
import sys

sys.exit(subprocess.run([sys.executable, "-c", {JOIN!r}]).returncode)
"""


@pytest.mark.skipif(torch.cuda.is_available(), reason="only CPU ranks would compile the operation")
def test_nothing_is_compiled_and_no_lock_is_waited_for(tmp_path: Path) -> None:
    """A lock as a killed compilation leaves it."""
    python = f"py{sys.version_info.major}{sys.version_info.minor}_cpu"
    lock = tmp_path / python / "deepspeed_shm_comm" / "lock"
    lock.parent.mkdir(parents=True)
    lock.touch()
    environment = os.environ | {"TORCH_EXTENSIONS_DIR": str(tmp_path), "PYTHONPATH": os.getcwd()}
    found = subprocess.run(
        [sys.executable, "-c", JOIN],
        env=environment, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert "rank 0" in found.stdout, found.stderr
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["lock"]


def test_a_process_started_from_a_rank_of_its_own_meets_elsewhere() -> None:
    found = subprocess.run(
        [sys.executable, "-c", JOIN_TWICE],
        env={name: value for name, value in os.environ.items() if name != "RANK"} | {"PYTHONPATH": os.getcwd()},
        capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert found.stdout.count("rank 0") == 2, found.stderr


def test_a_port_in_use_is_not_given(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        port = find_free_port()
        taken.bind(("", port))
        taken.listen()
        monkeypatch.setattr(ports, "PORTS", range(port, port + 1))
        monkeypatch.setattr("random.SystemRandom.sample", lambda _, ports, count: list(ports))
        with pytest.raises(OSError, match="no free port"):
            find_free_port()
    assert find_free_port() == port
