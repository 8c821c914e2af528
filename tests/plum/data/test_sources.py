from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from partonomy.datasets.store import load_dataset, load_questions
from partonomy.masks import decode_mask
from partonomy.structures import PartDataset, QuestionSet
from plum.data.build import IMAGE_SOURCES
from plum.data.collate import check_sample
from plum.data.sources.base import Source
from plum.data.sources.explanatory import ExplanatorySource
from plum.data.sources.look_ahead import PartStatusSource, state_parts
from plum.data.sources.part_images import PartImages
from plum.data.sources.wordings import Answer, join_names, list_targets
from plum.structures import Exchange, Sample
from tests.plum.data.part_world import HEIGHT, VOCABULARY, WIDTH, box_mask, write_world

BIPLANE, CARS, FULL_BIPLANE = 0, 1, 2


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("world")
    write_world(path)
    return path


@pytest.fixture(scope="module")
def images(folder: Path) -> PartImages:
    return PartImages(load_dataset(folder), VOCABULARY)


def _samples(source: Source, index: int, count: int = 12) -> Iterator[Sample]:
    return (source.sample(index, np.random.default_rng(seed)) for seed in range(count))


def _exchanges(source: Source, index: int, count: int = 12) -> list[Exchange]:
    return [item for sample in _samples(source, index, count) for row in sample.conversations for item in row]


def _phrases(exchange: Exchange) -> list[str]:
    return [exchange.answer[span.start : span.end] for span in exchange.spans]


@pytest.mark.parametrize("kind", IMAGE_SOURCES)
@pytest.mark.parametrize("index", [BIPLANE, CARS, FULL_BIPLANE])
def test_every_source_makes_checked_samples_from_its_generator(images: PartImages, kind: str, index: int) -> None:
    source = IMAGE_SOURCES[kind](images, 3)
    assert source.name == kind
    for first, second in zip(_samples(source, index), _samples(source, index), strict=True):
        check_sample(first)
        assert first.conversations == second.conversations
        assert 1 <= len(first.conversations) <= 3
        assert first.image is not None
        assert first.image.shape == (HEIGHT, WIDTH, 3)
        assert first.sample_id == f"world/{index}"


@pytest.mark.parametrize("kind", IMAGE_SOURCES)
def test_masks_are_those_of_the_phrases(images: PartImages, kind: str) -> None:
    source = IMAGE_SOURCES[kind](images, 3)
    truth = {
        "front wheel": box_mask(16, 20, 4, 4),
        "propeller": box_mask(4, 24, 8, 2),
        "wheel": box_mask(16, 4, 4, 4),
        "biplane": box_mask(4, 2, 16, 26),
    }
    for exchange in _exchanges(source, FULL_BIPLANE):
        for phrase, mask in zip(_phrases(exchange), exchange.masks, strict=True):
            part = phrase.removeprefix("biplane ").removesuffix(" of the biplane")
            assert np.array_equal(decode_mask(mask), truth[part])


@pytest.mark.parametrize("kind", IMAGE_SOURCES)
def test_what_a_source_says_is_among_what_it_can_say(images: PartImages, kind: str) -> None:
    """Tokenizers are trained on `exchanges`: no word of a sample may be missing there."""
    source = IMAGE_SOURCES[kind](images, 3)
    known = {word for item in source.exchanges() for word in f"{item.question} {item.answer}".split()}
    known |= {word.strip(",.?:") for word in known}
    for index in range(len(source)):
        for item in _exchanges(source, index):
            assert {word.strip(",.?:") for word in f"{item.question} {item.answer}".split()} <= known


def test_instances_of_one_name_are_merged(images: PartImages) -> None:
    (cars,) = images.scene(CARS)
    assert [part.label for part in cars.parts] == ["door", "wheel"]
    both = box_mask(10, 2, 4, 4) | box_mask(10, 20, 4, 4)
    assert np.array_equal(decode_mask(cars.parts[1].mask), both)
    assert cars.mask is None


def test_part_maps_hold_vocabulary_classes(images: PartImages) -> None:
    part_map = IMAGE_SOURCES["part_vqa"](images, 1).sample(CARS, np.random.default_rng(0)).part_map
    assert part_map is not None
    expected = np.zeros((HEIGHT, WIDTH), dtype=np.int64)
    expected[box_mask(4, 2, 6, 6)] = 4  # car:door
    expected[box_mask(10, 2, 4, 4) | box_mask(10, 20, 4, 4)] = 5  # car:wheel
    assert np.array_equal(part_map, expected)


