"""scripts/train*.sh: which arguments reach the launcher (a stand-in for python records them)."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest


@pytest.fixture
def scripts(tmp_path: Path) -> Path:
    """A copy of the scripts away from .venv, whose programs would come first."""
    shutil.copytree("scripts", tmp_path / "scripts")
    program = tmp_path / "bin" / "python"
    program.parent.mkdir()
    program.write_text('#!/bin/sh\nprintf "%s|" "$PWD" "$@"\n')
    program.chmod(0o755)
    return tmp_path / "scripts"


def _launch(script: Path, arguments: list[str], caller: Path) -> list[str]:
    environment = os.environ | {"PATH": f"{script.parent.parent / 'bin'}:{os.environ['PATH']}"}
    command = ["bash", str(script), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment, cwd=caller)
    return done.stdout.rstrip("|").split("|")


def test_the_launcher_runs_in_the_repository_and_knows_where_the_user_stands(scripts: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "else where"
    elsewhere.mkdir()
    words = _launch(scripts / "train.sh", ["c.yaml", "--seed", "a b"], elsewhere)
    assert words == [
        *(str(tmp_path), "-m", "plum.training.launch", str(elsewhere)),
        *("train.py", "--config", "c.yaml", "--seed", "a b"),
    ]


@pytest.mark.parametrize(("name", "default"), [("0shot", "plum_13b_0shot"), ("ft", "plum_13b_ft")])
def test_the_configuration_may_be_left_out(scripts: Path, name: str, default: str) -> None:
    script = scripts / f"train_plum_{name}.sh"
    assert _launch(script, ["--seed", "1"], scripts)[-4:] == ["--config", f"configs/{default}.yaml", "--seed", "1"]
    assert _launch(script, [], scripts)[-1] == f"configs/{default}.yaml"
    assert _launch(script, ["c.yaml", "--seed", "1"], scripts)[-4:] == ["--config", "c.yaml", "--seed", "1"]
