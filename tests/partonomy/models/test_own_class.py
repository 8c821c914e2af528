"""`--model package.module:Class`: a class of the user's own, from anywhere on the module path."""

import inspect
import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from partonomy.__main__ import main
from partonomy.benchmarks.vqa import VqaTask
from partonomy.models import contract
from tests.partonomy.benchmarks.vqa_world import write_pope
from tests.partonomy.running import answer_records
from tests.plum.cli.benchmark_folders import write_segmentation_root

ROOT = Path(__file__).resolve().parents[3]
CLASS = """
class Stubborn:
    def __init__(self, answer, repeat=1):
        self.words = " ".join([answer] * repeat)

    def score_choices(self, image, turns, choices):
        raise NotImplementedError

    def segment(self, image, turns, answer, spans):
        raise NotImplementedError

    def generate(self, image, turns):
        raise NotImplementedError

    def reply(self, image, turns):
        return self.words


class Incomplete:
    def segment(self, image, turns, answer, spans):
        raise NotImplementedError


class Unbuildable(Stubborn):
    def __init__(self):
        raise OSError("weights.bin is not there")


class Limited(Stubborn):
    def __init__(self, max_new_tokens):
        self.words = f"limit {max_new_tokens}"


def make(answer):
    return Stubborn(answer)


def make_nothing():
    return Incomplete()


NUMBER = 3
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder outside the repository, with a package of models."""
    package = tmp_path / "elsewhere" / "own_models"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "stubborn.py").write_text(CLASS)
    monkeypatch.syspath_prepend(str(package.parent))
    write_pope(tmp_path / "pope")
    return tmp_path


def flags(folder: Path, name: str, options: dict[str, object] | None = None) -> list[str]:
    model = ["--model", f"own_models.stubborn:{name}"]
    model += [] if options is None else ["--model_options", json.dumps(options)]
    return ["run", "pope", *model, "--root", str(folder / "pope"), "--output", str(folder / "run")]


@pytest.mark.distributed
def test_a_class_outside_the_repository_with_worker_processes(folder: Path) -> None:
    command = [sys.executable, "-m", "partonomy", *flags(folder, "Stubborn", {"answer": "No", "repeat": 2})]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join((str(ROOT), str(folder / "elsewhere")))}
    result = subprocess.run(
        [*command, "--num_procs", "2"], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    summary = json.loads((folder / "run" / "summary.json").read_text())
    assert summary["provenance"]["model"] == "Stubborn"
    assert summary["provenance"]["config"]["model"]["model_options"] == '{"answer": "No", "repeat": 2}'
    assert summary["groups"]["all"]["metrics"]["random_yes_ratio"]["value"] == 0.0
    assert {record.reply for record in answer_records(folder / "run")} == {"No No"}


def test_a_function_that_makes_a_model_serves_too(folder: Path) -> None:
    assert main(flags(folder, "make", {"answer": "Yes"})) == 0
    summary = json.loads((folder / "run" / "summary.json").read_text())
    assert summary["groups"]["all"]["metrics"]["random_yes_ratio"]["value"] == 1.0


@pytest.mark.parametrize(("options", "limit"), [({}, VqaTask.MAX_NEW_TOKENS), ({"max_new_tokens": 9}, 9)])
def test_a_class_receives_the_limit_of_the_benchmark_or_of_the_user(
    folder: Path, options: dict[str, object], limit: int
) -> None:
    assert main(flags(folder, "Limited", options)) == 0
    assert {record.reply for record in answer_records(folder / "run")} == {f"limit {limit}"}


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("Stuborn", {}, "--model: 'own_models.stubborn:Stuborn' cannot be imported (module 'own_models.stubborn' has"),
        (
            "Stubborn",
            {},
            "cannot be built with no arguments (missing a required argument: 'answer'); see --model_options",
        ),
        (
            "Stubborn",
            {"reply": "No"},
            "cannot be built with the arguments reply (missing a required argument: 'answer')",
        ),
        (
            "Stubborn",
            {"answer": "No", "times": 2},
            "cannot be built with the arguments answer, times (got an unexpected keyword argument 'times')",
        ),
        ("Incomplete", {}, "--model own_models.stubborn:Incomplete lacks the methods score_choices, generate"),
        ("NUMBER", {}, "--model own_models.stubborn:NUMBER is not a class"),
    ],
)
def test_wrong_classes_are_refused_before_anything_is_written(
    folder: Path, capsys: pytest.CaptureFixture[str], name: str, options: dict[str, object], message: str
) -> None:
    assert main(flags(folder, name, options)) == 1
    printed = capsys.readouterr().err
    assert message in printed
    assert printed.count("\n") == 1
    assert not (folder / "run").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--model", "nowhere.at_all:Model"], "'nowhere.at_all:Model' cannot be imported (No module named 'nowhere')"),
        (["--model", ":Model"], "':Model' cannot be imported"),
        (["--model", "own_models.stubborn:Stubborn", "--model_options", "{"], "--model_options is not JSON"),
        (["--model", "own_models.stubborn:Stubborn", "--model_options", "[1]"], "must be a JSON object of arguments"),
        (["--model", "own_models.stubborn:Stubborn", "--base"], "--base belongs to --model plum, not to own_models"),
        (["--model", "oracle", "--model_options", "{}"], "--model_options belongs to --model package.module:Class"),
        (["--model", "orakle"], "--model must be one of plum, oracle, "),
        (["--model", "open_vocabulary", "--segmenter", "nowhere:Finder"], "--segmenter: 'nowhere:Finder' cannot be"),
    ],
)
def test_flags_that_do_not_fit_are_refused_in_one_line(
    folder: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    assert main(["run", "pope", *words, "--root", str(folder / "pope"), "--output", str(folder / "run")]) == 1
    printed = capsys.readouterr().err
    assert message in printed
    assert printed.count("\n") == 1
    assert not (folder / "run").exists()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Unbuildable", "weights.bin is not there"),
        ("make_nothing", "make_nothing lacks the methods score_choices, gen"),
    ],
)
def test_after_a_model_that_could_not_be_built_another_may_use_the_folder(
    folder: Path, capsys: pytest.CaptureFixture[str], name: str, message: str
) -> None:
    assert main(flags(folder, name)) == 1
    assert message in capsys.readouterr().err
    assert main(flags(folder, "Stubborn", {"answer": "No"})) == 0


def test_the_class_of_the_documentation_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = inspect.getdoc(contract)
    assert text is not None
    body = textwrap.dedent(text[text.index("    class Blank:") :])
    imports = "import numpy as np\nfrom partonomy.models.contract import CharSpan, Generation\n\n\n"
    (tmp_path / "blank_of_the_documentation.py").write_text(imports + body)
    monkeypatch.syspath_prepend(str(tmp_path))
    write_segmentation_root(tmp_path / "data")
    places = ["--root", str(tmp_path / "data"), "--output", str(tmp_path / "run"), "--mode", "generated"]
    assert main(["run", "refcoco", "--model", "blank_of_the_documentation:Blank", *places]) == 0
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["provenance"]["model"] == "blank"
    entry = summary["groups"]["all"]
    assert (entry["num_failed"], entry["metrics"]["ciou"]["value"]) == (0, 0.0)
