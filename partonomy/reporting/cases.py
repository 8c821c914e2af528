"""The report's cases: which questions to show, and their pictures and texts."""

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from partonomy.benchmarks.partonomy.records import ChoiceRecord, QuestionRecord
from partonomy.datasets.store import load_questions
from partonomy.images import draw_box, load_image
from partonomy.masks import decode_mask
from partonomy.metrics.multiple_choice import DEFAULT_SELECTOR
from partonomy.metrics.part_text import normalize_part
from partonomy.reporting.breakdown import mean_paired_iou
from partonomy.reporting.loaded_run import LoadedRun
from partonomy.structures import RLE, CharSpan, Question
from partonomy.visualize import Colour, colour_parts, encode_base64, part_colours, resize

PANEL_SIDE = 300
"""Longer side of a case's pictures, in pixels."""
RANDOM, BEST, WORST = "Random cases", "Best cases", "Worst cases"


@dataclass(frozen=True)
class PartChip:
    """A part's name with its colour and IoU (None where nothing is to be compared)."""

    label: str
    colour: str
    iou: float | None


@dataclass(frozen=True)
class Panel:
    """One picture; `data` is a JPEG in base64."""

    title: str
    data: str


@dataclass(frozen=True)
class AnswerLine:
    """One choice of a multiple-choice question."""

    text: str
    is_correct: bool
    is_chosen: bool
    log_prob: float | None


@dataclass(frozen=True)
class Case:
    """One question as the report shows it. `*_html` are escaped texts with their spans marked."""

    question_id: str
    question_type: str
    object_label: str
    question: str
    mean_iou: float
    status: str
    reason: str
    panels: tuple[Panel, ...]
    chips: tuple[PartChip, ...]
    correct_html: str
    generated_html: str
    answers: tuple[AnswerLine, ...]
    object_answers: tuple[AnswerLine, ...]


@dataclass(frozen=True)
class CaseGroup:
    """Cases under one heading."""

    title: str
    explanation: str
    cases: tuple[Case, ...]


@dataclass(frozen=True)
class CaseQuestions:
    """The run's questions by id; empty with the reason where they cannot be read any more."""

    by_id: Mapping[str, Question]
    problem: str


def load_case_questions(run: LoadedRun) -> CaseQuestions:
    """Read the questions that the run recorded; the pictures and true masks come from there."""
    path = Path(str(run.summary.config["root"]))
    try:
        question_set = load_questions(path, invalid="collect")
    except (OSError, ValueError) as error:
        return CaseQuestions({}, f"No pictures: the questions cannot be read any more ({error}).")
    if question_set.content_hash != run.dataset_hash:
        return CaseQuestions({}, f"No pictures: {path} has changed since the run.")
    return CaseQuestions({question.question_id: question for question in question_set.questions}, "")


def choose_cases(
    records: Sequence[QuestionRecord], num_each: int, generator: np.random.Generator
) -> tuple[tuple[str, tuple[QuestionRecord, ...]], ...]:
    """Random questions, and the best and worst scored ones by mean paired IoU; one per image within a heading.

    Args:
        records: All records of a run; those without true parts are left out.
        num_each: Cases per heading.
        generator: Draws the random ones.
    """
    usable = [record for record in records if record.true_parts]
    shuffled = [usable[index] for index in generator.permutation(len(usable))]
    scored = [record for record in usable if record.is_scored]
    ranked = sorted(scored, key=lambda record: (-mean_paired_iou(record), record.item_id))
    return (
        (RANDOM, _distinct_images(shuffled, num_each)),
        (BEST, _distinct_images(ranked, num_each)),
        (WORST, _distinct_images(ranked[::-1], num_each)),
    )