def test_absent_parts_are_those_that_others_of_the_name_show(images: PartImages) -> None:
    (biplane,) = images.scene(BIPLANE)
    assert images.absent_parts(biplane) == ("propeller",)
    (full,) = images.scene(FULL_BIPLANE)
    assert images.absent_parts(full) == ()


def test_referring_names_part_or_whole(images: PartImages) -> None:
    exchanges = _exchanges(IMAGE_SOURCES["part_referring"](images, 3), FULL_BIPLANE, 30)
    assert {exchange.answer for exchange in exchanges} == {
        "It is the wheel.",
        "It is the front wheel.",
        "It is the propeller.",
        "It is the biplane.",
    }
    assert "Can you segment the front wheel of the biplane?" in {exchange.question for exchange in exchanges}


def test_referring_never_asks_for_a_whole_without_mask(images: PartImages) -> None:
    exchanges = _exchanges(IMAGE_SOURCES["part_referring"](images, 3), CARS, 30)
    assert {exchange.answer for exchange in exchanges} == {"It is the wheel.", "It is the door."}


def test_vqa_answers_are_true_untagged_and_without_masks(images: PartImages) -> None:
    exchanges = _exchanges(IMAGE_SOURCES["part_vqa"](images, 3), BIPLANE, 40)
    visible = {"wheel", "front wheel"}
    for exchange in exchanges:
        assert not exchange.is_tagged
        assert not exchange.masks
        for part in VOCABULARY:
            if exchange.answer in (f"Yes, the {part} is visible.", f"No, the {part} is not visible."):
                assert exchange.answer.startswith("Yes") is (part in visible)
    starts = [exchange.answer.split()[0] for exchange in exchanges]
    assert {"Yes,", "No,", "It"} == set(starts)
    assert Exchange("What is the object in the image?", "It is a biplane.", is_tagged=False) in exchanges


def test_status_tags_only_what_is_visible(images: PartImages) -> None:
    exchanges = _exchanges(IMAGE_SOURCES["part_status"](images, 3), BIPLANE, 40)
    for exchange in exchanges:
        names = exchange.answer.removesuffix(".").split(", ")
        status = {name.split(" (")[0]: name.endswith("(visible)") for name in names}
        assert status == {name: name != "propeller" for name in status}
        assert sorted(_phrases(exchange)) == sorted(name for name, is_visible in status.items() if is_visible)
        assert exchange.is_tagged
        assert 1 <= len(names) <= PartStatusSource.MAX_NAMES
    answers = {exchange.answer for exchange in exchanges}
    assert {"wheel (visible).", "propeller (missing).", "wheel (visible), propeller (missing)."} <= answers


def test_status_answer_is_exact() -> None:
    answer = state_parts(["wheel", "window", "front wheel"], [True, False, True])
    assert answer.text == "wheel (visible), window (missing), front wheel (visible)."
    assert [answer.text[span.start : span.end] for span in answer.spans] == ["wheel", "front wheel"]


@pytest.mark.parametrize(
    ("names", "text"),
    [
        (["wheel"], "It is the wheel."),
        (["wheel", "door"], "They are the wheel and door."),
        (["wheel", "door", "front wheel"], "They are the wheel, door and front wheel."),
    ],
)
def test_listed_targets_know_their_places(names: list[str], text: str) -> None:
    answer: Answer = list_targets(names)
    assert answer.text == text
    assert [text[span.start : span.end] for span in answer.spans] == names
    assert join_names(names) in text


def test_explanatory_pairs_answers_with_masks(folder: Path, images: PartImages) -> None:
    source = ExplanatorySource(load_questions(folder), (), 3, images)
    assert len(source) == 3
    sample = source.sample(1, np.random.default_rng(0))
    assert sample.part_map is not None
    by_length = sorted(sample.conversations, key=len)
    assert [len(conversation) for conversation in by_length] == [1, 2, 2]
    (only,) = by_length[0]
    assert only.question == "What visible parts does the biplane have?"
    assert only.answer == "The biplane has: front wheel, propeller, wheel."
    assert _phrases(only) == ["front wheel", "propeller", "wheel"]
    expected = [box_mask(16, 20, 4, 4), box_mask(4, 24, 8, 2), box_mask(16, 4, 4, 4)]
    assert all(np.array_equal(decode_mask(mask), truth) for mask, truth in zip(only.masks, expected, strict=True))


