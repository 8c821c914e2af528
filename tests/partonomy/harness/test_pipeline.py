import dataclasses
import hashlib
import weakref
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from partonomy.harness.runner import Job, run_evaluation
from PIL import Image

from partonomy.benchmarks.partonomy.records import Status
from partonomy.harness import ranks as sharding
from partonomy.harness.ranks import Rank
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
from partonomy.structures import CharSpan, ChoiceScore, QuestionType
from tests.partonomy.conftest import write_questions
from tests.partonomy.running import make_config, run_model, untimed


class HashModel:
    """Answers by what it is shown and told, one question at a time."""

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
            raise RuntimeError("out of memory")
        spans = (CharSpan(0, 4),)
        return Generation(turns[-1].text, spans, self.segment(image, turns, turns[-1].text, spans), (0.5,))


class BatchedHashModel(HashModel):
    """The same answers for batches of images, and a note of what it was asked."""

    def __init__(self, fail_on: str = "") -> None:
        self.fail_on = fail_on
        self.batches: list[tuple[bytes, ...]] = []
        self.rounds: list[list[ChoiceRequest]] = []
        self.num_generated: list[int] = []

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
        if self.model.fail_on and any(self.model.fail_on in request.turns[-1].text for request in requests):
            raise ValueError("some question of the batch is bad")
        return [self.model.score_choices(self.pictures[r.image], r.turns, r.choices) for r in requests]

    def segment(self, requests: Sequence[MaskRequest]) -> list[np.ndarray]:
        """Ask one by one."""
        return [self.model.segment(self.pictures[r.image], r.turns, r.answer, r.spans) for r in requests]

    def generate(self, requests: Sequence[AnswerRequest]) -> list[Generation]:
        """Ask one by one."""
        self.model.num_generated.append(len(requests))
        return [self.model.generate(self.pictures[r.image], r.turns) for r in requests]


def _number(image: np.ndarray, *words: str) -> float:
    digest = hashlib.sha256(image.tobytes() + "|".join(words).encode()).digest()
    return int.from_bytes(digest[:4], "big") / 2**32


