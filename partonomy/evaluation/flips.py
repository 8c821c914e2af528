"""Questions whose outcome differs between two runs: choices that flipped, masks that changed."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from partonomy.benchmarks.partonomy import Subject
from partonomy.evaluation.breakdown import mean_paired_iou
from partonomy.evaluation.records import Capability, ChoiceRecord, Record
from partonomy.evaluation.results import UNKNOWN_TYPE
from partonomy.metrics.multiple_choice import DEFAULT_SELECTOR


class Outcome(StrEnum):
    """A multiple-choice question under the first and the second run."""

    BOTH_RIGHT = "both right"
    LOST = "right -> wrong"
    GAINED = "wrong -> right"
    BOTH_WRONG = "both wrong"


@dataclass(frozen=True)
class RecordPair:
    """The records of one question in the first and in the second run."""

    first: Record
    second: Record

    def requested(self, capability: Capability) -> bool:
        """Whether both runs asked this of their model."""
        return capability in self.first.requested and capability in self.second.requested


@dataclass(frozen=True)
class ChoiceChange:
    """A multiple-choice question: the names in the correct answer and in either run's choice.

    `first` and `second` are empty where the question failed.
    """

    question_id: str
    question_type: str
    image_path: str
    object_label: str
    subject: Subject
    outcome: Outcome
    correct: tuple[str, ...]
    first: tuple[str, ...]
    second: tuple[str, ...]


@dataclass(frozen=True)
class IouChange:
    """The mean paired IoU over a question's parts in either run, missing masks as 0."""

    question_id: str
    question_type: str
    image_path: str
    object_label: str
    first: float
    second: float

    @property
    def change(self) -> float:
        """Second minus first."""
        return self.second - self.first


def type_name(record: Record) -> str:
    """The record's question type as a summary names it."""
    return UNKNOWN_TYPE if record.question_type is None else record.question_type.value


def choice_changes(pairs: Sequence[RecordPair]) -> tuple[ChoiceChange, ...]:
    """The multiple-choice questions that both runs asked, in order, also those that did not flip."""
    changes = []
    for pair in pairs:
        if not pair.requested(Capability.CHOICES):
            continue
        record = pair.first
        for subject in Subject:
            before, after = _choice(pair.first, subject), _choice(pair.second, subject)
            if before is None or after is None:  # an unreadable question, or a type without object question
                continue
            changes.append(
                ChoiceChange(
                    record.question_id,
                    type_name(record),
                    record.image_path,
                    record.object_label,
                    subject,
                    _outcome(_is_right(before), _is_right(after)),
                    before.labels[before.correct_index],
                    _chosen(before),
                    _chosen(after),
                )
            )
    return tuple(changes)


def iou_changes(pairs: Sequence[RecordPair]) -> tuple[IouChange, ...]:
    """The questions whose mean paired IoU differs, largest change first."""
    changes = []
    for pair in pairs:
        record = pair.first
        if not pair.requested(Capability.MASKS) or not record.true_parts:
            continue
        before, after = mean_paired_iou(pair.first), mean_paired_iou(pair.second)
        if before != after:
            kind, path = type_name(record), record.image_path
            changes.append(IouChange(record.question_id, kind, path, record.object_label, before, after))
    return tuple(sorted(changes, key=lambda entry: (-abs(entry.change), entry.question_id)))


def _choice(record: Record, subject: Subject) -> ChoiceRecord | None:
    return record.parts_choice if subject is Subject.PARTS else record.object_choice


def _is_right(choice: ChoiceRecord) -> bool:
    return choice.selection is not None and choice.selection.index(DEFAULT_SELECTOR) == choice.correct_index


def _chosen(choice: ChoiceRecord) -> tuple[str, ...]:
    return () if choice.selection is None else choice.labels[choice.selection.index(DEFAULT_SELECTOR)]


def _outcome(was_right: bool, is_right: bool) -> Outcome:
    if was_right:
        return Outcome.BOTH_RIGHT if is_right else Outcome.LOST
    return Outcome.GAINED if is_right else Outcome.BOTH_WRONG
