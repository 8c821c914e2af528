"""Finds the places of named phrases in an answer."""

import re
from collections.abc import Iterable, Sequence
from typing import NoReturn

from partonomy.structures import CharSpan

_NUMBERED = re.compile(r"(.+)#(\d+)")


def locate_highlights(text: str, phrases: Sequence[str]) -> tuple[CharSpan, ...]:
    """Find phrases at word boundaries, ignoring case.

    A phrase selects one occurrence: a phrase given n times must occur exactly n times. Occurrences inside a longer
    given phrase do not count ("wheel" inside "front wheel"). "wheel#2" is the second of all occurrences of "wheel".

    Args:
        text: the answer.
        phrases: in any order.

    Returns:
        One span per phrase, in the order given.

    Raises:
        ValueError: a phrase is missing or ambiguous; the message lists its positions and says how to choose one.
    """
    located: dict[int, CharSpan] = {}
    for index, phrase in enumerate(phrases):
        if numbered := _NUMBERED.fullmatch(phrase):
            located[index] = _numbered_occurrence(text, numbered[1], int(numbered[2]))
    plain = [index for index in range(len(phrases)) if index not in located]
    for index in sorted(plain, key=lambda i: -len(phrases[i])):
        if index in located:
            continue
        phrase = phrases[index]
        same = [other for other in plain if phrases[other].lower() == phrase.lower()]
        free = [span for span in find_occurrences(text, phrase) if not _is_inside(span, located.values())]
        if len(free) != len(same):
            _fail(text, phrase, free, len(same))
        located |= dict(zip(same, free, strict=True))
    return tuple(located[index] for index in range(len(phrases)))


def find_occurrences(text: str, phrase: str) -> list[CharSpan]:
    """Return all occurrences of a phrase, left to right."""
    pattern = re.compile(rf"(?<!\w){re.escape(phrase)}(?!\w)", re.IGNORECASE)
    return [CharSpan(match.start(), match.end()) for match in pattern.finditer(text)]


def _numbered_occurrence(text: str, phrase: str, number: int) -> CharSpan:
    found = find_occurrences(text, phrase)
    if not found:
        _fail(text, phrase, found, 1)
    if not 1 <= number <= len(found):
        raise ValueError(f"{phrase!r} occurs {len(found)} times in {text!r}, so there is no {phrase}#{number}")
    return found[number - 1]


def _is_inside(span: CharSpan, others: Iterable[CharSpan]) -> bool:
    return any(other.start <= span.start and span.end <= other.end for other in others)


def _fail(text: str, phrase: str, found: Sequence[CharSpan], num_wanted: int) -> NoReturn:
    if not find_occurrences(text, phrase):
        raise ValueError(f"the phrase {phrase!r} is not in the answer {text!r}")
    if len(found) < num_wanted:
        raise ValueError(f"the phrase {phrase!r} is asked for {num_wanted} times, the answer {text!r} has {len(found)}")
    places = ", ".join(f"{span.start}:{span.end}" for span in find_occurrences(text, phrase))
    raise ValueError(
        f"the phrase {phrase!r} occurs several times in the answer {text!r} (characters {places}): choose with "
        f"{phrase}#1, {phrase}#2, ... or with characters"
    )
