from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from partonomy.datasets.sources.mmr import CategoryName, Kind, ground_answer
from partonomy.questions.mmr.pairs import find_faults
from partonomy.questions.mmr.scene import kind_of, read_scene
from partonomy.questions.mmr.templates import (
    MAX_TARGETS,
    TemplateMaker,
    group_targets,
    load_functions,
    word_question,
)
from partonomy.structures import AnnotatedImage, ObjectInstance, Part
from tests.partonomy.questions.mmr_world import FUNCTIONS, box, make_image, make_table, write_functions


def make_maker(folder: Path, seed: int = 0, questions_per_image: int = 3) -> TemplateMaker:
    return TemplateMaker(make_table(folder), "sha", seed, questions_per_image)


def test_a_purpose_asks_for_everything_that_serves_it(tmp_path: Path) -> None:
    askable = group_targets(read_scene(make_image()), make_table(tmp_path))
    found = {group.purpose: [one.numbered for one in group.targets] for group in (*askable.objects, *askable.parts)}
    assert found == {
        "travel on a road": ["car_1", "car_2"],
        "guard a house": ["dog_1"],
        "roll over the ground": ["car_1's front_wheel", "car_2's rear_wheel"],
        "listen to a sound": ["dog_1's ear"],
        "show joy": ["dog_1's tail"],
    }
    assert askable.not_askable == ("car:door",)


def test_words_of_a_question_with_two_purposes(tmp_path: Path) -> None:
    askable = group_targets(read_scene(make_image()), make_table(tmp_path))
    groups = {group.purpose: group for group in (*askable.objects, *askable.parts)}
    chosen = (groups["guard a house"], groups["roll over the ground"])
    question = word_question("7:0", chosen, np.random.default_rng(0))
    opening, further = question.question.split(", and ")
    assert opening.endswith("guard a house")
    assert further == "which part or parts does it take to roll over the ground?"
    assert question.text_answer == (
        "One would choose the dog {seg}; it takes the car's front wheel {seg} and the car's rear wheel {seg}."
    )
    answer = ground_answer(question)
    assert [answer.text[span.start : span.end] for span in answer.spans if span] == [
        "dog",
        "car's front wheel",
        "car's rear wheel",
    ]


def test_a_part_of_an_unknown_object_withholds_the_purposes_of_its_name(tmp_path: Path) -> None:
    """A cat's tail is not in the table: it may serve what the dog's tail does."""
    table = load_functions(write_functions(tmp_path, FUNCTIONS.replace("  fly straight: tail\n", "")))
    cat = ObjectInstance(4, "cat", "thing", (Part("tail", box(33, 14, 3, 1)),), box(30, 12, 6, 5))
    image = replace(make_image(), objects=(*make_image().objects, cat))
    askable = group_targets(read_scene(image), table)
    assert [group.purpose for group in askable.parts] == ["listen to a sound", "roll over the ground"]
    assert askable.withheld == ("show joy",)
    assert set(askable.not_askable) == {"car:door", "cat", "cat:tail"}
    known = replace(table, unasked=frozenset({"cat:tail"}))
    assert "show joy" in [group.purpose for group in group_targets(read_scene(image), known).parts]


def test_an_object_without_a_mask_is_not_asked_for(tmp_path: Path) -> None:
    image = make_image()
    bare = (replace(image.objects[0], mask=None), *image.objects[1:])
    askable = group_targets(read_scene(replace(image, objects=bare)), make_table(tmp_path))
    assert [group.purpose for group in askable.objects] == ["guard a house"]


def crowd(num_dogs: int) -> AnnotatedImage:
    dog = make_image().objects[2]
    return replace(make_image(), objects=tuple(replace(dog, instance_id=number) for number in range(num_dogs)))


