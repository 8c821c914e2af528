"""Metrics from records: every metric of a question type is a ratio of sums over images.

Metrics follow two protocols, this project's and that of the authors' code (`MetricProtocol`).
"""

from collections.abc import Callable, Iterable, Sequence
from enum import StrEnum
from typing import Protocol

from partonomy.benchmarks.partonomy.records import Capability, ChoiceRecord, MaskRecord, QuestionRecord
from partonomy.metrics.bootstrap import ImageIndex, ImageRatio, Terms
from partonomy.metrics.iou import PairAverages, PairStatistics
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


class _Names:
    """Precision, recall and F1 of part names over questions."""

    def __init__(self, read_answers: ReadAnswers, count: CountNames) -> None:
        self._read_answers = read_answers
        self._count = count
        self._precision, self._recall, self._f1 = Terms(), Terms(), Terms()

    def add(self, record: QuestionRecord) -> None:
        """Add a question; of tied answers, the mean counts enter."""
        answers, truth = self._read_answers(record), true_labels(record)
        if answers:
            counts = mean_statistics([self._count(labels, truth) for labels in answers])
        else:
            counts = failed_statistics(truth)
        self._precision.add(record.image_id, counts.num_matched, counts.num_predicted)
        self._recall.add(record.image_id, counts.num_matched, counts.num_true)
        self._f1.add(record.image_id, 2 * counts.num_matched, counts.num_predicted + counts.num_true)

    def ratios(self, index: ImageIndex) -> dict[str, ImageRatio]:
        """Return the ratios by name."""
        terms = {"parts_precision": self._precision, "parts_recall": self._recall, "parts_f1": self._f1}
        return {name: index.ratio(one) for name, one in terms.items()}


class _NamesByMatching:
    """Part names by exact strings and, with a matcher, also by embeddings."""

    def __init__(self, read_answers: ReadAnswers, matcher: NameMatcher | None) -> None:
        self._exact = _Names(read_answers, part_text_statistics)
        self._matched = None if matcher is None else _Names(read_answers, matcher.count)

    def add(self, record: QuestionRecord) -> None:
        """Add a question."""
        self._exact.add(record)
        if self._matched is not None:
            self._matched.add(record)

    def ratios(self, index: ImageIndex) -> dict[str, ImageRatio]:
        """Return the ratios by name."""
        matched = {} if self._matched is None else self._matched.ratios(index)
        return self._exact.ratios(index) | {name + EMBEDDING_SUFFIX: ratio for name, ratio in matched.items()}


class _Choices:
    """Multiple-choice accuracy under every selector, and precision, recall and F1 under the default one."""

    def __init__(self, matcher: NameMatcher | None) -> None:
        self._credits = {(subject, selector): Terms() for subject in Subject for selector in Selector}
        self._names = _NamesByMatching(_best_by(DEFAULT_SELECTOR), matcher)
        self._has_object = False

    def add(self, record: QuestionRecord) -> None:
        """Add a question that was asked for choices, or failed before it was."""
        for (subject, selector), terms in self._credits.items():
            choice = _choice_of(record, subject)
            terms.add(record.image_id, 0.0 if choice is None else choice.credit(selector))
        self._names.add(record)
        self._has_object = self._has_object or record.object_choice is not None

    def ratios(self, index: ImageIndex) -> dict[str, ImageRatio]:
        """Return the ratios by name; those of objects only if a question asks for its object."""
        ratios = self._accuracies(index, Subject.PARTS) | self._names.ratios(index)
        return ratios | self._accuracies(index, Subject.OBJECT) if self._has_object else ratios

    def _accuracies(self, index: ImageIndex, subject: Subject) -> dict[str, ImageRatio]:
        return {
            accuracy_name(subject, selector): index.ratio(self._credits[subject, selector]) for selector in Selector
        }


class _OwnAnswers:
    """The model's own answers: exact set, precision, recall and F1; names lack the prefix `generated_`."""

    def __init__(self, matcher: NameMatcher | None) -> None:
        self._exact_sets = Terms()
        self._names = _NamesByMatching(_generated_answers, matcher)

    def add(self, record: QuestionRecord) -> None:
        """Add a question that was asked for an own answer."""
        labels = generated_labels(record)
        is_correct = labels is not None and normalize_parts(labels) == normalize_parts(true_labels(record))
        self._exact_sets.add(record.image_id, is_correct)
        self._names.add(record)

    def ratios(self, index: ImageIndex) -> dict[str, ImageRatio]:
        """Return the ratios by name."""
        return {"parts_accuracy": index.ratio(self._exact_sets)} | self._names.ratios(index)


