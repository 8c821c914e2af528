"""Batches give the records of single items; an error belongs to the request that raises it."""

import dataclasses
import errno
import hashlib
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from partonomy.benchmarks.partonomy.steps import Conditioning
from partonomy.benchmarks.partonomy.task import PartonomyOptions, QuestionItem
from partonomy.benchmarks.segmentation import SegmentationMode, SegmentationTask
from partonomy.benchmarks.task import Status
from partonomy.benchmarks.vqa import VqaTask
from partonomy.datasets.store import load_questions
from partonomy.harness import ranks
from partonomy.harness.asking import load_batch
from partonomy.harness.ranks import Rank
from partonomy.images import draw_box, load_image
from partonomy.machine_faults import MachineFault
from partonomy.models.contract import (
    AnswerRequest,
    BatchedModel,
    ChoiceRequest,
    Generation,
    ImageBatch,
    MaskRequest,
    ModelUnavailable,
    ReplyRequest,
    Turn,
)
from partonomy.structures import CharSpan, ChoiceScore, QuestionType
from tests.partonomy.benchmark_world import SIZE, gqa_task, refcoco_task, run_task
from tests.partonomy.benchmark_world import make_config as task_config
from tests.partonomy.benchmarks.vqa_world import draw
from tests.partonomy.conftest import write_questions
from tests.partonomy.running import ALL_GENERATED, ask_model, make_config, question_records, run_model, untimed


class HashModel:
    """Answers by what it is shown and told, one item at a time."""

    name = "hash"

    def score_choices(self, image: np.ndarray, turns: Sequence[Turn], choices: Sequence[str]) -> list[ChoiceScore]:
        """A number that depends on the pixels and on every word."""
        values = [_number(image, *(turn.text for turn in turns), choice) for choice in choices]
        return [ChoiceScore(-value, 3, -2 * value, 7) for value in values]

    def segment(self, image: np.ndarray, turns: Sequence[Turn], answer: str, spans: Sequence[CharSpan]) -> np.ndarray:
        """Some rows of the image per span."""
        masks = np.zeros((len(spans), *image.shape[:2]), dtype=bool)
        for mask, span in zip(masks, spans, strict=True):
            mask[: int(20 * _number(image, turns[-1].text, answer[span.start : span.end]))] = True
        return masks

    def generate(self, image: np.ndarray, turns: Sequence[Turn]) -> Generation:
        """Repeats the question; fails on one type."""
        if "whole_to_part" in turns[-1].text:
            raise RuntimeError("no answer")
        spans = (CharSpan(0, 4),)
        return Generation(turns[-1].text, spans, self.segment(image, turns, turns[-1].text, spans), (0.5,))

    def reply(self, image: np.ndarray, turns: Sequence[Turn]) -> str:
        """A cat or a dog."""
        return "cat" if _number(image, turns[-1].text) < 0.5 else "dog"


class BatchedHashModel(HashModel):
    """The same answers for batches of images, and a note of what it was asked."""

    def __init__(self, fail_on: str = "") -> None:
        self.fail_on = fail_on
        self.batches: list[tuple[bytes, ...]] = []
        self.rounds: list[list[ChoiceRequest]] = []
        self.num_generated: list[int] = []
        self.num_replies: list[int] = []
        self.num_segmented: list[int] = []

    def read_image(self, image: np.ndarray) -> object:
        """Nothing to prepare."""
        return image

    def open_batch(self, images: Sequence[object]) -> ImageBatch:
        """Begin a batch."""
        pictures = [image for image in images if isinstance(image, np.ndarray)]
        self.batches.append(tuple(picture.tobytes() for picture in pictures))
        return HashBatch(self, pictures)


