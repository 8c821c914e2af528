"""Metrics from records: every metric of a question type is a ratio of sums over images.

Metrics follow two protocols, this project's and that of the authors' code (`MetricProtocol`).
"""

from collections.abc import Callable, Sequence
from enum import StrEnum

from partonomy.benchmarks.partonomy.records import Capability, ChoiceRecord, MaskRecord, QuestionRecord
from partonomy.metrics.bootstrap import ImageIndex, ImageRatio, Terms
from partonomy.metrics.iou import PairStatistics, QuestionPairs, ciou, giou_macro, giou_micro
from partonomy.metrics.matching import Matching, match_nothing
from partonomy.metrics.multiple_choice import DEFAULT_SELECTOR, Selector
from partonomy.metrics.part_embedding import NameMatcher
from partonomy.metrics.part_text import (
    PartTextStatistics,
    failed_statistics,
    listed_part_statistics,
    mean_statistics,
    normalize_parts,
    part_text_statistics,
)
from partonomy.structures import QuestionType, Subject

EMBEDDING_SUFFIX = "_embedding"
"""Suffix of the text metrics that compare part names by embeddings instead of by exact strings."""


def accuracy_name(subject: Subject, selector: Selector) -> str:
    """Return the metric name of multiple-choice accuracy; the default selector has no suffix."""
    base = "parts_accuracy" if subject is Subject.PARTS else "objects_accuracy"
    return base if selector is DEFAULT_SELECTOR else f"{base}_{selector}"


def mask_metric_names(matching: Matching) -> tuple[str, str, str]:
    """Return the names of micro-gIoU, macro-gIoU and cIoU under one pairing."""
    return f"giou_micro_{matching}", f"giou_macro_{matching}", f"ciou_{matching}"


def metric_names(question_type: QuestionType | None, has_embedding: bool = False) -> tuple[str, ...]:
    """Return the names of all metrics that a summary reports for a type, in order.

    Args:
        question_type: The type; None for unreadable records that name none.
        has_embedding: Whether the run also compares part names by embeddings.
    """
    masks = [name for matching in Matching for name in mask_metric_names(matching)]
    texts = ["parts_precision", "parts_recall", "parts_f1"]
    if has_embedding:
        texts += [name + EMBEDDING_SUFFIX for name in texts]
    has_object = question_type is not None and question_type.is_part_whole
    names = [*masks, *(accuracy_name(Subject.PARTS, selector) for selector in Selector), *texts]
    if has_object:
        names += [accuracy_name(Subject.OBJECT, selector) for selector in Selector]
    authors = [
        name for name in PROTOCOL_METRICS if has_object or name != accuracy_name(Subject.OBJECT, DEFAULT_SELECTOR)
    ]
    names += [metric_of(MetricProtocol.AUTHORS, name) for name in authors]
    names += [f"generated_{name}" for name in [*masks, "parts_accuracy", *texts]]
    return tuple(names)


AUTHORS_PREFIX = "authors_"


class MetricProtocol(StrEnum):
    """The protocol that counts a metric."""

    OURS = "ours"
    AUTHORS = "authors"


PROTOCOL_METRICS = (
    "giou_micro_paired",
    "giou_macro_paired",
    "parts_precision",
    "parts_recall",
    "parts_accuracy",
    "objects_accuracy",
)
"""The columns of the paper's tables, which exist under both protocols."""


def metric_of(protocol: MetricProtocol, name: str) -> str:
    """Return the name of the summary's metric that a table's column shows under a protocol.

    Args:
        protocol: The protocol that counts the metric.
        name: One of `PROTOCOL_METRICS`.

    Raises:
        ValueError: The metric does not exist under both protocols.
    """
    if name not in PROTOCOL_METRICS:
        raise ValueError(f"metric {name!r} has one protocol alone; under both exist: {', '.join(PROTOCOL_METRICS)}")
    return name if protocol is MetricProtocol.OURS else AUTHORS_PREFIX + name


AUTHORS_SELECTOR = Selector.CONVERSATION_MEAN

ReadAnswers = Callable[[QuestionRecord], Sequence[Sequence[str]]]
"""Reads the part names of the model's answer; of each tied one if there are several; of none if it failed."""
CountNames = Callable[[Sequence[str], Sequence[str]], PartTextStatistics]
"""Counts the part names of one answer against the true ones."""


def choice_ratios(
    index: ImageIndex, records: Sequence[QuestionRecord], matcher: NameMatcher | None
) -> dict[str, ImageRatio]:
    """Compute multiple-choice accuracy under every selector, and precision, recall and F1 under the default one.

    Args:
        index: The images.
        records: Records that were asked for choices, including failed ones.
        matcher: Adds the metrics with embedding matching; None: exact strings only.
    """
    ratios = _accuracy_ratios(index, records, Subject.PARTS)
    ratios |= name_ratios(index, records, _best_by(DEFAULT_SELECTOR), matcher)
    if any(record.object_choice is not None for record in records):
        ratios |= _accuracy_ratios(index, records, Subject.OBJECT)
    return ratios