@pytest.fixture
def questions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Six images: batches of four and of two."""
    monkeypatch.setattr(sharding, "MIN_BATCHES", 1)
    return write_questions(tmp_path, tuple(QuestionType), num_images=6)


def test_the_contract_is_recognised() -> None:
    assert isinstance(BatchedHashModel(), BatchedModel)
    assert not isinstance(HashModel(), BatchedModel)


@pytest.mark.parametrize("part_whole", ["gold", "predicted"])
def test_batches_give_the_records_of_single_questions(questions: Path, tmp_path: Path, part_whole: str) -> None:
    batched = BatchedHashModel()
    for name, model in (("single", HashModel()), ("batched", batched)):
        run_model(dataclasses.replace(make_config(questions, tmp_path / name), part_whole=part_whole), model)
    assert untimed(tmp_path / "single") == untimed(tmp_path / "batched")
    assert [len(pictures) for pictures in batched.batches] == [4, 2]
    # After the correct first answer all is known at once; after the model's own, the second question has to wait.
    assert [len(requests) for requests in batched.rounds] == ([48, 24] if part_whole == "gold" else [40, 8, 20, 4])


def test_an_error_of_a_batch_belongs_to_the_question_that_raises_it(
    questions: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class OneBadQuestion(BatchedHashModel):
        def score_choices(self, image: np.ndarray, turns: Sequence[Turn], choices: Sequence[str]) -> list[ChoiceScore]:
            if "(negative)" in turns[-1].text and image.tobytes() == self.batches[0][0]:
                raise ValueError("too long")
            return super().score_choices(image, turns, choices)

    run_model(make_config(questions, tmp_path / "single"), HashModel())
    run_model(make_config(questions, tmp_path / "bad"), OneBadQuestion())
    records = untimed(tmp_path / "bad")
    assert [record.reason for record in records if record.question_type is QuestionType.NEGATIVE] == [
        "ValueError: too long",
        *[""] * 5,
    ]
    others = [
        (ours, theirs)
        for ours, theirs in zip(records, untimed(tmp_path / "single"), strict=True)
        if ours.reason != "ValueError: too long"
    ]
    assert len(others) == 59
    assert all(ours == theirs for ours, theirs in others)
    assert "40 questions from record-000000 on are asked one by one: ValueError: too long" in caplog.text


@pytest.mark.parametrize("is_bad", [False, True])
def test_own_answers_are_asked_for_together_and_an_error_fails_its_own_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, is_bad: bool
) -> None:
    monkeypatch.setattr(sharding, "MIN_BATCHES", 1)
    types = (QuestionType.IDENTIFICATION_WITH_LABEL, *((QuestionType.WHOLE_TO_PART,) if is_bad else ()))
    questions = write_questions(tmp_path, types, num_images=6)
    batched = BatchedHashModel()
    for name, model in (("single", HashModel()), ("batched", batched)):
        run_model(dataclasses.replace(make_config(questions, tmp_path / name), generate=tuple(map(str, types))), model)
    assert untimed(tmp_path / "single") == untimed(tmp_path / "batched")
    assert batched.num_generated == [4 * len(types), 2 * len(types)]
    reasons = {record.reason for record in untimed(tmp_path / "batched") if "out of memory" in record.reason}
    assert bool(reasons) == is_bad
    assert ("own answers are asked for one by one: RuntimeError: out of memory" in caplog.text) == is_bad


@pytest.mark.parametrize("place", ["together", "alone"])
def test_a_model_that_is_gone_at_an_own_answer_ends_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    monkeypatch.setattr(sharding, "MIN_BATCHES", 1)
    questions = write_questions(tmp_path, (QuestionType.IDENTIFICATION_WITH_LABEL,), num_images=2)
    together: Exception = ModelUnavailable("no server") if place == "together" else RuntimeError("too much")

    def fail(*_: object) -> None:
        raise together

    class Gone(BatchedHashModel):
        def generate(self, image: np.ndarray, turns: Sequence[Turn]) -> Generation:
            raise ModelUnavailable("no server") if place == "alone" else AssertionError("nobody asks alone")

    monkeypatch.setattr(HashBatch, "generate", fail)
    config = dataclasses.replace(make_config(questions, tmp_path / "run"), generate=("identification_with_label",))
    with pytest.raises(ModelUnavailable):
        run_model(config, Gone())


def test_answers_alone_run_without_the_memory_of_answers_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sharding, "MIN_BATCHES", 1)
    questions = write_questions(tmp_path, (QuestionType.IDENTIFICATION_WITH_LABEL,), num_images=2)
    held: list[weakref.ref[np.ndarray]] = []

    def fail(*_: object) -> None:
        cache = np.zeros(8)
        held.append(weakref.ref(cache))
        raise RuntimeError("out of memory")

    class Small(BatchedHashModel):
        def generate(self, image: np.ndarray, turns: Sequence[Turn]) -> Generation:
            assert all(cache() is None for cache in held)
            fail()
            raise AssertionError

    monkeypatch.setattr(HashBatch, "generate", fail)
    config = dataclasses.replace(make_config(questions, tmp_path / "run"), generate=("identification_with_label",))
    run_model(config, Small())
    assert [record.reason.endswith("RuntimeError: out of memory") for record in untimed(tmp_path / "run")] == [True] * 2
    assert len(held) == 3


def test_only_the_types_that_are_to_be_generated_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharding, "MIN_BATCHES", 1)
    types = (QuestionType.IDENTIFICATION_WITH_LABEL, QuestionType.POSITIVE)
    questions = write_questions(tmp_path, types, num_images=2)
    model = BatchedHashModel()
    run_model(dataclasses.replace(make_config(questions, tmp_path / "run"), generate=("positive",)), model)
    assert model.num_generated == [2]


def test_a_model_that_is_gone_ends_the_run(questions: Path, tmp_path: Path) -> None:
    class Gone(BatchedHashModel):
        def open_batch(self, images: Sequence[object]) -> ImageBatch:
            raise ModelUnavailable("no server")

    with pytest.raises(ModelUnavailable):
        run_model(make_config(questions, tmp_path / "run"), Gone())
    assert (tmp_path / "run" / "records.jsonl").read_text() == ""


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


def test_resumed_runs_ask_the_same_batches_and_keep_what_is_there(questions: Path, tmp_path: Path) -> None:
    whole = BatchedHashModel()
    config = make_config(questions, tmp_path / "run")
    run_model(config, whole)
    path = tmp_path / "run" / "records.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:45]))  # the run died within the second batch
    (tmp_path / "run" / "summary.json").unlink()
    rest = BatchedHashModel()
    job = Job(config, lambda config, rank: rest)
    run_evaluation(job, job.load_questions(), True, Rank())
    assert rest.batches == whole.batches[1:]
    assert path.read_text().splitlines(keepends=True)[:45] == lines[:45]
    run_model(make_config(questions, tmp_path / "again"), BatchedHashModel())
    assert untimed(tmp_path / "run") == untimed(tmp_path / "again")


def test_ranks_and_shards_ask_the_same_batches(questions: Path, tmp_path: Path) -> None:
    whole = BatchedHashModel()
    run_model(make_config(questions, tmp_path / "one"), whole)
    asked = []
    for index in (1, 0):
        model = BatchedHashModel()
        job = Job(make_config(questions, tmp_path / "two"), lambda config, rank, model=model: model)
        run_evaluation(job, job.load_questions(), False, Rank(index, 2))
        asked += model.batches
    assert sorted(asked) == sorted(whole.batches)
    assert untimed(tmp_path / "one") == untimed(tmp_path / "two")
    for shard in ("1/2", "2/2"):
        model = BatchedHashModel()
        run_config = dataclasses.replace(make_config(questions, tmp_path / shard[0]), shard=shard)
        job = Job(run_config, lambda config, rank, model=model: model)
        run_evaluation(job, job.load_questions(), False, Rank())
        assert model.batches == whole.batches[int(shard[0]) - 1 : int(shard[0])]


def test_boxes_make_pictures_of_their_own(tmp_path: Path) -> None:
    from partonomy.harness.pipeline import load_batch

    from partonomy.datasets.store import load_questions
    from partonomy.harness.ranks import ImageGroup
    from partonomy.images import draw_box, load_image

    path = write_questions(tmp_path, (QuestionType.POSITIVE,) * 3, num_images=1)
    first, second, third = load_questions(path).questions
    box = (4, 4, 10, 8)
    group = ImageGroup((first, dataclasses.replace(second, box=box), dataclasses.replace(third, box=box)))
    batch = load_batch(BatchedHashModel(), [group])
    assert [shown.picture for shown in batch.shown] == [0, 1, 1]
    image = load_image(first.image_path, first.height, first.width)
    assert np.array_equal(batch.pictures[0], image)
    assert np.array_equal(batch.pictures[1], draw_box(image, box))


def test_small_runs_are_dealt_image_by_image_and_large_ones_in_batches(tmp_path: Path) -> None:
    from partonomy.datasets.store import load_questions
    from partonomy.harness.ranks import select_questions, select_shard, shard_images

    Image.new("RGB", (32, 24)).save(tmp_path / "image0.png")
    question = load_questions(write_questions(tmp_path, (QuestionType.POSITIVE,), 1)).questions[0]
    for num_images, size in ((100, 1), (130, 2), (1000, 4)):
        many = tuple(
            dataclasses.replace(question, image_id=number, question_id=str(number)) for number in range(num_images)
        )
        questions = dataclasses.replace(load_questions(tmp_path / "test_qa_pairs.json"), questions=many)
        selection = select_questions(questions, (QuestionType.POSITIVE,), None)
        batches = shard_images(selection, Rank())
        assert [len(batch) for batch in batches[:-1]] == [size] * (len(batches) - 1)
        shard = select_shard(selection, Rank(1, 3))
        dealt = [batch for rank in range(2) for batch in shard_images(shard, Rank(rank, 2))]
        assert set(dealt) == set(batches[1::3])  # the same batches, in a shard and in its ranks
