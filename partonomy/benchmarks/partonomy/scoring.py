"""One question put to one model: exactly one record, whatever happens (Partonomy/PLUM paper, section A.1).

Masks: the correct answer's text and its part phrases are given, the model predicts one mask per phrase in reading
order. Choice: the model scores every answer; all three selectors are recorded. Own answer, on request: text, tags and
masks.
"""

import dataclasses
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from partonomy.benchmarks.partonomy.listwise import answer_listwise, order_key
from partonomy.benchmarks.partonomy.records import (
    Capability,
    ChoiceRecord,
    GenerationRecord,
    MaskRecord,
    Record,
    Status,
    TruePart,
)
from partonomy.benchmarks.partonomy.steps import (
    ChoiceProtocol,
    Conditioning,
    Step,
    Subject,
    first_answer,
    question_steps,
    step_turns,
)
from partonomy.harness.ranks import unreadable_id
from partonomy.masks import canonical_rle, encode_masks, rle_area, union_masks
from partonomy.metrics.iou import count_pixels
from partonomy.metrics.matching import Matching, match_masks
from partonomy.metrics.multiple_choice import DEFAULT_SELECTOR, select_all
from partonomy.models.contract import (
    ChoiceRequest,
    GroundedModel,
    MarkingModel,
    ModelUnavailable,
    PreparedModel,
    Turn,
)
from partonomy.structures import RLE, CharSpan, InvalidRecord, Question, QuestionType

MAX_REASON = 500
"""Characters kept of an error message."""


@dataclass(frozen=True)
class Protocol:
    """What is asked of the model, and after which first answer the second part-whole question follows.

    `seed` shuffles the choices where all are shown at once (`listwise`).
    """

    conditioning: Conditioning = Conditioning.GOLD
    generate_types: frozenset[QuestionType] = frozenset()
    choice_protocol: ChoiceProtocol = ChoiceProtocol.LIKELIHOOD
    seed: int = 0

    def requested(self, question_type: QuestionType) -> tuple[Capability, ...]:
        """The capabilities that a question of this type asks for."""
        asked = (Capability.CHOICES, Capability.MASKS)
        return (*asked, Capability.GENERATION) if question_type in self.generate_types else asked

    def order_key(self, question: Question, step: Step) -> str | None:
        """What decides the order of choices that are shown at once; None where each is scored alone."""
        if self.choice_protocol is not ChoiceProtocol.LISTWISE:
            return None
        return order_key(self.seed, question.question_id, step.subject)


def score_question(model: GroundedModel, question: Question, image: np.ndarray, protocol: Protocol) -> Record:
    """Ask everything about one question. An error of the model becomes a failed record with its message.

    An error in choices or masks fails the whole question, since its numbers would otherwise come from different sets
    of questions; one in the own answer alone leaves choices and masks scored, and so does a `listwise` reply that names
    no choice: that choice is wrong, and the record says why.

    Args:
        model: The model.
        question: The question.
        image: uint8 RGB (H, W, 3) in the annotation's frame, the instance's box already drawn where there is one.
        protocol: What to ask.

    Raises:
        ModelUnavailable: It cannot be asked at all; the question has no record then.
    """
    start = time.perf_counter()
    try:
        record = _ask(model, question, image, protocol)
    except ModelUnavailable:
        raise
    except Exception as error:  # whatever a model raises on one question must not end the evaluation of the others
        record = failed_record(question, protocol, describe_error(error))
    return dataclasses.replace(record, seconds=time.perf_counter() - start)


def failed_record(question: Question, protocol: Protocol, reason: str) -> Record:
    """A record that scores 0 in everything that was requested."""
    try:
        steps = question_steps(question)
    except ValueError:  # a malformed question is itself the reason of the failure: it has no choices to record
        steps = ()
    return dataclasses.replace(_blank_record(question, protocol, steps), status=Status.FAILED, reason=reason)