def make_case(record: QuestionRecord, question: Question | None) -> Case:
    """Everything the report shows of one question; without `question` there are no pictures."""
    colours = part_colours(len(record.true_parts))
    pairs = None if record.segmentation is None else record.segmentation.paired
    chips = tuple(
        PartChip(part.label, _css(colours[index]), None if pairs is None else pairs[index].iou)
        for index, part in enumerate(record.true_parts)
    )
    correct_html = ""
    if question is not None:
        choice = question.correct_choice
        correct_html = mark_spans(choice.text, choice.part_spans, colours)
    generated_html = ""
    if record.generation is not None:
        generated = _generated_colours(record, colours)
        generated_html = mark_spans(record.generation.text, record.generation.spans, generated) or "(no text)"
    return Case(
        question_id=record.item_id,
        question_type="" if record.question_type is None else record.question_type.value,
        object_label=record.object_label,
        question=record.prompt,
        mean_iou=mean_paired_iou(record),
        status=record.status.value,
        reason=record.reason,
        panels=() if question is None else _panels(record, question, colours),
        chips=chips,
        correct_html=correct_html,
        generated_html=generated_html,
        answers=_answer_lines(record.parts_choice),
        object_answers=_answer_lines(record.object_choice),
    )


def mark_spans(text: str, spans: Sequence[CharSpan], colours: Sequence[Colour]) -> str:
    """HTML of a text with each span in its colour; everything is escaped. Overlapping later spans stay unmarked."""
    pieces, position = [], 0
    order = sorted(range(len(spans)), key=lambda index: spans[index].start)
    for index in order:
        span = spans[index]
        if span.start < position:
            continue
        pieces.append(html.escape(text[position : span.start]))
        inner = html.escape(text[span.start : span.end])
        pieces.append(f'<mark style="--c:{_css(colours[index])}">{inner}</mark>')
        position = span.end
    pieces.append(html.escape(text[position:]))
    return "".join(pieces)


def _distinct_images(records: Sequence[QuestionRecord], count: int) -> tuple[QuestionRecord, ...]:
    chosen: dict[int | str, QuestionRecord] = {}
    for record in records:
        if len(chosen) == count:
            break
        chosen.setdefault(record.image_id, record)
    return tuple(chosen.values())


def _panels(record: QuestionRecord, question: Question, colours: Sequence[Colour]) -> tuple[Panel, ...]:
    try:
        image = load_image(question.image_path, question.height, question.width)
    except (OSError, ValueError):
        return ()  # the record's own reason already names the unreadable image
    shown = image if question.box is None else draw_box(image, question.box)
    panels = [
        _panel("image", shown, (), ()),
        _panel("true parts", image, [part.mask for part in question.masks], colours),
    ]
    if record.segmentation is not None:
        masks = record.segmentation.masks
        panels.append(_panel("predicted, phrases given", image, masks, colours[: len(masks)]))
    if record.generation is not None:
        panels.append(_panel("own answer", image, record.generation.masks.masks, _generated_colours(record, colours)))
    return tuple(panels)


def _panel(title: str, image: np.ndarray, rles: Sequence[RLE], colours: Sequence[Colour]) -> Panel:
    masks = np.stack([decode_mask(rle) for rle in rles]) if rles else np.zeros((0, *image.shape[:2]), dtype=bool)
    scaled, scaled_masks = resize(image, masks, 2 * PANEL_SIDE / max(image.shape[:2]))  # twice, for sharp screens
    return Panel(title, encode_base64(colour_parts(scaled, scaled_masks, colours[: len(masks)]), "JPEG"))


def _generated_colours(record: QuestionRecord, colours: Sequence[Colour]) -> tuple[Colour, ...]:
    """Colours of the model's own spans: a true part's own colour where the name is the same, new ones otherwise."""
    assert record.generation is not None
    known = {normalize_part(part.label): colours[index] for index, part in enumerate(record.true_parts)}
    names = [normalize_part(text) for text in record.generation.span_texts]
    spare = iter(part_colours(len(colours) + len(names))[len(colours) :])
    return tuple(known[name] if name in known else next(spare) for name in names)


def _answer_lines(choice: ChoiceRecord | None) -> tuple[AnswerLine, ...]:
    if choice is None:
        return ()
    chosen = None if choice.selection is None else choice.selection.index(DEFAULT_SELECTOR)
    return tuple(
        AnswerLine(
            text,
            index == choice.correct_index,
            index == chosen,
            None if choice.scores is None else choice.scores[index].answer_log_prob,
        )
        for index, text in enumerate(choice.texts)
    )


def _css(colour: Colour) -> str:
    return f"rgb({colour[0]},{colour[1]},{colour[2]})"
