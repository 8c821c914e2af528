"""Questions of several images put to a model at once; its answers then pass through the one procedure of `scoring`.

Every batch holds the same images whoever runs it and whenever, so that a shard, a rank and a resumed run give the same
records as one process does. An error falls back to question by question: it belongs to the question it comes from.
"""

import logging
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np

from partonomy.benchmarks.partonomy.records import Capability
from partonomy.benchmarks.partonomy.scoring import Protocol, describe_error
from partonomy.benchmarks.partonomy.steps import Conditioning, Step, Subject, first_answer, question_steps, step_turns
from partonomy.metrics.multiple_choice import DEFAULT_SELECTOR, select_all
from partonomy.models.contract import (
    AnswerRequest,
    BatchedModel,
    ChoiceRequest,
    Generation,
    ImageBatch,
    MaskRequest,
    ModelUnavailable,
    Turn,
)
from partonomy.structures import CharSpan, ChoiceScore, Question

logger = logging.getLogger(__name__)

Request = TypeVar("Request", ChoiceRequest, MaskRequest, AnswerRequest)


@dataclass(frozen=True)
class ShownQuestion:
    """A question and the number of the picture that it shows."""

    question: Question
    picture: int


@dataclass(frozen=True)
class LoadedBatch:
    """Questions of some images, ready to be asked.

    pictures: uint8 RGB (H, W, 3), an image as its questions show it: with the instance's box where they have one
    read: what the model's `read_image` made of each, or its error
    failures: reasons of the questions whose image could not be read, by question id
    """

    questions: tuple[Question, ...]
    shown: tuple[ShownQuestion, ...]
    pictures: tuple[np.ndarray, ...]
    read: Sequence[object] | Exception
    failures: dict[str, str]


@dataclass
class AnsweredModel:
    """A model's answers about one picture, looked up; implements `model_api.GroundedModel`."""

    name: str
    scores: dict[tuple[tuple[Turn, ...], tuple[str, ...]], list[ChoiceScore]] = field(default_factory=dict)
    masks: dict[tuple[tuple[Turn, ...], str, tuple[CharSpan, ...]], np.ndarray] = field(default_factory=dict)
    generations: dict[tuple[Turn, ...], Generation | Exception] = field(default_factory=dict)

    def score_choices(self, image: np.ndarray, turns: Sequence[Turn], choices: Sequence[str]) -> list[ChoiceScore]:
        """Return the scores of the request with these words."""
        return self.scores[tuple(turns), tuple(choices)]

    def segment(self, image: np.ndarray, turns: Sequence[Turn], answer: str, spans: Sequence[CharSpan]) -> np.ndarray:
        """Return the masks of the request with these words."""
        return self.masks[tuple(turns), answer, tuple(spans)]

    def generate(self, image: np.ndarray, turns: Sequence[Turn]) -> Generation:
        """Return the model's own answer, or raise what it raised."""
        found = self.generations[tuple(turns)]
        if isinstance(found, Exception):
            raise found
        return found


@dataclass(frozen=True)
class BatchAnswers:
    """One answered model per picture, and the wall time of each question's share in seconds."""

    models: tuple[AnsweredModel, ...]
    seconds_per_question: float


def answer_batch(model: BatchedModel, batch: LoadedBatch, protocol: Protocol) -> BatchAnswers | None:
    """Put everything that the protocol asks to the model.

    Returns:
        The answers; None when the model raised an error, and each question has to be asked alone.

    Raises:
        ModelUnavailable: It cannot be asked at all.
    """
    start = time.perf_counter()
    try:
        models = _ask_together(model, batch, protocol)
    except ModelUnavailable:
        raise
    except Exception as error:  # whatever it is, some question of the batch raises it again, alone, and records it
        ids = [question.question_id for question in batch.questions]
        logger.warning("%d questions from %s on are asked one by one: %s", len(ids), ids[0], describe_error(error))
        return None
    return BatchAnswers(models, (time.perf_counter() - start) / max(1, len(batch.shown)))


