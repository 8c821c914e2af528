"""The commands of docs/many_machines.md, run as they are written, with a scheduler that starts every job at once."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from partonomy.__main__ import build_parser

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "many_machines.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```bash\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)
SBATCH = """#!/bin/bash
# sbatch [--parsable] [--array 1-N] [--dependency X] ... (--wrap COMMAND | SCRIPT)
set -e
last=1
while [ $# -gt 0 ]; do
  case "$1" in
    --array) last="${2#1-}"; shift 2;;
    --wrap) sh -c "$2" >&2; exit;;
    --parsable) echo 7; shift;;
    --*) shift 2;;
    *) script="$1"; shift;;
  esac
done
for number in $(seq "$last"); do
  SLURM_ARRAY_TASK_ID=$number SLURM_ARRAY_TASK_COUNT=$last bash "$script" >&2
done
"""


def find_block(*words: str) -> str:
    (block,) = [block for block in BLOCKS if all(word in block for word in words)]
    return block


BUILD = (
    "python -m partonomy build --source synthetic --images 6 --image_size 64 --embedding_model char-ngram-tfidf "
    "--question_types identification,part_to_whole --mutation paper --output"
)
"""With `paper`, which fits nothing for seconds; shards of `balanced` are compared in test_build_shards.py."""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with a scheduler in `bin/`."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "sbatch").write_text(SBATCH)
    (tmp_path / "bin" / "sbatch").chmod(0o755)
    return tmp_path


def run_block(block: str, place: Path, **variables: str) -> str:
    """Run a block in bash; returns its output."""
    path = f"{place / 'bin'}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = os.environ | variables | {"PATH": path, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", block],
        cwd=place,
        env=environment,
        check=False,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def read_all(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.parametrize("words", [("sbatch", "--prepare"), ("torchrun", "--prepare")], ids=["SLURM", "torchrun"])
def test_a_build_is_that_of_one_process(place: Path, words: tuple[str, str]) -> None:
    run_block(f"{BUILD} whole", place)
    block = find_block(*words).replace("1-32", "1-3").replace("--nproc_per_node 8", "--nproc_per_node 2")
    output = run_block(block, place, BUILD=f"{BUILD} shared")
    assert "shard 2/" in output
    assert read_all(place / "shared") == read_all(place / "whole")


@pytest.mark.slow
@pytest.mark.distributed
def test_a_benchmark_run_in_an_array_is_joined(place: Path) -> None:
    run_block(f"{BUILD} data", place)
    block = find_block("sbatch", "merge-runs").replace("1-8", "1-2")
    run = f"python {ROOT / 'validate_partonomy.py'} --model random --questions data --resume"
    output = run_block(block, place, RUN=run)
    assert "Written: runs/mine/records.jsonl, runs/mine/summary.json" in output


def test_the_data_commands_of_the_page_parse() -> None:
    (build,) = re.findall(r'^BUILD="python -m partonomy (.*)"$', PAGE, flags=re.MULTILINE)
    for command in (build, "import --questions q --output d", "check d --output f", "describe d --output o"):
        for step in ("--shard 2/8", "--merge"):
            _parse(f"{command} {step}")
    _parse(f"{build} --prepare --shard 2/8")


def _parse(command: str) -> None:
    words = shlex.split(command)
    build_parser(words[0]).parse_args(words)
