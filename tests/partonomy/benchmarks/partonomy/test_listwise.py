import numpy as np
import pytest

from partonomy.benchmarks.partonomy.listwise import (
    EMPTY,
    NOTHING,
    REFUSED,
    SEVERAL,
    listwise_turns,
    parse_reply,
    shuffled_order,
)
from partonomy.models.contract import Role, Turn

SHOWN = (
    "The jet in the image has the following visible parts: wing.",
    "The jet in the image has the following visible parts: wing, tail fin.",
    "The jet in the image has the following visible parts: cockpit, wing.",
    "The jet in the image has the following visible parts: wheel.",
    "The jet in the image has the following visible parts: door.",
)


@pytest.mark.parametrize(
    ("reply", "letter"),
    [
        ("B", "B"),
        ("b", "B"),
        (" b) ", "B"),
        ("(C)", "C"),
        ("[D]", "D"),
        ('"A".', "A"),
        ("**E**", "E"),
        ("`B`", "B"),
        ("B.", "B"),
        ("B. It has wings.", "B"),
        ("B: because of the tail", "B"),
        ("(B) It has wings.", "B"),
        ("B - wing and tail fin", "B"),
        ("B\n\nThe tail fin is visible.", "B"),
        ("The answer is C.", "C"),
        ("Answer: D", "D"),
        ("The correct answer is **(E)**, since a door is visible.", "E"),
        ("the correct choice is option B", "B"),
        ("Option D", "D"),
        ("I would go for choice (D) here", "D"),
        ('{"answer": "C"}', "C"),
        (r"Hence $\boxed{D}$", "D"),
        (r"\boxed{\text{A}}", "A"),
        ("A. is wrong, B. is wrong too. So the final answer is C", "C"),
        ("First I thought the answer is A, but the answer is E.", "E"),
        ("<think>It could be A. Or B.</think>\nD", "D"),
        ("It must be B, the tail is in sight.", "B"),
        ("A wheel is visible, so D.", "D"),
        ("I think A because only wings are visible", "A"),
        (SHOWN[0], "A"),
        (SHOWN[1].upper().rstrip("."), "B"),
        (f"I think that {SHOWN[2]} That is all.", "C"),
        ("I cannot see a tail fin, so (A).", "A"),
        ("The option that fits best is E", "E"),
    ],
)
def test_choices_are_read_from_what_models_write(reply: str, letter: str) -> None:
    parsed = parse_reply(reply, SHOWN)
    assert (parsed.position, parsed.problem) == ("ABCDE".index(letter), "")


@pytest.mark.parametrize(
    ("reply", "problem"),
    [
        ("", EMPTY),
        (" \n", EMPTY),
        ("<think>Let me look at A first", EMPTY),
        ("A wheel is visible.", NOTHING),
        ("F", NOTHING),
        ("The jet in the image has the following visible parts: wing, door.", NOTHING),
        ("It looks like an aircraft.", NOTHING),
        ("B or C", SEVERAL),
        ("A. wing\nB. wing, tail fin", SEVERAL),
        ("Option B or option C", SEVERAL),
        (f"{SHOWN[0]} {SHOWN[3]}", SEVERAL),
        ("I'm sorry, but I can't help with that.", REFUSED),
        ("I’m sorry, I cannot assist.", REFUSED),
        ("As an AI, I have no eyes.", REFUSED),
        ("Unfortunately I am unable to view images.", REFUSED),
    ],
)
def test_replies_without_a_choice_say_why(reply: str, problem: str) -> None:
    parsed = parse_reply(reply, SHOWN)
    assert (parsed.position, parsed.problem) == (None, problem)


def test_letters_end_with_the_choices() -> None:
    assert parse_reply("C", SHOWN[:2]).problem == NOTHING
    assert parse_reply("B", SHOWN[:2]).position == 1
    assert parse_reply("A", SHOWN[:1]).position == 0


def test_every_choice_is_named_by_its_letter_and_by_its_text() -> None:
    for position, text in enumerate(SHOWN):
        assert parse_reply("ABCDE"[position], SHOWN).position == position
        assert parse_reply(text, SHOWN).position == position


def test_order_depends_on_its_key_alone_and_is_uniform() -> None:
    assert shuffled_order("0:q1:parts", 5) == shuffled_order("0:q1:parts", 5)
    orders = np.array([shuffled_order(f"0:q{number}:parts", 5) for number in range(1000)])
    assert (np.sort(orders, axis=1) == np.arange(5)).all()
    # Each choice stands at each letter 200 times in expectation, standard deviation 13.
    counts = [[int((orders[:, letter] == choice).sum()) for choice in range(5)] for letter in range(5)]
    assert np.min(counts) > 140
    assert np.max(counts) < 260
    with pytest.raises(ValueError, match="27 choices"):
        shuffled_order("0", 27)


def test_prompt_shows_letters_under_the_last_question_alone() -> None:
    turns = (Turn(Role.USER, "What is it?"), Turn(Role.ASSISTANT, "It is a jet."), Turn(Role.USER, "Which parts?"))
    first, second, last = listwise_turns(turns, ("wing", "wheel"))
    assert (first, second) == turns[:2]
    assert last == Turn(Role.USER, "Which parts?\nA. wing\nB. wheel\nAnswer with the letter of the one correct choice.")
