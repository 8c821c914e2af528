"""Paired IoU of a run by part name and by object."""

from array import array
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from partonomy.benchmarks.partonomy.metrics import parts_credit, record_pairs
from partonomy.benchmarks.partonomy.records import QuestionRecord
from partonomy.metrics.iou import PairStatistics
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


class _Sums:
    """What a row is computed from: a number for each mask, and one for each question."""

    def __init__(self) -> None:
        self.ious, self.areas, self.credits = array("d"), array("q"), array("d")
        self._last_record = -1

    def add(self, number: int, record: QuestionRecord, pair: PairStatistics, area: int) -> None:
        """Add a mask of the record with this number."""
        self.ious.append(pair.iou)
        self.areas.append(area)
        if number != self._last_record:
            self.credits.append(parts_credit(record, DEFAULT_SELECTOR))
            self._last_record = number


def by_part(records: Iterable[QuestionRecord], has_masks: bool) -> tuple[BreakdownRow, ...]:
    """Return one row per part name, most masks first."""
    return _group(records, has_masks, lambda record, index: record.true_parts[index].label)


def by_object(records: Iterable[QuestionRecord], has_masks: bool) -> tuple[BreakdownRow, ...]:
    """Return one row per object label, most masks first."""
    return _group(records, has_masks, lambda record, index: record.object_label)


def _group(
    records: Iterable[QuestionRecord], has_masks: bool, key: Callable[[QuestionRecord, int], str]
) -> tuple[BreakdownRow, ...]:
    found: dict[str, _Sums] = {}
    for number, record in enumerate(records):
        if not record.true_parts:  # an unreadable record has no part to count under
            continue
        pairs = record_pairs(record, Matching.PAIRED, is_generated=False)
        for index, (part, pair) in enumerate(zip(record.true_parts, pairs, strict=True)):
            found.setdefault(key(record, index), _Sums()).add(number, record, pair, part.area)
    rows = [
        BreakdownRow(
            name,
            len(sums.credits),
            len(sums.ious),
            sum(sums.ious) / len(sums.ious) if has_masks else None,
            sum(sums.areas) / len(sums.areas),
            sum(sums.credits) / len(sums.credits),
        )
        for name, sums in found.items()
    ]
    return tuple(sorted(rows, key=lambda row: (-row.num_masks, row.name)))