class HashBatch:
    """One batch."""

    def __init__(self, model: BatchedHashModel, pictures: Sequence[np.ndarray]) -> None:
        self.model, self.pictures = model, pictures

    def score_choices(self, requests: Sequence[ChoiceRequest]) -> list[list[ChoiceScore]]:
        """Ask one by one; fail where the model is told to."""
        self.model.rounds.append(list(requests))
        self._fail_on([request.turns for request in requests])
        return [self.model.score_choices(self.pictures[r.image], r.turns, r.choices) for r in requests]

    def segment(self, requests: Sequence[MaskRequest]) -> list[np.ndarray]:
        """Ask one by one."""
        self.model.num_segmented.append(len(requests))
        self._fail_on([request.turns for request in requests])
        return [self.model.segment(self.pictures[r.image], r.turns, r.answer, r.spans) for r in requests]

    def generate(self, requests: Sequence[AnswerRequest]) -> list[Generation]:
        """Ask one by one."""
        self.model.num_generated.append(len(requests))
        self._fail_on([request.turns for request in requests])
        return [self.model.generate(self.pictures[r.image], r.turns) for r in requests]

    def reply(self, requests: Sequence[ReplyRequest]) -> list[str]:
        """Ask one by one."""
        self.model.num_replies.append(len(requests))
        self._fail_on([request.turns for request in requests])
        return [self.model.reply(self.pictures[r.image], r.turns) for r in requests]

    def _fail_on(self, conversations: Sequence[Sequence[Turn]]) -> None:
        if self.model.fail_on and any(self.model.fail_on in turns[-1].text for turns in conversations):
            raise ValueError("some item of the batch is bad")


def _number(image: np.ndarray, *words: str) -> float:
    digest = hashlib.sha256(image.tobytes() + "|".join(words).encode()).digest()
    return int.from_bytes(digest[:4], "big") / 2**32


