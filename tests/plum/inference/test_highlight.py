import pytest

from partonomy.structures import CharSpan
from plum.inference.highlight import locate_highlights, parse_char_range

TEXT = "It has a front wheel, a wheel and a Propeller; the wheels turn."
#       0123456789...  front wheel 9:20, wheel in it 15:20, wheel 24:29, Propeller 36:45


@pytest.mark.parametrize(
    ("phrases", "expected"),
    [
        (["propeller"], [(36, 45)]),
        (["wheel", "front wheel"], [(24, 29), (9, 20)]),  # not the one inside the longer phrase
        (["wheel#1"], [(15, 20)]),
        (["wheel#2", "wheel#1"], [(24, 29), (15, 20)]),
        (["wheel", "wheel"], [(15, 20), (24, 29)]),  # as often as it is there
        (["wheel", "wheel#2"], [(15, 20), (24, 29)]),
        (["wheels"], [(51, 57)]),
    ],
)
def test_phrases_are_located(phrases: list[str], expected: list[tuple[int, int]]) -> None:
    assert locate_highlights(TEXT, phrases) == tuple(CharSpan(*bounds) for bounds in expected)


@pytest.mark.parametrize(
    ("phrases", "message"),
    [
        (["door"], "'door' is not in the answer"),
        (["whee"], "'whee' is not in the answer"),
        (["wheel"], "several times .*15:20, 24:29.* wheel#1"),
        (["wheel#0"], "no wheel#0"),
        (["wheel#3"], "occurs 2 times .* no wheel#3"),
        (["door#1"], "'door' is not in the answer"),
        (["propeller", "propeller"], "asked for 2 times, .* has 1"),
    ],
)
def test_absent_and_ambiguous_phrases_are_explained(phrases: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        locate_highlights(TEXT, phrases)


def test_ranges_of_characters() -> None:
    assert parse_char_range(" 10:19 ") == CharSpan(10, 19)
    for text in ("19:10", "5:5", "-1:5", "5", "a:b", "1:2:3"):
        with pytest.raises(ValueError, match="START:END"):
            parse_char_range(text)
