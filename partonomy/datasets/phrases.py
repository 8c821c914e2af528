"""Locates part phrases in an answer's text (character spans), to link masks and tags to words."""

import re
from collections import defaultdict, deque
from collections.abc import Sequence

from partonomy.structures import CharSpan

BEFORE_PHRASE = re.compile(r"(?<!\w)")
MAX_SHOWN = 500  # characters of the text that an error message quotes


def locate_phrases(text: str, phrases: Sequence[str]) -> tuple[CharSpan, ...]:
    """Assign every phrase its own occurrence in the text.

    Phrases are matched at word boundaries, regardless of case and longest first, and an occurrence is used only once.
    "wheel" is therefore not found inside "front wheel" if both are requested, and "head" is found neither in "heads"
    nor in "ahead". Equal phrases take occurrences from left to right. Answers list their parts after a colon, so if
    every phrase occurs after the last colon, those occurrences are used: in "The wheel loader ... has the following
    visible parts: bucket, wheel." the second "wheel" names the part.

    Args:
        text: the answer.
        phrases: the part labels, in any order; a repeated label needs as many occurrences.

    Returns:
        One span per phrase, in the order of `phrases`. Spans never overlap.

    Raises:
        ValueError: a phrase has no free occurrence; the message names text and phrase.
    """
    for start in dict.fromkeys((text.rfind(":") + 1, 0)):
        spans, missing = _locate_from(text, phrases, start)
        if missing is None:
            return spans
    raise ValueError(f"the phrase {missing!r} has no occurrence of its own in the text {text[:MAX_SHOWN]!r}")


def locate_listed(text: str, labels: Sequence[str]) -> tuple[CharSpan, ...]:
    """Assign every label the entry at its position in the answer's list, whatever the entry's word.

    The published correct answers to "... in common with a Y?" name a part by Y's word for it, or by its lemma, but the
    labels are those of the masks. Both have the same order, because the authors' code writes text and labels from one
    list: the k-th entry is the k-th label, also where two parts share one of Y's words ("wheel, and wheel" for the
    parts "rim" and "wheel").

    Args:
        text: an answer that ends in a colon and a list: ": a, b, and c.", ": a, b and c." or ": a, b, c.".
        labels: the part labels, in the order of the list.

    Returns:
        One span per label, in reading order.

    Raises:
        ValueError: there is no list after a colon, the numbers of entries and labels differ, or a label occurs in the
            list, but not at its own position.
    """
    entries = _list_entries(text)
    if len(entries) == len(labels) - 1:
        entries = _split_last(text, entries)
    if len(entries) != len(labels):
        raise ValueError(
            f"the list after the colon of {text[:MAX_SHOWN]!r} has {len(entries)} entries, the answer "
            f"{len(labels)} parts"
        )
    folded = [_fold(label) for label in labels]
    words = [_fold(text[entry.start : entry.end]) for entry in entries]
    own_place = {label for label, word in zip(folded, words, strict=True) if label == word}
    for label in folded:
        if label in words and label not in own_place:
            raise ValueError(
                f"the part {label!r} has another position in {text[:MAX_SHOWN]!r} than in the answer's parts"
            )
    return entries


def _list_entries(text: str) -> tuple[CharSpan, ...]:
    colon = text.rfind(":")
    if colon < 0:
        return ()
    end = len(text.rstrip().removesuffix("."))
    spans: list[CharSpan] = []
    position = colon + 1
    while position < end:
        comma = text.find(",", position, end)
        stop = end if comma < 0 else comma
        words = re.compile(r"\s*(?:and\s+)?" if spans else r"\s*").match(text, position, stop)
        assert words is not None  # every part of the pattern is optional
        spans.append(CharSpan(words.end(), words.end() + len(text[words.end() : stop].rstrip())))
        position = stop + 1
    return tuple(spans) if all(span.start < span.end for span in spans) else ()


def _split_last(text: str, entries: tuple[CharSpan, ...]) -> tuple[CharSpan, ...]:
    """Split the last entry at its last "and", as in ": a, b and c."; other lists are returned as they are."""
    found = list(re.finditer(r"\s+and\s+", text[: entries[-1].end])) if entries else []
    if not found or found[-1].start() <= entries[-1].start:
        return entries
    before, after = CharSpan(entries[-1].start, found[-1].start()), CharSpan(found[-1].end(), entries[-1].end)
    return (*entries[:-1], before, after)


def _locate_from(text: str, phrases: Sequence[str], start: int) -> tuple[tuple[CharSpan, ...], str | None]:
    """Locate all phrases at or after `start`; the second value is the first phrase that was not found, if any."""
    occurrences = _find_all(text, phrases, start)
    is_taken = bytearray(len(text) + 1)
    located: dict[int, CharSpan] = {}
    for index in sorted(range(len(phrases)), key=lambda i: (-len(phrases[i]), i)):
        places = occurrences[_fold(phrases[index])]
        length = len(phrases[index])
        # No longer phrase is left, so one that overlaps covers this one's first or last character.
        while places and (is_taken[places[0]] or is_taken[places[0] + length - 1]):
            places.popleft()
        if not places:
            return (), phrases[index]
        begin = places.popleft()
        is_taken[begin : begin + length] = b"\1" * length
        located[index] = CharSpan(begin, begin + length)
    return tuple(located[index] for index in range(len(phrases))), None


def _find_all(text: str, phrases: Sequence[str], start: int) -> dict[str, deque[int]]:
    """Find all positions of every phrase, left to right, with one look-up per position and phrase length."""
    wanted = {_fold(phrase) for phrase in phrases if phrase.strip()}
    folded = _fold(text)
    places = [match.start() for match in BEFORE_PHRASE.finditer(text, start)] if wanted else []
    found: dict[str, deque[int]] = defaultdict(deque)
    for length in {len(phrase) for phrase in wanted}:
        for place in places:
            candidate = folded[place : place + length]
            after = text[place + length : place + length + 1]
            if len(candidate) == length and candidate in wanted and not (after.isalnum() or after == "_"):
                found[candidate].append(place)
    return found


def _fold(text: str) -> str:
    """Lower the case of each letter separately, so that positions do not change ("İ" would become two letters)."""
    lowered = text.lower()
    if len(lowered) == len(text):
        return lowered
    return "".join(letter.lower() if len(letter.lower()) == 1 else letter for letter in text)
