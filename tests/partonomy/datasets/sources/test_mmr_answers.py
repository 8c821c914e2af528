"""Plain words and phrases of MMR's answers."""

import pytest

from partonomy.datasets.sources.mmr import Granularity, GroundedAnswer, MmrQuestion, MmrTarget, ground_answer
from partonomy.structures import RLE, CharSpan

MASK = RLE(1, 1, "01")


def ground(text_answer: str, *names: str) -> GroundedAnswer:
    targets = tuple(MmrTarget(name, MASK, Granularity.OBJECT) for name in names)
    return ground_answer(MmrQuestion("1:0", "?", targets, text_answer))


def words(answer: GroundedAnswer, spans: tuple[CharSpan | None, ...]) -> list[str | None]:
    return [None if span is None else answer.text[span.start : span.end] for span in spans]


def phrases(text_answer: str, *names: str) -> list[str | None]:
    answer = ground(text_answer, *names)
    return words(answer, answer.spans)


def test_the_papers_example() -> None:
    """Section 4: the answer about closing a laptop."""
    answer = ground(
        "When closing the laptop, laptop computer's screen {seg} would come into contact with laptop computer's base "
        "panel {seg}.",
        "laptop_computer:screen",
        "laptop_computer:base_panel",
    )
    assert answer.text == (
        "When closing the laptop, laptop computer's screen would come into contact with laptop computer's base panel."
    )
    assert words(answer, answer.spans) == ["laptop computer's screen", "laptop computer's base panel"]
    assert words(answer, answer.marked_words) == ["screen", "panel"]


@pytest.mark.parametrize(
    ("written", "text"),
    [
        ("a {seg} , b {seg} and c{seg}!", "a, b and c!"),
        ("{seg} stands first", "stands first"),
        ("a{seg}b", "a b"),
        ("the cup {seg}'s rim", "the cup's rim"),
        ("(a {seg}) b", "(a) b"),
        ("a {seg}  {seg}\n b ", "a b"),
        ("", ""),
    ],
)
def test_text_without_marks(written: str, text: str) -> None:
    assert ground(written).text == text


@pytest.mark.parametrize(
    ("written", "name", "phrase"),
    [
        ("Hold knife_1's handle {seg}.", "knife:handle", "knife_1's handle"),
        ("Hold the knife’s handle {seg}.", "knife's handle", "knife’s handle"),
        ("Hold the knives' handles {seg}.", "handle of the knife", "knives' handles"),
        ("Hold the Knife handle {seg}.", "knife:handle", "Knife handle"),
        ("Hold the handle of the knife {seg}.", "knife:handle", "handle of the knife"),
        ("Hold the handle {seg} of the knife.", "knife:handle", "handle"),
        ("The trash-can {seg} is full.", "trash_can", "trash-can"),
        ("Move the mouse (computer equipment) {seg}.", "mouse_(computer_equipment)", "mouse (computer equipment)"),
        ("Its feet {seg} are wet.", "dog:foot", "feet"),
        ("The bodies {seg} touch.", "bottle:body", "bodies"),
        ("The scissors {seg} cut.", "scissors", "scissors"),
        # the last one before the mark, whatever stands between
        ("A wheel holds; the rear wheel, which is black, {seg} rolls.", "car:wheel", "wheel"),
        ("It is wheeled {seg}.", "car:wheel", None),
        ("It {seg} rolls.", "car:wheel", None),
        ("A television {seg} hangs there.", "tv", None),
    ],
)
def test_a_phrase_is_searched_back_from_its_mark(written: str, name: str, phrase: str | None) -> None:
    assert phrases(written, name) == [phrase]


def test_a_phrase_belongs_to_one_target() -> None:
    answer = ground("The wheels {seg} {seg} and the car {seg} roll.", "car:wheel", "car:wheel", "car")
    assert words(answer, answer.spans) == ["wheels", None, "car"]
    assert words(answer, answer.marked_words) == ["wheels", "wheels", "car"]  # a [SEG] may follow another
    assert answer.spans[0] == answer.marked_words[0] == CharSpan(4, 10)


def test_marks_and_targets_of_different_number() -> None:
    assert phrases("The cup {seg}.", "cup", "plate") == ["cup", None]
    answer = ground("The cup {seg} and the plate {seg}.", "cup")
    assert words(answer, answer.spans) == ["cup"]
    assert answer.text == "The cup and the plate."
    nothing = ground("{seg} is it.", "cup")
    assert (nothing.spans, nothing.marked_words) == ((None,), (None,))
