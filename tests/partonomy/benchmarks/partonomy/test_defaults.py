"""The defaults of the protocol: answers by the probability of the sequence, second questions after correct answers.

Both stand in one place each. The command line and the options class must agree on them, and every table follows them.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from partonomy.__main__ import main as partonomy
from partonomy.benchmarks.partonomy.steps import Conditioning
from partonomy.benchmarks.partonomy.task import PartonomyOptions
from partonomy.models.contract import Turn
from partonomy.structures import ChoiceScore
from tests.partonomy.running import OracleOfImages, make_config, run_model
from validate_partonomy import main as validate_partonomy


class WrongFirstModel(OracleOfImages):
    """By the sequence always right, by both means always wrong; keeps the answers that it is shown."""

    def __init__(self, questions: Path) -> None:
        super().__init__(questions)
        self.shown: set[str] = set()

    def score_choices(self, image: np.ndarray, turns: Sequence[Turn], choices: Sequence[str]) -> list[ChoiceScore]:
        """Sums favour the right choice, and the means every other one."""
        self.shown.update(turn.text for turn in turns[1:2])
        scores = super().score_choices(image, turns, choices)
        best = max(score.answer_log_prob for score in scores)
        return [
            ChoiceScore(-1.0, 1, -9.0, 1) if score.answer_log_prob == best else ChoiceScore(-4.0, 8, -4.0, 8)
            for score in scores
        ]


def test_accuracies_without_a_suffix_are_those_of_the_sequence(question_file: Path, tmp_path: Path) -> None:
    model = WrongFirstModel(question_file)
    metrics = run_model(make_config(question_file, tmp_path / "run"), model).groups["part_to_whole"].metrics
    for subject in ("parts", "objects"):
        assert metrics[f"{subject}_accuracy"].value == 1.0
        assert metrics[f"{subject}_accuracy_answer_mean"].value == 0.0
        assert metrics[f"{subject}_accuracy_conversation_mean"].value == 0.0
        assert f"{subject}_accuracy_sequence" not in metrics
    assert metrics["parts_f1"].value == 1.0


class AlwaysWrongModel(WrongFirstModel):
    """Never right, under any selector."""

    def score_choices(self, image: np.ndarray, turns: Sequence[Turn], choices: Sequence[str]) -> list[ChoiceScore]:
        """The right choice is the worst."""
        scores = super().score_choices(image, turns, choices)
        return [ChoiceScore(-10.0 - score.answer_log_prob, 1, -1.0, 1) for score in scores]


def test_the_second_question_follows_the_correct_answer(question_file: Path, tmp_path: Path) -> None:
    options = PartonomyOptions(question_types="part_to_whole", generate="none")
    model = AlwaysWrongModel(question_file)
    run_model(make_config(question_file, tmp_path / "run", options=options), model)
    records = json.loads(question_file.read_text())
    correct = {
        record["answer_choices"][record["answer_types"].index("correct")]
        for record in records
        if record["question_type"] == "part_to_whole"
    }
    assert model.shown == correct


def test_the_options_class_conditions_on_the_correct_answer() -> None:
    assert PartonomyOptions().part_whole is Conditioning.GOLD
    assert PartonomyOptions().resolve("oracle").part_whole is Conditioning.GOLD


@pytest.mark.parametrize("command", ["validate_partonomy.py", "partonomy run"])
def test_the_command_lines_have_the_same_defaults(question_file: Path, tmp_path: Path, command: str) -> None:
    flags = ["--model", "oracle", "--questions", str(question_file), "--output", str(tmp_path / "run")]
    flags += ["--question_types", "part_to_whole"]
    if command == "partonomy run":
        assert partonomy(["run", "partonomy", *flags]) == 0
    else:
        validate_partonomy(flags)
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["options"]["part_whole"] == "gold"
    assert config["options"]["choice_protocol"] == "likelihood"
    assert config["protocol"] == "likelihood, gold first answers"