def _ask_together(model: BatchedModel, batch: LoadedBatch, protocol: Protocol) -> tuple[AnsweredModel, ...]:
    answered = tuple(AnsweredModel(model.name) for _ in batch.pictures)
    if not batch.shown:
        return answered
    if isinstance(batch.read, Exception):
        raise batch.read
    images = model.open_batch(batch.read)
    steps = [question_steps(shown.question) for shown in batch.shown]
    answers = [_known_answers(question_steps_, protocol.conditioning) for question_steps_ in steps]
    num_asked = [0] * len(steps)
    while any(done < len(known) for done, known in zip(num_asked, steps, strict=True)):
        # All steps whose turns are known: both of a part-whole type after the correct first answer, else one by one.
        requests, owners = [], []
        for number, (shown, known) in enumerate(zip(batch.shown, steps, strict=True)):
            for index in range(num_asked[number], min(len(answers[number]) + 1, len(known))):
                turns = step_turns(known, index, answers[number])
                requests.append(ChoiceRequest(shown.picture, turns, known[index].choices, known[index].phrases))
                owners.append((number, index))
                num_asked[number] += 1
        scores = _score(images, requests)
        for request, (number, index), found in zip(requests, owners, scores, strict=True):
            answered[request.image].scores[request.turns, request.choices] = found
            if len(answers[number]) == index:
                chosen = select_all(found).index(DEFAULT_SELECTOR)
                answers[number].append(first_answer(steps[number][index], chosen, protocol.conditioning))
    masks_of_questions = [mask_request(*entry) for entry in zip(batch.shown, steps, answers, strict=True)]
    masks = without_repetitions(masks_of_questions)
    for wanted, found_masks in zip(masks, images.segment(masks), strict=True):
        answered[wanted.image].masks[wanted.turns, wanted.answer, wanted.spans] = found_masks
    own = without_repetitions(
        AnswerRequest(wanted.image, wanted.turns)
        for shown, wanted in zip(batch.shown, masks_of_questions, strict=True)
        if Capability.GENERATION in protocol.requested(shown.question.question_type)
    )
    for asked, generation in zip(own, _generate(model, images, batch.pictures, own), strict=True):
        answered[asked.image].generations[asked.turns] = generation
    return answered


def _known_answers(steps: Sequence[Step], conditioning: Conditioning) -> list[str]:
    """Answers that later steps follow and that do not depend on the model."""
    return [step.choices[step.correct_index] for step in steps] if conditioning is Conditioning.GOLD else []


def without_repetitions(requests: Iterable[Request]) -> list[Request]:
    """Questions of two types may be the same words about the same picture."""
    return list(dict.fromkeys(requests))


def _score(images: ImageBatch, requests: Sequence[ChoiceRequest]) -> list[list[ChoiceScore]]:
    scores = images.score_choices(requests)
    for request, found in zip(requests, scores, strict=True):
        if len(found) != len(request.choices):
            raise ValueError(f"{len(found)} scores for {len(request.choices)} choices")
    return scores


def mask_request(shown: ShownQuestion, steps: Sequence[Step], answers: Sequence[str]) -> MaskRequest:
    """The correct answer's phrases, after the turns that its choices followed."""
    index = next(index for index, step in enumerate(steps) if step.subject is Subject.PARTS)
    choice = shown.question.correct_choice
    return MaskRequest(shown.picture, step_turns(steps, index, answers), choice.text, tuple(choice.part_spans))


def _generate(
    model: BatchedModel, images: ImageBatch, pictures: Sequence[np.ndarray], requests: Sequence[AnswerRequest]
) -> Sequence[Generation | Exception]:
    """Ask for the model's own answers, together if that works."""
    if not requests:
        return []
    try:
        return images.generate(requests)
    except ModelUnavailable:
        raise
    except Exception as error:  # as in `answer_batch`
        logger.warning("%d own answers are asked for one by one: %s", len(requests), describe_error(error))
    # Only now: the error holds on to what the answers together took of the device's memory.
    return [_generate_alone(model, pictures[request.image], request.turns) for request in requests]


def _generate_alone(model: BatchedModel, picture: np.ndarray, turns: tuple[Turn, ...]) -> Generation | Exception:
    try:
        return model.generate(picture, turns)
    except ModelUnavailable:
        raise
    except Exception as error:  # e.g. out of memory at a long answer: it fails this answer alone, when it is read
        error.__context__ = None
        return error.with_traceback(None)  # which would hold on to the device's memory until then
