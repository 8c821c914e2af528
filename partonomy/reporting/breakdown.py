"""Paired IoU of a run by part name and by object."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from partonomy.benchmarks.partonomy.metrics import parts_credit, record_pairs
from partonomy.benchmarks.partonomy.records import QuestionRecord
from partonomy.metrics.matching import Matching
from partonomy.metrics.multiple_choice import DEFAULT_SELECTOR


@dataclass(frozen=True)
class BreakdownRow:
    """Counts and scores of one part name or object label.

    Attributes:
        name: The label.
        num_questions: Number of questions that ask for it.
        num_masks: Number of part masks counted.
        mean_iou: Mean paired IoU of these masks; None if the model makes no masks.
        mean_area: Mean area of a true mask, pixels.
        parts_accuracy: Share of its questions for which the correct answer was chosen; a tie counts its share.
    """

    name: str
    num_questions: int
    num_masks: int
    mean_iou: float | None
    mean_area: float
    parts_accuracy: float


@dataclass(frozen=True)
class _MaskEntry:
    iou: float
    area: int


def by_part(records: Sequence[QuestionRecord], has_masks: bool) -> tuple[BreakdownRow, ...]:
    """Return one row per part name, most masks first."""
    return _group(records, has_masks, lambda record, index: record.true_parts[index].label)


def by_object(records: Sequence[QuestionRecord], has_masks: bool) -> tuple[BreakdownRow, ...]:
    """Return one row per object label, most masks first."""
    return _group(records, has_masks, lambda record, index: record.object_label)


def _group(
    records: Sequence[QuestionRecord], has_masks: bool, key: Callable[[QuestionRecord, int], str]
) -> tuple[BreakdownRow, ...]:
    entries: dict[str, list[_MaskEntry]] = defaultdict(list)
    questions: dict[str, dict[str, float]] = defaultdict(dict)
    for record in records:
        if not record.true_parts:  # an unreadable record has no part to count under
            continue
        pairs = record_pairs(record, Matching.PAIRED, is_generated=False)
        for index, (part, pair) in enumerate(zip(record.true_parts, pairs, strict=True)):
            name = key(record, index)
            entries[name].append(_MaskEntry(pair.iou, part.area))
            questions[name][record.item_id] = parts_credit(record, DEFAULT_SELECTOR)
    rows = [
        BreakdownRow(
            name,
            len(questions[name]),
            len(group),
            sum(entry.iou for entry in group) / len(group) if has_masks else None,
            sum(entry.area for entry in group) / len(group),
            sum(questions[name].values()) / len(questions[name]),
        )
        for name, group in entries.items()
    ]
    return tuple(sorted(rows, key=lambda row: (-row.num_masks, row.name)))
