"""A finished run as tables and report read it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from partonomy.benchmarks.partonomy.metrics import is_parts_correct
from partonomy.benchmarks.partonomy.records import ChoiceRecord, QuestionRecord
from partonomy.harness.records import RecordCodec
from partonomy.harness.run_folder import RECORDS_FILE, SUMMARY_FILE
from partonomy.harness.summary import Summary, read_summary
from partonomy.metrics.multiple_choice import (
    LengthAccuracy,
    RandomBaseline,
    Selector,
    accuracy_by_length,
    random_baseline,
)


@dataclass(frozen=True)
class LoadedRun:
    """Summary and records of one run; `name` tells it from others in a table."""

    name: str
    path: Path
    summary: Summary
    records: tuple[QuestionRecord, ...]

    @property
    def dataset_hash(self) -> str:
        """Content hash of the questions."""
        return str(self.summary.provenance["dataset"]["content_hash"])

    @property
    def dataset_name(self) -> str:
        """Name of the question set."""
        return str(self.summary.provenance["dataset"]["name"])

    def of_type(self, question_type: str) -> tuple[QuestionRecord, ...]:
        """The records of one question type (a key of the summary)."""
        return tuple(record for record in self.records if record.question_type == question_type)


def load_run(path: Path) -> LoadedRun:
    """Read a run's folder.

    Raises:
        FileNotFoundError: It has no summary or no records.
        ValueError: A record is damaged.
    """
    summary = read_summary(path / SUMMARY_FILE)
    records = path / RECORDS_FILE
    if not records.is_file():
        raise FileNotFoundError(f"{records} does not exist; run validate_partonomy.py with --resume to restore it")
    return LoadedRun(_run_name(path, summary), path, summary, RecordCodec(QuestionRecord).read(records))


def random_parts(records: Sequence[QuestionRecord]) -> RandomBaseline | None:
    """What a uniform guess scores on the part questions of these records, in expectation."""
    return _random([record.parts_choice for record in records])


def random_objects(records: Sequence[QuestionRecord]) -> RandomBaseline | None:
    """What a uniform guess scores on the object questions of these records, in expectation."""
    return _random([record.object_choice for record in records])


def length_accuracies(records: Sequence[QuestionRecord], selector: Selector) -> tuple[LengthAccuracy, ...]:
    """Parts accuracy by the number of parts in the correct answer; failed questions count as wrong."""
    with_choices = [record for record in records if record.parts_choice is not None]
    lengths = [
        len(record.parts_choice.labels[record.parts_choice.correct_index])
        for record in with_choices
        if record.parts_choice is not None
    ]
    return accuracy_by_length(lengths, [is_parts_correct(record, selector) for record in with_choices])


def _random(choices: Sequence[ChoiceRecord | None]) -> RandomBaseline | None:
    present = [choice for choice in choices if choice is not None]
    return random_baseline([choice.labels for choice in present], [choice.correct_index for choice in present])


def _run_name(path: Path, summary: Summary) -> str:
    """Model and folder, e.g. "plum (validation)"; once where both are called the same."""
    model, folder = summary.provenance["config"]["model"]["model"], path.resolve().name
    return model if model == folder else f"{model} ({folder})"
