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

from partonomy.benchmarks.partonomy import Conditioning, Step, Subject, first_answer, question_steps, step_turns
from partonomy.evaluation.model_api import GroundedModel, PreparedModel, Turn
from partonomy.evaluation.records import (
    Capability,
    ChoiceRecord,
    GenerationRecord,
    MaskRecord,
    Record,
    Status,
    TruePart,
)
from partonomy.evaluation.sharding import unreadable_id
from partonomy.masks import decode_mask, encode_mask, rle_area, union_masks
from partonomy.metrics.matching import Matching, match_masks
from partonomy.metrics.multiple_choice import DEFAULT_SELECTOR, select_all
from partonomy.questions.question_types import QuestionType
from partonomy.structures import CharSpan, InvalidRecord, Question

MAX_REASON = 500
"""Characters kept of an error message."""


@dataclass(frozen=True)
class Protocol:
    """What is asked of the model, and after which first answer the second part-whole question follows."""

    conditioning: Conditioning = Conditioning.GOLD
    generate_types: frozenset[QuestionType] = frozenset()

    def requested(self, question_type: QuestionType) -> tuple[Capability, ...]:
        """The capabilities that a question of this type asks for."""
        asked = (Capability.CHOICES, Capability.MASKS)
        return (*asked, Capability.GENERATION) if question_type in self.generate_types else asked


def score_question(model: GroundedModel, question: Question, image: np.ndarray, protocol: Protocol) -> Record:
    """Ask everything about one question. An error of the model becomes a failed record with its message.

    An error in choices or masks fails the whole question, since its numbers would otherwise come from different sets
    of questions; one in the own answer alone leaves choices and masks scored.

    Args:
        model: The model.
        question: The question.
        image: uint8 RGB (H, W, 3) in the annotation's frame, the instance's box already drawn where there is one.
        protocol: What to ask.
    """
    start = time.perf_counter()
    try:
        record = _ask(model, question, image, protocol)
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
    answers: list[str] = []
    try:
        for index, step in enumerate(steps):
            choice = _score_step(model, image, step_turns(steps, index, answers), step, question)
            assert choice.selection is not None
            answers.append(first_answer(step, choice.selection.index(DEFAULT_SELECTOR), protocol.conditioning))
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
            reason = f"own answer only (choices and masks are scored): {describe_error(error)}"[:MAX_REASON]
            record = dataclasses.replace(record, status=Status.FAILED, reason=reason)
    return dataclasses.replace(record, unsupported=tuple(unsupported))


def _score_step(
    model: GroundedModel, image: np.ndarray, turns: Sequence[Turn], step: Step, question: Question
) -> ChoiceRecord:
    scores = model.score_choices(image, turns, step.choices)
    if len(scores) != len(step.choices):
        raise ValueError(f"{model.name} returned {len(scores)} scores for {len(step.choices)} choices")
    base = _choice_record(question, step)
    return dataclasses.replace(base, scores=tuple(scores), selection=select_all(scores))


def _segment(
    model: GroundedModel, question: Question, image: np.ndarray, turns: Sequence[Turn], true_masks: np.ndarray
) -> MaskRecord:
    choice = question.correct_choice
    predicted = model.segment(image, turns, choice.text, choice.part_spans)
    _check_masks(model, predicted, image, len(choice.part_spans))
    return compare_masks(predicted, true_masks)


def _generate(
    model: GroundedModel, image: np.ndarray, turns: Sequence[Turn], true_masks: np.ndarray
) -> GenerationRecord:
    generation = model.generate(image, turns)
    _check_masks(model, generation.masks, image, len(generation.spans))
    _check_spans(model, generation.text, generation.spans)
    confidences = tuple(float(confidence) for confidence in generation.confidences)
    if len(confidences) != len(generation.spans) or not all(0.0 <= value <= 1.0 for value in confidences):
        raise ValueError(f"{model.name} gave confidences {confidences} for {len(generation.spans)} spans")
    return GenerationRecord(generation.text, generation.spans, confidences, compare_masks(generation.masks, true_masks))


def compare_masks(predicted: np.ndarray, true: np.ndarray) -> MaskRecord:
    """Encode the predictions and count their pixels under every pairing.

    Args:
        predicted: bool (P, H, W).
        true: bool (M, H, W).
    """
    return MaskRecord(
        masks=tuple(encode_mask(mask) for mask in predicted),
        paired=match_masks(predicted, true, Matching.PAIRED),
        hungarian=match_masks(predicted, true, Matching.HUNGARIAN),
        greedy=match_masks(predicted, true, Matching.GREEDY),
        union=match_masks(predicted, true, Matching.UNION),
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


def _true_masks(question: Question) -> np.ndarray:
    """The true masks, bool (M, H, W), in the correct answer's reading order."""
    if not question.masks:
        return np.zeros((0, question.height, question.width), dtype=bool)
    return np.stack([decode_mask(part.mask) for part in question.masks])


def _blank_record(question: Question, protocol: Protocol, steps: Sequence[Step]) -> Record:
    """The record before the model has said anything."""
    rles = [part.mask for part in question.masks]
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
        true_union_area=rle_area(union_masks(rles)) if rles else 0,
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
