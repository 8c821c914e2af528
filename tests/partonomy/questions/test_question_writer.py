"""Builds that are killed: the next one goes on where they stopped and leaves the same bytes."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from partonomy.datasets.store import (
    ANNOTATIONS_FILE,
    BUILD_FILE,
    DATASET_FILE,
    PARTIAL_QUESTIONS_FILE,
    PROGRESS_FILE,
    QUESTIONS_FILE,
    DatasetOrigin,
    load_questions,
    save_dataset,
)
from partonomy.questions import generator
from partonomy.questions.generator import QuestionBuildConfig, build_questions
from partonomy.structures import TABLE_TYPES
from tests.partonomy.tiny_world import make_image, make_vehicles

ROOT = Path(__file__).resolve().parents[3]
FILES = (DATASET_FILE, ANNOTATIONS_FILE, QUESTIONS_FILE, BUILD_FILE)
CONFIG = QuestionBuildConfig(embedding_model="char-ngram-tfidf", question_types=TABLE_TYPES)
NUM_IMAGES, STEP = 36, 4


class Killed(Exception):
    """Stands for the end of the process."""


@pytest.fixture(autouse=True)
def short_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generator, "NUM_IMAGES_PER_STEP", STEP)


def make_world(folder: Path) -> generator.PartDataset:
    """Aircraft, and an image without parts in every step, so that skipped questions are counted across the kill."""
    dataset = make_vehicles(folder / "images", NUM_IMAGES)
    images = [
        make_image(image.image_id) if number % STEP == 2 else image for number, image in enumerate(dataset.images)
    ]
    return replace(dataset, images=tuple(images))


def read_all(folder: Path) -> list[bytes]:
    return [(folder / name).read_bytes() for name in FILES]


@pytest.fixture
def wanted(tmp_path: Path) -> list[bytes]:
    """The files of a build that nothing interrupted."""
    build_questions(make_world(tmp_path / "whole"), CONFIG, tmp_path / "whole")
    return read_all(tmp_path / "whole")


def build_until(
    folder: Path, num_steps: int, monkeypatch: pytest.MonkeyPatch, config: QuestionBuildConfig = CONFIG
) -> int:
    """Build, and stop after some steps.

    Returns:
        The steps made.
    """
    make, made = generator._make_step, []

    def make_or_die(*arguments: object) -> object:
        if len(made) == num_steps:
            raise Killed
        made.append(1)
        return make(*arguments)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(generator, "_make_step", make_or_die)
        try:
            build_questions(make_world(folder), config, folder)
        except Killed:
            assert not (folder / QUESTIONS_FILE).exists()
            assert not (folder / BUILD_FILE).exists()
    return len(made)


def test_a_killed_build_goes_on(tmp_path: Path, wanted: list[bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "killed"
    assert build_until(folder, 3, monkeypatch) == 3
    with pytest.raises(FileNotFoundError, match="build the questions first"):
        load_questions(folder)
    assert build_until(folder, 2, monkeypatch) == 2
    # 9 steps in all: 3 + 2 are done.
    assert build_until(folder, 100, monkeypatch) == 4
    assert read_all(folder) == wanted
    assert {path.name for path in folder.iterdir()} == {*FILES, "images"}


def test_what_was_half_written_is_cut_off(tmp_path: Path, wanted: list[bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "killed"
    build_until(folder, 3, monkeypatch)
    with (folder / PARTIAL_QUESTIONS_FILE).open("ab") as file:
        file.write(b'{"question_id":"13:identification_with')
    with (folder / PROGRESS_FILE).open("ab") as file:
        file.write(b'{"num_images": 16, "num_by')
    assert build_until(folder, 100, monkeypatch) == 6
    assert read_all(folder) == wanted


@pytest.mark.parametrize("damage", ["changed", "lost", "zeros"])
def test_questions_that_are_not_there_are_made_again(
    tmp_path: Path, wanted: list[bytes], monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    folder = tmp_path / "killed"
    build_until(folder, 5, monkeypatch)
    steps = [json.loads(line) for line in (folder / PROGRESS_FILE).read_text().splitlines()[1:]]
    content = bytearray((folder / PARTIAL_QUESTIONS_FILE).read_bytes())
    # Somewhere in the third step: the first two are good.
    place = (steps[1]["num_bytes"] + steps[2]["num_bytes"]) // 2
    if damage == "changed":
        content[place] ^= 1
    elif damage == "lost":
        del content[place:]
    else:
        content[place:] = bytes(len(content) - place)
    (folder / PARTIAL_QUESTIONS_FILE).write_bytes(content)
    assert build_until(folder, 100, monkeypatch) == 9 - 2
    assert read_all(folder) == wanted


def test_a_build_of_something_else_starts_over(
    tmp_path: Path, wanted: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "killed"
    build_until(folder, 5, monkeypatch, replace(CONFIG, seed=1))
    assert build_until(folder, 3, monkeypatch) == 3
    changed = (folder / "images").rename(tmp_path / "elsewhere")
    assert changed.is_dir()
    assert build_until(folder, 100, monkeypatch) == 6
    assert read_all(folder) == wanted


def test_a_build_killed_at_the_very_end_is_only_finished(
    tmp_path: Path, wanted: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "killed"

    def die(*arguments: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(generator, "summary_to_json", die)
        with pytest.raises(Killed):
            build_questions(make_world(folder), CONFIG, folder)
    assert (folder / QUESTIONS_FILE).exists()
    assert build_until(folder, 100, monkeypatch) == 0
    assert read_all(folder) == wanted


def test_a_finished_set_is_built_anew_from_its_beginning(
    tmp_path: Path, wanted: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert build_until(tmp_path / "whole", 100, monkeypatch) == 9
    assert read_all(tmp_path / "whole") == wanted


BUILD_SCRIPT = """
import sys
from pathlib import Path
from partonomy.datasets.store import load_dataset
from partonomy.questions.generator import QuestionBuildConfig, build_questions
from partonomy.structures import TABLE_TYPES
from tests.partonomy.quick_fits import quick_fits

