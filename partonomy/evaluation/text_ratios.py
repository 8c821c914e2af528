"""Accuracy, precision, recall and F1 of records: under the project's counting, with embedding matching, and as the
authors' code counts (`partonomy.evaluation.protocols`)."""

from collections.abc import Callable, Sequence

from partonomy.benchmarks.partonomy import EMBEDDING_SUFFIX, Subject, accuracy_name
from partonomy.evaluation.image_index import ImageIndex, Terms
from partonomy.evaluation.protocols import AUTHORS_PREFIX
from partonomy.evaluation.records import ChoiceRecord, Record
from partonomy.metrics.bootstrap import ImageRatio
from partonomy.metrics.multiple_choice import DEFAULT_SELECTOR, Selector
from partonomy.metrics.part_embedding import NameMatcher
from partonomy.metrics.part_text import PartTextStatistics, failed_statistics, normalize_parts, part_text_statistics

AUTHORS_SELECTOR = Selector.CONVERSATION_MEAN

ReadLabels = Callable[[Record], Sequence[str] | None]
"""The part names that a record's model gave; None where it failed."""


def choice_ratios(index: ImageIndex, records: Sequence[Record], matcher: NameMatcher | None) -> dict[str, ImageRatio]:
    """Multiple choice: accuracy under every selector; precision, recall and F1 under the default one.

    Args:
        index: The images.
        records: Those that were asked for choices, failed ones too.
        matcher: Adds the metrics with embedding matching.
    """
    ratios = _accuracy_ratios(index, records, Subject.PARTS)
    ratios |= name_ratios(index, records, _chosen_by(DEFAULT_SELECTOR), matcher)
    if any(record.object_choice is not None for record in records):
        ratios |= _accuracy_ratios(index, records, Subject.OBJECT)
    return ratios


def generated_ratios(
    index: ImageIndex, records: Sequence[Record], matcher: NameMatcher | None
) -> dict[str, ImageRatio]:
    """The model's own answers: exact set of parts, precision, recall and F1; without the prefix `generated_`."""
    terms = Terms()
    for record in records:
        labels = generated_labels(record)
        is_correct = labels is not None and normalize_parts(labels) == normalize_parts(true_labels(record))
        terms.add(record.image_id, is_correct)
    return {"parts_accuracy": index.ratio(terms)} | name_ratios(index, records, generated_labels, matcher)


def authors_choice_ratios(index: ImageIndex, records: Sequence[Record]) -> dict[str, ImageRatio]:
    """Multiple choice as the authors' code counts it: answered questions alone, by `conversation_mean`."""
    answered = [record for record in records if _is_answered(record.parts_choice)]
    named = name_ratios(index, answered, _chosen_by(AUTHORS_SELECTOR), matcher=None)
    ratios = {name: named[name] for name in ("parts_precision", "parts_recall")}
    ratios["parts_accuracy"] = _accuracy_ratio(index, answered, Subject.PARTS, AUTHORS_SELECTOR)
    if any(record.object_choice is not None for record in records):
        answered = [record for record in records if _is_answered(record.object_choice)]
        ratios["objects_accuracy"] = _accuracy_ratio(index, answered, Subject.OBJECT, AUTHORS_SELECTOR)
    return {AUTHORS_PREFIX + name: ratio for name, ratio in ratios.items()}


def name_ratios(
    index: ImageIndex, records: Sequence[Record], read_labels: ReadLabels, matcher: NameMatcher | None
) -> dict[str, ImageRatio]:
    """Precision, recall and F1 of part names by exact strings and, with a matcher, by embeddings too."""
    ratios = _text_ratios(index, records, [_count_names(record, read_labels, None) for record in records])
    if matcher is None:
        return ratios
    matched = _text_ratios(index, records, [_count_names(record, read_labels, matcher) for record in records])
    return ratios | {name + EMBEDDING_SUFFIX: ratio for name, ratio in matched.items()}


def true_labels(record: Record) -> tuple[str, ...]:
    """Part names of the correct answer."""
    if record.parts_choice is not None:
        return record.parts_choice.true_labels
    return tuple(part.label for part in record.true_parts)


def generated_labels(record: Record) -> tuple[str, ...] | None:
    """Part names of the model's own answer; None where there is none."""
    return None if record.generation is None else record.generation.span_texts


def part_names(records: Sequence[Record]) -> tuple[str, ...]:
    """Every part name that a record's text metrics compare, sorted."""
    names: set[str] = set()
    for record in records:
        given = (true_labels(record), _chosen_by(DEFAULT_SELECTOR)(record), generated_labels(record))
        names.update(*(normalize_parts(labels) for labels in given if labels is not None))
    return tuple(sorted(names))


def _chosen_by(selector: Selector) -> ReadLabels:
    return lambda record: None if record.parts_choice is None else record.parts_choice.chosen_labels(selector)


def _is_answered(choice: ChoiceRecord | None) -> bool:
    return choice is not None and choice.selection is not None


def _count_names(record: Record, read_labels: ReadLabels, matcher: NameMatcher | None) -> PartTextStatistics:
    labels, truth = read_labels(record), true_labels(record)
    if labels is None:
        return failed_statistics(truth)
    return part_text_statistics(labels, truth) if matcher is None else matcher.count(labels, truth)


def _text_ratios(
    index: ImageIndex, records: Sequence[Record], statistics: Sequence[PartTextStatistics]
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


def _accuracy_ratios(index: ImageIndex, records: Sequence[Record], subject: Subject) -> dict[str, ImageRatio]:
    return {
        accuracy_name(subject, selector): _accuracy_ratio(index, records, subject, selector) for selector in Selector
    }


def _accuracy_ratio(index: ImageIndex, records: Sequence[Record], subject: Subject, selector: Selector) -> ImageRatio:
    terms = Terms()
    for record in records:
        choice = record.parts_choice if subject is Subject.PARTS else record.object_choice
        terms.add(record.image_id, choice is not None and choice.is_correct(selector))
    return index.ratio(terms)
