import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from partonomy.datasets.store import load_questions
from partonomy.evaluation import provenance
from partonomy.evaluation.adapters import BUILTIN_MODELS, EmptyModel, OracleModel
from partonomy.evaluation.model_api import ChoiceScore, Generation, GroundedModel, Turn
from partonomy.evaluation.provenance import hash_checkpoint
from partonomy.evaluation.record_json import record_from_line, record_to_line
from partonomy.evaluation.records import Record, Status
from partonomy.evaluation.results import Summary
from partonomy.evaluation.run_directory import EvaluationConfig, read_records
from partonomy.evaluation.runner import Job, run_evaluation
from partonomy.evaluation.sharding import Rank
from partonomy.questions.question_types import QuestionType
from partonomy.structures import CharSpan, Question

ALL_TYPES = tuple(question_type.value for question_type in QuestionType)


def build_builtin(config: EvaluationConfig, rank: Rank) -> GroundedModel:
    """The model that the configuration names."""
    return BUILTIN_MODELS[config.model](config.seed)


def make_config(questions: Path, output: Path, model: str = "oracle") -> EvaluationConfig:
    """All types, with own answers."""
    content_hash = load_questions(questions, invalid="collect").content_hash
    return EvaluationConfig(
        model, None, str(questions), content_hash, str(output), ALL_TYPES, None, ALL_TYPES, "gold", 3, "cpu"
    )


def run(config: EvaluationConfig, resume: bool = False, rank: Rank | None = None, num_procs: int = 1) -> Summary | None:
    """Run a built-in model."""
    job = Job(config, build_builtin)
    return run_evaluation(job, job.load_questions(), resume, rank or Rank(), num_procs)


def run_model(config: EvaluationConfig, model: GroundedModel) -> Summary:
    """Run a given model in this process."""
    job = Job(config, lambda config, rank: model)
    summary = run_evaluation(job, job.load_questions(), False, Rank())
    assert summary is not None
    return summary


def untimed(output: Path) -> list[Record]:
    """The records without their seconds."""
    return [dataclasses.replace(record, seconds=0.0) for record in read_records(output / "records.jsonl")]


def values(summary: Summary | None, name: str) -> list[float | None]:
    """A metric over all types that report it."""
    assert summary is not None
    return [entry.metrics[name].value for entry in summary.question_types.values() if name in entry.metrics]


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


def test_ranks_give_the_records_and_numbers_of_one(question_file: Path, tmp_path: Path) -> None:
    single = run(make_config(question_file, tmp_path / "one", "random"))
    config = make_config(question_file, tmp_path / "two", "random")
    assert run(config, rank=Rank(1, 2)) is None  # rank 0 has not answered yet
    double = run(config, rank=Rank(0, 2))
    assert single is not None
    assert double is not None
    assert untimed(tmp_path / "one") == untimed(tmp_path / "two")
    assert single.question_types == double.question_types


def test_worker_processes_give_the_records_and_numbers_of_one(question_file: Path, tmp_path: Path) -> None:
    # The builder must be importable by the workers: validate_partonomy's own is.
    from validate_partonomy import build_model

    single = run(make_config(question_file, tmp_path / "one", "random"))
    job = Job(make_config(question_file, tmp_path / "two", "random"), build_model)
    double = run_evaluation(job, job.load_questions(), False, Rank(), num_procs=2)
    assert single is not None
    assert double is not None
    assert untimed(tmp_path / "one") == untimed(tmp_path / "two")
    assert single.question_types == double.question_types
    assert not list((tmp_path / "two").glob("records.rank*"))


