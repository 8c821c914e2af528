"""What fails is counted and scores 0, and nothing else changes; what a model cannot do at all is null."""

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from partonomy.benchmarks.segmentation import SegmentationMode, SegmentationTask
from partonomy.benchmarks.task import Status
from partonomy.datasets.record_exchange import import_records
from partonomy.datasets.store import load_questions
from partonomy.harness.ranks import Rank
from partonomy.harness.run import Job, run_benchmark
from partonomy.models.bounds import EmptyModel, OracleModel
from partonomy.models.contract import Generation, Turn
from partonomy.reporting.overview import overview
from partonomy.structures import CharSpan
from tests.partonomy.benchmark_world import SIZE, ItemTask, ScriptedModel, gqa_task, refcoco_task, run_task
from tests.partonomy.benchmark_world import make_config as task_config
from tests.partonomy.benchmarks.vqa_world import draw
from tests.partonomy.harness.conftest import World
from tests.partonomy.running import OracleOfImages, make_config, run, run_model, stored_records, untimed


class FailingModel(OracleOfImages):
    """Raises on one image."""

    def segment(self, image: np.ndarray, turns: Sequence[Turn], answer: str, spans: Sequence[CharSpan]) -> np.ndarray:
        """Fail where the question is about image 2."""
        if self.image_id == 2:
            raise RuntimeError("no\nanswer")
        return super().segment(image, turns, answer, spans)


def test_failures_are_counted_and_score_zero(question_file: Path, tmp_path: Path) -> None:
    summary = run_model(make_config(question_file, tmp_path / "run"), FailingModel(question_file))
    entry = summary.groups["identification"]
    assert (entry.num_expected, entry.num_scored, entry.num_failed) == (4, 3, 1)
    assert entry.reasons == {"RuntimeError: no answer": 1}
    # Correct answers have 1, 2, 3, 4 parts; image 2 has two: (1 + 3 + 4) of 10 masks, 3 of 4 images.
    assert entry.metrics["giou_micro_paired"].value == pytest.approx(8 / 10)
    assert entry.metrics["giou_micro_paired"].count == 10
    assert entry.metrics["giou_macro_paired"].value == pytest.approx(3 / 4)
    assert entry.metrics["authors_giou_micro_paired"].value == 1.0
    assert entry.metrics["authors_giou_micro_paired"].count == 8
    assert entry.metrics["parts_accuracy"].value == pytest.approx(3 / 4)
    assert entry.metrics["parts_precision"].value == pytest.approx(8 / 10)
    assert entry.metrics["generated_parts_accuracy"].value == pytest.approx(3 / 4)
    failed = [record for record in untimed(tmp_path / "run") if record.status is Status.FAILED]
    assert len(failed) == 10


class MuteModel(OracleOfImages):
    """Fails when it is to answer in its own words, on image 2."""

    def generate(self, image: np.ndarray, turns: Sequence[Turn]) -> Generation:
        """Fail where the question is about image 2."""
        if self.image_id == 2:
            raise RuntimeError("no answer")
        return super().generate(image, turns)


def test_failed_own_answer_leaves_choices_and_masks_scored(question_file: Path, tmp_path: Path) -> None:
    summary = run_model(make_config(question_file, tmp_path / "run"), MuteModel(question_file))
    entry = summary.groups["identification"]
    assert (entry.num_scored, entry.num_failed) == (3, 1)
    reason = "own answer only (choices and masks are scored): RuntimeError: no answer"
    assert entry.reasons == {reason: 1}
    assert (entry.metrics["giou_micro_paired"].value, entry.metrics["parts_accuracy"].value) == (1.0, 1.0)
    assert entry.metrics["generated_parts_accuracy"].value == pytest.approx(3 / 4)
    # Image 2 has two of the 10 true masks.
    assert entry.metrics["generated_giou_micro_paired"].value == pytest.approx(8 / 10)
    assert all(record.seconds > 0 for record in stored_records(tmp_path / "run"))


class ChangedModel(OracleOfImages):
    """Changes its own answer to each image in another way."""

    def __init__(self, questions: Path, changes: Sequence[Callable[[Generation], Generation]]) -> None:
        super().__init__(questions)
        self._changes = changes

    def generate(self, image: np.ndarray, turns: Sequence[Turn]) -> Generation:
        """Apply the image's change."""
        return self._changes[self.image_id - 1](super().generate(image, turns))