@pytest.mark.parametrize(("num_dogs", "num_purposes"), [(MAX_TARGETS, 3), (MAX_TARGETS + 1, 0)])
def test_a_crowd_is_not_asked_for(tmp_path: Path, num_dogs: int, num_purposes: int) -> None:
    askable = group_targets(read_scene(crowd(num_dogs)), make_table(tmp_path))
    assert len(askable.objects) + len(askable.parts) == num_purposes


def test_kinds_take_turns_and_pairs_are_sound(tmp_path: Path) -> None:
    maker, counts, sizes = make_maker(tmp_path), Counter[Kind](), set()
    for number in range(40):
        image = make_image(number)
        made = maker.make(image, None)
        assert made == maker.make(image, None)
        assert [question.question_id for question in made.questions] == [f"{number}:{i}" for i in range(3)]
        assert len({question.question for question in made.questions}) == 3
        for question in made.questions:
            assert find_faults(question, read_scene(image)) == ()
            counts[kind_of(question)] += 1
            sizes.add(len(question.targets))
    assert counts == dict.fromkeys(Kind, 40)
    assert sizes == {1, 2, 3, 4, 5}  # two cars, two wheels, an ear


@pytest.mark.parametrize("kind", Kind)
def test_one_kind_alone(tmp_path: Path, kind: Kind) -> None:
    made = make_maker(tmp_path).make(make_image(), kind)
    assert len(made.questions) == 3
    assert {kind_of(question) for question in made.questions} == {kind}


def test_no_purposes_are_asked_for_twice_in_an_image(tmp_path: Path) -> None:
    """Two object purposes: each alone, and both together, in whatever order and words."""
    made = make_maker(tmp_path, questions_per_image=9).make(make_image(), Kind.OBJECT)
    asked = [frozenset(p for p in ("travel on a road", "guard a house") if p in one.question) for one in made.questions]
    assert sorted(map(len, asked)) == [1, 1, 2]
    assert len(set(asked)) == 3


def test_an_object_called_like_a_part_is_an_object(tmp_path: Path) -> None:
    chest = replace(make_image().objects[0], label="chest of drawers", parts=())
    scene = read_scene(replace(make_image(), objects=(chest,)))
    assert scene.targets[0].target.category == CategoryName("chest of drawers", None)
    table = replace(make_table(tmp_path), objects={"chest of drawers": ("store socks",)})
    (question,) = TemplateMaker(table, "sha", 0, 3).make(scene.image, None).questions
    assert "names a target" not in str(find_faults(question, scene))


def test_an_image_that_offers_less_gets_fewer_questions(tmp_path: Path) -> None:
    image = replace(make_image(), objects=(replace(make_image().objects[2], parts=()),))  # a dog without parts
    made = make_maker(tmp_path).make(image, None)
    assert [question.targets[0].category_name for question in made.questions] == ["dog"]
    assert make_maker(tmp_path).make(replace(image, objects=()), None).questions == ()


def test_a_purpose_that_names_a_target_is_rejected_and_another_asked(tmp_path: Path) -> None:
    """ "travel on a road" names no car; a part called "road" on the car would be named by it."""
    image = make_image()
    part = replace(image.objects[1].parts[0], label="road")
    image = replace(image, objects=(replace(image.objects[1], parts=(part,)),))
    (tmp_path / "f").mkdir()
    table = make_table(tmp_path / "f")
    table = replace(table, parts={**table.parts, "road": ("roll over the ground",)})
    made = TemplateMaker(table, "sha", 0, 3).make(image, Kind.MIXED)
    assert made.questions == ()
    (rejected,) = made.rejections
    assert (rejected.criterion, rejected.reason, rejected.detail) == (
        "logicality and reasoning",
        "the question names a target",
        "road",
    )


def test_seeds_differ_and_a_count_below_one_is_refused(tmp_path: Path) -> None:
    first, second = (make_maker(tmp_path, seed).make(make_image(), None).questions for seed in (0, 1))
    assert first != second
    with pytest.raises(ValueError, match="at least 1, got 0"):
        make_maker(tmp_path, questions_per_image=0)
