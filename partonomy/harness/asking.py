"""Sends the requests of a batch of items to a model and turns the answers into records, each item exactly once.

A model with batches answers the requests (`Task.ask`) of all items of a batch together. While it computes one batch,
threads that touch no device decode and resize the images of the next two batches and score the answers of the previous
one. A model without batches is asked request by request; if it waits for a server (`ConcurrentModel`), threads ask it
about several items at once, and the records keep the order of the items. An error is attributed to the request that
causes it: if a batch raises, its requests are asked again one by one. An error of an item fails that item; a fault of
the machine (`partonomy.machine_faults`) ends the run, and what was answered before it is recorded.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from partonomy.benchmarks.task import AnyTask, Asking, Item, Picture, Record, describe_error, pictures_of
from partonomy.harness.ranks import Batch, end_with_parent
from partonomy.images import draw_box
from partonomy.machine_faults import InputFiles, end_run_on_machine_fault
from partonomy.models.contract import (
    AnswerMarks,
    AnswerRequest,
    BatchedModel,
    ChoiceRequest,
    ConcurrentModel,
    GroundedModel,
    GroundedReply,
    Hint,
    ImageBatch,
    ImagesRequest,
    InformedModel,
    MarkingModel,
    MaskRequest,
    ModelUnavailable,
    ReplyingModel,
    ReplyRequest,
    Request,
    SeveralImagesModel,
    TaskRequest,
    describe_marks,
)

logger = logging.getLogger(__name__)

NUM_READERS = 2
NUM_READ_AHEAD = 2
ITEMS_PER_THREAD = 4
"""Number of items per thread that are asked or wait for an earlier item, so that one slow answer does not stop the
others."""
KINDS = (ChoiceRequest, MaskRequest, ReplyRequest, AnswerRequest)
"""Order in which a batch's requests are answered; free answers reuse the computation for choices and masks."""

IsWanted = Callable[[Item], bool]


@dataclass(frozen=True)
class LoadedBatch:
    """The items of some images, ready to be asked.

    Attributes:
        items: Items that still need a record, and further items that belong to the batch.
        pictures: Images as their items show them, uint8 RGB (H, W, 3).
        picture_of: Index of each item's picture, the first of several; items without an image are absent.
        failures: Reasons of the items of which an image could not be read.
        read: Result of the model's `read_image` for each picture, or its error; None if the items are asked one by one.
        further_of: Indices of the further pictures of items that show several.
    """

    items: Batch
    pictures: tuple[np.ndarray, ...]
    picture_of: dict[str, int]
    failures: dict[str, str]
    read: Sequence[object] | Exception | None = None
    further_of: dict[str, tuple[int, ...]] = field(default_factory=dict)

    def pictures_shown(self, item: Item) -> tuple[np.ndarray, ...]:
        """Return all pictures of an item that has them."""
        first, further = self.picture_of[item.item_id], self.further_of.get(item.item_id, ())
        return tuple(self.pictures[number] for number in (first, *further))


@dataclass
class _Open:
    """An item in progress: the generator of its requests, and the pending requests or the result."""

    item: Item
    picture: int
    asking: Asking[Any]
    pending: Sequence[TaskRequest] = ()
    num_asked: int = 0
    answer: Any = None
    error: Exception | None = None
    is_finished: bool = False
    seconds: float = 0.0

    def advance(self, answers: Sequence[Any] | None, error: Exception | None = None) -> None:
        """Send the answers to the pending requests, or raise their error there; the next requests become pending."""
        self.num_asked += len(self.pending)
        self.pending = ()
        try:
            if error is not None:
                self.pending = self.asking.throw(error)
            elif answers is None:
                self.pending = next(self.asking)
            else:
                self.pending = self.asking.send(answers)
        except StopIteration as stop:
            self.answer, self.is_finished = stop.value, True
        except Exception as problem:  # an error on one item must not end the run
            _end_run_if_due(problem)
            self.error, self.is_finished = problem, True