@pytest.fixture(autouse=True)
def _large_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Six images: batches of four and of two."""
    monkeypatch.setattr(ranks, "MIN_BATCHES", 1)


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    return write_questions(tmp_path, tuple(QuestionType), num_images=6)


def segmentation_task(folder: Path, mode: SegmentationMode) -> SegmentationTask:
    """Two expressions about each of six images."""
    task = refcoco_task(folder, mode)
    items = []
    for number in range(6):
        path = folder / "images" / f"{number}.png"
        draw(path, number, SIZE)
        items += [
            dataclasses.replace(item, item_id=f"{number}-{item.item_id}", image_id=str(number), image_path=path)
            for item in task.items
        ]
    return dataclasses.replace(task, items=tuple(items))


ITEM_TASKS: dict[str, Callable[[Path], VqaTask | SegmentationTask]] = {
    "replies": lambda folder: gqa_task(folder, 6),
    "masks": lambda folder: segmentation_task(folder, SegmentationMode.FORCED),
    "answers": lambda folder: segmentation_task(folder, SegmentationMode.GENERATED),
}


def test_the_contract_is_recognised() -> None:
    assert isinstance(BatchedHashModel(), BatchedModel)
    assert not isinstance(HashModel(), BatchedModel)


@pytest.mark.parametrize("part_whole", list(Conditioning))
def test_batches_give_the_records_of_single_questions(
    questions: Path, tmp_path: Path, part_whole: Conditioning
) -> None:
    batched = BatchedHashModel()
    options = dataclasses.replace(ALL_GENERATED, part_whole=part_whole)
    for name, model in (("single", HashModel()), ("batched", batched)):
        run_model(make_config(questions, tmp_path / name, options=options), model)
    assert untimed(tmp_path / "single") == untimed(tmp_path / "batched")
    assert [len(pictures) for pictures in batched.batches] == [4, 2]
    # After the correct first answer all is known at once; after the model's own, the second question has to wait.
    expected = [48, 24] if part_whole is Conditioning.GOLD else [40, 8, 20, 4]
    assert [len(requests) for requests in batched.rounds] == expected
    assert batched.num_segmented == batched.num_generated == [40, 20]


@pytest.mark.parametrize("name", ITEM_TASKS)
def test_batches_give_the_records_of_single_items(tmp_path: Path, name: str) -> None:
    batched = BatchedHashModel()
    task = ITEM_TASKS[name](tmp_path)
    for folder, model in (("single", HashModel()), ("batched", batched)):
        run_task(task, task_config(task, tmp_path / folder), model)
    assert untimed(tmp_path / "single") == untimed(tmp_path / "batched")
    assert [len(pictures) for pictures in batched.batches] == [4, 2]
    asked = {"replies": batched.num_replies, "masks": batched.num_segmented, "answers": batched.num_generated}
    assert {kind: counts for kind, counts in asked.items() if counts} == {name: [8, 4]}


def test_equal_requests_of_a_batch_are_asked_once(tmp_path: Path) -> None:
    task = gqa_task(tmp_path, 2)
    twins = tuple(dataclasses.replace(item, item_id=f"twin-{item.item_id}") for item in task.items)
    task = dataclasses.replace(task, items=(*task.items, *twins))
    model = BatchedHashModel()
    run_task(task, task_config(task, tmp_path / "run"), model)
    assert model.num_replies == [4]
    records = untimed(tmp_path / "run")
    assert len(records) == 8
    for record, twin in zip(records[:4], records[4:], strict=True):
        assert dataclasses.replace(twin, item_id=record.item_id) == record


@pytest.mark.parametrize("name", ITEM_TASKS)
def test_an_error_of_a_batch_belongs_to_the_item_that_raises_it(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    task = ITEM_TASKS[name](tmp_path)
    bad = task.items[2]  # of the second image
    run_task(task, task_config(task, tmp_path / "single"), HashModel())
    shown = load_image(bad.picture.path, SIZE[1], SIZE[0])
    method = {"replies": "reply", "masks": "segment", "answers": "generate"}[name]
    word = "cat" if name == "replies" else "left"
    original = getattr(HashModel, method)

    def fail(self: HashModel, image: np.ndarray, turns: Sequence[Turn], *rest: object) -> object:
        if np.array_equal(image, shown) and word in turns[-1].text:
            raise ValueError("too long")
        return original(self, image, turns, *rest)

    monkeypatch.setattr(HashModel, method, fail)
    run_task(task, task_config(task, tmp_path / "bad"), BatchedHashModel())
    records, expected = untimed(tmp_path / "bad"), untimed(tmp_path / "single")
    assert [record.reason for record in records] == ["", "", "ValueError: too long", *[""] * 9]
    assert (records[2].item_id, records[2].status) == (bad.item_id, Status.FAILED)
    assert [*records[:2], *records[3:]] == [*expected[:2], *expected[3:]]
    assert "8 requests are asked one by one: ValueError: too long" in caplog.text


def test_a_batch_with_a_wrong_number_of_answers_is_asked_one_by_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    task = gqa_task(tmp_path, 6)
    run_task(task, task_config(task, tmp_path / "single"), HashModel())
    monkeypatch.setattr(HashBatch, "reply", lambda self, requests: ["cat"])
    run_task(task, task_config(task, tmp_path / "short"), BatchedHashModel())
    assert untimed(tmp_path / "short") == untimed(tmp_path / "single")
    assert "the model's batch returned 1 answers to 8 requests" in caplog.text


@pytest.mark.parametrize("place", ["read_image", "open_batch"])
def test_a_batch_that_cannot_be_opened_is_asked_item_by_item(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, place: str
) -> None:
    task = gqa_task(tmp_path, 6)
    run_task(task, task_config(task, tmp_path / "single"), HashModel())

    def fail(*arguments: object) -> None:
        raise RuntimeError("no room")

    asked: list[str] = []
    reply = HashModel.reply

    def note(self: HashModel, image: np.ndarray, turns: Sequence[Turn]) -> str:
        asked.append(turns[-1].text)
        return reply(self, image, turns)

    monkeypatch.setattr(HashModel, "reply", note)
    monkeypatch.setattr(BatchedHashModel, place, fail)
    model = BatchedHashModel()
    run_task(task, task_config(task, tmp_path / "run"), model)
    assert untimed(tmp_path / "run") == untimed(tmp_path / "single")
    assert model.num_replies == []
    path = tmp_path / "run" / "records.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:5]))
    run_task(task, task_config(task, tmp_path / "run"), BatchedHashModel(), resume=True)
    assert untimed(tmp_path / "run") == untimed(tmp_path / "single")
    assert len(asked) == 12 + 7  # what is recorded is not asked again
    assert "8 items are asked one by one: RuntimeError: no room" in caplog.text


def test_an_error_in_a_choice_fails_its_question_alone(
    questions: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class OneBadQuestion(BatchedHashModel):
        def score_choices(self, image: np.ndarray, turns: Sequence[Turn], choices: Sequence[str]) -> list[ChoiceScore]:
            if "(negative)" in turns[-1].text and image.tobytes() == self.batches[0][0]:
                raise ValueError("too long")
            return super().score_choices(image, turns, choices)

    run_model(make_config(questions, tmp_path / "single"), HashModel())
    run_model(make_config(questions, tmp_path / "bad"), OneBadQuestion())
    records = question_records(tmp_path / "bad")
    assert [record.reason for record in records if record.question_type is QuestionType.NEGATIVE] == [
        "ValueError: too long",
        *[""] * 5,
    ]
    others = [
        (ours, theirs)
        for ours, theirs in zip(untimed(tmp_path / "bad"), untimed(tmp_path / "single"), strict=True)
        if ours.reason != "ValueError: too long"
    ]
    assert len(others) == 59
    assert all(ours == theirs for ours, theirs in others)
    assert "48 requests are asked one by one: ValueError: too long" in caplog.text


@pytest.mark.parametrize("is_bad", [False, True])
def test_own_answers_are_asked_for_together_and_an_error_fails_its_own_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, is_bad: bool
) -> None:
    types = (QuestionType.IDENTIFICATION_WITH_LABEL, *((QuestionType.WHOLE_TO_PART,) if is_bad else ()))
    questions = write_questions(tmp_path, types, num_images=6)
    batched = BatchedHashModel()
    options = PartonomyOptions(generate=",".join(types))
    for name, model in (("single", HashModel()), ("batched", batched)):
        run_model(make_config(questions, tmp_path / name, options=options), model)
    assert untimed(tmp_path / "single") == untimed(tmp_path / "batched")
    assert batched.num_generated == [4 * len(types), 2 * len(types)]
    reasons = {record.reason for record in untimed(tmp_path / "batched") if "no answer" in record.reason}
    assert bool(reasons) == is_bad
    assert ("8 requests are asked one by one: RuntimeError: no answer" in caplog.text) == is_bad


GENERATE_LABEL = PartonomyOptions(generate="identification_with_label")


@pytest.mark.parametrize("place", ["together", "alone"])
def test_a_model_that_is_gone_at_an_own_answer_ends_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    questions = write_questions(tmp_path, (QuestionType.IDENTIFICATION_WITH_LABEL,), num_images=2)
    together: Exception = ModelUnavailable("no server") if place == "together" else RuntimeError("too much")

    def fail(*_: object) -> None:
        raise together

    class Gone(BatchedHashModel):
        def generate(self, image: np.ndarray, turns: Sequence[Turn]) -> Generation:
            raise ModelUnavailable("no server") if place == "alone" else AssertionError("nobody asks alone")

    monkeypatch.setattr(HashBatch, "generate", fail)
    with pytest.raises(ModelUnavailable):
        run_model(make_config(questions, tmp_path / "run", options=GENERATE_LABEL), Gone())


def test_answers_alone_run_without_the_memory_of_answers_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    questions = write_questions(tmp_path, (QuestionType.IDENTIFICATION_WITH_LABEL,), num_images=2)
    held: list[weakref.ref[np.ndarray]] = []

    def fail(*_: object) -> None:
        cache = np.zeros(8)
        held.append(weakref.ref(cache))
        raise RuntimeError("no answer")

    class Small(BatchedHashModel):
        def generate(self, image: np.ndarray, turns: Sequence[Turn]) -> Generation:
            assert all(cache() is None for cache in held)
            fail()
            raise AssertionError

    monkeypatch.setattr(HashBatch, "generate", fail)
    run_model(make_config(questions, tmp_path / "run", options=GENERATE_LABEL), Small())
    assert [record.reason.endswith("RuntimeError: no answer") for record in untimed(tmp_path / "run")] == [True] * 2
    assert len(held) == 3


def test_a_fault_of_the_machine_ends_the_run_and_keeps_the_batches_before(
    questions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The batch before is computed but not yet recorded when the images of the next one cannot be read."""
    config = make_config(questions, tmp_path / "run")
    bad = config.load_task().items[-1].picture.path
    is_file = Path.is_file

    def fail(path: Path) -> bool:
        if path == bad:
            raise OSError(errno.EIO, "Input/output error")
        return is_file(path)

    monkeypatch.setattr(Path, "is_file", fail)
    with pytest.raises(MachineFault, match="Input/output error"):
        run_model(config, BatchedHashModel())
    monkeypatch.undo()
    records = untimed(tmp_path / "run")
    run_model(make_config(questions, tmp_path / "whole"), BatchedHashModel())
    assert 0 < len(records) < len(untimed(tmp_path / "whole"))
    assert records == untimed(tmp_path / "whole")[: len(records)]


