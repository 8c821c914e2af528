import csv
import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from partonomy.benchmarks.partonomy.records import Capability, QuestionRecord
from partonomy.benchmarks.task import Status
from partonomy.cli.results import compare
from partonomy.models.bounds import EmptyModel
from partonomy.models.contract import ChoiceScore, Turn
from partonomy.reporting.compare import Comparison, MetricDifference, Outcome, compare_runs, render_comparison
from partonomy.reporting.loaded_run import AnyRun, load_run
from partonomy.structures import QuestionType, Subject
from tests.partonomy.conftest import write_questions
from tests.partonomy.running import ask_model, make_config
from validate_partonomy import main


def run_model(model: str, questions: Path, output: Path, *flags: str) -> AnyRun:
    """A finished run with own answers on every question."""
    main(["--model", model, "--questions", str(questions), "--output", str(output), "--generate", "all", *flags])
    return load_run(output)


@dataclass(frozen=True)
class Pair:
    """Two runs on the same four images with a question of every type."""

    oracle: AnyRun
    empty: AnyRun


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """The runs, made once: no test changes them."""
    folder = tmp_path_factory.mktemp("pair")
    questions = write_questions(folder, tuple(QuestionType))
    return Pair(run_model("oracle", questions, folder / "oracle"), run_model("empty", questions, folder / "empty"))


class FirstChoiceModel(EmptyModel):
    """Prefers the first choice."""

    def score_choices(self, image: np.ndarray, turns: Sequence[Turn], choices: Sequence[str]) -> list[ChoiceScore]:
        """Scores that fall with the position."""
        return [ChoiceScore(-1.0 - place, 1, -1.0 - place, 1) for place in range(len(choices))]


