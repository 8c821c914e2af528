"""From records to metrics: every metric of a question type as a ratio of sums over images.

A failed question scores 0 in everything that was asked of it: its true masks lack their predictions, its choices are
wrong, and it counts as many wrong part names as there are true ones. Where only the model's own answer failed, that
holds for the `generated_` metrics alone. An unreadable record counts as one missing mask.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from partonomy.benchmarks.partonomy import mask_metric_names
from partonomy.evaluation.image_index import ImageIndex, Terms
from partonomy.evaluation.protocols import AUTHORS_PREFIX
from partonomy.evaluation.records import Capability, MaskRecord, Record
from partonomy.evaluation.text_ratios import authors_choice_ratios, choice_ratios, generated_ratios
from partonomy.metrics.bootstrap import ImageRatio
from partonomy.metrics.iou import PairStatistics, image_statistics
from partonomy.metrics.matching import Matching, match_nothing
from partonomy.metrics.multiple_choice import Selector
from partonomy.metrics.part_embedding import NameMatcher


@dataclass(frozen=True)
class QuestionPairs:
    """The pixel counts of one question."""

    image_id: int
    pairs: tuple[PairStatistics, ...]


def unsupported_capabilities(records: Sequence[Record]) -> frozenset[Capability]:
    """What the model of these records cannot do: it said so, and did it on no question.

    A NotImplementedError on some questions alone (an operation that a device lacks, say) must not void the run.
    """
    refused, answered = set[Capability](), set[Capability]()
    for record in records:
        refused.update(record.unsupported)
        answered |= _answered(record)
    return frozenset(refused - answered)


def metric_ratios(
    records: Sequence[Record], unsupported: frozenset[Capability], matcher: NameMatcher | None = None
) -> dict[str, ImageRatio]:
    """Every metric of the records of one question type, by name.

    Args:
        records: All records of the type, failed ones too.
        unsupported: What the run's model cannot do: its metrics come out with count 0.
        matcher: Adds the text metrics with embedding matching.
    """
    index = ImageIndex(record.image_id for record in records)
    with_choices, with_masks, generated = (
        [record for record in records if capability in record.requested and capability not in unsupported]
        for capability in (Capability.CHOICES, Capability.MASKS, Capability.GENERATION)
    )
    ratios = mask_ratios(index, with_masks, is_generated=False) | choice_ratios(index, with_choices, matcher)
    ratios |= _authors_mask_ratios(index, with_masks) | authors_choice_ratios(index, with_choices)
    own = mask_ratios(index, generated, is_generated=True) | generated_ratios(index, generated, matcher)
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
        questions = [QuestionPairs(record.image_id, record_pairs(record, matching, is_generated)) for record in records]
        micro, macro, cumulative = mask_metric_names(matching)
        ratios |= {
            micro: _micro_ratio(index, questions),
            macro: _macro_ratio(index, questions),
            cumulative: _cumulative_ratio(index, questions),
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
    return record.parts_choice is not None and record.parts_choice.is_correct(selector)


def _micro_ratio(index: ImageIndex, questions: Sequence[QuestionPairs]) -> ImageRatio:
    terms = Terms()
    for question in questions:
        for pair in question.pairs:
            terms.add(question.image_id, pair.iou)
    return index.ratio(terms)


def _macro_ratio(index: ImageIndex, questions: Sequence[QuestionPairs]) -> ImageRatio:
    by_image: dict[int, list[PairStatistics]] = {}
    for question in questions:
        by_image.setdefault(question.image_id, []).extend(question.pairs)
    terms = Terms()
    for image_id, pairs in by_image.items():
        if pairs:
            terms.add(image_id, image_statistics(pairs).sum_image_iou)
    return index.ratio(terms)


def _cumulative_ratio(index: ImageIndex, questions: Sequence[QuestionPairs]) -> ImageRatio:
    terms = Terms()
    for question in questions:
        for pair in question.pairs:
            terms.add(question.image_id, pair.intersection, pair.union)
    is_any_missing = any(not pair.is_predicted for question in questions for pair in question.pairs)
    return index.ratio(terms, value_if_empty=0.0 if is_any_missing else 1.0)


def _authors_mask_ratios(index: ImageIndex, records: Sequence[Record]) -> dict[str, ImageRatio]:
    """Paired gIoU as the authors' code averages it: questions that failed or lack a prediction are left out."""
    kept = [
        QuestionPairs(record.image_id, record.segmentation.paired)
        for record in records
        if record.segmentation is not None and all(pair.is_predicted for pair in record.segmentation.paired)
    ]
    micro, macro, _ = mask_metric_names(Matching.PAIRED)
    return {AUTHORS_PREFIX + micro: _micro_ratio(index, kept), AUTHORS_PREFIX + macro: _macro_ratio(index, kept)}
