"""What a run's records say about masks decoded in sequence: repeated masks, and errors that carry on (paper, C.4).

The paper looked at examples ("the model without feedback repeated the same region", "even when early masks were
incorrect, PLUM's feedback loop still produced correct later masks") and prints no numbers, so no row is quoted.
"""

from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeGuard

import numpy as np

from partonomy.benchmarks.mmr import MultiTargetMode, MultiTargetTask
from partonomy.benchmarks.partonomy.records import QuestionRecord
from partonomy.benchmarks.records import AnswerRecord
from partonomy.benchmarks.task import ChangedRecords, Record
from partonomy.masks import rle_area
from partonomy.metrics.bootstrap import Estimate, ImageIndex, Terms, bootstrap_metrics
from partonomy.metrics.iou import count_pixels
from partonomy.reporting.loaded_run import AnyRun
from partonomy.reporting.paper_tables.paper_table import (
    OURS,
    PaperTable,
    PaperTableStyle,
    TidyRow,
    format_interval,
    tidy_percent,
)
from partonomy.stored_lines import Mapped
from partonomy.structures import RLE
from partonomy.table_format import ColumnGroup, Table, TableRow, format_percent

SEQUENCE_TABLE = "c4"
REPEATED_IOU = 0.9
"""Two masks of one answer with a larger IoU count as one mask repeated."""
WRONG_IOU = 0.5
"""A first mask below this IoU counts as wrong."""
NUM_POSITIONS = 5
"""Positions in the answer with a column of their own; the last one also takes all later masks."""
GIVEN, OWN = "given phrases", "own answer"
REPEATED, AFTER_WRONG, AFTER_RIGHT = "repeated_masks", "iou_after_wrong_mask", "iou_after_right_mask"


@dataclass(frozen=True)
class MaskSequence:
    """The masks of one answer.

    Attributes:
        image_id: The image; the bootstrap resamples images.
        masks: Predicted masks, in the order of the phrases; in a model's own answer to MMR, in that of the targets.
        ious: IoU of the mask at each position with its own target, 0 where a mask is missing; empty in a model's own
            answer, whose masks are paired with targets afterwards.
    """

    image_id: int | str
    masks: tuple[RLE, ...]
    ious: tuple[float, ...] = ()


@dataclass(frozen=True)
class SequenceTable(PaperTable):
    """Repeated masks, IoU by position in the answer, and IoU after a wrong or right first mask."""

    name: str = SEQUENCE_TABLE
    is_by_name: bool = True

    def holds(self, run: AnyRun) -> bool:
        """Whether the run's answers have several masks, each with its own outcome."""
        task = run.task
        if isinstance(task, MultiTargetTask):
            return task.options.mode is not MultiTargetMode.UNION
        return task.RECORD is QuestionRecord

    def render(self, runs: Sequence[AnyRun], style: PaperTableStyle) -> Table:
        """See PaperTable; a run has a row for its answers with given phrases and one for its own answers."""
        rows = []
        for run in runs:
            for kind, sequences in mask_sequences(run).items():
                found = sequence_estimates(sequences, run.config.seed)
                counts = (str(sum(len(one.masks) > 1 for one in sequences)),)
                labels = (run.name, f"{run.dataset_name}, {kind}", *counts)
                estimates = [found[name] for name in _names()]
                below = (*("" for _ in labels), *map(format_interval, estimates))
                cells = (*labels, *(format_percent(estimate.value) for estimate in estimates))
                rows.append(TableRow(cells, "", below if style.has_intervals and any(below) else ()))
        positions = [f"mask {place}" for place in range(1, NUM_POSITIONS)] + [f"mask {NUM_POSITIONS} on"]
        return Table(
            "Masks in sequence (%), on what the paper's appendix C.4 says of the feedback loop",
            (
                ColumnGroup("", ("Run", "Data", "answers", "repeated")),
                ColumnGroup("IoU by position", tuple(positions)),
                ColumnGroup("IoU of later masks, first", (f"< {100 * WRONG_IOU:.0f}", f">= {100 * WRONG_IOU:.0f}")),
            ),
            tuple(rows),
            "answers: those with several masks. repeated: share of their masks that overlap an earlier one of the same "
            f"answer with an IoU above {100 * REPEATED_IOU:.0f}; empty masks repeat nothing. True masks may overlap: "
            "the oracle's row is the share to expect. Positions are those of the given phrases, whose parts differ: "
            "compare models at one position, not positions of one model.",
        )

    def quoted(self) -> Iterator[TidyRow]:
        """See PaperTable: the paper prints no number."""
        return iter(())

    def further(self, runs: Sequence[AnyRun]) -> Iterator[TidyRow]:
        """Generate every number of the table; the group says whose phrases they are."""
        for run in runs:
            for kind, sequences in mask_sequences(run).items():
                for name, estimate in sequence_estimates(sequences, run.config.seed).items():
                    yield TidyRow(
                        self.name,
                        run.name,
                        run.dataset_name,
                        OURS,
                        run.summary.protocol,
                        kind,
                        name,
                        tidy_percent(estimate.value),
                        tidy_percent(estimate.low),
                        tidy_percent(estimate.high),
                        str(estimate.count),
                    )

    def metrics(self, run: AnyRun) -> Mapping[str, Sequence[str]]:
        """See PaperTable: none of the numbers is in a summary."""
        return {}


