"""A run of a saved model: the fast path's records are the plain path's, whoever asks and after any interruption."""

import dataclasses
from pathlib import Path

import pytest

from partonomy.benchmarks.partonomy.records import ChoiceRecord, QuestionRecord
from partonomy.benchmarks.partonomy.steps import Conditioning
from partonomy.benchmarks.partonomy.task import PartonomyOptions
from partonomy.harness import ranks as sharding
from partonomy.harness.ranks import Rank
from partonomy.harness.run_folder import RunConfig
from partonomy.models.contract import GroundedModel
from partonomy.structures import QuestionType
from plum.inference.partonomy_adapter import BatchedPlum, PlumModel
from tests.partonomy.conftest import write_questions
from tests.partonomy.running import ask_model, make_config, question_records, run_model, untimed
from tests.plum.predictor_world import make_predictor

TYPES = (QuestionType.IDENTIFICATION, QuestionType.POSITIVE, QuestionType.WHOLE_TO_PART, QuestionType.PART_TO_WHOLE)


@pytest.fixture
def questions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Five images: a batch of four and one of one."""
    monkeypatch.setattr(sharding, "MIN_BATCHES", 1)
    return write_questions(tmp_path, TYPES, num_images=5)


def config_of(questions: Path, output: Path, part_whole: Conditioning = Conditioning.GOLD) -> RunConfig:
    return make_config(questions, output, options=PartonomyOptions(",".join(TYPES), "none", part_whole))


def fast() -> GroundedModel:
    return BatchedPlum(make_predictor(), "model")


def check_close(ours: ChoiceRecord | None, theirs: ChoiceRecord | None) -> None:
    assert (ours is None) == (theirs is None)
    if ours is None or theirs is None:
        return
    assert ours.scores is not None
    assert theirs.scores is not None
    assert ours.selection == theirs.selection
    for left, right in zip(ours.scores, theirs.scores, strict=True):
        assert left.answer_log_prob == pytest.approx(right.answer_log_prob, abs=1e-4)
        assert left.conversation_log_prob == pytest.approx(right.conversation_log_prob, abs=1e-4)


def without_scores(record: QuestionRecord) -> QuestionRecord:
    parts, objects = (
        None if choice is None else dataclasses.replace(choice, scores=None)
        for choice in (record.parts_choice, record.object_choice)
    )
    return dataclasses.replace(record, parts_choice=parts, object_choice=objects, seconds=0.0)


@pytest.mark.parametrize("part_whole", list(Conditioning))
def test_the_fast_path_writes_the_records_of_the_plain_one(
    questions: Path, tmp_path: Path, part_whole: Conditioning
) -> None:
    run_model(config_of(questions, tmp_path / "plain", part_whole), PlumModel(make_predictor(), "model"))
    run_model(config_of(questions, tmp_path / "fast", part_whole), fast())
    plain, quick = question_records(tmp_path / "plain"), question_records(tmp_path / "fast")
    assert len(quick) == 20
    for ours, theirs in zip(quick, plain, strict=True):
        assert ours.reason == ""
        check_close(ours.parts_choice, theirs.parts_choice)
        check_close(ours.object_choice, theirs.object_choice)
        assert without_scores(ours) == without_scores(theirs)  # masks too


def test_ranks_and_resumed_runs_write_the_very_records_of_one_process(questions: Path, tmp_path: Path) -> None:
    run_model(config_of(questions, tmp_path / "one"), fast())
    config = config_of(questions, tmp_path / "two")
    for index in (0, 1):
        ask_model(config, fast(), rank=Rank(index, 2))
    assert untimed(tmp_path / "two") == untimed(tmp_path / "one")
    records = tmp_path / "two" / "records.jsonl"
    for path in tmp_path.glob("two/records.rank*"):
        path.unlink()
    records.write_text("".join(records.read_text().splitlines(keepends=True)[:7]))
    (tmp_path / "two" / "summary.json").unlink()
    ask_model(config, fast(), resume=True)
    assert untimed(tmp_path / "two") == untimed(tmp_path / "one")