def test_a_batch_without_memory_is_asked_one_by_one_and_only_then_ends_the_run(
    questions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(HashBatch, "score_choices", fail)
    run_model(make_config(questions, tmp_path / "alone"), BatchedHashModel())
    run_model(make_config(questions, tmp_path / "whole"), HashModel())
    assert untimed(tmp_path / "alone") == untimed(tmp_path / "whole")
    monkeypatch.setattr(BatchedHashModel, "score_choices", fail)
    with pytest.raises(MachineFault, match="MemoryError"):
        run_model(make_config(questions, tmp_path / "none"), BatchedHashModel())
    assert not (tmp_path / "none" / "summary.json").exists()


def test_only_the_types_that_are_to_be_generated_are(tmp_path: Path) -> None:
    types = (QuestionType.IDENTIFICATION_WITH_LABEL, QuestionType.POSITIVE)
    questions = write_questions(tmp_path, types, num_images=2)
    model = BatchedHashModel()
    run_model(make_config(questions, tmp_path / "run", options=PartonomyOptions(generate="positive")), model)
    assert model.num_generated == [2]


@pytest.mark.parametrize("batch", [0, 1])
def test_a_model_that_is_gone_ends_the_run_and_keeps_the_batches_before(
    questions: Path, tmp_path: Path, batch: int
) -> None:
    class Gone(BatchedHashModel):
        def open_batch(self, images: Sequence[object]) -> ImageBatch:
            if len(self.batches) == batch:
                raise ModelUnavailable("no server")
            return super().open_batch(images)

    with pytest.raises(ModelUnavailable):
        run_model(make_config(questions, tmp_path / "run"), Gone())
    assert len((tmp_path / "run" / "records.jsonl").read_text().splitlines()) == 40 * batch


def test_unreadable_images_fail_their_questions_alone(questions: Path, tmp_path: Path) -> None:
    image = questions.parent / "image1.png"
    image.write_bytes(image.read_bytes()[:400])  # the header is whole
    for name, model in (("single", HashModel()), ("batched", BatchedHashModel())):
        run_model(make_config(questions, tmp_path / name), model)
    assert untimed(tmp_path / "single") == untimed(tmp_path / "batched")
    damaged = "image1.png: the image file is damaged"
    failed = [record for record in untimed(tmp_path / "batched") if damaged in record.reason]
    assert len(failed) == 10
    assert {record.status for record in failed} == {Status.FAILED}


def test_a_batch_of_unreadable_images_fails_all_of_its_items(tmp_path: Path) -> None:
    task = gqa_task(tmp_path, 6)
    for item in task.items[:8]:
        item.picture.path.write_bytes(b"no image")
    model = BatchedHashModel()
    summary = run_task(task, task_config(task, tmp_path / "run"), model)
    assert summary is not None
    assert (summary.num_expected, summary.num_failed) == (12, 8)
    assert [len(pictures) for pictures in model.batches] == [2]


def test_resumed_runs_ask_the_same_batches_and_keep_what_is_there(questions: Path, tmp_path: Path) -> None:
    whole = BatchedHashModel()
    options = PartonomyOptions(generate="positive")  # nothing fails, and is asked again for that
    config = make_config(questions, tmp_path / "run", options=options)
    run_model(config, whole)
    path = tmp_path / "run" / "records.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:45]))  # the run died within the second batch
    (tmp_path / "run" / "summary.json").unlink()
    rest = BatchedHashModel()
    ask_model(config, rest, resume=True)
    assert rest.batches == whole.batches[1:]
    assert path.read_text().splitlines(keepends=True)[:45] == lines[:45]
    run_model(make_config(questions, tmp_path / "again", options=options), BatchedHashModel())
    assert untimed(tmp_path / "run") == untimed(tmp_path / "again")


def test_a_model_without_batches_is_asked_what_is_open_alone(questions: Path, tmp_path: Path) -> None:
    class Counting(HashModel):
        num_masks = 0

        def segment(
            self, image: np.ndarray, turns: Sequence[Turn], answer: str, spans: Sequence[CharSpan]
        ) -> np.ndarray:
            self.num_masks += 1
            return super().segment(image, turns, answer, spans)

    config = make_config(questions, tmp_path / "run", options=PartonomyOptions(generate="none"))
    run_model(config, HashModel())
    path = tmp_path / "run" / "records.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:45]))
    model = Counting()
    ask_model(config, model, resume=True)
    assert model.num_masks == 15


def test_ranks_and_shards_ask_the_same_batches(questions: Path, tmp_path: Path) -> None:
    whole = BatchedHashModel()
    run_model(make_config(questions, tmp_path / "one"), whole)
    asked = []
    for index in (1, 0):
        model = BatchedHashModel()
        ask_model(make_config(questions, tmp_path / "two"), model, rank=Rank(index, 2))
        asked += model.batches
    assert sorted(asked) == sorted(whole.batches)
    assert untimed(tmp_path / "one") == untimed(tmp_path / "two")
    for shard in ("1/2", "2/2"):
        model = BatchedHashModel()
        ask_model(dataclasses.replace(make_config(questions, tmp_path / shard[0]), shard=shard), model)
        assert model.batches == whole.batches[int(shard[0]) - 1 : int(shard[0])]


def test_boxes_make_pictures_of_their_own(tmp_path: Path) -> None:
    path = write_questions(tmp_path, (QuestionType.POSITIVE,) * 3, num_images=1)
    items = make_config(path, tmp_path / "run").load_task().items
    box = (4, 4, 10, 8)
    batch = tuple(
        QuestionItem(dataclasses.replace(item.question, box=None if place == 0 else box))
        for place, item in enumerate(items)
    )
    loaded = load_batch(BatchedHashModel(), batch)
    assert [loaded.picture_of[item.item_id] for item in batch] == [0, 1, 1]
    first = load_questions(path).questions[0]
    image = load_image(first.image_path, first.height, first.width)
    assert np.array_equal(loaded.pictures[0], image)
    assert np.array_equal(loaded.pictures[1], draw_box(image, box))