class _AuthorsChoices:
    """Multiple-choice metrics as the authors' code computes them, on answered questions, by `conversation_mean`.

    Precision and recall count the entries of the lists of part names, so that a repeated name counts twice. Ties are
    the exception: their argmin takes the first choice, which is right throughout the published files; here a tie counts
    its share under both protocols.
    """

    def __init__(self) -> None:
        self._names = _Names(_best_by(AUTHORS_SELECTOR), listed_part_statistics)
        self._credits = {subject: Terms() for subject in Subject}
        self._has_object = False

    def add(self, record: QuestionRecord) -> None:
        """Add a question that was asked for choices."""
        if _is_answered(record.parts_choice):
            self._names.add(record)
        for subject, terms in self._credits.items():
            choice = _choice_of(record, subject)
            if choice is not None and _is_answered(choice):
                terms.add(record.image_id, choice.credit(AUTHORS_SELECTOR))
        self._has_object = self._has_object or record.object_choice is not None

    def ratios(self, index: ImageIndex) -> dict[str, ImageRatio]:
        """Return the ratios by full name."""
        named = self._names.ratios(index)
        ratios = {name: named[name] for name in ("parts_precision", "parts_recall")}
        ratios["parts_accuracy"] = index.ratio(self._credits[Subject.PARTS])
        if self._has_object:
            ratios["objects_accuracy"] = index.ratio(self._credits[Subject.OBJECT])
        return {AUTHORS_PREFIX + name: ratio for name, ratio in ratios.items()}


class _Masks:
    """Micro-gIoU, macro-gIoU and cIoU under each pairing."""

    def __init__(self, is_generated: bool) -> None:
        self._is_generated = is_generated
        self._averages = {matching: PairAverages() for matching in Matching}

    def add(self, record: QuestionRecord) -> None:
        """Add a question that was asked for masks, or for an own answer."""
        for matching, averages in self._averages.items():
            averages.add(record.image_id, record_pairs(record, matching, self._is_generated))

    def ratios(self, index: ImageIndex) -> dict[str, ImageRatio]:
        """Return the ratios by name; those of own answers lack the prefix `generated_`."""
        ratios: dict[str, ImageRatio] = {}
        for matching, averages in self._averages.items():
            found = averages.ratios(index)
            values = (found.micro, found.macro, found.cumulative)
            ratios |= dict(zip(mask_metric_names(matching), values, strict=True))
        return ratios


class _AuthorsMasks:
    """Paired gIoU as the authors' code averages it.

    Where a question has fewer masks than parts, the pairs that exist count and the rest is cut. Their check of the
    numbers comes after this count; it only leaves the question out of the file of predictions. Questions that failed or
    got no mask at all are left out. Micro-gIoU has one value per pair. Macro-gIoU has one value per question, although
    the paper speaks of images: an image with several questions of a type counts several times.
    """

    def __init__(self) -> None:
        self._by_mask, self._by_question = Terms(), Terms()

    def add(self, record: QuestionRecord) -> None:
        """Add a question that was asked for masks."""
        pairs = () if record.segmentation is None else record.segmentation.paired
        ious = [pair.iou for pair in pairs if pair.is_predicted]
        for iou in ious:
            self._by_mask.add(record.image_id, iou)
        if ious:
            self._by_question.add(record.image_id, sum(ious) / len(ious))

    def ratios(self, index: ImageIndex) -> dict[str, ImageRatio]:
        """Return the ratios by full name."""
        micro, macro, _ = mask_metric_names(Matching.PAIRED)
        terms = {micro: self._by_mask, macro: self._by_question}
        return {AUTHORS_PREFIX + name: index.ratio(one) for name, one in terms.items()}


class _Adds(Protocol):
    """What adds up records."""

    def add(self, record: QuestionRecord) -> None: ...  # noqa: D102


