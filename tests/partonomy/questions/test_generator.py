"""Questions of a data set: what they ask, what is skipped and why, and the same bytes every time."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from partonomy.datasets.instances import choose_instance
from partonomy.datasets.store import ANNOTATIONS_FILE, BUILD_FILE, QUESTIONS_FILE, load_questions
from partonomy.masks import encode_mask
from partonomy.questions.answer_mutator import MutationMode
from partonomy.questions.generator import BuildSummary, QuestionBuildConfig, build_questions
from partonomy.questions.image_questions import MarkRule, SkipReason, question_generator
from partonomy.structures import RLE, PartDataset, Question, QuestionType
from tests.partonomy.tiny_world import VEHICLES, draw_part, make_dataset, make_image, make_instance, make_vehicles

CONFIG = QuestionBuildConfig(embedding_model="char-ngram-tfidf")
COMPARISON_TYPES = [t for t in QuestionType if t.value.startswith(("positive", "negative", "difference"))]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("built") / "set"
    build_questions(make_vehicles(folder / "images", 36), CONFIG, folder)
    return folder


def questions_of(folder: Path, question_type: QuestionType) -> list[Question]:
    return [question for question in load_questions(folder).questions if question.question_type is question_type]


def labels_named(text: str) -> list[str]:
    """Objects that a question compares with, in order; labels of the tiny world do not contain each other but one."""
    found = [(text.find(f" {article} {label}"), label) for label in VEHICLES for article in ("a", "an")]
    return [label for position, label in sorted(found) if position >= 0]


def test_every_question_has_five_choices_masks_and_phrases(built: Path) -> None:
    questions = load_questions(built).questions
    for question in questions:
        assert len(question.choices) == 5
        assert len({frozenset(choice.parts) for choice in question.choices}) == 5
        for choice in question.choices:
            assert list(choice.parts) == sorted(choice.parts)
            assert tuple(choice.text[span.start : span.end] for span in choice.part_spans) == choice.parts
        assert tuple(part.label for part in question.masks) == question.correct_choice.parts
    # The right answer stands in every place, so that a tie broken by place gives nothing away.
    places = {[choice.is_correct for choice in question.choices].index(True) for question in questions}
    assert places == {0, 1, 2, 3, 4}
    asked = [(question.image_id, question.question_type) for question in questions]
    assert len(set(asked)) == len(asked)


def test_answers_follow_the_definitions(built: Path) -> None:
    # The first six images show all parts of their class, the others miss one; a class has its parts in VEHICLES.
    counts = dict.fromkeys(QuestionType, 0)
    visible_parts = {row.image_id: row.correct_choice.parts for row in questions_of(built, QuestionType.IDENTIFICATION)}
    for question in load_questions(built).questions:
        counts[question.question_type] += 1
        visible = set(visible_parts[question.image_id])
        answer = set(question.correct_choice.parts)
        concepts = labels_named(question.text)
        assert question.object_label not in concepts
        form = question.question_type.value.removesuffix("_with_label")
        if form == "positive":
            assert answer == visible & set(VEHICLES[concepts[0]])
        elif form == "negative":
            assert answer == visible - set(VEHICLES[concepts[0]]) != visible
        elif form == "difference":
            assert len(concepts) == 2
            assert answer == (visible & set(VEHICLES[concepts[0]])) - set(VEHICLES[concepts[1]])
        else:
            assert answer == visible
        assert (question.object_label in question.text) == (
            question.question_type.names_object or question.question_type is QuestionType.WHOLE_TO_PART
        )
    assert all(counts.values())


def test_object_questions_offer_siblings(built: Path) -> None:
    for question in questions_of(built, QuestionType.PART_TO_WHOLE):
        assert question.object_question is not None
        labels = [choice.label for choice in question.object_question.choices]
        assert len(set(labels)) == 5
        assert set(labels) <= set(VEHICLES)
        assert question.object_question.correct_choice.label == question.object_label


@pytest.mark.parametrize("mutation", list(MutationMode))
def test_same_seed_same_bytes_at_any_worker_count(tmp_path: Path, mutation: MutationMode) -> None:
    if mutation is not MutationMode.PAPER:
        worker_counts: tuple[int, ...] = (1, 1)
    else:
        worker_counts = (1, 2)
    contents = []
    for number, num_workers in enumerate(worker_counts):
        folder = tmp_path / str(number)
        dataset = make_vehicles(folder / "images", 12)
        build_questions(dataset, replace(CONFIG, mutation=mutation, num_workers=num_workers), folder)
        contents.append([(folder / name).read_bytes() for name in (QUESTIONS_FILE, ANNOTATIONS_FILE, BUILD_FILE)])
    assert contents[0] == contents[1]


def test_another_seed_asks_otherwise(built: Path, tmp_path: Path) -> None:
    build_questions(make_vehicles(tmp_path / "images", 36), replace(CONFIG, seed=1), tmp_path)
    assert (tmp_path / QUESTIONS_FILE).read_bytes() != (built / QUESTIONS_FILE).read_bytes()
    assert (
        question_generator(0, 1, QuestionType.POSITIVE).random()
        != question_generator(0, 2, QuestionType.POSITIVE).random()
    )


def test_a_type_is_drawn_alike_with_and_without_the_others(built: Path, tmp_path: Path) -> None:
    config = replace(CONFIG, question_types=(QuestionType.NEGATIVE,))
    summary = build_questions(make_vehicles(tmp_path / "images", 36), config, tmp_path)
    assert summary.embedding_model is None
    alone = load_questions(tmp_path).questions
    assert [question.choices for question in alone] == [
        question.choices for question in questions_of(built, QuestionType.NEGATIVE)
    ]


def build(folder: Path, dataset: PartDataset) -> BuildSummary:
    return build_questions(dataset, CONFIG, folder)


def test_one_object_class_cannot_be_compared(tmp_path: Path) -> None:
    parts = ("door", "hood", "roof", "trunk", "wheel")
    images = [make_image(number, make_instance(number, "car", parts[: 3 + number % 2])) for number in range(1, 5)]
    images.append(make_image(9, make_instance(9, "car", parts)))
    summary = build(tmp_path, make_dataset(tmp_path / "images", images))
    assert summary.num_questions[QuestionType.IDENTIFICATION] == 5
    reasons = {row.question_type: (row.reason, row.count) for row in summary.skipped}
    for question_type in COMPARISON_TYPES:
        assert summary.num_questions[question_type] == 0
        assert reasons[question_type] == (SkipReason.ONE_OBJECT, 5)
    assert reasons[QuestionType.PART_TO_WHOLE] == (SkipReason.FEW_OBJECTS, 5)
    assert load_questions(tmp_path).skipped == summary.skipped


def test_images_without_parts_and_small_vocabularies_are_counted(tmp_path: Path) -> None:
    images = [make_image(1, make_instance(1, "cup", ("handle", "rim"))), make_image(2, make_instance(2, "cup", ()))]
    summary = build(tmp_path, make_dataset(tmp_path / "images", images))
    rows = [row for row in summary.skipped if row.question_type is QuestionType.IDENTIFICATION]
    assert {(row.reason, row.count) for row in rows} == {(SkipReason.NO_PARTS, 1), (SkipReason.FEW_CHOICES, 1)}
    for question_type in QuestionType:
        counted = sum(row.count for row in summary.skipped if row.question_type is question_type)
        assert counted + summary.num_questions[question_type] == 2


def test_concepts_that_share_nothing_are_not_asked_about(tmp_path: Path) -> None:
    images = [
        make_image(1, make_instance(1, "cup", ("base", "handle", "rim"))),
        make_image(2, make_instance(2, "dog", ("ear", "leg", "tail"))),
    ]
    summary = build(tmp_path, make_dataset(tmp_path / "images", images))
    reasons = {row.question_type: row.reason for row in summary.skipped}
    assert [reasons[question_type] for question_type in COMPARISON_TYPES] == [SkipReason.NO_CONCEPT] * 6


def test_no_part_at_all_is_an_error(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path / "images", [make_image(1, make_instance(1, "cup", ()))])
    with pytest.raises(ValueError, match="no annotated part in 1 images"):
        build(tmp_path, dataset)
    assert not (tmp_path / BUILD_FILE).exists()


def test_the_instance_with_most_parts_is_asked_and_marked(tmp_path: Path) -> None:
    small = replace(make_instance(1, "airplane", ("wing", "fuselage")), mask=draw_part(1))
    large = replace(make_instance(2, "airplane", ("wing", "fuselage")), mask=encode_mask_of_everything())
    few = replace(make_instance(3, "airplane", ("wing",)), mask=encode_mask_of_everything())
    image = make_image(100, small, large, few)
    assert choose_instance(image) is large
    others = make_vehicles(tmp_path / "images", 12).images
    build(tmp_path, make_dataset(tmp_path / "images", [*others, image]))
    asked = [question for question in load_questions(tmp_path).questions if question.image_id == 100]
    assert asked
    for question in asked:
        assert question.box == (0, 0, 20, 16)
        assert "in the red box" in question.text
    rest = [question for question in load_questions(tmp_path).questions if question.image_id != 100]
    assert {question.box for question in rest} == {None}


def test_ambiguous_questions_are_marked_on_request(tmp_path: Path) -> None:
    image = make_image(100, make_instance(1, "airplane", VEHICLES["airplane"]), make_instance(2, "jet", ("wing",)))
    others = make_vehicles(tmp_path / "images", 12).images
    dataset = make_dataset(tmp_path / "images", [*others, image])
    build_questions(dataset, replace(CONFIG, mark_objects=MarkRule.AMBIGUOUS), tmp_path)
    asked = [question for question in load_questions(tmp_path).questions if question.image_id == 100]
    assert {question.box is not None for question in asked if question.question_type.names_object} == {False}
    # Four columns of parts at x = 0, 2, 4, 6, rows 2 to 11.
    assert {question.box for question in asked if not question.question_type.names_object} == {(0, 2, 8, 10)}


def test_build_file_records_how(built: Path) -> None:
    content = json.loads((built / BUILD_FILE).read_text())
    assert content["embedding_model"] == "char-ngram-tfidf"
    assert content["config"]["mutation"] == "balanced"
    assert sum(content["num_questions"].values()) == len(load_questions(built).questions)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": -1}, "seed must be"),
        ({"num_workers": 0}, "num_workers must be"),
        ({"question_types": ()}, "question_types must name"),
        ({"part_comparison": "magic"}, "part_comparison must be one of"),
    ],
)
def test_config_checks_its_values(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(CONFIG, **changes)  # type: ignore[arg-type]


def encode_mask_of_everything() -> RLE:
    return encode_mask(np.ones((16, 20), bool))