def invalid_record(invalid: InvalidRecord, protocol: Protocol) -> Record:
    """A failed record for an entry of a question file that cannot be asked; it counts as an image of its own."""
    asked = (Capability.CHOICES, Capability.MASKS)
    return Record(
        question_id=unreadable_id(invalid),
        question_type=invalid.question_type,
        image_id=-1 - invalid.record_index,
        image_path="",
        instance_id=-1,
        object_label="",
        question="",
        status=Status.FAILED,
        reason=f"record {invalid.record_index} ({invalid.question_id}): {invalid.reason}"[:MAX_REASON],
        requested=asked if invalid.question_type is None else protocol.requested(invalid.question_type),
        unsupported=(),
        true_parts=(),
        true_union_area=0,
        parts_choice=None,
        object_choice=None,
        segmentation=None,
        generation=None,
        seconds=0.0,
    )


def describe_error(error: Exception) -> str:
    """Type and message of an error on one line."""
    message = " ".join(str(error).split())
    return f"{type(error).__name__}: {message}"[:MAX_REASON]


def _ask(model: GroundedModel, question: Question, image: np.ndarray, protocol: Protocol) -> Record:
    if isinstance(model, PreparedModel):
        model.prepare(question)
    steps = question_steps(question)
    record = _blank_record(question, protocol, steps)
    unsupported: list[Capability] = []
    problems: list[str] = []
    answers: list[str] = []
    try:
        for index, step in enumerate(steps):
            asked = step_turns(steps, index, answers)
            order_key = protocol.order_key(question, step)
            request = ChoiceRequest(0, asked, step.choices, step.phrases)
            choice = _answer_step(model, image, request, _choice_record(question, step), order_key)
            answers.append(_answer_to_follow(step, choice, protocol.conditioning))
            if choice.selection is None:
                assert choice.listwise is not None
                problems.append(f"choice of {step.subject} only: {choice.listwise.problem}")
            if step.subject is Subject.PARTS:
                record = dataclasses.replace(record, parts_choice=choice)
            else:
                record = dataclasses.replace(record, object_choice=choice)
    except NotImplementedError:
        unsupported.append(Capability.CHOICES)
        answers = [step.choices[step.correct_index] for step in steps]  # no choice of its own to follow
    parts_index = next(index for index, step in enumerate(steps) if step.subject is Subject.PARTS)
    turns = step_turns(steps, parts_index, answers)
    true_masks = _true_masks(question)
    try:
        record = dataclasses.replace(record, segmentation=_segment(model, question, image, turns, true_masks))
    except NotImplementedError:
        unsupported.append(Capability.MASKS)
    if Capability.GENERATION in record.requested:
        try:
            record = dataclasses.replace(record, generation=_generate(model, image, turns, true_masks))
        except NotImplementedError:
            unsupported.append(Capability.GENERATION)
        except Exception as error:  # e.g. out of memory at a long answer; choices and masks are known by now
            problems.append(f"own answer only (choices and masks are scored): {describe_error(error)}")
    if problems:
        record = dataclasses.replace(record, status=Status.FAILED, reason="; ".join(problems)[:MAX_REASON])
    return dataclasses.replace(record, unsupported=tuple(unsupported))


def _answer_to_follow(step: Step, choice: ChoiceRecord, conditioning: Conditioning) -> str:
    """What the next question of a part-whole type follows; a reply that names no choice stands there as it was said."""
    if choice.selection is not None:
        return first_answer(step, choice.selection.index(DEFAULT_SELECTOR), conditioning)
    assert choice.listwise is not None
    return choice.listwise.reply if conditioning is Conditioning.PREDICTED else step.choices[step.correct_index]


def _answer_step(
    model: GroundedModel, image: np.ndarray, request: ChoiceRequest, asked: ChoiceRecord, order_key: str | None
) -> ChoiceRecord:
    """Let the model choose: all choices at once, in the order that the key decides, or each scored alone."""
    if order_key is not None:
        choice = answer_listwise(model, image, request.turns, asked.texts, order_key)
        return dataclasses.replace(asked, selection=choice.selection, listwise=choice.answer)
    if isinstance(model, MarkingModel):
        scores = model.score_marked_choices(image, request.turns, asked.texts, request.phrases)
    else:
        scores = model.score_choices(image, request.turns, asked.texts)
    if len(scores) != len(asked.texts):
        raise ValueError(f"{model.name} returned {len(scores)} scores for {len(asked.texts)} choices")
    return dataclasses.replace(asked, scores=tuple(scores), selection=select_all(scores))