def sure(*first: float) -> Callable[[Generation], Generation]:
    """Let a model be this sure of its first phrases, and certain of the others."""
    return lambda answer: dataclasses.replace(answer, confidences=(*first, *answer.confidences[len(first) :]))


def first_span(start: int, end: int) -> Callable[[Generation], Generation]:
    """Let the first phrase lie elsewhere."""
    return lambda answer: dataclasses.replace(answer, spans=(CharSpan(start, end), *answer.spans[1:]))


def first_span_until(after_end: int) -> Callable[[Generation], Generation]:
    """Let the first phrase be the whole text and so many characters more."""
    return lambda answer: first_span(0, len(answer.text) + after_end)(answer)


def test_own_answers_at_the_bounds_are_scored(question_file: Path, tmp_path: Path) -> None:
    changes = [sure(1.0), sure(0.0), first_span(0, 1), first_span_until(0)]
    summary = run_model(make_config(question_file, tmp_path / "run"), ChangedModel(question_file, changes))
    entry = summary.groups["positive"]
    assert (entry.num_scored, entry.num_failed, entry.reasons) == (4, 0, {})


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        # The right answers to images 1, 2, 3, 4 have 1, 2, 3, 4 phrases.
        (
            [sure(1.001), sure(-0.001), sure(float("nan")), sure(1.0, 1.0, 1.0, 1.0, 1.0)],
            ["(1.001,) for 1 ", "(-0.001, 1.0) for 2 ", "(nan, 1.0, 1.0) for 3 ", "1.0, 1.0, 1.0, 1.0, 1.0) for 4 "],
        ),
        (
            [first_span(-1, 2), first_span(2, 2), first_span(3, 2), first_span_until(1)],
            ["tagged [-1, 2) in", "tagged [2, 2) in", "tagged [3, 2) in", "tagged [0, "],
        ),
    ],
)
def test_own_answers_beyond_the_bounds_fail_alone(
    question_file: Path, tmp_path: Path, changes: list[Callable[[Generation], Generation]], expected: list[str]
) -> None:
    summary = run_model(make_config(question_file, tmp_path / "run"), ChangedModel(question_file, changes))
    entry = summary.groups["positive"]
    assert (entry.num_scored, entry.num_failed) == (0, 4)
    assert entry.metrics["parts_accuracy"].value == 1.0
    assert entry.metrics["generated_parts_accuracy"].value == 0.0
    start = "own answer only (choices and masks are scored): ValueError: the model "
    assert all(reason.startswith(start) for reason in entry.reasons)
    assert [sum(words in reason for reason in entry.reasons) for words in expected] == [1, 1, 1, 1]


class ShortModel(OracleModel):
    """Forgets its last mask."""

    def segment(self, image: np.ndarray, turns: Sequence[Turn], answer: str, spans: Sequence[CharSpan]) -> np.ndarray:
        """One mask too few."""
        return super().segment(image, turns, answer, spans)[:-1]


def test_missing_prediction_scores_zero_but_authors_cut_the_longer_list(question_file: Path, tmp_path: Path) -> None:
    summary = run_model(make_config(question_file, tmp_path / "run"), ShortModel())
    entry = summary.groups["positive"]
    assert entry.num_failed == 0
    # Of 1, 2, 3, 4 masks one each is missing: (0 + 1 + 2 + 3) / 10; images: (0 + 1/2 + 2/3 + 3/4) / 4.
    assert entry.metrics["giou_micro_paired"].value == pytest.approx(6 / 10)
    assert entry.metrics["giou_macro_paired"].value == pytest.approx((1 / 2 + 2 / 3 + 3 / 4) / 4)
    # Theirs: 0, 1, 2, 3 pairs are left, all of them right; the question without a pair is skipped.
    assert entry.metrics["authors_giou_micro_paired"].value == 1.0
    assert entry.metrics["authors_giou_micro_paired"].count == 1 + 2 + 3
    assert entry.metrics["authors_giou_macro_paired"].value == 1.0
    assert entry.metrics["authors_giou_macro_paired"].count == 3


class PartlyRefusingModel(OracleOfImages):
    """Says of image 2 alone that it cannot segment."""

    def segment(self, image: np.ndarray, turns: Sequence[Turn], answer: str, spans: Sequence[CharSpan]) -> np.ndarray:
        """Refuse where the question is about image 2."""
        if self.image_id == 2:
            raise NotImplementedError("no such kernel")
        return super().segment(image, turns, answer, spans)


