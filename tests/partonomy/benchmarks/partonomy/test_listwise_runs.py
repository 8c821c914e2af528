import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from partonomy.benchmarks.partonomy.records import QuestionRecord
from partonomy.benchmarks.partonomy.steps import Conditioning
from partonomy.benchmarks.partonomy.task import PartonomyOptions
from partonomy.harness.records import RecordCodec, record_to_line
from partonomy.harness.run_folder import RunConfig
from partonomy.models.bounds import EmptyModel, OracleModel
from partonomy.models.contract import Generation, ModelUnavailable, ReplyRefused, Turn
from partonomy.reporting.loaded_run import load_run
from partonomy.reporting.report import write_report
from tests.partonomy.running import OracleOfImages, make_config, question_records, run, run_model, values

LISTWISE = PartonomyOptions(generate="none", choice_protocol="listwise")


def listwise(questions: Path, output: Path, model: str = "oracle", options: PartonomyOptions = LISTWISE) -> RunConfig:
    """All types, all choices at once."""
    return make_config(questions, output, model, options)


def test_bounds_hold_when_all_choices_are_shown(question_file: Path, tmp_path: Path) -> None:
    oracle = run(listwise(question_file, tmp_path / "oracle"))
    assert set(values(oracle, "parts_accuracy") + values(oracle, "objects_accuracy")) == {1.0}
    assert set(values(oracle, "giou_micro_paired")) == {1.0}
    empty = run(listwise(question_file, tmp_path / "empty", "empty"))
    assert empty is not None
    entry = empty.groups["part_to_whole"]
    assert entry.num_failed == 4
    assert entry.reasons == {"choice of parts only: the reply is empty; choice of object only: the reply is empty": 4}
    assert entry.metrics["parts_accuracy"].value == entry.metrics["objects_accuracy"].value == 0.0


class LetterModel(OracleModel):
    """Always names the same letter, and notes what it was asked."""

    def __init__(self, letter: str) -> None:
        super().__init__()
        self.asked: list[tuple[str, ...]] = []
        self._letter = letter

    def reply(self, image: np.ndarray, turns: Sequence[Turn]) -> str:
        """The letter."""
        self.asked.append(tuple(turn.text for turn in turns))
        return self._letter


def test_letters_lead_back_to_the_questions_own_order(question_file: Path, tmp_path: Path) -> None:
    model = LetterModel("C")
    summary = run_model(listwise(question_file, tmp_path / "run"), model)
    for record in question_records(tmp_path / "run"):
        choice = record.parts_choice
        assert choice is not None
        assert choice.listwise is not None
        assert choice.selection is not None
        assert choice.scores is None
        shown = [asked[-1] for asked in model.asked if asked[-1].startswith(f"{record.prompt}\n")]
        line = f"C. {choice.texts[choice.selection.sequence]}"
        assert any(line in text.split("\n") for text in shown)
        assert choice.selection.sequence == choice.listwise.order[2]
        assert RecordCodec(QuestionRecord).from_line(record_to_line(record)) == record
    # Forty questions, each right by chance with probability 1/5: 8 expected, standard deviation 2.5.
    accuracies = [value for value in values(summary, "parts_accuracy") if value is not None]
    assert 0 < 4 * sum(accuracies) < 20


def test_only_seed_and_question_decide_the_order(question_file: Path, tmp_path: Path) -> None:
    first, second, other = LetterModel("A"), LetterModel("A"), LetterModel("A")
    run_model(listwise(question_file, tmp_path / "first"), first)
    run_model(listwise(question_file, tmp_path / "second"), second)
    run_model(dataclasses.replace(listwise(question_file, tmp_path / "other"), seed=4), other)
    assert first.asked == second.asked
    assert first.asked != other.asked


class EvadingModel(OracleModel):
    """Refuses the object question, and answers the one about parts."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[tuple[str, ...]] = []

    def reply(self, image: np.ndarray, turns: Sequence[Turn]) -> str:
        """Refuse where the object is asked for."""
        self.asked.append(tuple(turn.text for turn in turns))
        if turns[-1].text.startswith("What is the object"):
            raise ReplyRefused("I would rather not say.")
        return super().reply(image, turns)


@pytest.mark.parametrize(
    ("part_whole", "answer"),
    [(Conditioning.GOLD, "It is a seaplane."), (Conditioning.PREDICTED, "I would rather not say.")],
)
def test_an_unusable_reply_is_wrong_and_the_rest_is_asked(
    question_file: Path, tmp_path: Path, part_whole: Conditioning, answer: str
) -> None:
    model = EvadingModel()
    options = dataclasses.replace(LISTWISE, question_types="whole_to_part", part_whole=part_whole)
    config = dataclasses.replace(listwise(question_file, tmp_path / "run", options=options), limit=1)
    entry = run_model(config, model).groups["whole_to_part"]
    assert entry.reasons == {"choice of object only: the reply is a refusal": 1}
    assert (entry.num_scored, entry.num_failed) == (0, 1)
    assert entry.metrics["objects_accuracy"].value == 0.0
    assert entry.metrics["parts_accuracy"].value == entry.metrics["giou_micro_paired"].value == 1.0
    assert [asked[1] for asked in model.asked if len(asked) == 3] == [answer]
    (record,) = question_records(tmp_path / "run")
    assert record.object_choice is not None
    assert record.object_choice.listwise is not None
    assert record.object_choice.listwise.reply == "I would rather not say."


class WritingModel:
    """Has no `reply`: its generated text is read."""

    name = "writing"
    score_choices = EmptyModel().score_choices
    segment = EmptyModel().segment

    def generate(self, image: np.ndarray, turns: Sequence[Turn]) -> Generation:
        """Name the last letter."""
        return Generation("The answer is E.", (), np.zeros((0, *image.shape[:2]), dtype=bool), ())


def test_without_reply_the_generated_text_is_read(question_file: Path, tmp_path: Path) -> None:
    summary = run_model(listwise(question_file, tmp_path / "run"), WritingModel())
    assert summary.num_failed == 0


class GoneModel(OracleOfImages):
    """Cannot be asked any more from the third image on."""

    def reply(self, image: np.ndarray, turns: Sequence[Turn]) -> str:
        """Be gone."""
        if self.image_id == 3:
            raise ModelUnavailable("no connection")
        return super().reply(image, turns)


def test_a_model_that_is_gone_ends_the_run_and_fails_nothing(question_file: Path, tmp_path: Path) -> None:
    config = listwise(question_file, tmp_path / "run")
    with pytest.raises(ModelUnavailable):
        run_model(config, GoneModel(question_file))
    assert len((tmp_path / "run" / "records.jsonl").read_text().splitlines()) == 20
    summary = run(config, resume=True)
    assert set(values(summary, "parts_accuracy")) == {1.0}


def test_tables_and_report_say_that_choices_were_shown_at_once(question_file: Path, tmp_path: Path) -> None:
    from partonomy.cli.results import tables

    run(listwise(question_file, tmp_path / "shown"))
    run(make_config(question_file, tmp_path / "alone"))
    for name, is_said in (("shown", True), ("alone", False)):
        tables([str(tmp_path / name)], output=str(tmp_path / f"{name}.txt"))
        assert ("choices shown at once" in (tmp_path / f"{name}.txt").read_text()) == is_said
    write_report(load_run(tmp_path / "shown"), [], [], tmp_path / "report.html")
    assert "seaplane" in (tmp_path / "report.html").read_text()