def _end_run_if_due(error: Exception) -> None:
    """Raise an error again that belongs to no item: the model or the machine cannot go on.

    Raises:
        ModelUnavailable, MachineFault: The run ends.
    """
    if isinstance(error, ModelUnavailable):
        raise error
    end_run_on_machine_fault(error)


def answer_items(
    model: GroundedModel, task: AnyTask, batches: Sequence[Batch], is_wanted: IsWanted
) -> Iterator[Record]:
    """Ask the wanted items of all batches, in order, and yield their records.

    Args:
        model: The model.
        task: The task of the items.
        batches: From `deal_batches`, including items that already have a record, because the composition of a batch
            affects the rounding of its numbers.
        is_wanted: Whether an item still needs its record.

    Raises:
        ModelUnavailable: The model cannot be asked at all; the items then have no records.
        MachineFault: The machine fails, for example for lack of memory; the items then have no records.
    """
    if isinstance(model, ConcurrentModel) and model.max_concurrent > 1:
        yield from _answer_concurrently(model, task, batches, is_wanted)
        return
    readers = ThreadPoolExecutor(NUM_READERS, thread_name_prefix="reader")
    finisher = ThreadPoolExecutor(1, thread_name_prefix="finisher")
    is_batched = isinstance(model, BatchedModel) and not task.ASKS_SEVERAL_IMAGES
    marks = describe_marks(model)
    files = InputFiles(lambda: (picture.path for item in task.items for picture in pictures_of(item)))
    try:
        ahead: deque[Future[LoadedBatch]] = deque()
        waiting = iter(batches)
        unfinished: Future[list[Record]] | None = None
        for _ in batches:
            while len(ahead) < NUM_READ_AHEAD and (batch := next(waiting, None)) is not None:
                shown = batch if is_batched else tuple(filter(is_wanted, batch))
                ahead.append(readers.submit(load_batch, model, shown, files, is_read=is_batched))
            end_with_parent()
            opened: list[_Open] | None = None
            try:
                loaded = ahead.popleft().result()
                opened = ask_batch(model, task, loaded, marks)
            finally:  # if the model or the machine fails, the previous batch is still recorded
                if unfinished is not None:
                    yield from unfinished.result()
            unfinished = None
            if opened is None:
                yield from _ask_one_by_one(model, task, loaded, marks, is_wanted)
            else:
                unfinished = finisher.submit(_finish, task, loaded, opened, is_wanted)
        if unfinished is not None:
            yield from unfinished.result()
    finally:
        readers.shutdown(cancel_futures=True)
        finisher.shutdown(cancel_futures=True)


def _answer_concurrently(
    model: ConcurrentModel, task: AnyTask, batches: Sequence[Batch], is_wanted: IsWanted
) -> Iterator[Record]:
    """Ask `max_concurrent` items at a time; yield the records in item order. See `answer_items`."""
    marks = describe_marks(model)
    files = InputFiles(lambda: (picture.path for item in task.items for picture in pictures_of(item)))
    readers = ThreadPoolExecutor(NUM_READERS, thread_name_prefix="reader")
    askers = ThreadPoolExecutor(model.max_concurrent, thread_name_prefix="asker")
    waiting = _loading(model, batches, files, is_wanted, readers)
    asked: deque[Future[Record | tuple[_Open]]] = deque()
    is_ending = threading.Event()
    try:
        while True:
            end_with_parent()
            while len(asked) < model.max_concurrent * ITEMS_PER_THREAD and (one := next(waiting, None)) is not None:
                asked.append(askers.submit(_ask_item, model, task, one, marks, is_ending))
            if not asked:
                return
            answer = asked.popleft().result()
            yield answer if isinstance(answer, Record) else score_item(task, answer[0])
    except BaseException:
        model.stop()
        raise
    finally:
        readers.shutdown(cancel_futures=True)
        askers.shutdown(cancel_futures=True)


