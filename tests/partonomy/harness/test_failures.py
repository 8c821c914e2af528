import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from partonomy.harness.run_directory import read_records
from partonomy.harness.runner import Job, run_evaluation

from partonomy.benchmarks.partonomy.records import Status
from partonomy.datasets.record_exchange import import_records
from partonomy.datasets.store import load_questions
from partonomy.harness.ranks import Rank
from partonomy.models.bounds import EmptyModel, OracleModel
from partonomy.models.contract import Generation, Turn
from partonomy.structures import CharSpan
from tests.partonomy.running import build_builtin, make_config, run, run_model, untimed


class FailingModel(OracleModel):
    """Raises on one image."""

    def segment(self, image: np.ndarray, turns: Sequence[Turn], answer: str, spans: Sequence[CharSpan]) -> np.ndarray:
        """Fail where the oracle's question is about image 2."""
        assert self._question is not None
        if self._question.image_id == 2:
            raise RuntimeError("out of\nmemory")
        return super().segment(image, turns, answer, spans)


def test_failures_are_counted_and_score_zero(question_file: Path, tmp_path: Path) -> None:
    summary = run_model(make_config(question_file, tmp_path / "run"), FailingModel())
    entry = summary.question_types["identification"]
    assert (entry.num_expected, entry.num_scored, entry.num_failed) == (4, 3, 1)
    assert entry.reasons == {"RuntimeError: out of memory": 1}
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


class MuteModel(OracleModel):
    """Fails when it is to answer in its own words, on image 2."""

    def generate(self, image: np.ndarray, turns: Sequence[Turn]) -> Generation:
        """Fail where the oracle's question is about image 2."""
        assert self._question is not None
        if self._question.image_id == 2:
            raise RuntimeError("out of memory")
        return super().generate(image, turns)


def test_failed_own_answer_leaves_choices_and_masks_scored(question_file: Path, tmp_path: Path) -> None:
    summary = run_model(make_config(question_file, tmp_path / "run"), MuteModel())
    entry = summary.question_types["identification"]
    assert (entry.num_scored, entry.num_failed) == (3, 1)
    reason = "own answer only (choices and masks are scored): RuntimeError: out of memory"
    assert entry.reasons == {reason: 1}
    assert (entry.metrics["giou_micro_paired"].value, entry.metrics["parts_accuracy"].value) == (1.0, 1.0)
    assert entry.metrics["generated_parts_accuracy"].value == pytest.approx(3 / 4)
    # Image 2 has two of the 10 true masks.
    assert entry.metrics["generated_giou_micro_paired"].value == pytest.approx(8 / 10)
    assert all(record.seconds > 0 for record in read_records(tmp_path / "run" / "records.jsonl"))


class PartlyRefusingModel(OracleModel):
    """Says of image 2 alone that it cannot segment."""

    def segment(self, image: np.ndarray, turns: Sequence[Turn], answer: str, spans: Sequence[CharSpan]) -> np.ndarray:
        """Refuse where the oracle's question is about image 2."""
        assert self._question is not None
        if self._question.image_id == 2:
            raise NotImplementedError("no such kernel")
        return super().segment(image, turns, answer, spans)


def test_one_refusal_fails_its_questions_and_not_the_metric(question_file: Path, tmp_path: Path) -> None:
    summary = run_model(make_config(question_file, tmp_path / "run"), PartlyRefusingModel())
    entry = summary.question_types["positive"]
    assert entry.metrics["giou_micro_paired"].value == pytest.approx(8 / 10)
    assert entry.metrics["parts_accuracy"].value == 1.0
    assert (entry.num_scored, entry.num_failed) == (3, 1)
    assert next(iter(entry.reasons)).startswith("NotImplementedError for masks")


class ShortModel(OracleModel):
    """Forgets its last mask."""

    def segment(self, image: np.ndarray, turns: Sequence[Turn], answer: str, spans: Sequence[CharSpan]) -> np.ndarray:
        """One mask too few."""
        return super().segment(image, turns, answer, spans)[:-1]


def test_missing_prediction_scores_zero_but_authors_skip_it(question_file: Path, tmp_path: Path) -> None:
    summary = run_model(make_config(question_file, tmp_path / "run"), ShortModel())
    entry = summary.question_types["positive"]
    assert entry.num_failed == 0
    # Of 1, 2, 3, 4 masks one each is missing: (0 + 1 + 2 + 3) / 10; images: (0 + 1/2 + 2/3 + 3/4) / 4.
    assert entry.metrics["giou_micro_paired"].value == pytest.approx(6 / 10)
    assert entry.metrics["giou_macro_paired"].value == pytest.approx((1 / 2 + 2 / 3 + 3 / 4) / 4)
    assert entry.metrics["authors_giou_micro_paired"].value is None


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
    entry = summary.question_types["part_to_whole"]
    assert entry.num_failed == 0
    for name, estimate in entry.metrics.items():
        is_text = name.removeprefix("authors_").startswith(("parts_", "objects_"))
        assert (estimate.value is None) != is_text, name
        assert (estimate.count == 0) != is_text, name


def damage_image(folder: Path, content: bytes) -> None:
    """Cut an image in half after the questions have been read."""
    (folder / "image1.png").write_bytes(content)


@pytest.mark.parametrize(
    "break_question",
    [
        lambda record: record.update(question_type="riddle"),
        lambda record: record["segmentations"].pop("wheel"),
        lambda record: record.update(image_path="nowhere.png"),
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
    entries = [entry for entry in summary.question_types.values() if entry.num_failed]
    assert len(entries) == 1
    assert entries[0].num_failed == 1
    assert next(iter(entries[0].reasons)).startswith("record 1")
    assert sum(entry.num_expected for entry in summary.question_types.values()) == 40
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
    for name, entry in direct.question_types.items():
        other = imported.question_types[name]
        assert (other.num_expected, other.num_scored, other.num_failed) == (
            entry.num_expected,
            entry.num_scored,
            entry.num_failed,
        )
        assert {key: value.value for key, value in other.metrics.items()} == {
            key: value.value for key, value in entry.metrics.items()
        }
    failed = [entry for entry in imported.question_types.values() if entry.num_failed]
    assert [(entry.name, entry.num_failed) for entry in failed] == [("identification_with_label", 1), ("unknown", 1)]
    assert "left out by the import" in next(iter(failed[0].reasons))
    assert len(load_questions(folder).invalid) == 0  # where bad records are an error, the folder has none


def test_image_that_breaks_later_fails_its_questions(question_file: Path, tmp_path: Path) -> None:
    job = Job(make_config(question_file, tmp_path / "run"), build_builtin)
    question_set = job.load_questions()
    content = (question_file.parent / "image1.png").read_bytes()
    damage_image(question_file.parent, content[: len(content) // 2])
    summary = run_evaluation(job, question_set, False, Rank())
    assert summary is not None
    for entry in summary.question_types.values():
        assert (entry.num_scored, entry.num_failed) == (3, 1)
        assert "image1.png" in next(iter(entry.reasons))
