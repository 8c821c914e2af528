"""Input made to crash a reader or fill the memory; each kind in its own process, since a crash would end this one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz.hostile import CASES

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("name", CASES)
def test_hostile_input_is_bounded(name: str) -> None:
    command = [sys.executable, "-m", "tests.fuzz.hostile", name]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}  # threads take address space
    finished = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr[-3000:]
