"""Pairs of a chat model that misbehaves: what is kept, what is rejected and why."""

from pathlib import Path

import numpy as np
import pytest

from partonomy.datasets.sources.mmr import Kind
from partonomy.questions.mmr.chat import ChatMaker, NoReply, RawPair, judge_reply, read_pair, split_reply, write_prompt
from partonomy.questions.mmr.scene import read_scene
from tests.partonomy.questions.mmr_world import make_dataset, make_image

SCENE = read_scene(make_image())
FRONT, REAR, EAR = (
    "car_1's front_wheel [2, 8, 5, 11]",
    "car_2's rear_wheel [30, 8, 33, 11]",
    "dog_1's ear [14, 2, 16, 4]",
)
GOOD = f"Question 1: What turns when people drive?\nAnswer 1: The {FRONT} and the {REAR} turn."


def reasons(reply: str, kind: Kind | None = None) -> list[str]:
    return [rejection.reason for rejection in judge_reply(reply, SCENE, kind).rejections]


def test_the_prompt_lists_names_and_boxes_as_the_paper_does() -> None:
    prompt = write_prompt(SCENE, None)
    assert "20 pixels high and 40 pixels wide" in prompt
    for listed in (FRONT, REAR, EAR, "dog_1 [13, 2, 25, 11]", "Global caption:", "Question 1:", "Answer 1:"):
        assert listed in prompt
    parts, objects = write_prompt(SCENE, Kind.PART), write_prompt(SCENE, Kind.OBJECT)
    assert EAR in parts
    assert "dog_1 [" not in parts
    assert "dog_1 [" in objects
    assert EAR not in objects


def test_a_good_reply_becomes_pairs_with_marks() -> None:
    reply = "Global caption: A street.\n**Question 1:** What turns?\n"
    reply += f"**Answer 1:** The {FRONT.upper()} and the {REAR} turn."
    reply += f"\n\nQuestion 2: Who listens, and with what?\nAnswer 2: dog_1 (13.4, 2.0, 25, 11) with the {EAR}."
    made = judge_reply(reply, SCENE, None)
    assert made.rejections == ()
    first, second = made.questions
    assert (first.question_id, first.question) == ("7:0", "What turns?")
    assert first.text_answer == "The car's front wheel {seg} and the car's rear wheel {seg} turn."
    assert [one.category_name for one in first.targets] == ["car:front wheel", "car:rear wheel"]
    assert second.text_answer == "dog {seg} with the dog's ear {seg}."
    assert [one.granularity.value for one in second.targets] == ["object", "part"]


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        ("I cannot help with that.", "the reply has no pair in the form asked for"),
        ("Question 1: What turns?", "question or answer is empty"),
        (f"Answer 1: The {FRONT} turns.", "question or answer is empty"),
        (f"Question 1: What turns?\nAnswer 1: The {FRONT} and the", "the answer breaks off"),
        (f"Question 1: Which wheels turn?\nAnswer 1: The {FRONT} turns.", "the question names a target"),
        (
            "Question 1: What turns?\nAnswer 1: The boat_1's screw [1, 2, 3, 4] turns.",
            "a box stands behind no listed name",
        ),
        ("Question 1: What turns?\nAnswer 1: The boat_1's screw turns.", "a name stands without its box"),
        (f"Question 1: What turns?\nAnswer 1: The {FRONT} and car_2 turn.", "a name stands without its box"),
        (
            "Question 1: What turns?\nAnswer 1: The car_1's front_wheel [2, 8, 5, 14] turns.",
            "a box is not that of its name",
        ),
        (
            f"Question 1: What turns?\nAnswer 1: The {FRONT} turns, the {FRONT} too.",
            "a target stands in the answer twice",
        ),
        (f"Question 1: What turns?\nAnswer 1: The {FRONT} {{seg}} turns.", "the text holds {seg} of its own"),
        (
            f"Question 1: What turns?\nAnswer 1: The {FRONT} turns {{seg}} {{seg}}.",
            "{seg} and targets differ in number",
        ),
        (f"Question 1: What is the role of it?\nAnswer 1: The {FRONT} turns.", "asks what something is for"),
        (f"{GOOD}\nQuestion 2: What turns when people drive?\nAnswer 2: The {FRONT}.", "the question was asked before"),
        ("Question 1: What is here?\nAnswer 1: Nothing is.", "the answer has no target"),
    ],
)
def test_a_bad_pair_is_rejected_for_its_reason(reply: str, reason: str) -> None:
    found = reasons(reply)
    assert any(reason in one for one in found), found
    assert len(judge_reply(reply, SCENE, None).questions) == reply.count(GOOD)


def test_a_bad_pair_does_not_spoil_the_others() -> None:
    reply = f"Question 1: Which cars drive?\nAnswer 1: The {FRONT} turns.\n{GOOD.replace('1:', '2:')}"
    made = judge_reply(reply, SCENE, None)
    assert [question.question_id for question in made.questions] == ["7:0"]
    assert [rejection.reason for rejection in made.rejections] == ["the question names a target"]
    assert "Which cars drive?" in made.rejections[0].text


def test_pairs_of_another_kind_are_rejected() -> None:
    assert reasons(GOOD, Kind.PART) == []
    assert reasons(GOOD, Kind.MIXED) == ["the targets are not mixed"]


def test_heads_are_paired_by_number_and_order() -> None:
    reply = "Question 1: A?\nQuestion 2: B?\nAnswer 2: b.\nAnswer 1: a.\nQuestion 2: C?\nAnswer 2: c."
    assert split_reply(reply) == (RawPair("A?", ""), RawPair("B?", "b."), RawPair("", "a."), RawPair("C?", "c."))
    assert split_reply("the question 1: no head") == ()


def test_longer_names_are_not_taken_for_shorter_ones() -> None:
    read = read_pair(RawPair("What?", f"The {FRONT} and car_1 [1, 4, 9, 12]."), SCENE, "7:0")
    assert [one.category_name for one in read.question.targets] == ["car:front wheel", "car"]
    assert read.faults == ()


def test_an_image_without_an_answer_is_counted_and_one_without_targets_not_asked(tmp_path: Path) -> None:
    def refuse(image: np.ndarray, prompt: str) -> str:
        raise NoReply("busy")

    dataset = make_dataset(tmp_path)
    maker = ChatMaker(refuse, dataset.image_root, {"model_name": "m"})
    made = maker.make(dataset.images[0], None)
    assert [(one.criterion, one.reason, one.detail) for one in made.rejections] == [("not answered", "busy", "1.png")]
    bare = make_image(2).__class__(2, "2.png", 20, 40, ())
    assert maker.make(bare, None).rejections == ()
    assert maker.settings["model_name"] == "m"