def _loading(
    model: GroundedModel,
    batches: Sequence[Batch],
    files: InputFiles,
    is_wanted: IsWanted,
    readers: ThreadPoolExecutor,
) -> Iterator[tuple[Item, Future[LoadedBatch]]]:
    """Generate the wanted items, each with its batch, whose images are read when the first of them is due."""
    for batch in batches:
        items = tuple(filter(is_wanted, batch))
        if items:
            loaded = readers.submit(load_batch, model, items, files, is_read=False)
            yield from ((item, loaded) for item in items)


def _ask_item(
    model: GroundedModel,
    task: AnyTask,
    due: tuple[Item, Future[LoadedBatch]],
    marks: AnswerMarks,
    is_ending: threading.Event,
) -> "Record | tuple[_Open]":
    """Return the answered item, or its failed record if its image cannot be read.

    An error ends the run; `is_ending` then keeps later items from being asked before the error's turn comes.
    """
    if is_ending.is_set():
        raise CancelledError
    item, loading = due
    try:
        batch = loading.result()
        picture = batch.picture_of.get(item.item_id)
        if picture is None:
            failed: Record = task.fail(item, batch.failures[item.item_id])
            return failed
        entry = _Open(item, picture, task.ask(item, marks))
        _ask_alone(model, batch, entry)
    except BaseException:
        is_ending.set()
        raise
    return (entry,)


def load_batch(
    model: GroundedModel, items: Batch, files: InputFiles | None = None, *, is_read: bool = True
) -> LoadedBatch:
    """Load the images of a batch, draw the boxes, and let a model with batches read the pictures.

    An image that cannot be read fails its items only; its error is kept in their place.

    Args:
        model: The model.
        items: The items of the batch.
        files: The image files of the run; None takes those of the batch.
        is_read: Whether a model with batches reads the pictures; otherwise the items are asked one by one.

    Raises:
        MachineFault: An image cannot be read for a reason that is not the file's own.
    """
    files = files or InputFiles(lambda: (picture.path for item in items for picture in pictures_of(item)))
    pictures: list[np.ndarray] = []
    numbers: dict[Picture, int] = {}
    images: dict[Picture, np.ndarray | str] = {}
    picture_of: dict[str, int] = {}
    further_of: dict[str, tuple[int, ...]] = {}
    failures: dict[str, str] = {}
    for item in items:
        shown = pictures_of(item)
        for picture in shown:
            plain = replace(picture, box=None)
            if plain not in images:
                images[plain] = _load(plain, files)
            image = images[plain]
            if isinstance(image, str):
                failures.setdefault(item.item_id, image)
            elif picture not in numbers:
                numbers[picture] = len(pictures)
                pictures.append(image if picture.box is None else draw_box(image, picture.box))
        if item.item_id not in failures:
            picture_of[item.item_id], *further = (numbers[picture] for picture in shown)
            if further:
                further_of[item.item_id] = tuple(further)
    read: list[object] | Exception | None = None
    if is_read and isinstance(model, BatchedModel):
        try:
            read = [model.read_image(picture) for picture in pictures]
        except Exception as error:  # it recurs, and is recorded, when the items are asked one by one
            read = error
    return LoadedBatch(items, tuple(pictures), picture_of, failures, read, further_of)


def _load(picture: Picture, files: InputFiles) -> np.ndarray | str:
    """Return the image, or the reason why its file cannot be read."""
    try:
        return picture.load()
    except (OSError, ValueError, MemoryError) as error:
        end_run_on_machine_fault(error, of_input=True)
        if isinstance(error, FileNotFoundError):
            files.end_run_if_folder_is_missing(picture.path)
        return describe_error(error)


