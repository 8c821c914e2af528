"""Phrases in texts."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from partonomy.datasets.phrases import locate_listed, locate_phrases
from partonomy.structures import CharSpan


def words(text: str, *phrases: str) -> list[tuple[int, str]]:
    """Start and text of each located phrase."""
    return [(span.start, text[span.start : span.end]) for span in locate_phrases(text, phrases)]


def test_longest_first_each_its_own() -> None:
    #       0         1         2
    #       0123456789012345678901234567
    text = "a front wheel, wheel, tail"
    assert words(text, "wheel", "front wheel", "tail") == [(15, "wheel"), (2, "front wheel"), (22, "tail")]


def test_word_boundaries() -> None:
    assert words("forehead, heads, head", "head") == [(17, "head")]
    assert words("co-pilot's seat (left)", "seat") == [(11, "seat")]


def test_the_list_after_the_colon_wins_over_the_object_s_name() -> None:
    text = "The wheel loader has: bucket, wheel."
    assert words(text, "wheel") == [(30, "wheel")]
    assert words("The wheel is on the left: see there.", "wheel") == [(4, "wheel")]


def test_repeated_phrases_take_occurrences_left_to_right() -> None:
    assert words("leg and leg", "leg", "leg") == [(0, "leg"), (8, "leg")]


def test_case_is_ignored_and_symbols_are_literal() -> None:
    assert words("Wing (left)", "wing (left)") == [(0, "Wing (left)")]


@pytest.mark.parametrize("phrases", [("wheel",), ("front wheel", "front"), ("",), (" ",)])
def test_a_phrase_without_a_place_is_named(phrases: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="has no occurrence of its own in the text 'a front wheels'") as caught:
        locate_phrases("a front wheels", phrases)
    assert any(repr(phrase) in str(caught.value) for phrase in phrases)


def test_no_phrases() -> None:
    assert locate_phrases("anything", ()) == ()


def locate_one_by_one(text: str, phrases: list[str]) -> list[CharSpan] | None:
    """The rule as it is written: each phrase, longest first, takes its first occurrence that is free."""
    for start in (text.rfind(":") + 1, 0):
        located: dict[int, CharSpan] = {}
        for index in sorted(range(len(phrases)), key=lambda i: (-len(phrases[i]), i)):
            pattern = re.compile(rf"(?<!\w)(?={re.escape(phrases[index])}(?!\w))", re.IGNORECASE)
            places = [match.start() for match in pattern.finditer(text, start)]
            spans = [CharSpan(place, place + len(phrases[index])) for place in places]
            free = [one for one in spans if all(one.end <= o.start or one.start >= o.end for o in located.values())]
            if not free:
                break
            located[index] = free[0]
        else:
            return [located[index] for index in range(len(phrases))]
    return None


WORDS = st.lists(
    st.sampled_from(["Wheel", "wheel", "front", "a", "a_b", "(a)", "ß", "İ", ":", ",", "wheels"]), max_size=9
)


@settings(max_examples=300, deadline=None, derandomize=True, database=None)
@given(
    WORDS.map(" ".join),
    st.lists(st.sampled_from(["wheel", "front wheel", "a", "A wheel", "a_b", "(a)", "İ"]), max_size=5),
)
def test_all_at_once_is_one_by_one(text: str, phrases: list[str]) -> None:
    expected = locate_one_by_one(text, phrases)
    if expected is None:
        with pytest.raises(ValueError, match="has no occurrence of its own"):
            locate_phrases(text, phrases)
    else:
        assert list(locate_phrases(text, phrases)) == expected


@pytest.mark.parametrize(
    ("text", "labels", "words"),
    [
        ("It has: tyre.", ["wheel"], ["tyre"]),
        ("It has: tyre, and sail.", ["wheel", "wing"], ["tyre", "sail"]),
        ("The car: it has: leg, tyre, and sail", ["leg", "wheel", "wing"], ["leg", "tyre", "sail"]),
        ("It has: leg, and leg.", ["left leg", "right leg"], ["leg", "leg"]),
        ("It has: tyre and sail.", ["wheel", "wing"], ["tyre", "sail"]),
        ("It has: leg, tyre and sail.", ["leg", "wheel", "wing"], ["leg", "tyre", "sail"]),
        ("It has: nut and bolt and sail.", ["screw", "wing"], ["nut and bolt", "sail"]),
        ("It has: nut and bolt, and sail.", ["screw", "wing"], ["nut and bolt", "sail"]),
        ("It has: nut and bolt.", ["screw"], ["nut and bolt"]),
    ],
)
def test_an_entry_of_the_list_stands_for_the_part_at_its_place(text: str, labels: list[str], words: list[str]) -> None:
    assert [text[span.start : span.end] for span in locate_listed(text, labels)] == words


@pytest.mark.parametrize(
    ("text", "labels", "message"),
    [
        ("It has a tyre.", ["wheel"], "has 0 entries, the answer 1"),
        ("It has: tyre, and sail.", ["wheel"], "has 2 entries, the answer 1"),
        ("It has: .", ["wheel"], "has 0 entries"),
        ("This and that: tyre.", ["wheel", "wing"], "has 1 entries, the answer 2"),
        ("It has: tyre and sail.", ["wheel", "wing", "door"], "has 1 entries, the answer 3"),
        ("It has: tyre, , sail.", ["wheel", "x", "wing"], "has 0 entries"),
        ("It has: wing, and tyre.", ["wheel", "wing"], "the part 'wing' has another position"),
    ],
)
def test_a_list_that_does_not_fit_is_refused(text: str, labels: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        locate_listed(text, labels)
