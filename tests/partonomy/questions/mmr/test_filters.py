"""The three criteria, each against a pair that breaks exactly it."""

from dataclasses import replace

import pytest

from partonomy.datasets.sources.mmr import MmrQuestion, MmrTarget
from partonomy.questions.mmr.pairs import MAX_QUESTION_WORDS, Criterion, find_faults
from partonomy.questions.mmr.scene import Scene, read_scene, says_name, word_keys
from tests.partonomy.questions.mmr_world import box, make_image

SCENE = read_scene(make_image())


def target(numbered: str) -> MmrTarget:
    return next(one.target for one in SCENE.targets if one.numbered == numbered)


GOOD = MmrQuestion(
    "7:0",
    "What touches the ground when somebody drives away, and who would bark at them?",
    (target("car_1's front_wheel"), target("car_2's rear_wheel"), target("dog_1")),
    "The car's front wheel {seg} and the car's rear wheel {seg} do, and the dog {seg} would bark.",
)
UNKNOWN = replace(target("dog_1"), mask=box(0, 0, 2, 2))


def test_a_good_pair_has_no_fault() -> None:
    assert find_faults(GOOD, SCENE) == ()


@pytest.mark.parametrize(
    ("question", "detail"),
    [
        ("Which part of this animal [14, 2, 16, 4] hears?", "[14, 2"),
        ("What is at (3, 4)?", "(3, 4"),
        ("What do the coordinates show?", "coordinates"),
        ("What would car_1 need?", "car_1"),
        ("Which wheels turn?", "front wheel, rear wheel"),
        ("What does the dog guard?", "dog"),
        ("What is under the cars' floor?", "car"),
    ],
)
def test_logicality(question: str, detail: str) -> None:
    faults = find_faults(replace(GOOD, question=question), SCENE)
    assert {fault.criterion for fault in faults} == {Criterion.LOGIC}
    assert faults[0].detail == detail


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"targets": (), "text_answer": "Nothing does."}, "the answer has no target"),
        ({"targets": GOOD.targets[:2]}, "{seg} and targets differ in number"),
        ({"targets": (*GOOD.targets[:2], UNKNOWN)}, "a target is not annotated in the image"),
        ({"targets": (GOOD.targets[0], GOOD.targets[0], GOOD.targets[2])}, "a target stands in the answer twice"),
        ({"text_answer": "This {seg} and the car's rear wheel {seg} do, and the dog {seg}."}, "does not name a target"),
        (
            {"text_answer": "A car's front wheel {seg}, a car's rear wheel {seg}, the dog {seg} with the dog's tail."},
            "the answer speaks of a part that is no target",
        ),
    ],
)
def test_coherence(change: dict[str, object], reason: str) -> None:
    faults = find_faults(replace(GOOD, **change), SCENE)  # type: ignore[arg-type]
    assert {fault.criterion for fault in faults} == {Criterion.COHERENCE}
    assert any(reason in fault.reason for fault in faults)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"question": ""}, "question or answer is empty"),
        ({"text_answer": GOOD.text_answer[:-1]}, "the answer breaks off"),
        ({"question": "What is the function of the thing at the bottom?"}, "asks what something is for"),
        ({"question": "who " * MAX_QUESTION_WORDS + "barks?"}, "the question has more than 60 words"),
        ({"question": "Which of the given names barks?"}, "speaks of the annotations"),
        ({"text_answer": GOOD.text_answer[:-1] + " [1, 2, 3, 4]."}, "coordinates or numbered names left"),
        ({"text_answer": GOOD.text_answer[:-1] + " at car_1."}, "coordinates or numbered names left"),
    ],
)
def test_clarity(change: dict[str, object], reason: str) -> None:
    faults = find_faults(replace(GOOD, **change), SCENE)  # type: ignore[arg-type]
    assert {fault.criterion for fault in faults} == {Criterion.CLARITY}
    assert any(reason in fault.reason for fault in faults)


def test_a_name_is_said_by_its_last_word_in_any_number() -> None:
    keys = word_keys("The knives' handles lie beside pickup_trucks.")
    assert [says_name(keys, name) for name in ("knife", "broom handle", "pickup truck", "truck")] == [True] * 4
    assert not says_name(keys, "pickup bed")
    assert not says_name(word_keys("a car's wheelhouse"), "wheel")


def test_a_scene_is_numbered_from_left_to_right_and_knows_what_it_lacks() -> None:
    names = [(one.numbered, one.phrase, one.box) for one in SCENE.targets]
    assert names[:3] == [
        ("car_1", "car", (1, 4, 8, 8)),
        ("car_1's door", "car's door", (5, 5, 2, 3)),
        ("car_1's front_wheel", "car's front wheel", (2, 8, 3, 3)),
    ]
    assert [one.numbered for one in SCENE.targets[3:]] == [
        "car_2",
        "car_2's rear_wheel",
        "dog_1",
        "dog_1's ear",
        "dog_1's tail",
    ]
    assert (SCENE.unmasked, SCENE.num_empty) == (frozenset(), 0)
    image = make_image()
    bare = replace(image.objects[0], mask=None, parts=(replace(image.objects[0].parts[0], mask=box(0, 0, 0, 0)),))
    found: Scene = read_scene(replace(image, objects=(bare, *image.objects[1:])))
    assert (found.unmasked, found.num_empty) == (frozenset({"car"}), 1)
    assert [one.numbered for one in found.targets if one.object_name == "car"] == [
        "car_2",
        "car_2's door",
        "car_2's front_wheel",
    ]