def ask_batch(model: GroundedModel, task: AnyTask, batch: LoadedBatch, marks: AnswerMarks) -> list[_Open] | None:
    """Answer all requests of a batch together, or return None if its items have to be asked one by one.

    Raises:
        ModelUnavailable: The model cannot be asked at all.
    """
    start = time.perf_counter()
    images = _open_images(model, batch)
    if images is None:
        return None
    opened = [
        _Open(item, batch.picture_of[item.item_id], task.ask(item, marks))
        for item in batch.items
        if item.item_id in batch.picture_of
    ]
    for entry in opened:
        entry.advance(None)
    while waiting := [entry for entry in opened if not entry.is_finished]:
        kind = next(kind for kind in KINDS if any(isinstance(entry.pending[0], kind) for entry in waiting))
        asked = [entry for entry in waiting if isinstance(entry.pending[0], kind)]
        answers = _Answers(model, images, batch, asked)
        for entry in asked:
            answers.hand_to(entry)
    share = (time.perf_counter() - start) / max(1, len(opened))
    for entry in opened:
        entry.seconds = share
    return opened


def _open_images(model: GroundedModel, batch: LoadedBatch) -> ImageBatch | None:
    """Open the model's batch, or return None if the items have to be asked one by one."""
    if not isinstance(model, BatchedModel) or not batch.pictures or batch.read is None:
        return None
    try:
        if isinstance(batch.read, Exception):
            raise batch.read
        return model.open_batch(batch.read)
    except ModelUnavailable:
        raise
    except Exception as error:  # an item of the batch raises it again when asked alone, and records it
        _say_alone(len(batch.items), "items", error)
        return None


def _ask_one_by_one(
    model: GroundedModel, task: AnyTask, batch: LoadedBatch, marks: AnswerMarks, is_wanted: IsWanted
) -> Iterator[Record]:
    """Ask the items through the model's plain methods; each is recorded before the next is asked."""
    for item in filter(is_wanted, batch.items):
        picture = batch.picture_of.get(item.item_id)
        if picture is None:
            yield task.fail(item, batch.failures[item.item_id])
        else:
            entry = _Open(item, picture, task.ask(item, marks))
            _ask_alone(model, batch, entry)
            yield score_item(task, entry)


def _ask_alone(model: GroundedModel, batch: LoadedBatch, entry: _Open) -> None:
    """Answer the requests of one item through the model's plain methods."""
    start = time.perf_counter()
    entry.advance(None)
    pictures = batch.pictures_shown(entry.item)
    while not entry.is_finished:
        try:
            answers = [
                answer_request(
                    model, pictures, request, Hint(entry.item.item_id, entry.num_asked + place, request.gold)
                )
                for place, request in enumerate(entry.pending)
            ]
        except Exception as error:  # the task decides its consequence for the item
            _end_run_if_due(error)
            entry.advance(None, error)
        else:
            entry.advance(answers)
    entry.seconds = time.perf_counter() - start


def answer_request(model: GroundedModel, pictures: Sequence[np.ndarray], request: TaskRequest, hint: Hint) -> Any:
    """Answer one request through the model's plain methods.

    Args:
        model: The model.
        pictures: uint8 RGB (H, W, 3) each, with the item's box drawn if it has one; the request names one of them by
            its index, or is about all.
        request: The request.
        hint: What models that know the truth or guess need (`Hint`).

    Returns:
        What the request's kind calls for: scores, masks, a reply or an own answer.

    Raises:
        NotImplementedError: The model does not support the request.
    """
    if isinstance(model, InformedModel):
        model.prepare(hint)
    if isinstance(request, ImagesRequest):
        return _answer_images(model, pictures, request)
    return _answer_about_one(model, pictures[request.image], request)


def _answer_images(model: GroundedModel, pictures: Sequence[np.ndarray], request: ImagesRequest) -> GroundedReply:
    if not isinstance(model, SeveralImagesModel):
        raise NotImplementedError("the model does not answer questions about several images (answer_images)")
    return model.answer_images(pictures, request.question)


def _answer_about_one(model: GroundedModel, picture: np.ndarray, request: Request) -> Any:
    match request:
        case ChoiceRequest():
            if isinstance(model, MarkingModel):
                return model.score_marked_choices(picture, request.turns, request.choices, request.phrases)
            return model.score_choices(picture, request.turns, request.choices)
        case MaskRequest():
            return model.segment(picture, request.turns, request.answer, request.spans)
        case AnswerRequest():
            return model.generate(picture, request.turns)
        case ReplyRequest():
            if isinstance(model, ReplyingModel):
                return model.reply(picture, request.turns)
            return model.generate(picture, request.turns).text


