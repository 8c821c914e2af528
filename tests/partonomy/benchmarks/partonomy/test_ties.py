"""Ties between choices: a tie counts 1/k, everywhere that a choice is counted, and every page says how many tied."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from partonomy.benchmarks.partonomy.records import QuestionRecord
from partonomy.benchmarks.partonomy.showing import length_accuracies
from partonomy.benchmarks.partonomy.steps import Conditioning
from partonomy.benchmarks.partonomy.task import PartonomyOptions
from partonomy.benchmarks.task import Status
from partonomy.harness.records import RecordCodec
from partonomy.harness.summary import read_summary
from partonomy.metrics.multiple_choice import DEFAULT_SELECTOR, Selector, random_baseline
from partonomy.models.contract import Turn
from partonomy.reporting.breakdown import by_object
from partonomy.reporting.compare import Outcome, compare_runs, render_comparison
from partonomy.reporting.loaded_run import load_run
from partonomy.reporting.overview import overview
from partonomy.reporting.report import write_report
from partonomy.reporting.tables import interval_table
from partonomy.structures import ChoiceScore
from tests.partonomy.running import OracleOfImages, make_config, question_records, run, run_model
from tests.unsigned import unsigned_lines

OPTIONS = PartonomyOptions(question_types="identification,part_to_whole", generate="none")


def put_right_answers_first(question_file: Path) -> None:
    """Write the file as the published ones are: the right answers are the first choices."""
    records = json.loads(question_file.read_text())
    for record in records:
        for kinds, others in (
            ("answer_types", ("answer_choices", "answer_parts")),
            ("object_answer_types", ("object_answer_choices", "object_answer_classes")),
        ):
            if record[kinds] is not None:
                place = record[kinds].index("correct")
                for key in (kinds, *others):
                    record[key].insert(0, record[key].pop(place))
    question_file.write_text(json.dumps(records))


def test_a_model_that_knows_nothing_gets_chance_on_published_files(question_file: Path, tmp_path: Path) -> None:
    put_right_answers_first(question_file)
    summary = run(make_config(question_file, tmp_path / "run", "empty", OPTIONS))
    assert summary is not None
    entry = summary.groups["part_to_whole"]
    chosen = [record.parts_choice for record in question_records(tmp_path / "run") if record.group == "part_to_whole"]
    expected = random_baseline([one.labels for one in chosen if one], [one.correct_index for one in chosen if one])
    assert expected is not None
    accuracies = [name for name in entry.metrics if "accuracy" in name and not name.startswith("generated")]
    assert len(accuracies) == 8  # parts and object under three selectors, and both as the authors count
    assert {entry.metrics[name].value for name in accuracies} == {0.2}
    assert entry.metrics["parts_precision"].value == pytest.approx(expected.precision)
    assert entry.metrics["parts_recall"].value == pytest.approx(expected.recall)
    assert entry.metrics["parts_f1"].value == pytest.approx(expected.f1)
    assert entry.metrics["authors_parts_recall"].value == pytest.approx(expected.recall)
    assert (entry.metrics["parts_accuracy"].low, entry.metrics["parts_accuracy"].high) == (0.2, 0.2)
    assert entry.num_tied == 4


class HalfSureModel(OracleOfImages):
    """Ties the right choice with the next one on image 1, two wrong choices on image 2; is right on the others."""

    def score_choices(self, image: np.ndarray, turns: Sequence[Turn], choices: Sequence[str]) -> list[ChoiceScore]:
        """Log-probabilities in one token, the same under every selector."""
        scores = super().score_choices(image, turns, choices)
        right = max(range(len(choices)), key=lambda place: scores[place].answer_log_prob)
        best = {1: {right, (right + 1) % 5}, 2: {(right + 1) % 5, (right + 2) % 5}}.get(self.image_id, {right})
        return [ChoiceScore(*(-1.0 if place in best else -2.0, 1) * 2) for place in range(len(choices))]


def half_sure(question_file: Path, output: Path) -> None:
    """Run the model on one question of each of four images."""
    options = PartonomyOptions(question_types="identification", generate="none")
    run_model(make_config(question_file, output, options=options), HalfSureModel(question_file))


def test_a_tie_counts_its_share(question_file: Path, tmp_path: Path) -> None:
    half_sure(question_file, tmp_path / "run")
    loaded = load_run(tmp_path / "run")
    metrics = loaded.summary.groups["identification"].metrics
    # Image 1: right and one wrong choice, 1/2. Image 2: two wrong choices, 0. Images 3 and 4: 1.
    for selector in ("parts_accuracy", "parts_accuracy_answer_mean", "authors_parts_accuracy"):
        assert metrics[selector].value == pytest.approx((1 / 2 + 0 + 1 + 1) / 4)
    # The correct answer of image 1 is {wheel}, at place 0; the choice after it is {wing, rudder}: on average 1/2 of
    # 3/2 names match. That of image 2 is {wheel, wing}, at place 1; the two after it are {wing, rudder} and {door, tail
    # fin, wheel}: on average 1 of 5/2. Images 3 and 4: 3 of 3 and 4 of 4.
    assert metrics["parts_precision"].value == pytest.approx((1 / 2 + 1 + 3 + 4) / (3 / 2 + 5 / 2 + 3 + 4))
    assert metrics["parts_recall"].value == pytest.approx((1 / 2 + 1 + 3 + 4) / (1 + 2 + 3 + 4))
    credits = {row.num_parts: row.num_correct for row in length_accuracies(loaded.records)[DEFAULT_SELECTOR]}
    assert credits == {1: 1 / 2, 2: 0, 3: 1, 4: 1}
    # Seaplanes are on images 1 and 3, biplanes on 2 and 4.
    accuracies = {row.name: row.parts_accuracy for row in by_object(loaded.records, has_masks=True)}
    assert accuracies == {"seaplane": 3 / 4, "biplane": 1 / 2}


def test_every_output_says_how_many_tied(question_file: Path, tmp_path: Path) -> None:
    half_sure(question_file, tmp_path / "run")
    sentence = "2 of 4 questions tied; a tie counts 1/k, if the right answer is among the k choices with the best score"
    summary = read_summary(tmp_path / "run" / "summary.json")
    assert summary.notes == (sentence,)
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["groups"]["identification"]["num_tied"] == 2
    assert summary.groups["identification"].num_tied == 2
    assert sentence in overview(summary)
    loaded = load_run(tmp_path / "run")
    assert sentence in interval_table(loaded).note
    write_report(loaded, (), (), tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert sentence in page
    assert "<em>tied</em>" in page


def test_without_a_tie_nothing_is_said(question_file: Path, tmp_path: Path) -> None:
    summary = run(make_config(question_file, tmp_path / "run", options=OPTIONS))
    assert summary is not None
    assert summary.notes == ()
    assert "tied" not in (tmp_path / "run" / "summary.json").read_text()


def test_a_tie_is_no_flip(question_file: Path, tmp_path: Path) -> None:
    half_sure(question_file, tmp_path / "half")
    options = PartonomyOptions(question_types="identification", generate="none")
    run(make_config(question_file, tmp_path / "oracle", options=options))
    compared = compare_runs(load_run(tmp_path / "half"), load_run(tmp_path / "oracle"), ("parts_accuracy",))
    outcomes = [choice.outcome for choice in compared.choices]
    assert outcomes == [Outcome.TIED, Outcome.GAINED, Outcome.BOTH_RIGHT, Outcome.BOTH_RIGHT]
    assert len(compared.flips) == 1
    assert compared.differences[0].difference.value == pytest.approx(1 - 5 / 8)
    text = render_comparison(compared, 5)
    assert "Tied: in A or B the right answer shares the best score with others and counts 1/k." in text


def test_the_first_of_tied_choices_answers_the_first_question(question_file: Path, tmp_path: Path) -> None:
    put_right_answers_first(question_file)
    asked: list[str] = []

    class Undecided(OracleOfImages):
        """Ties every choice, and records the answers that it is shown."""

        def score_choices(self, image: np.ndarray, turns: Sequence[Turn], choices: Sequence[str]) -> list[ChoiceScore]:
            """The same score everywhere."""
            asked.extend(turn.text for turn in turns[1:2])
            return [ChoiceScore(-1.0, 1, -1.0, 1)] * len(choices)

    options = PartonomyOptions(question_types="part_to_whole", generate="none", part_whole=Conditioning.PREDICTED)
    run_model(make_config(question_file, tmp_path / "run", options=options), Undecided(question_file))
    firsts = [record.parts_choice.texts[0] for record in question_records(tmp_path / "run") if record.parts_choice]
    assert asked == firsts


def test_a_score_that_is_no_number_fails_its_question_by_name(question_file: Path, tmp_path: Path) -> None:
    class Broken(OracleOfImages):
        """Gives NaN on image 2."""

        def score_choices(self, image: np.ndarray, turns: Sequence[Turn], choices: Sequence[str]) -> list[ChoiceScore]:
            """NaN for the last choice."""
            scores = super().score_choices(image, turns, choices)
            return [*scores[:-1], ChoiceScore(float("nan"), 1, -1.0, 1)] if self.image_id == 2 else scores

    options = PartonomyOptions(question_types="identification", generate="none")
    summary = run_model(make_config(question_file, tmp_path / "run", options=options), Broken(question_file))
    failed = [record for record in question_records(tmp_path / "run") if record.status is Status.FAILED]
    assert [record.image_id for record in failed] == [2]
    assert failed[0].reason.startswith(f"ValueError: question {failed[0].item_id}, choice of parts: choice score")
    assert summary.groups["identification"].metrics["parts_accuracy"].value == pytest.approx(3 / 4)


def test_records_of_earlier_versions_are_read_and_say_that_the_first_choice_counted(
    question_file: Path, tmp_path: Path
) -> None:
    half_sure(question_file, tmp_path / "run")
    path = tmp_path / "run" / "records.jsonl"
    lines = unsigned_lines(path)
    for line in lines:
        del line["parts_choice"]["selection"]["tied"]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    summary |= {"protocol_version": "partonomy-1.0", "notes": []}
    (tmp_path / "run" / "summary.json").write_text(json.dumps(summary))
    loaded = load_run(tmp_path / "run")
    # The right choice of image 1 is the first of the two.
    (group,) = loaded.task.groups(loaded.records)
    assert group.metrics["parts_accuracy"].value == pytest.approx((1 + 0 + 1 + 1) / 4)
    assert loaded.summary.notes == (
        "2 of 4 questions tied; a tie counts for the first choice, because the run was made by an earlier version",
    )


@pytest.mark.parametrize("best", [[], [1], [0, 0], [1, 0], [0, 7]])
def test_impossible_ties_are_damage(question_file: Path, tmp_path: Path, best: list[int]) -> None:
    options = PartonomyOptions(question_types="identification", generate="none")
    run(make_config(question_file, tmp_path / "run", options=options))
    line = unsigned_lines(tmp_path / "run" / "records.jsonl")[0]
    assert line["parts_choice"]["selection"]["sequence"] == 0
    line["parts_choice"]["selection"]["tied"]["sequence"] = best
    with pytest.raises(ValueError, match="the best choices are|none at one of the positions"):
        RecordCodec(QuestionRecord).from_line(json.dumps(line))


def test_listwise_choices_cannot_tie(question_file: Path, tmp_path: Path) -> None:
    options = PartonomyOptions(question_types="identification", generate="none", choice_protocol="listwise")
    run(make_config(question_file, tmp_path / "run", options=options))
    for record in question_records(tmp_path / "run"):
        assert record.parts_choice is not None
        assert [record.parts_choice.credit(selector) for selector in Selector] == [1.0, 1.0, 1.0]
        assert not record.is_tied