@pytest.mark.parametrize(("question_type", "object_place"), [("part_to_whole", 1), ("whole_to_part", 0)])
def test_part_whole_questions_become_two_exchanges(folder: Path, question_type: str, object_place: int) -> None:
    source = ExplanatorySource(load_questions(folder), (question_type,), 3)
    sample = source.sample(0, np.random.default_rng(0))
    ((*exchanges,),) = sample.conversations
    assert sample.part_map is None  # no annotations were given
    whole, parts = exchanges[object_place], exchanges[1 - object_place]
    assert whole == Exchange("What is the object in the image?", "It is a biplane.", is_tagged=False)
    assert _phrases(parts) == ["front wheel", "wheel"]


def test_a_marked_instance_is_framed_and_asked_about_apart(folder: Path) -> None:
    questions = load_questions(folder)
    first = replace(questions.questions[0], box=(10, 8, 6, 6))
    marked = QuestionSet(questions.name, (first, questions.questions[1]), questions.content_hash)
    source = ExplanatorySource(marked, (), 3)
    assert len(source) == 2  # same file, but one picture has the frame
    pictures = [source.sample(i, np.random.default_rng(0)).image for i in range(2)]
    red = [int((picture == (255, 0, 0)).all(-1).sum()) for picture in pictures if picture is not None]
    assert red[0] == 0
    assert red[1] > 0


def test_at_most_one_question_of_each_type_is_asked(folder: Path) -> None:
    questions = load_questions(folder)
    first = [question for question in questions.questions if question.image_id == 0]
    twice = [replace(question, question_id=f"{question.question_id}-again", text="Which parts?") for question in first]
    doubled = QuestionSet(questions.name, (*first, *twice), questions.content_hash)
    source = ExplanatorySource(doubled, (), 6)
    samples = list(_samples(source, 0, 20))
    # one exchange alone: identification; two: part to whole, or whole to part with the object asked about first
    shapes = [sorted((len(row), row[-1].is_tagged) for row in sample.conversations) for sample in samples]
    assert shapes == [[(1, True), (2, False), (2, True)]] * 20
    asked = {row[0].question for sample in samples for row in sample.conversations if len(row) == 1}
    assert asked == {"What visible parts does the biplane have?", "Which parts?"}, "either may be drawn"


def test_explanatory_says_every_choice(folder: Path) -> None:
    texts = {exchange.answer for exchange in ExplanatorySource(load_questions(folder), (), 1).exchanges()}
    assert {"The biplane has: door.", "It is a car.", "It is a biplane."} <= texts


def test_unknown_types_and_empty_selections_are_refused(folder: Path) -> None:
    questions = load_questions(folder)
    with pytest.raises(ValueError, match="unknown question type 'identify'"):
        ExplanatorySource(questions, ("identify",), 1)
    with pytest.raises(ValueError, match="no question of the types.*difference"):
        ExplanatorySource(questions, ("difference",), 1)


@pytest.mark.parametrize("kind", IMAGE_SOURCES)
def test_a_broken_image_names_source_and_record(tmp_path: Path, kind: str) -> None:
    dataset = write_world(tmp_path)
    path = dataset.image_root / "003.png"
    path.write_bytes(path.read_bytes()[:60])
    source = IMAGE_SOURCES[kind](PartImages(dataset, VOCABULARY), 1)
    with pytest.raises(ValueError, match=f"source {kind}, image world/3: .*003.png"):
        source.sample(3, np.random.default_rng(0))


def test_a_missing_image_names_the_question(tmp_path: Path) -> None:
    dataset = write_world(tmp_path)
    source = ExplanatorySource(load_questions(tmp_path), (), 1)
    (dataset.image_root / "002.png").unlink()
    with pytest.raises(ValueError, match="source explanatory, image world/2: .*not found"):
        source.sample(1, np.random.default_rng(0))


def test_datasets_without_parts_or_with_unknown_parts_are_refused(images: PartImages) -> None:
    dataset = images.dataset
    bare = replace(dataset.images[0], objects=())
    with pytest.raises(ValueError, match="none of its 1 images has a part"):
        PartImages(PartDataset("bare", dataset.image_root, (bare,)), VOCABULARY)
    with pytest.raises(ValueError, match=r"parts \['car:wheel'\] are not in the part vocabulary"):
        PartImages(dataset, VOCABULARY[:-1])


def test_a_single_vqa_question_is_either_kind(images: PartImages) -> None:
    source = IMAGE_SOURCES["part_vqa"](images, 1)
    asked = {
        source.sample(BIPLANE, np.random.default_rng(seed)).conversations[0][0].answer.split()[0] for seed in range(40)
    }
    assert asked == {"It", "Yes,", "No,"}
