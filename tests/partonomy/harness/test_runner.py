import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from partonomy.harness.run_directory import read_records

from partonomy.benchmarks.partonomy.records import record_from_line, record_to_line
from partonomy.datasets.store import load_questions
from partonomy.models.bounds import OracleModel
from partonomy.models.contract import Turn
from partonomy.structures import ChoiceScore, QuestionType
from tests.partonomy.running import make_config, run, run_model, values


def test_oracle_scores_one_everywhere(question_file: Path, tmp_path: Path) -> None:
    summary = run(make_config(question_file, tmp_path / "run"))
    assert summary is not None
    assert len(summary.question_types) == 10
    for entry in summary.question_types.values():
        assert (entry.num_expected, entry.num_scored, entry.num_failed) == (4, 4, 0)
        for name, estimate in entry.metrics.items():
            assert (estimate.value, estimate.low, estimate.high) == (1.0, 1.0, 1.0), (entry.name, name)


def test_empty_scores_zero_on_masks_and_first_choice_on_text(question_file: Path, tmp_path: Path) -> None:
    summary = run(make_config(question_file, tmp_path / "run", "empty"))
    assert set(values(summary, "giou_micro_paired") + values(summary, "ciou_union")) == {0.0}
    # Correct answers stand at position image % 5 = 0, 1, 2, 3: the first choice is right for one image of four.
    assert set(values(summary, "parts_accuracy")) == {0.25}
    assert set(values(summary, "generated_parts_recall")) == {0.0}


def test_records_survive_json(question_file: Path, tmp_path: Path) -> None:
    run(make_config(question_file, tmp_path / "run", "random"))
    records = read_records(tmp_path / "run" / "records.jsonl")
    assert [record_from_line(record_to_line(record)) for record in records] == list(records)
    order = [question.question_id for question in load_questions(question_file).questions]
    assert [record.question_id for record in records] == order


def test_each_image_is_loaded_once(question_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from partonomy.harness import runner

    loaded: list[Path] = []
    original = runner.load_image

    def load(path: Path, height: int, width: int) -> np.ndarray:
        loaded.append(path)
        return original(path, height, width)

    monkeypatch.setattr(runner, "load_image", load)
    run(make_config(question_file, tmp_path / "run"))
    assert len(loaded) == len(set(loaded)) == 4


class RecordingModel(OracleModel):
    """Notes the conversations it is asked, and always prefers the last choice."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[tuple[str, ...]] = []

    def score_choices(self, image: np.ndarray, turns: Sequence[Turn], choices: Sequence[str]) -> list[ChoiceScore]:
        """The last choice is the most probable."""
        self.asked.append(tuple(turn.text for turn in turns))
        return [ChoiceScore(float(index), 1, float(index), 1) for index in range(len(choices))]


@pytest.mark.parametrize(("part_whole", "answer"), [("gold", "It is a seaplane."), ("predicted", "It is a airship.")])
def test_second_question_follows_the_configured_answer(
    question_file: Path, tmp_path: Path, part_whole: str, answer: str
) -> None:
    model = RecordingModel()
    config = dataclasses.replace(
        make_config(question_file, tmp_path / "run"), part_whole=part_whole, question_types=("whole_to_part",), limit=1
    )
    run_model(config, model)
    assert [turns[:2] for turns in model.asked if len(turns) == 3] == [("What is the object in the image?", answer)]


def test_limit_counts_questions_of_each_type(question_file: Path, tmp_path: Path) -> None:
    summary = run(dataclasses.replace(make_config(question_file, tmp_path / "run"), limit=2))
    assert summary is not None
    assert [entry.num_expected for entry in summary.question_types.values()] == [2] * 10


def test_type_without_questions_reports_zero_with_a_reason(tmp_path: Path) -> None:
    from partonomy.harness.results import summarize

    from partonomy.structures import SkippedType

    skipped = (SkippedType(QuestionType.PART_TO_WHOLE, "a single object class", 7),)
    types = (QuestionType.PART_TO_WHOLE, QuestionType.POSITIVE)
    summary = summarize((), types, skipped, {}, seed=0)
    entry = summary.question_types["part_to_whole"]
    assert (entry.num_expected, entry.reasons) == (0, {"a single object class": 7})
    assert summary.question_types["positive"].reasons == {"the questions contain none of this type": 0}
    assert all(estimate.value is None and estimate.count == 0 for estimate in entry.metrics.values())
