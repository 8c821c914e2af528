"""Commands that are killed at a change of their folder, once each: the same command then gives the same files."""

from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from partonomy.__main__ import main as partonomy
from partonomy.structures import QuestionType
from plum.checkpoints.store import save_pretrained
from plum.cli.main import main as plum
from scripts.bench.kill_points import hash_tree, list_remains, read_lines_without, run_until
from tests.partonomy.conftest import write_questions
from tests.partonomy.quick_fits import quick_fits
from tests.plum.data.tokenizers_for_tests import byte_level
from tests.plum.predictor_world import make_image, make_model

KILLED = -9
VARIABLE = ("build.json", "config.json", "summary.json", "model.json", "records.jsonl", "README.md")
"""Files with times or paths, which are compared by what they hold, or not at all."""
Command = Callable[[Path], int]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "tiny"
    save_pretrained(make_model(), byte_level(), folder, "A random model.")
    return folder


@pytest.fixture(params=["build", "run", "predict", "export"])
def command(request: pytest.FixtureRequest, checkpoint: Path, tmp_path: Path) -> Command:
    """A command that writes a folder."""
    if request.param == "build":
        words = ["build", "--source", "synthetic", "--images", "6", "--image_size", "64", "--embedding_model"]

        def build(output: Path) -> int:
            with quick_fits():
                return partonomy([*words, "char-ngram-tfidf", "--output", str(output)])

        return build
    if request.param == "run":
        (tmp_path / "data").mkdir()
        questions = write_questions(tmp_path / "data", (QuestionType.POSITIVE, QuestionType.WHOLE_TO_PART))
        words = ["run", "partonomy", "--model", "random", "--resume", "--questions", str(questions)]
        return lambda output: partonomy([*words, "--output", str(output)])
    if request.param == "predict":
        for number in range(3):
            (tmp_path / "photos").mkdir(exist_ok=True)
            Image.fromarray(make_image(number)).save(tmp_path / "photos" / f"{number}.png")
        words = ["predict", str(tmp_path / "photos"), "--checkpoint", str(checkpoint), "--device", "cpu"]
        words += ["--question", "Parts?", "--answer", "It has a wheel.", "--phrases", "wheel", "--resume"]
        return lambda output: plum([*words, "--output", str(output)])
    return lambda output: plum(["export", str(checkpoint), str(output)])


def test_a_command_killed_at_a_change_of_its_folder_is_simply_repeated(command: Command, tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    outcome = run_until(lambda: command(whole), whole)
    assert outcome.status == 0
    assert outcome.num_changes > 5
    assert run_until(lambda: command(killed), killed, kill_at=outcome.num_changes * 2 // 3).status == KILLED
    assert run_until(lambda: command(killed), killed).status == 0
    assert hash_tree(killed, VARIABLE) == hash_tree(whole, VARIABLE)
    if (whole / "records.jsonl").exists():
        records = [read_lines_without(folder / "records.jsonl", "seconds") for folder in (whole, killed)]
        assert records[0] == records[1]
    assert list_remains(killed) == []