def test_one_refusal_fails_its_questions_and_not_the_metric(question_file: Path, tmp_path: Path) -> None:
    summary = run_model(make_config(question_file, tmp_path / "run"), PartlyRefusingModel(question_file))
    entry = summary.groups["positive"]
    assert entry.metrics["giou_micro_paired"].value == pytest.approx(8 / 10)
    assert entry.metrics["parts_accuracy"].value == 1.0
    assert (entry.num_scored, entry.num_failed) == (3, 1)
    assert next(iter(entry.reasons)).startswith("NotImplementedError for masks")


def refuse_on(word: str) -> Callable[[str], str]:
    """Refuse prompts that hold a word."""

    def answer(prompt: str) -> str:
        if word in prompt:
            raise NotImplementedError("no such kernel")
        return "cat"

    return answer


@pytest.mark.parametrize("read", [gqa_task, lambda folder: refcoco_task(folder, SegmentationMode.GENERATED)])
def test_one_refusal_of_several_fails_its_item_alone(tmp_path: Path, read: Callable[[Path], ItemTask]) -> None:
    task = read(tmp_path)
    first = "0, a cat" if task.benchmark == "gqa" else "left"
    whole = run_task(task, task_config(task, tmp_path / "whole"), ScriptedModel())
    summary = run_task(task, task_config(task, tmp_path / "run"), ScriptedModel(refuse_on(first)))
    assert summary is not None
    assert whole is not None
    entry, num_items = summary.groups["all"], len(task.items)
    assert entry.reasons == {"NotImplementedError, which the model did not raise on other items": 1}
    assert (entry.num_expected, entry.num_failed) == (num_items, 1)
    metric = "accuracy" if task.benchmark == "gqa" else "giou"
    right, lost = whole.metrics[metric].value, summary.metrics[metric].value
    assert right is not None
    assert lost == pytest.approx(right - 1 / num_items)
    assert summary.metrics[metric].count == num_items


def two_images(folder: Path) -> SegmentationTask:
    """An image of its own for each of the two expressions."""
    task = refcoco_task(folder, SegmentationMode.FORCED)
    draw(folder / "images" / "1.png", 1, SIZE)
    other = dataclasses.replace(task.items[1], image_id="1", image_path=folder / "images" / "1.png")
    return dataclasses.replace(task, items=(task.items[0], other))


