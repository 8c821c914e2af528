"""`scripts/ray_shards.py`: one command per shard, what failed, and what it needs."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "scripts" / "ray_shards.py"
WRITE = "import sys, pathlib; pathlib.Path(sys.argv[1]).write_text(sys.argv[2]); sys.exit(int(sys.argv[1]) == 2)"


def run(folder: Path, *flags: str, path: str = "") -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"RAY_USAGE_STATS_ENABLED": "0", "PYTHONPATH": path}
    command = [sys.executable, str(SCRIPT), *flags]
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=300
    )


def test_a_command_without_its_shard_is_refused(tmp_path: Path) -> None:
    done = run(tmp_path, "--shards", "2", "--", "echo", "hello")
    assert done.returncode == 2
    assert "a command with {shard} in it" in done.stderr


def test_without_ray_one_line_says_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "ray.py").write_text("raise ImportError")
    done = run(tmp_path, "--shards", "2", "--", "echo", "{shard}", path=str(tmp_path))
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].endswith("Ray is not installed: pip install ray")


@pytest.mark.slow
@pytest.mark.distributed
def test_every_shard_runs_once_and_failures_are_named(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="Ray is not installed (optional: pip install ray)")
    done = run(tmp_path, "--shards", "3", "--", sys.executable, "-c", WRITE, "{number}", "shard {shard}")
    assert done.returncode == 1, done.stderr
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {
        "1": "shard 1/3",
        "2": "shard 2/3",
        "3": "shard 3/3",
    }
    assert "shard 1/3: done" in done.stdout
    assert "shard 2/3: exit status 1" in done.stdout
    assert done.stdout.rstrip().endswith("failed: 2/3; run again to go on")
