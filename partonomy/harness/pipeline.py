"""Batches of images through a model that takes them: reading ahead and comparing masks behind, in threads.

While the model computes one batch, the images of the next two are decoded and resized, and the masks of the one before
are encoded and compared with the truth: none of it waits for the device.
"""

import dataclasses
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from partonomy.benchmarks.partonomy.records import Record
from partonomy.benchmarks.partonomy.scoring import Protocol, describe_error, failed_record, score_question
from partonomy.harness.batching import BatchAnswers, LoadedBatch, ShownQuestion, answer_batch
from partonomy.harness.ranks import ImageGroup, end_with_parent
from partonomy.images import draw_box, load_image
from partonomy.models.contract import BatchedModel
from partonomy.structures import Question

NUM_READERS = 2
NUM_READ_AHEAD = 2


def evaluate_batches(
    model: BatchedModel,
    batches: Sequence[Sequence[ImageGroup]],
    protocol: Protocol,
    is_wanted: Callable[[Question], bool],
) -> Iterator[Record]:
    """Ask all questions of all batches, in order.

    Args:
        model: The model.
        batches: Images with all their questions, also those that have a record already: what a batch holds decides how
            its numbers are rounded.
        protocol: What to ask.
        is_wanted: Whether a question still needs its record.
    """
    readers = ThreadPoolExecutor(NUM_READERS, thread_name_prefix="reader")
    finisher = ThreadPoolExecutor(1, thread_name_prefix="finisher")
    try:
        ahead: deque[Future[LoadedBatch]] = deque()
        waiting = iter(batches)
        unfinished: Future[list[Record]] | None = None
        for _ in batches:
            while len(ahead) < NUM_READ_AHEAD and (groups := next(waiting, None)) is not None:
                ahead.append(readers.submit(load_batch, model, groups))
            end_with_parent()
            loaded = ahead.popleft().result()
            answers = answer_batch(model, loaded, protocol)
            if unfinished is not None:
                yield from unfinished.result()
            unfinished = None
            if answers is not None:
                unfinished = finisher.submit(_finish, loaded, answers, protocol, is_wanted)
            else:
                yield from _ask_one_by_one(model, loaded, protocol, is_wanted)
        if unfinished is not None:
            yield from unfinished.result()
    finally:
        readers.shutdown(cancel_futures=True)
        finisher.shutdown(cancel_futures=True)


def load_batch(model: BatchedModel, groups: Sequence[ImageGroup]) -> LoadedBatch:
    """Load the images of a batch, draw the boxes, and let the model read what is shown."""
    pictures: list[np.ndarray] = []
    shown: list[ShownQuestion] = []
    failures: dict[str, str] = {}
    for group in groups:
        first = group.questions[0]
        try:
            image = load_image(first.image_path, first.height, first.width)
        except (OSError, ValueError) as error:
            failures |= {question.question_id: describe_error(error) for question in group.questions}
            continue
        numbers: dict[tuple[int, int, int, int] | None, int] = {}
        for question in group.questions:
            if question.box not in numbers:
                numbers[question.box] = len(pictures)
                pictures.append(image if question.box is None else draw_box(image, question.box))
            shown.append(ShownQuestion(question, numbers[question.box]))
    questions = tuple(question for group in groups for question in group.questions)
    read: list[object] | Exception
    try:
        read = [model.read_image(picture) for picture in pictures]
    except Exception as error:  # it comes again, and is recorded, when the questions are asked one by one
        read = error
    return LoadedBatch(questions, tuple(shown), tuple(pictures), read, failures)


def _finish(
    batch: LoadedBatch, answers: BatchAnswers, protocol: Protocol, is_wanted: Callable[[Question], bool]
) -> list[Record]:
    """Turn answers into records; touches no device."""
    shown = {entry.question.question_id: entry.picture for entry in batch.shown}
    records = []
    for question in filter(is_wanted, batch.questions):
        picture = shown.get(question.question_id)
        if picture is None:
            records.append(failed_record(question, protocol, batch.failures[question.question_id]))
            continue
        record = score_question(answers.models[picture], question, batch.pictures[picture], protocol)
        records.append(dataclasses.replace(record, seconds=record.seconds + answers.seconds_per_question))
    return records


def _ask_one_by_one(
    model: BatchedModel, batch: LoadedBatch, protocol: Protocol, is_wanted: Callable[[Question], bool]
) -> Iterator[Record]:
    shown = {entry.question.question_id: entry.picture for entry in batch.shown}
    for question in filter(is_wanted, batch.questions):
        picture = shown.get(question.question_id)
        if picture is None:
            yield failed_record(question, protocol, batch.failures[question.question_id])
        else:
            yield score_question(model, question, batch.pictures[picture], protocol)