def mask_sequences(run: AnyRun) -> dict[str, Sequence[MaskSequence]]:
    """Return the scored answers of a run, those with given phrases and the model's own apart; without empty kinds.

    Each access reads the record again.
    """
    kinds = {GIVEN: _given_sequence, OWN: _own_sequence}
    places = {kind: array("q") for kind in kinds}
    for place, record in enumerate(run.records):
        for kind, find in kinds.items():
            if find(record) is not None:
                places[kind].append(place)
    return {
        kind: Mapped(ChangedRecords(run.records, places=places[kind]), partial(_found, find))
        for kind, find in kinds.items()
        if places[kind]
    }


def sequence_estimates(sequences: Sequence[MaskSequence], seed: int) -> dict[str, Estimate]:
    """Return the numbers of the table with their 95% intervals of a bootstrap over images, by name.

    Args:
        sequences: Answers.
        seed: Seed of the bootstrap.
    """
    terms, image_ids = {name: Terms() for name in _names()}, dict[int | str, None]()
    for sequence in sequences:
        image_ids[sequence.image_id] = None
        if len(sequence.masks) > 1:
            terms[REPEATED].add(sequence.image_id, num_repeated(sequence.masks), len(sequence.masks))
        for place, iou in enumerate(sequence.ious):
            terms[_position(place)].add(sequence.image_id, iou)
        if len(sequence.ious) > 1:
            later = AFTER_WRONG if sequence.ious[0] < WRONG_IOU else AFTER_RIGHT
            for iou in sequence.ious[1:]:
                terms[later].add(sequence.image_id, iou)
    images = ImageIndex(image_ids)
    ratios = {name: images.ratio(one) if one.image_ids else None for name, one in terms.items()}
    return bootstrap_metrics(ratios, np.random.default_rng(seed))


def num_repeated(masks: Sequence[RLE]) -> int:
    """Count the masks that overlap an earlier one with an IoU above `REPEATED_IOU`; an empty mask repeats nothing."""
    ious = count_pixels(masks, masks).ious
    is_full = [rle_area(mask) > 0 for mask in masks]
    return sum(
        any(is_full[earlier] and ious[place, earlier] > REPEATED_IOU for earlier in range(place))
        for place in range(len(masks))
        if is_full[place]
    )


def _found(find: Callable[[Record], MaskSequence | None], record: Record) -> MaskSequence:
    sequence = find(record)
    assert sequence is not None
    return sequence


def _given_sequence(record: Record) -> MaskSequence | None:
    """Return a record's masks with given phrases, if it has any."""
    if isinstance(record, QuestionRecord):
        if record.segmentation is None:
            return None
        ious = tuple(pair.iou for pair in record.segmentation.paired)
        return MaskSequence(record.image_id, record.segmentation.masks, ious)
    if not _is_sequence(record) or record.reply is not None:
        return None
    return MaskSequence(record.image_id, _predicted(record), tuple(target.iou for target in record.targets))


def _own_sequence(record: Record) -> MaskSequence | None:
    """Return the masks of the model's own answer, if there is one."""
    if isinstance(record, QuestionRecord):
        own = record.generation
        return None if own is None else MaskSequence(record.image_id, own.masks.masks)
    return (
        MaskSequence(record.image_id, _predicted(record)) if _is_sequence(record) and record.reply is not None else None
    )


def _is_sequence(record: Record) -> TypeGuard[AnswerRecord]:
    return isinstance(record, AnswerRecord) and bool(record.targets) and record.is_scored


def _predicted(record: AnswerRecord) -> tuple[RLE, ...]:
    return tuple(target.predicted for target in record.targets if target.predicted is not None)


def _position(place: int) -> str:
    return f"iou_of_mask_{min(place + 1, NUM_POSITIONS)}"


def _names() -> tuple[str, ...]:
    return (REPEATED, *(_position(place) for place in range(NUM_POSITIONS)), AFTER_WRONG, AFTER_RIGHT)