class QuestionMetrics:
    """Every metric of one question type; its records are added one after another, and only their numbers are kept.

    Args:
        unsupported: Capabilities that the run's model does not support; their metrics have count 0.
        matcher: Adds the text metrics with embedding matching; None: exact strings only.
    """

    def __init__(self, unsupported: frozenset[Capability], matcher: NameMatcher | None = None) -> None:
        self._unsupported = unsupported
        self._images: dict[int | str, None] = {}
        self._masks, self._choices = _Masks(is_generated=False), _Choices(matcher)
        self._authors_masks, self._authors_choices = _AuthorsMasks(), _AuthorsChoices()
        self._own_masks, self._own_answers = _Masks(is_generated=True), _OwnAnswers(matcher)

    def add(self, record: QuestionRecord) -> None:
        """Add a record of the type; failed ones count, too."""
        self._images[record.image_id] = None
        counted: dict[Capability, tuple[_Adds, ...]] = {
            Capability.CHOICES: (self._choices, self._authors_choices),
            Capability.MASKS: (self._masks, self._authors_masks),
            Capability.GENERATION: (self._own_masks, self._own_answers),
        }
        for capability, metrics in counted.items():
            if capability in record.requested and capability not in self._unsupported:
                for one in metrics:
                    one.add(record)

    def ratios(self) -> dict[str, ImageRatio]:
        """Return every metric by name."""
        index = ImageIndex(self._images)
        ratios = self._masks.ratios(index) | self._choices.ratios(index)
        ratios |= self._authors_masks.ratios(index) | self._authors_choices.ratios(index)
        own = self._own_masks.ratios(index) | self._own_answers.ratios(index)
        return ratios | {f"generated_{name}": ratio for name, ratio in own.items()}


def metric_ratios(
    records: Iterable[QuestionRecord], unsupported: frozenset[Capability], matcher: NameMatcher | None = None
) -> dict[str, ImageRatio]:
    """Compute every metric of one question type's records, by name, in one pass over them.

    Args:
        records: All records of the type, including failed ones.
        unsupported: See `QuestionMetrics`.
        matcher: See `QuestionMetrics`.
    """
    metrics = QuestionMetrics(unsupported, matcher)
    for record in records:
        metrics.add(record)
    return metrics.ratios()


def true_labels(record: QuestionRecord) -> tuple[str, ...]:
    """Return the part names of the correct answer."""
    if record.parts_choice is not None:
        return record.parts_choice.true_labels
    return tuple(part.label for part in record.true_parts)


def generated_labels(record: QuestionRecord) -> tuple[str, ...] | None:
    """Return the part names of the model's own answer; None if there is none."""
    return None if record.generation is None else record.generation.span_texts


def part_names(records: Iterable[QuestionRecord]) -> tuple[str, ...]:
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


def _choice_of(record: QuestionRecord, subject: Subject) -> ChoiceRecord | None:
    return record.parts_choice if subject is Subject.PARTS else record.object_choice


def _is_answered(choice: ChoiceRecord | None) -> bool:
    return choice is not None and choice.selection is not None


class Refusals:
    """Collects the capabilities that the model refused on some question and used on none.

    A NotImplementedError on only some questions (such as an operation that a device lacks) must not void the run.
    """

    def __init__(self) -> None:
        self._refused, self._answered = set[Capability](), set[Capability]()

    def add(self, record: QuestionRecord) -> None:
        """Add a record of the run."""
        self._refused.update(record.unsupported)
        self._answered |= _answered(record)

    @property
    def unsupported(self) -> frozenset[Capability]:
        """The capabilities that the model does not support."""
        return frozenset(self._refused - self._answered)


def unsupported_capabilities(records: Iterable[QuestionRecord]) -> frozenset[Capability]:
    """Return the capabilities that the model of these records does not support; see `Refusals`."""
    refusals = Refusals()
    for record in records:
        refusals.add(record)
    return refusals.unsupported


def _answered(record: QuestionRecord) -> set[Capability]:
    choice = record.parts_choice
    answers = {
        Capability.CHOICES: None if choice is None else choice.selection,
        Capability.MASKS: record.segmentation,
        Capability.GENERATION: record.generation,
    }
    return {capability for capability, answer in answers.items() if answer is not None}


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
