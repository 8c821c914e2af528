"""Presentation of Partonomy's questions: cases, accuracy by answer length, and predictions for export."""

from array import array
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from partonomy.benchmarks.cases import IMAGE, Case, CaseChoice, CaseChoices, CaseLabel, CasePicture, CaseText
from partonomy.benchmarks.partonomy.metrics import parts_credit
from partonomy.benchmarks.partonomy.records import ChoiceRecord, QuestionRecord
from partonomy.datasets.kept_values import KeptValues, rename_clashes
from partonomy.datasets.published_records import question_to_record
from partonomy.masks import rle_to_json
from partonomy.metrics.multiple_choice import DEFAULT_SELECTOR, LengthAccuracy, Selector, accuracy_by_length
from partonomy.metrics.part_text import normalize_part
from partonomy.structures import RLE, ObjectInstance, Question
from partonomy.table_format import ColumnGroup, Table, TableRow, format_percent
from partonomy.visualize import Colour, part_colours


def show_question(record: QuestionRecord, question: Question | None) -> Case:
    """Show the true parts, the masks for the given phrases, those of the model's own answer, and all choices.

    Args:
        record: The outcome.
        question: The question; None if it is no longer available.
    """
    colours = part_colours(len(record.true_parts))
    pairs = None if record.segmentation is None else record.segmentation.paired
    labels = tuple(
        CaseLabel(part.label, colours[index], None if pairs is None else pairs[index].iou)
        for index, part in enumerate(record.true_parts)
    )
    texts = [CaseText("Question", record.prompt)]
    if question is not None:
        right = question.correct_choice
        texts.append(CaseText("Correct", right.text, tuple(right.part_spans), colours))
    own = record.generation
    if own is not None:
        texts.append(CaseText("Own answer", own.text or "(no text)", own.spans, _own_colours(record, colours)))
    choices = (_choices("Parts", record.parts_choice), _choices("Object", record.object_choice))
    return Case(
        record.object_label,
        () if question is None else _pictures(record, question, colours),
        labels,
        tuple(texts),
        tuple(entry for entry in choices if entry is not None),
    )


def length_table(records: Iterable[QuestionRecord]) -> Table:
    """Tabulate parts accuracy by the number of parts in the correct answer, under each selector."""
    by_selector = length_accuracies(record for record in records if record.question_type is not None)
    rows = []
    for index, entry in enumerate(by_selector[Selector.SEQUENCE]):
        cells = [format_percent(by_selector[selector][index].accuracy) for selector in Selector]
        rows.append(TableRow((str(entry.num_parts), str(entry.num_questions), *cells)))
    return Table(
        "parts accuracy (%) by number of parts in the correct answer, all question types",
        (ColumnGroup("", ("Parts", "Questions", *(selector.value for selector in Selector))),),
        tuple(rows),
    )


def length_accuracies(records: Iterable[QuestionRecord]) -> dict[Selector, tuple[LengthAccuracy, ...]]:
    """Compute each selector's parts accuracy by the number of parts in the correct answer; failed questions are wrong.

    Args:
        records: Records, which are read once; those without a choice of parts do not count.
    """
    lengths, credits = array("q"), {selector: array("d") for selector in Selector}
    for record in records:
        if record.parts_choice is not None:
            lengths.append(len(record.parts_choice.true_labels))
            for selector, values in credits.items():
                values.append(parts_credit(record, selector))
    return {selector: accuracy_by_length(lengths, values) for selector, values in credits.items()}


def question_prediction(
    record: QuestionRecord, question: Question, instance: ObjectInstance, kept: KeptValues, folder: Path
) -> Mapping[str, Any]:
    """Return the question's published record, key by key, together with the model's answers, null for missing ones.

    `predicted_answer` and `predicted_object_answer` are the choices of the default selector, on a tie the first,
    `answer_scores` and `object_answer_scores` the log-probabilities of all choices. `predicted_segmentations`
    {part: [RLE]} has the masks for the given phrases, `generated_segmentations` {tagged phrase: [RLE]} those of
    `generated_text`, whose phrases `generated_spans` gives as [start, end) in characters, with their confidences. A key
    of the record that has one of these names is written with "published_" before it.
    """
    masks, own = record.segmentation, record.generation
    labels = [part.label for part in record.true_parts]
    published = kept.restore(question_to_record(question, instance, folder), question.image_path, folder)
    entry = {
        "question_id": record.item_id,
        "status": record.status.value,
        "reason": record.reason,
        "predicted_answer": _chosen(record.parts_choice),
        "predicted_object_answer": _chosen(record.object_choice),
        "answer_scores": _scores(record.parts_choice),
        "object_answer_scores": _scores(record.object_choice),
        "predicted_segmentations": None if masks is None else _masks_by_label(labels, masks.masks),
        "generated_text": None if own is None else own.text,
        "generated_segmentations": None if own is None else _masks_by_label(own.span_texts, own.masks.masks),
        "generated_spans": None if own is None else [[span.start, span.end] for span in own.spans],
        "generated_confidences": None if own is None else list(own.confidences),
    }
    return rename_clashes(published, entry)


def _pictures(record: QuestionRecord, question: Question, colours: Sequence[Colour]) -> tuple[CasePicture, ...]:
    pictures = [IMAGE, CasePicture("true parts", tuple(part.mask for part in question.masks), tuple(colours))]
    if record.segmentation is not None:
        masks = record.segmentation.masks
        pictures.append(CasePicture("predicted, phrases given", masks, tuple(colours[: len(masks)])))
    if record.generation is not None:
        own = record.generation.masks.masks
        pictures.append(CasePicture("own answer", own, _own_colours(record, colours)[: len(own)]))
    return tuple(pictures)


def _own_colours(record: QuestionRecord, colours: Sequence[Colour]) -> tuple[Colour, ...]:
    """Return the colours of the model's own spans: a true part's colour if the names match, otherwise new ones."""
    assert record.generation is not None
    known = {normalize_part(part.label): colours[index] for index, part in enumerate(record.true_parts)}
    names = [normalize_part(text) for text in record.generation.span_texts]
    spare = iter(part_colours(len(colours) + len(names))[len(colours) :])
    return tuple(known[name] if name in known else next(spare) for name in names)


def _choices(heading: str, choice: ChoiceRecord | None) -> CaseChoices | None:
    if choice is None:
        return None
    chosen = () if choice.selection is None else choice.selection.indices(DEFAULT_SELECTOR)
    lines = (
        CaseChoice(
            text,
            index == choice.correct_index,
            index in chosen,
            None if choice.scores is None else choice.scores[index].answer_log_prob,
            is_tied=index in chosen and len(chosen) > 1,
        )
        for index, text in enumerate(choice.texts)
    )
    return CaseChoices(heading, tuple(lines))


def _chosen(choice: ChoiceRecord | None) -> str | None:
    if choice is None or choice.selection is None:
        return None
    return choice.texts[choice.selection.index(DEFAULT_SELECTOR)]


def _scores(choice: ChoiceRecord | None) -> list[dict[str, float]] | None:
    return None if choice is None or choice.scores is None else [dict(vars(score)) for score in choice.scores]


def _masks_by_label(labels: Sequence[str], masks: Sequence[RLE]) -> dict[str, list[dict[str, object]]]:
    """Group masks by label in reading order; the last labels have none if the model made fewer masks than phrases."""
    by_label: dict[str, list[dict[str, object]]] = {}
    for label, mask in zip(labels, masks, strict=False):
        by_label.setdefault(label, []).append(rle_to_json(mask))
    return by_label
