"""Phrases in texts."""

import pytest

from partonomy.questions.phrases import locate_phrases


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
