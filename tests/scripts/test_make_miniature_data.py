"""The miniature script writes a root that `data-status` calls complete, and does not write over anything."""

import subprocess
import sys
from pathlib import Path

from plum.data.catalogue import State, survey

ROOT = Path(__file__).resolve().parents[2]


def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "scripts/make_miniature_data.py", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=300)


def test_it_writes_every_layout_once(tmp_path: Path) -> None:
    output = tmp_path / "mini"
    assert run("--output", str(output), "--images", "6", "--size", "64").returncode == 0
    assert {status.state for status in survey(output)} == {State.THERE}
    again = run("--output", str(output))
    assert again.returncode == 2
    assert "is not empty" in again.stderr


def test_it_refuses_too_few_pictures(tmp_path: Path) -> None:
    refused = run("--output", str(tmp_path / "mini"), "--images", "5")
    assert refused.returncode == 2
    assert "at least 6" in refused.stderr


def test_splits_need_two_pictures_of_every_class(tmp_path: Path) -> None:
    refused = run("--output", str(tmp_path / "mini"), "--images", "35", "--partonomy", str(tmp_path / "data"))
    assert refused.returncode == 2
    assert "needs --images 36" in refused.stderr
    assert not (tmp_path / "mini").exists()