if __name__ == "__main__":
    config = QuestionBuildConfig(
        embedding_model="char-ngram-tfidf", question_types=TABLE_TYPES, num_workers=int(sys.argv[3])
    )
    with quick_fits():
        build_questions(load_dataset(Path(sys.argv[1])), config, Path(sys.argv[2]))
"""


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.parametrize("num_workers", [1, 2])
def test_kill_9_at_random_moments(tmp_path: Path, num_workers: int) -> None:
    script = tmp_path / "build.py"
    script.write_text(BUILD_SCRIPT)
    dataset = make_vehicles(tmp_path / "images", 700)
    save_dataset(dataset, tmp_path / "source", DatasetOrigin("test"))

    def start(folder: Path) -> subprocess.Popen[bytes]:
        command = [sys.executable, str(script), str(tmp_path / "source"), str(folder), str(num_workers)]
        return subprocess.Popen(command, env=os.environ | {"PYTHONPATH": str(ROOT)}, stderr=subprocess.DEVNULL)

    assert start(tmp_path / "whole").wait(timeout=300) == 0
    size = (tmp_path / "whole" / QUESTIONS_FILE).stat().st_size
    folder = tmp_path / "killed"
    partial = folder / PARTIAL_QUESTIONS_FILE
    dice = random.Random(num_workers)
    for begin in (0.0, 0.25, 0.5):
        limit = size * (begin + 0.25 * dice.random())
        process = start(folder)
        while process.poll() is None and not (partial.is_file() and partial.stat().st_size > limit):
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
        assert process.wait(timeout=60) == -signal.SIGKILL
        assert not (folder / QUESTIONS_FILE).exists()
    assert json.loads((folder / PROGRESS_FILE).read_bytes().splitlines()[1])["num_images"] == 64
    assert start(folder).wait(timeout=300) == 0
    assert read_all(folder) == read_all(tmp_path / "whole")
