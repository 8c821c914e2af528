"""From records to metrics: every metric of a question type as a ratio of sums over images.

A failed question scores 0 in everything that was asked of it: its true masks lack their predictions, its choices are
wrong, and it counts as many wrong part names as there are true ones. Where only the model's own answer failed, that
holds for the `generated_` metrics alone. An unreadable record counts as one missing mask.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from partonomy.benchmarks.partonomy import Subject, accuracy_name, mask_metric_names
from partonomy.evaluation.records import Capability, ChoiceRecord, MaskRecord, Record
from partonomy.metrics.bootstrap import ImageRatio
from partonomy.metrics.iou import PairStatistics, image_statistics
from partonomy.metrics.matching import Matching, match_nothing
from partonomy.metrics.multiple_choice import DEFAULT_SELECTOR, Selector
from partonomy.metrics.part_text import (
    PartTextStatistics,
    failed_statistics,
    normalize_parts,
    part_text_statistics,
)


@dataclass(frozen=True)
class ImageTerm:
    """One image's or question's contribution to a ratio."""

    image_id: int
    numerator: float
    denominator: float


@dataclass(frozen=True)
class ImageIndex:
    """The images of a set of records, sorted by id: the units of the bootstrap."""

    image_ids: tuple[int, ...]

    def ratio(self, terms: Iterable[ImageTerm], count: int, value_if_empty: float = 0.0) -> ImageRatio:
        """Sum the terms by image; images without a term contribute 0 to both sums."""
        row_of = {image_id: row for row, image_id in enumerate(self.image_ids)}
        numerators, denominators = np.zeros(len(row_of)), np.zeros(len(row_of))
        for term in terms:
            numerators[row_of[term.image_id]] += term.numerator
            denominators[row_of[term.image_id]] += term.denominator
        return ImageRatio(numerators, denominators, count, value_if_empty)


def unsupported_capabilities(records: Sequence[Record]) -> frozenset[Capability]:
    """What the model of these records cannot do: it said so, and did it on no question.

    A NotImplementedError on some questions alone (an operation that a device lacks, say) must not void the run.
    """
    refused = {capability for record in records for capability in record.unsupported}
    return frozenset(refused - {capability for record in records for capability in _answered(record)})


def metric_ratios(records: Sequence[Record], unsupported: frozenset[Capability]) -> dict[str, ImageRatio]:
    """Every metric of the records of one question type, by name.

    Args:
        records: All records of the type, failed ones too.
        unsupported: What the run's model cannot do: its metrics come out with count 0.
    """
    index = ImageIndex(tuple(sorted({record.image_id for record in records})))
    asked = {
        capability: [record for record in records if capability in record.requested and capability not in unsupported]
        for capability in Capability
    }
    with_choices, with_masks = asked[Capability.CHOICES], asked[Capability.MASKS]
    generated = asked[Capability.GENERATION]
    ratios = mask_ratios(index, with_masks, is_generated=False)
    ratios |= _accuracy_ratios(index, with_choices, Subject.PARTS)
    ratios |= _text_ratios(index, with_choices, [_chosen_text(record) for record in with_choices])
    if any(record.object_choice is not None for record in records):
        ratios |= _accuracy_ratios(index, with_choices, Subject.OBJECT)
    ratios |= _authors_ratios(index, with_masks)
    own = mask_ratios(index, generated, is_generated=True)
    own["parts_accuracy"] = _generated_accuracy(index, generated)
    own |= _text_ratios(index, generated, [_generated_text(record) for record in generated])
    return ratios | {f"generated_{name}": ratio for name, ratio in own.items()}


def _answered(record: Record) -> set[Capability]:
    choice = record.parts_choice
    answers = {
        Capability.CHOICES: None if choice is None else choice.selection,
        Capability.MASKS: record.segmentation,
        Capability.GENERATION: record.generation,
    }
    return {capability for capability, answer in answers.items() if answer is not None}


def mask_ratios(index: ImageIndex, records: Sequence[Record], is_generated: bool) -> dict[str, ImageRatio]:
    """Micro-gIoU, macro-gIoU and cIoU under each pairing."""
    ratios: dict[str, ImageRatio] = {}
    for matching in Matching:
        pairs = [(record.image_id, record_pairs(record, matching, is_generated)) for record in records]
        micro, macro, cumulative = mask_metric_names(matching)
        ratios |= {
            micro: _micro_ratio(index, pairs),
            macro: _macro_ratio(index, pairs),
            cumulative: _cumulative_ratio(index, pairs),
        }
    return ratios


def record_pairs(record: Record, matching: Matching, is_generated: bool) -> tuple[PairStatistics, ...]:
    """The pixel counts of one question under one pairing; all missing where it failed."""
    masks: MaskRecord | None = record.segmentation
    if is_generated:
        masks = None if record.generation is None else record.generation.masks
    if masks is not None:
        pairs: tuple[PairStatistics, ...] = getattr(masks, matching.value)
        return pairs
    areas = [part.area for part in record.true_parts] or [0]
    return match_nothing(areas, record.true_union_area, matching)


def is_parts_correct(record: Record, selector: Selector) -> bool:
    """Whether the selector chose the correct set of parts; False for a failed question."""
    return _is_correct(record.parts_choice, selector)


def _is_correct(choice: ChoiceRecord | None, selector: Selector) -> bool:
    return (
        choice is not None and choice.selection is not None and choice.selection.index(selector) == choice.correct_index
    )


def _micro_ratio(index: ImageIndex, pairs: Sequence[tuple[int, tuple[PairStatistics, ...]]]) -> ImageRatio:
    terms = [ImageTerm(image_id, pair.iou, 1) for image_id, group in pairs for pair in group]
    return index.ratio(terms, len(terms))


def _macro_ratio(index: ImageIndex, pairs: Sequence[tuple[int, tuple[PairStatistics, ...]]]) -> ImageRatio:
    by_image: dict[int, list[PairStatistics]] = {}
    for image_id, group in pairs:
        by_image.setdefault(image_id, []).extend(group)
    terms = [
        ImageTerm(image_id, image_statistics(group).sum_image_iou, 1) for image_id, group in by_image.items() if group
    ]
    return index.ratio(terms, len(terms))


def _cumulative_ratio(index: ImageIndex, pairs: Sequence[tuple[int, tuple[PairStatistics, ...]]]) -> ImageRatio:
    terms = [ImageTerm(image_id, pair.intersection, pair.union) for image_id, group in pairs for pair in group]
    is_any_missing = any(not pair.is_predicted for _, group in pairs for pair in group)
    return index.ratio(terms, len(terms), value_if_empty=0.0 if is_any_missing else 1.0)


def _accuracy_ratios(index: ImageIndex, records: Sequence[Record], subject: Subject) -> dict[str, ImageRatio]:
    ratios = {}
    for selector in Selector:
        terms = [
            ImageTerm(
                record.image_id,
                _is_correct(record.parts_choice if subject is Subject.PARTS else record.object_choice, selector),
                1,
            )
            for record in records
        ]
        ratios[accuracy_name(subject, selector)] = index.ratio(terms, len(terms))
    return ratios


def _text_ratios(
    index: ImageIndex, records: Sequence[Record], statistics: Sequence[PartTextStatistics]
) -> dict[str, ImageRatio]:
    precision, recall, f1 = [], [], []
    for record, counts in zip(records, statistics, strict=True):
        precision.append(ImageTerm(record.image_id, counts.num_matched, counts.num_predicted))
        recall.append(ImageTerm(record.image_id, counts.num_matched, counts.num_true))
        f1.append(ImageTerm(record.image_id, 2 * counts.num_matched, counts.num_predicted + counts.num_true))
    return {
        "parts_precision": index.ratio(precision, len(records)),
        "parts_recall": index.ratio(recall, len(records)),
        "parts_f1": index.ratio(f1, len(records)),
    }


def _true_labels(record: Record) -> tuple[str, ...]:
    if record.parts_choice is not None:
        return record.parts_choice.labels[record.parts_choice.correct_index]
    return tuple(part.label for part in record.true_parts)


def _chosen_text(record: Record) -> PartTextStatistics:
    choice = record.parts_choice
    if choice is None or choice.selection is None:
        return failed_statistics(_true_labels(record))
    return part_text_statistics(choice.labels[choice.selection.index(DEFAULT_SELECTOR)], _true_labels(record))


def _generated_text(record: Record) -> PartTextStatistics:
    if record.generation is None:
        return failed_statistics(_true_labels(record))
    return part_text_statistics(record.generation.span_texts, _true_labels(record))


def _generated_accuracy(index: ImageIndex, records: Sequence[Record]) -> ImageRatio:
    terms = [
        ImageTerm(
            record.image_id,
            record.generation is not None
            and normalize_parts(record.generation.span_texts) == normalize_parts(_true_labels(record)),
            1,
        )
        for record in records
    ]
    return index.ratio(terms, len(terms))


def _authors_ratios(index: ImageIndex, records: Sequence[Record]) -> dict[str, ImageRatio]:
    """Paired gIoU as the authors' code averages it: questions that failed or lack a prediction are left out."""
    kept = [
        (record.image_id, record.segmentation.paired)
        for record in records
        if record.segmentation is not None and all(pair.is_predicted for pair in record.segmentation.paired)
    ]
    return {
        "authors_giou_micro_paired": _micro_ratio(index, kept),
        "authors_giou_macro_paired": _macro_ratio(index, kept),
    }
