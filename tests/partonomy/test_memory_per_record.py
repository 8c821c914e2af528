"""The memory of the commands on finished runs and record files hardly depends on the number of records.

`scripts/bench/command_growth.py` measures the same at sizes that a benchmark has.
"""

import contextlib
import gc
import io
import json
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from math import cos, pi, sin
from pathlib import Path

import pytest
from PIL import Image

from partonomy import files
from partonomy.__main__ import main
from partonomy.datasets.record_exchange import import_records
from partonomy.harness import records
from partonomy.structures import QuestionType
from scripts.bench.many_records import multiply_dataset, multiply_run
from tests.partonomy.conftest import write_questions
from tests.partonomy.running import make_config, run

NUM_IMAGES = 3
COPIES = (1, 3, 9)
"""The first size only warms up: imports and caches have their memory before the peaks of the others are compared."""
NUM_RECORDS = NUM_IMAGES * len(QuestionType)


@dataclass(frozen=True)
class World:
    """Runs of one size, and a folder for what the commands write."""

    dataset: Path
    runs: tuple[Path, Path]
    shards: tuple[Path, Path]
    output: Path


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> tuple[World, ...]:
    """The same records once and many times."""
    folder = tmp_path_factory.mktemp("memory")
    import_records(write_questions(folder, tuple(QuestionType), NUM_IMAGES), folder / "dataset")
    config = make_config(folder / "dataset", folder / "run", "random")
    run(config)
    return tuple(_multiply(folder, copies) for copies in COPIES)


def _multiply(folder: Path, copies: int) -> World:
    target = folder / str(copies)
    dataset = target / "dataset"
    multiply_dataset(folder / "dataset", dataset, copies)
    runs, shards = (target / "run_0", target / "run_1"), (target / "shard_0", target / "shard_1")
    for path in runs:
        multiply_run(folder / "run", dataset, path, copies)
        run(make_config(dataset, path, "random"), resume=True)
    for place, path in enumerate(shards):
        multiply_run(folder / "run", dataset, path, copies, shard=f"{place + 1}/2", keep=partial(_is_own, place))
    output = target / "output"
    output.mkdir()
    return World(dataset, runs, shards, output)


def _is_own(place: int, number: int, record: object) -> bool:
    return number % 2 == place


def _finish(world: World) -> None:
    (world.runs[0] / "summary.json").unlink()
    run(make_config(world.dataset, world.runs[0], "random"), resume=True)


def _command(*words: object) -> None:
    assert main([str(word) for word in words]) == 0


def _report(world: World) -> None:
    """Write the report twice: the first one also loads packages that only larger runs need."""
    for _ in range(2):
        tracemalloc.stop()
        gc.collect()
        tracemalloc.start()
        _command("report", world.runs[0], "--baselines", world.runs[1])


COMMANDS: dict[str, tuple[Callable[[World], None], int]] = {
    "finish": (_finish, 4000),
    "tables": (lambda world: _command("tables", *world.runs, "--protocol", "both"), 500),
    "compare": (lambda world: _command("compare", *world.runs, "--output", world.output / "flips.json"), 2000),
    # Up to 3,000 items are in the page itself, with the outlines of their masks.
    "report": (_report, 20_000),
    "merge-runs": (
        lambda world: _command("merge-runs", *world.shards, "--output", world.output / "merged"),
        2000,
    ),
    "export": (
        lambda world: _command("export", "--questions", world.dataset, "--output", world.output / "qa_pairs.json"),
        4000,
    ),
}
"""Each command with the bytes that it may take for one more record; a record's line has 3,500, its objects 15,000."""


@pytest.mark.parametrize("name", COMMANDS)
def test_memory_hardly_grows_with_the_records(
    worlds: tuple[World, ...], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(records, "LINES_PER_BATCH", 8)  # a batch that is checked together must not be half of a file
    command, limit = COMMANDS[name]
    peaks = []
    for world in worlds:
        gc.collect()
        tracemalloc.start()
        with contextlib.redirect_stdout(io.StringIO()):
            command(world)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    rise = (peaks[2] - peaks[1]) / ((COPIES[2] - COPIES[1]) * NUM_RECORDS)
    assert rise < limit


@dataclass(frozen=True)
class CocoWorld:
    """COCO-style files of two sizes and of one form, and what may be held of each annotation.

    Attributes:
        segmentation: the mask of every part.
        extra: other keys of every part.
        limit: bytes for one more annotation.
    """

    segmentation: object
    limit: int
    extra: dict[str, object] = field(default_factory=dict)

    def write(self, folder: Path, num_annotations: int) -> list[str]:
        """Write a file of one image and so many parts, and return the arguments of its check."""
        folder.mkdir()
        Image.new("L", (SIDE, SIDE)).save(folder / "0.png")
        content = {
            "images": [
                {"id": number, "file_name": "0.png", "height": SIDE, "width": SIDE}
                for number in range(num_annotations // PARTS_PER_IMAGE)
            ],
            "categories": [{"id": number, "name": f"car:part {number}"} for number in range(PARTS_PER_IMAGE)],
            "annotations": [
                {
                    "id": number,
                    "image_id": number // PARTS_PER_IMAGE,
                    "category_id": number % PARTS_PER_IMAGE,
                    "segmentation": self.segmentation,
                }
                | self.extra
                for number in range(num_annotations)
            ],
        }
        (folder / "annotations.json").write_text(json.dumps(content))
        files = ["--annotations", str(folder / "annotations.json"), "--images", str(folder)]
        return ["check", *files, "--headers_only", "--output", str(folder / "findings.json")]


SIDE = 256
PARTS_PER_IMAGE = 20
CIRCLE = [
    f(2 * pi * step / 60) for step in range(60) for f in (lambda a: 99 + 70.5 * cos(a), lambda a: 99 + 70.5 * sin(a))
]
FORMS = {
    "polygons": CocoWorld([CIRCLE], 300),
    "codes": CocoWorld({"size": [SIDE, SIDE], "counts": [1000, *[100, 156] * 60, 49176]}, 300),
    "three findings each": CocoWorld([[9, 9, 11, 9, 11, 11]], 500, {"iscrowd": 1, "bbox": "none"}),
}
"""As Python objects, a polygon of 60 points has 4,000 bytes, its mask 400, a finding 400. Ids and places take 190."""


@pytest.mark.parametrize("name", FORMS)
def test_check_keeps_neither_masks_nor_findings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    for name_of_constant in ("CHUNK_CHARACTERS", "HASH_BLOCK"):  # else the peak is one of them
        monkeypatch.setattr(files, name_of_constant, 1 << 12)
    peaks = []
    for size in (200, 400, 1200):  # the first only warms up
        arguments = FORMS[name].write(tmp_path / str(size), size)
        gc.collect()
        tracemalloc.start()
        with contextlib.redirect_stdout(io.StringIO()):
            assert main(arguments) == 0
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert (peaks[2] - peaks[1]) / 800 < FORMS[name].limit