@dataclass
class _Answers:
    """Answers to the pending requests of one kind; each distinct request is asked once."""

    model: GroundedModel
    images: ImageBatch
    batch: LoadedBatch
    asked: Sequence[_Open]
    found: dict[Request, Any] = field(init=False)

    def __post_init__(self) -> None:
        # Items of two groups may ask the same words about the same picture.
        requests = list(dict.fromkeys(self._own(entry, request) for entry in self.asked for request in entry.pending))
        self.found = dict(zip(requests, self._answer(requests), strict=True))

    def hand_to(self, entry: _Open) -> None:
        """Send an item its answers, or raise the first error among them in the item's generator."""
        answers = [self.found[self._own(entry, request)] for request in entry.pending]
        error = next((answer for answer in answers if isinstance(answer, Exception)), None)
        if error is None:
            entry.advance(answers)
        else:
            entry.advance(None, error)

    def _own(self, entry: _Open, request: TaskRequest) -> Request:
        """Return the request with the index of its picture in the batch."""
        assert not isinstance(request, ImagesRequest), "only a task with ASKS_SEVERAL_IMAGES may ask about several"
        return replace(request, image=entry.picture)

    def _answer(self, requests: Sequence[Any]) -> list[Any]:
        try:
            answers = self._answer_together(requests)
            if len(answers) != len(requests):
                raise ValueError(f"the model's batch returned {len(answers)} answers to {len(requests)} requests")
            return answers
        except ModelUnavailable:
            raise
        except Exception as error:  # it belongs to one of the requests, which raises it again
            _say_alone(len(requests), "requests", error)
        # Only now, because the error keeps the batch's device memory alive.
        return [self._answer_alone(request) for request in requests]

    def _answer_together(self, requests: Sequence[Any]) -> list[Any]:
        match requests[0]:
            case ChoiceRequest():
                found = self.images.score_choices(requests)
                if any(len(scores) != len(request.choices) for scores, request in zip(found, requests, strict=True)):
                    raise ValueError("the model's batch did not return one score per choice")
                return found
            case MaskRequest():
                return self.images.segment(requests)
            case AnswerRequest():
                return self.images.generate(requests)
            case _:
                return self.images.reply(requests)

    def _answer_alone(self, request: Request) -> Any:
        try:
            return answer_request(self.model, self.batch.pictures, request, Hint("", 0, None))
        except Exception as error:  # it is raised where the item waits for its answer
            _end_run_if_due(error)
            error.__context__ = None
            return error.with_traceback(None)  # a traceback would keep device memory alive until then


def _say_alone(number: int, what: str, error: Exception) -> None:
    if not isinstance(error, NotImplementedError):
        logger.warning("%d %s are asked one by one: %s", number, what, describe_error(error))


def _finish(task: AnyTask, batch: LoadedBatch, opened: Sequence[_Open], is_wanted: IsWanted) -> list[Record]:
    """Turn answers into records; touches no device."""
    by_id = {entry.item.item_id: entry for entry in opened}
    records = []
    for item in filter(is_wanted, batch.items):
        entry = by_id.get(item.item_id)
        if entry is None:
            records.append(task.fail(item, batch.failures[item.item_id]))
        else:
            records.append(score_item(task, entry))
    return records


def score_item(task: AnyTask, entry: _Open) -> Record:
    """Score the answer of an item; the item fails if its answer is an error or is malformed."""
    start = time.perf_counter()
    error = entry.error
    if error is None:
        try:
            record: Record = task.score(entry.item, entry.answer)
        except Exception as problem:  # a malformed answer must not end the run
            _end_run_if_due(problem)
            error = problem
    if error is not None:
        is_refusal = isinstance(error, NotImplementedError)
        record = (task.refuse if is_refusal else task.fail)(entry.item, describe_error(error))
    return replace(record, seconds=entry.seconds + time.perf_counter() - start)