@pytest.fixture(scope="module")
def first_choices(pair: Pair, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """The oracle's run, and one that takes the first choice and makes no masks."""
    output = tmp_path_factory.mktemp("first") / "run"
    ask_model(make_config(Path(pair.oracle.config.root), output, "empty"), FirstChoiceModel())
    return Pair(pair.oracle, load_run(output))


def compare_all(first: AnyRun, second: AnyRun) -> Comparison:
    """Both runs under the default metrics."""
    return compare_runs(first, second)


def entry_of(comparison: Comparison, question_type: str, metric: str) -> MetricDifference:
    """The difference of one type and metric."""
    (entry,) = [e for e in comparison.differences if (e.group, e.metric) == (question_type, metric)]
    return entry


def test_oracle_against_a_model_that_knows_nothing(pair: Pair) -> None:
    comparison = compare_all(pair.oracle, pair.empty)
    # `empty` makes no masks: IoU falls from 1 to 0 in every image, so in every resample.
    masks = entry_of(comparison, "identification", "giou_micro_paired")
    assert (masks.first, masks.second) == (1.0, 0.0)
    assert (masks.difference.value, masks.difference.low, masks.difference.high) == (-1.0, -1.0, -1.0)
    assert masks.difference.count == 4
    assert masks.excludes_zero is True
    # All its five choices tie, so that the accuracy falls from 1 to 1/5 in every image.
    accuracy = entry_of(comparison, "identification", "parts_accuracy").difference
    assert (accuracy.value, accuracy.low, accuracy.high) == pytest.approx((-0.8, -0.8, -0.8))
    # The object question of the part-whole types, and only theirs, is compared too.
    objects = [entry.group for entry in comparison.differences if entry.metric == "objects_accuracy"]
    assert sorted(objects) == ["part_to_whole", "whole_to_part"]
    assert entry_of(comparison, "part_to_whole", "objects_accuracy").difference.value == pytest.approx(-0.8)


def test_flips_are_listed(first_choices: Pair) -> None:
    comparison = compare_all(first_choices.oracle, first_choices.empty)
    flips = [flip for flip in comparison.flips if flip.group == "identification"]
    assert [(Path(flip.image_path).name, flip.outcome) for flip in flips] == [
        ("image1.png", Outcome.LOST),
        ("image2.png", Outcome.LOST),
        ("image3.png", Outcome.LOST),
    ]
    assert flips[0].correct == flips[0].first == ("wheel", "wing")
    assert flips[0].second == ("wheel",)
    assert flips[0].object_label == "biplane"
    # Ten types with a question for the parts of four images, two with one for the object.
    assert len(comparison.choices) == 10 * 4 + 2 * 4
    assert sum(choice.subject == Subject.OBJECT for choice in comparison.choices) == 8
    assert len(comparison.quality_changes) == 10 * 4
    assert {entry.change for entry in comparison.quality_changes} == {-1.0}


def test_a_run_against_itself_is_zero(question_file: Path, tmp_path: Path) -> None:
    run = run_model("random", question_file, tmp_path / "random")
    comparison = compare_all(run, run)
    intervals = {(e.difference.value, e.difference.low, e.difference.high) for e in comparison.differences}
    assert len(comparison.differences) == 10 * 4 + 2
    assert intervals == {(0.0, 0.0, 0.0)}
    assert {entry.excludes_zero for entry in comparison.differences} == {False}
    assert len(comparison.flips) == len(comparison.quality_changes) == 0


def test_the_other_way_round_is_the_negative(tmp_path: Path) -> None:
    questions = write_questions(tmp_path, tuple(QuestionType), num_images=12)
    first = run_model("random", questions, tmp_path / "first")
    second = run_model("random", questions, tmp_path / "second", "--seed", "1")
    there, back = compare_all(first, second), compare_all(second, first)
    assert any(entry.difference.value not in (0.0, None) for entry in there.differences)
    for forward, backward in zip(there.differences, back.differences, strict=True):
        assert (forward.group, forward.metric) == (backward.group, backward.metric)
        one, other = forward.difference, backward.difference
        assert one.value is not None
        assert other.value is not None
        assert one.value == pytest.approx(-other.value, abs=1e-12)
        assert (one.low, one.high) == (
            pytest.approx(-(other.high or 0), abs=1e-12),
            pytest.approx(-(other.low or 0), abs=1e-12),
        )
        assert forward.excludes_zero == backward.excludes_zero
    lost = [flip.item_id for flip in there.flips if flip.outcome is Outcome.LOST]
    gained = [flip.item_id for flip in back.flips if flip.outcome is Outcome.GAINED]
    assert lost == gained != []
    changes = {entry.item_id: entry.change for entry in back.quality_changes}
    assert {entry.item_id: -entry.change for entry in there.quality_changes} == changes


def test_largest_changes_come_first(tmp_path: Path) -> None:
    questions = write_questions(tmp_path, tuple(QuestionType), num_images=6)
    comparison = compare_all(
        run_model("random", questions, tmp_path / "random"), run_model("oracle", questions, tmp_path / "oracle")
    )
    sizes = [abs(entry.change) for entry in comparison.quality_changes]
    assert sizes == sorted(sizes, reverse=True)
    assert len(set(sizes)) > 1


def fail_on_image_2(record: QuestionRecord) -> QuestionRecord:
    """The record as it is when the model fails on that image."""
    if not record.image_path.endswith("image2.png"):
        return record
    assert record.parts_choice is not None
    choice = dataclasses.replace(record.parts_choice, scores=None, selection=None)
    return dataclasses.replace(record, status=Status.FAILED, parts_choice=choice, segmentation=None, generation=None)


def test_a_failed_question_counts_as_wrong(pair: Pair) -> None:
    broken = dataclasses.replace(pair.oracle, records=tuple(map(fail_on_image_2, pair.oracle.records)))
    comparison = compare_all(pair.oracle, broken)
    flips = [flip for flip in comparison.flips if flip.group == "identification"]
    assert [(Path(flip.image_path).name, flip.outcome, flip.second) for flip in flips] == [
        ("image2.png", Outcome.LOST, ())
    ]
    assert entry_of(comparison, "identification", "parts_accuracy").second == 0.75
    assert "B chose: nothing, it failed" in render_comparison(comparison, 1)


def refuse(record: QuestionRecord) -> QuestionRecord:
    """The record as it is when the model can neither choose nor segment."""
    assert record.parts_choice is not None
    choice = dataclasses.replace(record.parts_choice, scores=None, selection=None)
    unsupported = (Capability.CHOICES, Capability.MASKS)
    return dataclasses.replace(record, unsupported=unsupported, parts_choice=choice, segmentation=None)


def test_what_a_model_refuses_on_one_question_alone_is_wrong(pair: Pair) -> None:
    first, *others = pair.oracle.records
    comparison = compare_all(pair.oracle, dataclasses.replace(pair.oracle, records=(refuse(first), *others)))
    assert [(flip.item_id, flip.outcome, flip.second) for flip in comparison.flips] == [
        (first.item_id, Outcome.LOST, ())
    ]
    assert [(entry.item_id, entry.change) for entry in comparison.quality_changes] == [(first.item_id, -1.0)]


def test_what_a_model_cannot_do_at_all_is_not_compared(pair: Pair) -> None:
    refusing = dataclasses.replace(pair.oracle, records=tuple(map(refuse, pair.oracle.records)))
    comparison = compare_all(pair.oracle, refusing)
    assert [choice.subject for choice in comparison.choices] == []
    assert len(comparison.quality_changes) == 0
    assert entry_of(comparison, "identification", "giou_micro_paired").difference.value is None


def test_how_finished_records_are_counted_does_not_matter(pair: Pair, tmp_path: Path) -> None:
    options = {**pair.empty.config.options, "text_matching": str(tmp_path / "nowhere")}
    matched = dataclasses.replace(pair.empty, config=dataclasses.replace(pair.empty.config, options=options))
    assert compare_all(pair.oracle, matched) == compare_all(pair.oracle, pair.empty), "no embedding model is loaded"


def test_other_questions_are_refused(question_file: Path, tmp_path: Path) -> None:
    first = run_model("oracle", question_file, tmp_path / "first")
    limited = run_model("oracle", question_file, tmp_path / "limited", "--limit", "2")
    with pytest.raises(ValueError, match=r"of type identification, .*only .*first has .* another --limit"):
        compare_all(first, limited)
    with pytest.raises(ValueError, match=r"of type identification, .*only .*first has"):
        compare_all(limited, first)
    question_file.write_text(json.dumps(json.loads(question_file.read_text())[1:]))
    other = run_model("oracle", question_file, tmp_path / "other")
    with pytest.raises(ValueError, match=rf"first those of test_qa_pairs \({first.dataset_hash[:12]}\), .*other those"):
        compare_all(first, other)


def test_types_that_only_one_run_asked_are_named(question_file: Path, tmp_path: Path) -> None:
    first = run_model("oracle", question_file, tmp_path / "first", "--question_types", "positive,negative")
    second = run_model("empty", question_file, tmp_path / "second", "--question_types", "negative,difference")
    comparison = compare_all(first, second)
    assert {entry.group for entry in comparison.differences} == {"negative"}
    assert (comparison.only_first, comparison.only_second) == (("positive",), ("difference",))
    assert "asked only in A and not compared: positive" in render_comparison(comparison, 0)


def test_what_one_run_was_not_asked_is_a_dash(question_file: Path, tmp_path: Path) -> None:
    first = run_model("oracle", question_file, tmp_path / "first")
    second = run_model("oracle", question_file, tmp_path / "second", "--generate", "none")
    entry = entry_of(compare_all(first, second), "identification", "generated_parts_f1")
    assert (entry.first, entry.second, entry.difference.value, entry.excludes_zero) == (1.0, None, None, None)
    assert "generated_parts_f1  100.0      -      -" in render_comparison(compare_all(first, second), 0)


def test_differing_settings_are_named(question_file: Path, tmp_path: Path) -> None:
    first = run_model("oracle", question_file, tmp_path / "first")
    second = run_model("oracle", question_file, tmp_path / "second", "--part_whole", "predicted")
    (warning,) = compare_all(first, second).warnings
    assert warning.endswith("(--part_whole): gold and predicted")


def test_command_writes_all_flips(first_choices: Pair, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = first_choices.oracle, first_choices.empty
    for suffix in (".csv", ".json"):
        compare(str(first.path), str(second.path), show=2, output=str(tmp_path / f"flips{suffix}"))
    text = capsys.readouterr().out
    comparison = compare_all(first, second)
    num_flips = len(comparison.flips)
    assert f"right -> wrong: {num_flips} questions" in text
    assert f"... and {num_flips - 2} more" in text
    with (tmp_path / "flips.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["question_id"] for row in rows if row["change"] != "iou"] == [f.item_id for f in comparison.flips]
    assert rows[0]["run_a"] == "wheel, wing"
    assert len([row for row in rows if row["change"] == "iou"]) == 40
    content = json.loads((tmp_path / "flips.json").read_text())
    assert len(content["flips"]) == num_flips
    assert content["flips"][0]["run_b"] == ["wheel"]
    assert content["differences"][0]["ci95"] == [-1.0, -1.0]
    assert content["iou_changes"][0]["run_a"] == 1.0


def test_metrics_can_be_chosen(pair: Pair, capsys: pytest.CaptureFixture[str]) -> None:
    run = pair.oracle
    compare(str(run.path), str(run.path), metric="ciou_paired, parts_f1", show=0)
    text = capsys.readouterr().out
    assert text.count("ciou_paired") == 10
    assert "parts_accuracy" not in text
    with pytest.raises(ValueError, match="unknown metric 'ciou'; known: .*ciou_paired"):
        compare(str(run.path), str(run.path), metric="ciou")
    with pytest.raises(ValueError, match=r"flips\.txt: choose a name that ends in \.json or \.csv"):
        compare(str(run.path), str(run.path), output="flips.txt")