def test_each_image_is_loaded_once(question_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from partonomy.evaluation import runner

    loaded: list[Path] = []
    original = runner.load_image

    def load(path: Path, height: int, width: int) -> np.ndarray:
        loaded.append(path)
        return original(path, height, width)

    monkeypatch.setattr(runner, "load_image", load)
    run(make_config(question_file, tmp_path / "run"))
    assert len(loaded) == len(set(loaded)) == 4


class DyingModel(OracleModel):
    """Stops the process after some questions, as a kill would."""

    def __init__(self, num_questions: int) -> None:
        super().__init__()
        self._left = num_questions

    def prepare(self, question: Question) -> None:
        """Count down."""
        if self._left == 0:
            raise KeyboardInterrupt
        self._left -= 1
        super().prepare(question)


def test_kill_and_resume_gives_the_same_records(question_file: Path, tmp_path: Path) -> None:
    whole = run(make_config(question_file, tmp_path / "whole"))
    config = make_config(question_file, tmp_path / "resumed")
    with pytest.raises(KeyboardInterrupt):
        run_model(config, DyingModel(13))
    partial = tmp_path / "resumed" / "records.jsonl"
    assert len(partial.read_text().splitlines()) == 13
    with partial.open("a") as file:  # the killed process had begun a line
        file.write('{"question_id": "record-0000')
    with pytest.raises(FileExistsError, match="--resume"):
        run(config)
    resumed = run(config, resume=True)
    assert resumed is not None
    assert whole is not None
    assert untimed(tmp_path / "resumed") == untimed(tmp_path / "whole")
    assert resumed.question_types == whole.question_types


def test_finished_results_are_refused_without_resume_and_kept_with_it(question_file: Path, tmp_path: Path) -> None:
    config = make_config(question_file, tmp_path / "run", "random")
    first = run(config)
    records = (tmp_path / "run" / "records.jsonl").read_bytes()
    with pytest.raises(FileExistsError, match="finished results.*--resume"):
        run(config)
    again = run(config, resume=True)
    assert first is not None
    assert again is not None
    assert (tmp_path / "run" / "records.jsonl").read_bytes() == records
    assert again.question_types == first.question_types


def test_resume_with_other_settings_names_the_keys(question_file: Path, tmp_path: Path) -> None:
    config = make_config(question_file, tmp_path / "run")
    run(config)
    other = dataclasses.replace(config, seed=4, part_whole="predicted")
    with pytest.raises(ValueError, match=r"part_whole \(was 'gold', now 'predicted'\), seed \(was 3, now 4\)"):
        run(other, resume=True)


def test_other_weights_in_the_same_folder_are_another_run(question_file: Path, tmp_path: Path) -> None:
    checkpoint = tmp_path / "model"
    checkpoint.mkdir()
    (checkpoint / "model.safetensors").write_bytes(b"old weights")
    before = hash_checkpoint(checkpoint)
    (checkpoint / "README.md").write_text("a model card is no weight")
    assert hash_checkpoint(checkpoint) == before
    config = dataclasses.replace(make_config(question_file, tmp_path / "run"), checkpoint_hash=before)
    run(config)
    (checkpoint / "model.safetensors").write_bytes(b"new weights")
    with pytest.raises(ValueError, match="checkpoint_hash"):
        run(dataclasses.replace(config, checkpoint_hash=hash_checkpoint(checkpoint)), resume=True)
    moved = dataclasses.replace(config, checkpoint="elsewhere", training_metrics=("metrics.jsonl",))
    assert run(moved, resume=True) is not None


def test_provenance_names_the_code_that_made_the_records(
    question_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config(question_file, tmp_path / "run")
    monkeypatch.setattr(provenance, "_git", lambda *arguments: "first" if arguments[0] == "rev-parse" else "")
    with pytest.raises(KeyboardInterrupt):
        run_model(config, DyingModel(13))
    monkeypatch.setattr(provenance, "_git", lambda *arguments: "second" if arguments[0] == "rev-parse" else " M x.py")
    run(config, resume=True)
    monkeypatch.setattr(provenance, "_git", lambda *arguments: None)
    summary = run(config, resume=True)  # asks nothing, so it must not claim the records
    assert summary is not None
    assert summary.provenance["code_commit"] == "second"
    assert summary.provenance["code_is_modified"] is True
    assert summary.provenance["code_of_earlier_records"] == [{"commit": "first", "is_modified": False}]
    assert summary.provenance["code_commit_of_summary"] is None


def test_damaged_record_is_an_error_with_its_line(question_file: Path, tmp_path: Path) -> None:
    config = make_config(question_file, tmp_path / "run")
    run(config)
    path = tmp_path / "run" / "records.jsonl"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], lines[1][:50], *lines[2:]]) + "\n")
    with pytest.raises(ValueError, match=r"records\.jsonl, line 2"):
        run(config, resume=True)


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
        is_text = name.startswith(("parts_", "objects_"))
        assert (estimate.value is None) != is_text, name
        assert (estimate.count == 0) != is_text, name


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


def test_launcher_and_workers_exclude_each_other(question_file: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cannot be combined"):
        run(make_config(question_file, tmp_path / "run"), rank=Rank(0, 2), num_procs=2)


def test_type_without_questions_reports_zero_with_a_reason(tmp_path: Path) -> None:
    from partonomy.evaluation.results import summarize
    from partonomy.structures import SkippedType

    skipped = (SkippedType(QuestionType.PART_TO_WHOLE, "a single object class", 7),)
    types = (QuestionType.PART_TO_WHOLE, QuestionType.POSITIVE)
    summary = summarize((), types, skipped, {}, seed=0)
    entry = summary.question_types["part_to_whole"]
    assert (entry.num_expected, entry.reasons) == (0, {"a single object class": 7})
    assert summary.question_types["positive"].reasons == {"the questions contain none of this type": 0}
    assert all(estimate.value is None and estimate.count == 0 for estimate in entry.metrics.values())
