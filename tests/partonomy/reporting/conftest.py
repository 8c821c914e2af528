"""Finished runs of every benchmark on the miniature of its download, for the tests of this folder."""

import contextlib
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from partonomy.__main__ import main
from partonomy.reporting.loaded_run import AnyRun, load_run
from plum.data.miniature.writer import write_miniature

NUM_IMAGES = 6
IMAGE_SIZE = 64
VQA = ("textvqa", "gqa", "pope")
SETTINGS: Mapping[str, tuple[str, ...]] = {
    "refcoco": ("refcoco",),
    "reasonseg": ("reasonseg",),
    "refcocom": ("refcocom", "--split", "val_part"),
    "mmr": ("mmr",),
    "mmr_generate": ("mmr", "--mode", "generate"),
    "mmr_union": ("mmr", "--mode", "union"),
    "multirefcoco": ("multirefcoco",),
    "textvqa": ("textvqa",),
    "gqa": ("gqa",),
    "pope": ("pope",),
}
"""Arguments of `python -m partonomy run`, by the name of a pair of runs."""
WORSE = {"textvqa": "empty", "gqa": "empty"}
"""The second model of a pair; `random` where none is named."""


@dataclass(frozen=True)
class Runs:
    """The oracle's run and a worse one on the same items."""

    oracle: AnyRun
    worse: AnyRun


@dataclass(frozen=True)
class World:
    """Data of all benchmarks, and a pair of runs by the names of `SETTINGS`."""

    data: Path
    pairs: Mapping[str, Runs]

    def root(self, benchmark: str) -> Path:
        """Where a benchmark's data lie."""
        return self.data / benchmark if benchmark in VQA else self.data


def run_model(root: Path, output: Path, model: str, *settings: str) -> AnyRun:
    """Run a built-in model on a benchmark."""
    benchmark, *flags = settings
    words = ["run", benchmark, "--root", str(root), "--model", model, "--output", str(output), *flags]
    with contextlib.redirect_stdout(io.StringIO()):
        assert main(words) == 0
    return load_run(output)


@pytest.fixture(scope="session")
def benchmarks(tmp_path_factory: pytest.TempPathFactory) -> World:
    """All of it; no test changes it."""
    folder = tmp_path_factory.mktemp("benchmarks")
    world = World(folder / "data", {})
    write_miniature(world.data, NUM_IMAGES, IMAGE_SIZE)
    pairs = {}
    for name, settings in SETTINGS.items():
        root = world.root(settings[0])
        oracle = run_model(root, folder / f"{name}_oracle", "oracle", *settings)
        model = WORSE.get(settings[0], "random")
        pairs[name] = Runs(oracle, run_model(root, folder / f"{name}_{model}", model, *settings))
    return World(world.data, pairs)