@pytest.mark.parametrize("read", [gqa_task, two_images])
@pytest.mark.parametrize("is_image_missing", [False, True])
def test_what_a_model_cannot_do_is_null_also_where_an_image_is_missing(
    tmp_path: Path, read: Callable[[Path], ItemTask], is_image_missing: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = read(tmp_path)
    monkeypatch.setattr(ScriptedModel, "segment", lambda *arguments: refuse_on("")(""))
    if is_image_missing:
        task.items[0].picture.path.unlink()
    summary = run_task(task, task_config(task, tmp_path / "run"), ScriptedModel(refuse_on("")))
    assert summary is not None
    entry = summary.groups["all"]
    assert (entry.num_expected, entry.num_scored) == (len(task.items), 0)
    assert "NotImplementedError: no such kernel" in entry.reasons
    assert summary.headline in entry.metrics
    for estimate in entry.metrics.values():
        assert (estimate.value, estimate.low, estimate.high, estimate.count) == (None, None, None, 0)
    overview(summary)


class TextOnlyModel(EmptyModel):
    """Cannot segment."""

    def segment(self, image: np.ndarray, turns: Sequence[Turn], answer: str, spans: Sequence[CharSpan]) -> np.ndarray:
        """Not offered."""
        raise NotImplementedError

    def generate(self, image: np.ndarray, turns: Sequence[Turn]) -> Generation:
        """Not offered."""
        raise NotImplementedError


def test_what_a_model_cannot_do_is_null(question_file: Path, tmp_path: Path) -> None:
    summary = run_model(make_config(question_file, tmp_path / "run"), TextOnlyModel())
    entry = summary.groups["part_to_whole"]
    assert entry.num_failed == 0
    for name, estimate in entry.metrics.items():
        is_text = name.removeprefix("authors_").startswith(("parts_", "objects_"))
        assert (estimate.value is None) != is_text, name
        assert (estimate.count == 0) != is_text, name


def test_failures_of_items_score_0_with_their_reason(tmp_path: Path) -> None:
    task = gqa_task(tmp_path)
    task.items[2].picture.path.unlink()
    task.items[4].picture.path.write_bytes(b"no image")

    def fail_on_dogs(prompt: str) -> str:
        if "dog" in prompt:
            raise RuntimeError("no answer")
        return "cat"

    summary = run_task(task, task_config(task, tmp_path / "run"), ScriptedModel(fail_on_dogs))
    assert summary is not None
    assert summary.num_failed == 5
    assert summary.metrics["accuracy"].value == pytest.approx(1 / 6)
    reasons = summary.groups["all"].reasons
    assert reasons["RuntimeError: no answer"] == 1
    assert sum(reasons.values()) == 5
    assert any("1.png: image file not found" in reason for reason in reasons)
    assert "6 items, 5 failed" in overview(summary)


def test_a_failed_mask_adds_its_target_to_the_union(tmp_path: Path) -> None:
    task = refcoco_task(tmp_path, SegmentationMode.GENERATED)

    def fail_on_upper(prompt: str) -> str:
        if "upper" in prompt:
            raise ValueError("no answer")
        return "the left one"

    summary = run_task(task, task_config(task, tmp_path / "run"), ScriptedModel(fail_on_upper))
    assert summary is not None
    assert summary.metrics["giou"].value == 0.5
    assert summary.metrics["ciou"].value == pytest.approx(216 / (216 + 216))


@pytest.mark.parametrize(
    "break_question",
    [
        lambda record: record.update(question_type="riddle"),
        lambda record: record["segmentations"].pop("wheel"),
        lambda record: record.update(answer_types=["incorrect"] * 5),
    ],
)
def test_unreadable_records_are_counted_failures(
    question_file: Path, tmp_path: Path, break_question: Callable[[dict[str, object]], object]
) -> None:
    records = json.loads(question_file.read_text())
    break_question(records[1])
    question_file.write_text(json.dumps(records))
    summary = run(make_config(question_file, tmp_path / "run"))
    assert summary is not None
    entries = [entry for entry in summary.groups.values() if entry.num_failed]
    assert len(entries) == 1
    assert entries[0].num_failed == 1
    assert next(iter(entries[0].reasons)).startswith("record 1")
    assert summary.num_expected == 40
    accuracy = entries[0].metrics["parts_accuracy"]
    assert accuracy.value == (0.0 if entries[0].name == "unknown" else pytest.approx(3 / 4))


def test_an_imported_folder_counts_the_records_it_left_out(question_file: Path, tmp_path: Path) -> None:
    records = json.loads(question_file.read_text())
    records[1]["segmentations"].pop("wheel")
    records[2]["question_type"] = "riddle"
    question_file.write_text(json.dumps(records))
    folder = tmp_path / "imported"
    import_records(question_file, folder, invalid="collect")
    direct, imported = run(make_config(question_file, tmp_path / "a")), run(make_config(folder, tmp_path / "b"))
    assert direct is not None
    assert imported is not None
    for name, entry in direct.groups.items():
        other = imported.groups[name]
        assert (other.num_expected, other.num_scored, other.num_failed) == (
            entry.num_expected,
            entry.num_scored,
            entry.num_failed,
        )
        assert {key: value.value for key, value in other.metrics.items()} == {
            key: value.value for key, value in entry.metrics.items()
        }
    failed = [entry for entry in imported.groups.values() if entry.num_failed]
    assert [(entry.name, entry.num_failed) for entry in failed] == [("identification_with_label", 1), ("unknown", 1)]
    assert "left out by the import" in next(iter(failed[0].reasons))
    assert len(load_questions(folder).invalid) == 0  # where bad records are an error, the folder has none


def test_an_image_that_breaks_later_fails_its_items(world: World, tmp_path: Path) -> None:
    config = world.config(tmp_path / "run", "oracle")
    task = config.load_task()
    path = task.items[0].picture.path
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    summary = run_benchmark(Job(config), task, resume=False, rank=Rank())
    assert summary is not None
    assert summary.num_failed == world.per_image
    for entry in summary.groups.values():
        assert path.name in next(iter(entry.reasons))
    if world.benchmark == "partonomy":
        assert {(entry.num_scored, entry.num_failed) for entry in summary.groups.values()} == {(3, 1)}