def generated_ratios(
    index: ImageIndex, records: Sequence[QuestionRecord], matcher: NameMatcher | None
) -> dict[str, ImageRatio]:
    """Score the model's own answers: exact set, precision, recall and F1; names lack the prefix `generated_`.

    Args:
        index: The images.
        records: Records that were asked for an own answer, including failed ones.
        matcher: Adds the metrics with embedding matching; None: exact strings only.
    """
    terms = Terms()
    for record in records:
        labels = generated_labels(record)
        is_correct = labels is not None and normalize_parts(labels) == normalize_parts(true_labels(record))
        terms.add(record.image_id, is_correct)
    return {"parts_accuracy": index.ratio(terms)} | name_ratios(index, records, _generated_answers, matcher)


def authors_choice_ratios(index: ImageIndex, records: Sequence[QuestionRecord]) -> dict[str, ImageRatio]:
    """Compute multiple-choice metrics as the authors' code does, on answered questions only, by `conversation_mean`.

    Precision and recall count the entries of the lists of part names, so that a repeated name counts twice. Ties are
    the exception: their argmin takes the first choice, which is right throughout the published files; here a tie counts
    its share under both protocols.
    """
    answered = [record for record in records if _is_answered(record.parts_choice)]
    listed = [_count_names(record, _best_by(AUTHORS_SELECTOR), listed_part_statistics) for record in answered]
    named = _text_ratios(index, answered, listed)
    ratios = {name: named[name] for name in ("parts_precision", "parts_recall")}
    ratios["parts_accuracy"] = _accuracy_ratio(index, answered, Subject.PARTS, AUTHORS_SELECTOR)
    if any(record.object_choice is not None for record in records):
        answered = [record for record in records if _is_answered(record.object_choice)]
        ratios["objects_accuracy"] = _accuracy_ratio(index, answered, Subject.OBJECT, AUTHORS_SELECTOR)
    return {AUTHORS_PREFIX + name: ratio for name, ratio in ratios.items()}


def name_ratios(
    index: ImageIndex, records: Sequence[QuestionRecord], read_answers: ReadAnswers, matcher: NameMatcher | None
) -> dict[str, ImageRatio]:
    """Compute precision, recall and F1 of part names by exact strings and, with a matcher, also by embeddings.

    Args:
        index: The images.
        records: The records.
        read_answers: Returns the part names of a record's answers; of tied answers, the mean counts enter.
        matcher: Adds the metrics with embedding matching; None: exact strings only.
    """
    exact = [_count_names(record, read_answers, part_text_statistics) for record in records]
    ratios = _text_ratios(index, records, exact)
    if matcher is None:
        return ratios
    matched = _text_ratios(index, records, [_count_names(record, read_answers, matcher.count) for record in records])
    return ratios | {name + EMBEDDING_SUFFIX: ratio for name, ratio in matched.items()}


def true_labels(record: QuestionRecord) -> tuple[str, ...]:
    """Return the part names of the correct answer."""
    if record.parts_choice is not None:
        return record.parts_choice.true_labels
    return tuple(part.label for part in record.true_parts)


def generated_labels(record: QuestionRecord) -> tuple[str, ...] | None:
    """Return the part names of the model's own answer; None if there is none."""
    return None if record.generation is None else record.generation.span_texts


def part_names(records: Sequence[QuestionRecord]) -> tuple[str, ...]:
    """Return every part name that the records' text metrics compare, sorted."""
    names: set[str] = set()
    for record in records:
        given = (true_labels(record), *_best_by(DEFAULT_SELECTOR)(record), *_generated_answers(record))
        names.update(*(normalize_parts(labels) for labels in given))
    return tuple(sorted(names))


def _best_by(selector: Selector) -> ReadAnswers:
    return lambda record: () if record.parts_choice is None else record.parts_choice.best_labels(selector)


def _generated_answers(record: QuestionRecord) -> Sequence[Sequence[str]]:
    labels = generated_labels(record)
    return () if labels is None else (labels,)


def _is_answered(choice: ChoiceRecord | None) -> bool:
    return choice is not None and choice.selection is not None


def _count_names(record: QuestionRecord, read_answers: ReadAnswers, count: CountNames) -> PartTextStatistics:
    answers, truth = read_answers(record), true_labels(record)
    return mean_statistics([count(labels, truth) for labels in answers]) if answers else failed_statistics(truth)


def _text_ratios(
    index: ImageIndex, records: Sequence[QuestionRecord], statistics: Sequence[PartTextStatistics]
) -> dict[str, ImageRatio]:
    precision, recall, f1 = Terms(), Terms(), Terms()
    for record, counts in zip(records, statistics, strict=True):
        precision.add(record.image_id, counts.num_matched, counts.num_predicted)
        recall.add(record.image_id, counts.num_matched, counts.num_true)
        f1.add(record.image_id, 2 * counts.num_matched, counts.num_predicted + counts.num_true)
    return {
        "parts_precision": index.ratio(precision),
        "parts_recall": index.ratio(recall),
        "parts_f1": index.ratio(f1),
    }


