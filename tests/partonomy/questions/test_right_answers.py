"""Right answers on offer, counted by hand, and how they are spread."""

from collections import Counter
from pathlib import Path

import pytest

from partonomy.datasets.concept_graph import ConceptGraph, build_concept_graph
from partonomy.questions.answer_model import AnswerKind
from partonomy.questions.draws import Draws
from partonomy.questions.right_answers import AskedParts, Concepts, RightAnswers, find_owned_parts
from tests.partonomy.tiny_world import make_dataset, make_image, make_instance

# Objects: box = a b c, can = a b, cup = a d. Sorted parts a b c d are 0 1 2 3.
OBJECTS = {"box": ("a", "b", "c"), "can": ("a", "b"), "cup": ("a", "d")}
BOX, CAN = AskedParts("box", frozenset({0, 1, 2})), AskedParts("can", frozenset({0, 1}))
EXACT = [frozenset({part}) for part in range(4)]


@pytest.fixture
def graph(tmp_path: Path) -> ConceptGraph:
    images = [
        make_image(number + 1, make_instance(number, label, parts))
        for number, (label, parts) in enumerate(OBJECTS.items())
    ]
    return build_concept_graph(make_dataset(tmp_path, images))


def make_right(graph: ConceptGraph, asked: list[AskedParts]) -> RightAnswers:
    return RightAnswers(asked, graph, find_owned_parts(graph, EXACT))


def draw_all(right: RightAnswers, form: str, asked: AskedParts, seed: int) -> list[Concepts]:
    return list(right.draw(form, asked, Draws(seed)))


def test_every_answer_is_drawn_once_with_objects_that_lead_to_it(graph: ConceptGraph) -> None:
    right = make_right(graph, [BOX])
    assert draw_all(right, "identification", BOX, 0) == [Concepts(BOX.parts)]
    # In common with a can: a b, with a cup: a. Not of a can: c, not of a cup: b c.
    wanted = {
        "positive": {Concepts(frozenset({0, 1}), "can"), Concepts(frozenset({0}), "cup")},
        "negative": {Concepts(frozenset({2}), "can"), Concepts(frozenset({1, 2}), "cup")},
        # In common with a can but not a cup: b. With a cup (a) nothing is left by the can.
        "difference": {Concepts(frozenset({1}), "can", "cup")},
    }
    for form, concepts in wanted.items():
        for seed in range(5):
            drawn = draw_all(right, form, BOX, seed)
            assert set(drawn) == concepts
            assert len(drawn) == len(concepts)


def test_what_cannot_be_asked_yields_nothing(graph: ConceptGraph) -> None:
    right = make_right(graph, [BOX, AskedParts("cup", frozenset({3}))])
    # A cup of which only d is visible has nothing in common with the others.
    assert draw_all(right, "positive", AskedParts("cup", frozenset({3})), 0) == []


def test_shares_by_hand(graph: ConceptGraph) -> None:
    shares = make_right(graph, [BOX]).shares[AnswerKind("positive", "aircraft")]
    assert shares == pytest.approx({frozenset({0, 1}): 0.5, frozenset({0}): 0.5})


def test_frequent_answers_are_made_rarer(graph: ConceptGraph) -> None:
    # Boxes offer {a, b} or {a}; cups only {a}: drawn uniformly, {a} would be right in 3 of 4 questions.
    cup = AskedParts("cup", frozenset({0, 3}))
    right = make_right(graph, [BOX] * 10 + [cup] * 10)
    shares = right.shares[AnswerKind("positive", "aircraft")]
    assert shares[frozenset({0})] == pytest.approx(0.5, abs=0.02), "cups alone make it 0.5"
    generator = Draws(0)
    first = Counter(next(right.draw("positive", BOX, generator)).answer for _ in range(200))
    assert first[frozenset({0, 1})] > 190
    assert right.num_images[AnswerKind("positive", "aircraft")] == 20


def test_synonyms_of_owned_parts_are_owned(graph: ConceptGraph) -> None:
    synonyms = [frozenset({0}), frozenset({1, 3}), frozenset({2}), frozenset({1, 3})]
    assert find_owned_parts(graph, synonyms) == {
        "box": frozenset({0, 1, 2, 3}),
        "can": frozenset({0, 1, 3}),
        "cup": frozenset({0, 1, 3}),
    }


def test_wrong_answers_may_list_what_the_class_has_and_is_ever_right(graph: ConceptGraph) -> None:
    asked = [
        AskedParts("box", frozenset({0, 1})),
        AskedParts("box", frozenset({1, 2})),
        AskedParts("cup", frozenset({0})),
    ]
    right = make_right(graph, asked)
    # All three parts of a box; a fourth is needed for enough wrong answers, and a cup shares part a with it.
    listable = right.listable("identification", "box", frozenset({0, 1}))
    assert (listable.parts, listable.own) == ((0, 1, 2, 3), frozenset({0, 1, 2}))
    many = RightAnswers(asked, graph, find_owned_parts(graph, EXACT))
    many.listed = {("identification", "box"): 0b1111}
    assert many.listable("identification", "box", frozenset({0})).parts == (0, 1, 2, 3), "not only the right answer's"