def _segment(
    model: GroundedModel, question: Question, image: np.ndarray, turns: Sequence[Turn], true_masks: Sequence[RLE]
) -> MaskRecord:
    choice = question.correct_choice
    predicted = model.segment(image, turns, choice.text, choice.part_spans)
    _check_masks(model, predicted, image, len(choice.part_spans))
    return compare_masks(predicted, true_masks)


def _generate(
    model: GroundedModel, image: np.ndarray, turns: Sequence[Turn], true_masks: Sequence[RLE]
) -> GenerationRecord:
    generation = model.generate(image, turns)
    _check_masks(model, generation.masks, image, len(generation.spans))
    _check_spans(model, generation.text, generation.spans)
    confidences = tuple(float(confidence) for confidence in generation.confidences)
    if len(confidences) != len(generation.spans) or not all(0.0 <= value <= 1.0 for value in confidences):
        raise ValueError(f"{model.name} gave confidences {confidences} for {len(generation.spans)} spans")
    return GenerationRecord(generation.text, generation.spans, confidences, compare_masks(generation.masks, true_masks))


def compare_masks(predicted: np.ndarray, true: Sequence[RLE]) -> MaskRecord:
    """Encode the predictions, once, and count their pixels under every pairing on the codes.

    Args:
        predicted: bool (P, H, W).
        true: M canonical codes of the same size.
    """
    masks = encode_masks(predicted)
    counts = count_pixels(masks, true)
    return MaskRecord(
        masks=masks,
        paired=match_masks(counts, Matching.PAIRED),
        hungarian=match_masks(counts, Matching.HUNGARIAN),
        greedy=match_masks(counts, Matching.GREEDY),
        union=match_masks(counts, Matching.UNION),
    )


def _check_masks(model: GroundedModel, masks: np.ndarray, image: np.ndarray, num_spans: int) -> None:
    """Fewer masks than spans are missing predictions; anything else out of shape is an error."""
    expected = (num_spans, *image.shape[:2])
    if masks.ndim != 3 or masks.shape[1:] != image.shape[:2] or len(masks) > num_spans or masks.dtype != np.bool_:
        raise ValueError(
            f"{model.name} returned masks of shape {masks.shape} and type {masks.dtype}; expected bool {expected}"
        )


def _check_spans(model: GroundedModel, text: str, spans: Sequence[CharSpan]) -> None:
    for span in spans:
        if not 0 <= span.start < span.end <= len(text):
            raise ValueError(f"{model.name} tagged [{span.start}, {span.end}) in a text of {len(text)} characters")


def _true_masks(question: Question) -> tuple[RLE, ...]:
    """Canonical codes of the true masks, in the correct answer's reading order."""
    return tuple(canonical_rle(part.mask) for part in question.masks)


def _blank_record(question: Question, protocol: Protocol, steps: Sequence[Step]) -> Record:
    """The record before the model has said anything."""
    masks = _true_masks(question)
    choices = {step.subject: _choice_record(question, step) for step in steps}
    return Record(
        question_id=question.question_id,
        question_type=question.question_type,
        image_id=question.image_id,
        image_path=str(question.image_path),
        instance_id=question.instance_id,
        object_label=question.object_label,
        question=question.text,
        status=Status.SCORED,
        reason="",
        requested=protocol.requested(question.question_type),
        unsupported=(),
        true_parts=tuple(TruePart(part.label, rle_area(part.mask)) for part in question.masks),
        true_union_area=rle_area(union_masks(masks)) if masks else 0,
        parts_choice=choices.get(Subject.PARTS),
        object_choice=choices.get(Subject.OBJECT),
        segmentation=None,
        generation=None,
        seconds=0.0,
    )


def _choice_record(question: Question, step: Step) -> ChoiceRecord:
    if step.subject is Subject.PARTS:
        labels = tuple(choice.parts for choice in question.choices)
    else:
        assert question.object_question is not None  # question_steps has checked it
        labels = tuple((choice.label,) for choice in question.object_question.choices)
    return ChoiceRecord(step.choices, labels, step.correct_index)
