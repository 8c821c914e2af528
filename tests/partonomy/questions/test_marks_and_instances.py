"""Which objects are asked about and marked, and what a build says about it."""

from dataclasses import replace
from pathlib import Path

import pytest

from partonomy.datasets.concept_graph import build_concept_graph
from partonomy.datasets.instances import InstanceRule
from partonomy.datasets.store import load_dataset, load_questions
from partonomy.questions.answer_mutator import MutationMode
from partonomy.questions.build_config import QuestionBuildConfig
from partonomy.questions.generator import build_questions
from partonomy.questions.marks import count_marks, describe_grouping
from partonomy.structures import PartDataset
from tests.partonomy.tiny_world import VEHICLES, make_dataset, make_image, make_instance

CONFIG = QuestionBuildConfig(embedding_model="char-ngram-tfidf")


@pytest.fixture
def two_in_each(tmp_path: Path) -> PartDataset:
    """Two vehicles in every image; the first has more parts annotated."""
    labels = sorted(VEHICLES)
    images = []
    for number in range(12):
        first, second = labels[number % len(labels)], labels[(number + 1) % len(labels)]
        instances = (
            make_instance(2 * number, first, VEHICLES[first], category=first),
            make_instance(2 * number + 1, second, VEHICLES[second][:2], category=second),
        )
        images.append(make_image(number, *instances))
    return make_dataset(tmp_path / "images", images)


def test_ambiguous_objects_are_marked_by_default_and_as_before_in_the_papers_modes(
    two_in_each: PartDataset, tmp_path: Path
) -> None:
    for mutation, is_marked in (
        (MutationMode.BALANCED, True),
        (MutationMode.PAPER, False),
        (MutationMode.AUTHORS, False),
    ):
        folder = tmp_path / mutation.value
        build_questions(two_in_each, replace(CONFIG, mutation=mutation), folder)
        questions = load_questions(folder).questions
        unnamed = [question for question in questions if not question.question_type.names_object]
        assert {question.box is not None for question in unnamed} == {is_marked}
        marks = count_marks(load_dataset(folder), questions)
        assert marks.num_ambiguous == (0 if is_marked else len(unnamed))
        assert marks.num_marked == (len(unnamed) if is_marked else 0)
        assert ("--mark_objects ambiguous" in marks.describe()) is not is_marked


def test_one_instance_of_each_class_is_asked_about_on_request(two_in_each: PartDataset, tmp_path: Path) -> None:
    asked = {}
    for rule in InstanceRule:
        build_questions(two_in_each, replace(CONFIG, instances=rule), tmp_path / rule.value)
        questions = load_questions(tmp_path / rule.value).questions
        assert len({question.question_id for question in questions}) == len(questions)
        named = [one for one in questions if one.question_type.value == "identification_with_label"]
        asked[rule] = sorted((question.image_id, question.object_label) for question in named)
    labels = sorted(VEHICLES)
    first = [(number, labels[number % len(labels)]) for number in range(12)]
    second = [(number, labels[(number + 1) % len(labels)]) for number in range(12)]
    assert asked[InstanceRule.IMAGE] == first
    assert asked[InstanceRule.CLASS] == sorted(first + second)


def test_objects_without_a_category_draw_from_their_own_and_compared_classes(tmp_path: Path) -> None:
    """Paper, 3.2: no "ice cream cone" for an airplane. The cart shares a part with nothing."""
    objects = {
        "mug": ("rim", "handle", "base", "wall", "logo"),
        "pan": ("rim", "handle", "side", "lid"),
        "cart": ("wheel", "axle", "bed", "rail"),
    }
    images = [
        make_image(number, make_instance(number, label, parts[: 3 + number // 3 % 2], category=label))
        for number, (label, parts) in enumerate(list(objects.items()) * 6)
    ]
    dataset = make_dataset(tmp_path / "images", images)
    assert not build_concept_graph(dataset).is_grouped("mug")
    build_questions(dataset, replace(CONFIG, mutation=MutationMode.PAPER), tmp_path / "set")
    seen = set()
    for question in load_questions(tmp_path / "set").questions:
        if question.object_label == "mug" and question.question_type.value.startswith("positive"):
            seen |= {part for choice in question.choices for part in choice.parts}
    assert seen, "mugs are compared with pans"
    assert len(seen & set(objects["cart"])) == 0, "related parts are left"
    assert "their own parts and those of the classes" in describe_grouping(dataset, MutationMode.PAPER)