def _accuracy_ratios(index: ImageIndex, records: Sequence[QuestionRecord], subject: Subject) -> dict[str, ImageRatio]:
    return {
        accuracy_name(subject, selector): _accuracy_ratio(index, records, subject, selector) for selector in Selector
    }


def _accuracy_ratio(
    index: ImageIndex, records: Sequence[QuestionRecord], subject: Subject, selector: Selector
) -> ImageRatio:
    terms = Terms()
    for record in records:
        choice = record.parts_choice if subject is Subject.PARTS else record.object_choice
        terms.add(record.image_id, 0.0 if choice is None else choice.credit(selector))
    return index.ratio(terms)


def unsupported_capabilities(records: Sequence[QuestionRecord]) -> frozenset[Capability]:
    """Return the capabilities that the model refused on some question and used on none.

    A NotImplementedError on only some questions (such as an operation that a device lacks) must not void the run.
    """
    refused, answered = set[Capability](), set[Capability]()
    for record in records:
        refused.update(record.unsupported)
        answered |= _answered(record)
    return frozenset(refused - answered)


def metric_ratios(
    records: Sequence[QuestionRecord], unsupported: frozenset[Capability], matcher: NameMatcher | None = None
) -> dict[str, ImageRatio]:
    """Compute every metric of one question type's records, by name.

    Args:
        records: All records of the type, including failed ones.
        unsupported: Capabilities that the run's model does not support; their metrics have count 0.
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


def _answered(record: QuestionRecord) -> set[Capability]:
    choice = record.parts_choice
    answers = {
        Capability.CHOICES: None if choice is None else choice.selection,
        Capability.MASKS: record.segmentation,
        Capability.GENERATION: record.generation,
    }
    return {capability for capability, answer in answers.items() if answer is not None}


def mask_ratios(index: ImageIndex, records: Sequence[QuestionRecord], is_generated: bool) -> dict[str, ImageRatio]:
    """Compute micro-gIoU, macro-gIoU and cIoU under each pairing.

    Args:
        index: The images.
        records: Records that were asked for masks, including failed ones.
        is_generated: Whether to score the masks of the model's own answers rather than those of given phrases.
    """
    ratios: dict[str, ImageRatio] = {}
    for matching in Matching:
        questions = [QuestionPairs(record.image_id, record_pairs(record, matching, is_generated)) for record in records]
        micro, macro, cumulative = mask_metric_names(matching)
        ratios |= {
            micro: giou_micro(index, questions),
            macro: giou_macro(index, questions),
            cumulative: ciou(index, questions),
        }
    return ratios


def record_pairs(record: QuestionRecord, matching: Matching, is_generated: bool) -> tuple[PairStatistics, ...]:
    """Return the pixel counts of one question under one pairing; all masks are missing if it failed.

    Args:
        record: The question's record.
        matching: The pairing.
        is_generated: Whether to score the masks of the model's own answer rather than those of given phrases.
    """
    masks: MaskRecord | None = record.segmentation
    if is_generated:
        masks = None if record.generation is None else record.generation.masks
    if masks is not None:
        pairs: tuple[PairStatistics, ...] = getattr(masks, matching.value)
        return pairs
    areas = [part.area for part in record.true_parts] or [0]
    return match_nothing(areas, record.true_union_area, matching)


def parts_credit(record: QuestionRecord, selector: Selector) -> float:
    """Return 1 if the selector chose the correct set of parts, its share on a tie, and 0 for a failed question."""
    return 0.0 if record.parts_choice is None else record.parts_choice.credit(selector)


def _authors_mask_ratios(index: ImageIndex, records: Sequence[QuestionRecord]) -> dict[str, ImageRatio]:
    """Average paired gIoU as the authors' code does.

    Where a question has fewer masks than parts, the pairs that exist count and the rest is cut. Their check of the
    numbers comes after this count; it only leaves the question out of the file of predictions. Questions that failed or
    got no mask at all are left out. Micro-gIoU has one value per pair. Macro-gIoU has one value per question, although
    the paper speaks of images: an image with several questions of a type counts several times.
    """
    answered = [(record.image_id, record.segmentation.paired) for record in records if record.segmentation is not None]
    cut = [(image_id, tuple(pair for pair in pairs if pair.is_predicted)) for image_id, pairs in answered]
    kept = [QuestionPairs(image_id, pairs) for image_id, pairs in cut if pairs]
    by_question = Terms()
    for question in kept:
        by_question.add(question.image_id, sum(pair.iou for pair in question.pairs) / len(question.pairs))
    micro, macro, _ = mask_metric_names(Matching.PAIRED)
    return {AUTHORS_PREFIX + micro: giou_micro(index, kept), AUTHORS_PREFIX + macro: index.ratio(by_question)}
