"""scripts/train*.sh hand DeepSpeed's launcher the right processes; launcher and GPU count are stand-ins."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

GPU_VARIABLES = ("CUDA_VISIBLE_DEVICES", "NUM_RANKS", "INCLUDE", "HOSTFILE", "MASTER_PORT", "OMP_NUM_THREADS")


@pytest.fixture
def scripts(tmp_path: Path) -> Path:
    """A copy of the scripts away from .venv, whose programs would come first."""
    shutil.copytree("scripts", tmp_path / "scripts")
    programs = {
        "deepspeed": 'echo "$OMP_NUM_THREADS" > threads; printf "%s|" "$@"',
        "python": 'touch counted; echo "${GPUS:-0}"',
    }
    for name, body in programs.items():
        program = tmp_path / "bin" / name
        program.parent.mkdir(exist_ok=True)
        program.write_text(f"#!/bin/sh\n{body}\n")
        program.chmod(0o755)
    return tmp_path / "scripts"


def _launch(script: Path, arguments: list[str], **variables: str) -> list[str]:
    environment = {key: value for key, value in os.environ.items() if key not in GPU_VARIABLES}
    environment |= {"PATH": f"{script.parent.parent / 'bin'}:{os.environ['PATH']}", **variables}
    done = subprocess.run(
        ["bash", str(script), *arguments],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
        cwd=script.parent.parent,
    )
    return done.stdout.rstrip("|").split("|")


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, ["--num_gpus", "2"]),
        ({"GPUS": "8"}, ["--num_gpus", "8"]),
        ({"GPUS": "1"}, ["--num_gpus", "1"]),
        ({"GPUS": "8", "NUM_RANKS": "4"}, ["--num_gpus", "4"]),
        ({"GPUS": "8", "INCLUDE": "localhost:0,3"}, ["--include", "localhost:0,3"]),
        # The launcher ignores CUDA_VISIBLE_DEVICES beside --num_gpus and would take somebody else's GPUs.
        ({"GPUS": "4", "CUDA_VISIBLE_DEVICES": "4,5,6,7"}, ["--include", "localhost:4,5,6,7"]),
        ({"GPUS": "4", "CUDA_VISIBLE_DEVICES": "4,5,6,7", "NUM_RANKS": "2"}, ["--include", "localhost:4,5"]),
    ],
)
def test_processes(scripts: Path, variables: dict[str, str], expected: list[str]) -> None:
    words = _launch(scripts / "train.sh", ["c.yaml", "--seed", "a b"], **variables)
    at = words.index(expected[0])
    assert words[at : at + 2] == expected
    assert words[at + 2 :] == ["train.py", "--config", "c.yaml", "--seed", "a b"]


@pytest.mark.parametrize(
    ("variables", "is_counted", "threads"),
    [
        ({"NUM_RANKS": "4", "OMP_NUM_THREADS": "3"}, False, "3"),
        ({"INCLUDE": "localhost:0", "OMP_NUM_THREADS": "3"}, False, "3"),
        ({"HOSTFILE": "hosts.txt", "OMP_NUM_THREADS": "3"}, False, "3"),
        ({"OMP_NUM_THREADS": "3"}, True, "3"),
        ({"NUM_RANKS": "4", "CUDA_VISIBLE_DEVICES": "2,3", "OMP_NUM_THREADS": "3", "GPUS": "2"}, True, "3"),
        ({"NUM_RANKS": "4"}, True, "1"),
        ({"NUM_RANKS": "4", "GPUS": "4"}, True, ""),
    ],
)
def test_gpus_are_counted_where_something_follows_from_their_number(
    scripts: Path, variables: dict[str, str], is_counted: bool, threads: str
) -> None:
    (scripts.parent / "hosts.txt").touch()
    _launch(scripts / "train.sh", ["c.yaml"], **variables)
    assert (scripts.parent / "counted").exists() == is_counted
    assert (scripts.parent / "threads").read_text().strip() == threads


def test_a_hostfile_is_found_from_where_the_user_stands(scripts: Path) -> None:
    hosts = scripts.parent / "hosts.txt"
    hosts.write_text("node1 slots=8\n")
    words = _launch(scripts / "train.sh", ["c.yaml"], HOSTFILE="hosts.txt", MASTER_PORT="29511")
    assert words[words.index("--hostfile") + 1] == str(hosts)
    assert words[words.index("--master_port") + 1] == "29511"
    assert "--num_gpus" not in words


@pytest.mark.parametrize(("name", "default"), [("0shot", "plum_13b_0shot"), ("ft", "plum_13b_ft")])
def test_the_configuration_may_be_left_out(scripts: Path, name: str, default: str) -> None:
    script = scripts / f"train_plum_{name}.sh"
    assert _launch(script, ["--seed", "1"])[-4:] == ["--config", f"configs/{default}.yaml", "--seed", "1"]
    assert _launch(script, [])[-1] == f"configs/{default}.yaml"
    assert _launch(script, ["c.yaml", "--seed", "1"])[-4:] == ["--config", "c.yaml", "--seed", "1"]
