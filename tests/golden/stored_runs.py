"""Run folders that the code wrote before its runners became one (old_runs/), and how each of them was made.

They are never written anew: they show that what users have on their disks is still read. Their paths are relative to
the folder of the golden world, where every command here is to be called.
"""

import contextlib
import io
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from partonomy.__main__ import main as partonomy
from plum.cli.main import main as plum
from tests.golden.runs import VQA
from validate_partonomy import main as validate_partonomy

FOLDER = Path(__file__).resolve().parent / "old_runs"
TABLES_FOLDER = Path(__file__).resolve().parent / "tables"

_PLUM = ("--model", "plum", "--checkpoint", "checkpoint")
_WITHOUT_OWN = ("--generate", "none")
PARTONOMY: Mapping[str, tuple[str, ...]] = {
    "random": ("--model", "random", "--question_types", "identification_with_label,part_to_whole"),
    "plum": (*_PLUM, "--question_types", "identification_with_label,part_to_whole", "--part_whole", "predicted"),
    "plum_listwise": (*_PLUM, "--question_types", "positive", "--choice_protocol", "listwise", *_WITHOUT_OWN),
    "damaged": ("--model", "oracle", "--question_types", "part_to_whole", *_WITHOUT_OWN),
    "oracle_shard1": ("--model", "oracle", "--question_types", "part_to_whole", "--shard", "1/2", *_WITHOUT_OWN),
    "oracle_shard2": ("--model", "oracle", "--question_types", "part_to_whole", "--shard", "2/2", *_WITHOUT_OWN),
}
"""Flags of `validate_partonomy.py`."""
LIMITS = {"random": 5, "plum": 5, "damaged": 3}
"""Questions of each type; 2 where none is named."""
BENCHMARKS: Mapping[str, tuple[str, ...]] = {
    "refcoco": ("refcoco", "--limit", "4"),
    "reasonseg_generated": ("reasonseg", "--split", "test", "--mode", "generated"),
    "mmr": ("mmr", "--limit", "4"),
    "mmr_generate": ("mmr", "--limit", "4", "--mode", "generate"),
    "textvqa": ("textvqa", "--limit", "6"),
    "textvqa_base": ("textvqa", "--limit", "6", "--base"),
    "gqa": ("gqa", "--protocol", "partonomy_compat", "--limit", "6"),
    "pope_shard1": ("pope", "--limit", "3", "--shard", "1/2"),
    "pope_shard2": ("pope", "--limit", "3", "--shard", "2/2"),
}
"""Arguments of `python -m plum validate`."""

TABLES: Mapping[str, tuple[str, ...]] = {
    "tables": ("partonomy", "tables", "random", "plum", "damaged", "--protocol", "both"),
    "tables_all": ("partonomy", "tables", "random", "plum", "--table", "all", "--protocol", "both"),
    "tables_markdown": ("partonomy", "tables", "plum_listwise", "--protocol", "authors", "--format", "markdown"),
    "tables_latex": ("partonomy", "tables", "random", "--table", "3", "--protocol", "both", "--format", "latex"),
    "tables_csv": ("partonomy", "tables", "random", "damaged", "--protocol", "both", "--format", "csv"),
    "compare": ("partonomy", "compare", "random", "plum"),
    "reasonseg_table": ("partonomy", "tables", "reasonseg_generated"),
    "mmr_tables": ("plum", "mmr-tables", "mmr", "mmr_generate"),
    "retention": ("plum", "retention", "textvqa", "textvqa_base"),
}
"""Commands whose output is stored in tables/; a word that names a run stands for its folder."""


def run_stored(name: str, output: Path, *flags: str) -> None:
    """Run what is stored as `name` into `output`; the working directory is the golden world's.

    Raises:
        RuntimeError: The command failed.
    """
    if name in PARTONOMY:
        questions = "damaged" if name == "damaged" else "synthetic_paper"
        common = ["--questions", f"questions/{questions}", "--limit", str(LIMITS.get(name, 2)), "--device", "cpu"]
        validate_partonomy([*PARTONOMY[name], *common, "--output", str(output), *flags])
        return
    settings = BENCHMARKS[name]
    root = f"miniature/{settings[0]}" if settings[0] in VQA else "miniature"
    places = ["--root", root, "--checkpoint", "checkpoint", "--output", str(output), "--device", "cpu"]
    if plum(["validate", *settings, *places, *flags]) != 0:
        raise RuntimeError(f"python -m plum validate {' '.join(settings)} failed")


def copy_stored(name: str, folder: Path) -> Path:
    """A copy of a stored run that may be changed."""
    return Path(shutil.copytree(FOLDER / name, folder / name))


def print_table(command: Sequence[str]) -> str:
    """What a command of `TABLES` prints.

    Raises:
        RuntimeError: The command failed.
    """
    program, *words = command
    known = {*PARTONOMY, *BENCHMARKS}
    arguments = [words[0], *(str(FOLDER / word) if word in known else word for word in words[1:])]
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        status = (partonomy if program == "partonomy" else plum)(arguments)
    if status != 0:
        raise RuntimeError(f"python -m {program} {' '.join(arguments)} failed")
    return printed.getvalue()


def merge_stored(name: str, folder: Path) -> Path:
    """Merge the two stored shards of a run.

    Raises:
        RuntimeError: The command failed.
    """
    parts = [str(FOLDER / f"{name}_shard{number}") for number in (1, 2)]
    if partonomy(["merge-runs", *parts, "--output", str(folder / name)]) != 0:
        raise RuntimeError(f"the shards of {name} cannot be merged")
    return folder / name
