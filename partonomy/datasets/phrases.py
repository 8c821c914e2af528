"""Where part phrases stand in an answer's text (character spans), so that masks and tags can be tied to words."""

import re
from collections import defaultdict, deque
from collections.abc import Sequence

from partonomy.structures import CharSpan

BEFORE_PHRASE = re.compile(r"(?<!\w)")
MAX_SHOWN = 500  # characters of a text in an error


def locate_phrases(text: str, phrases: Sequence[str]) -> tuple[CharSpan, ...]:
    """Give every phrase its own occurrence in the text.

    Phrases are located at word boundaries, without regard to case, longest first, and an occurrence is used once: so
    "wheel" is not found inside "front wheel" when both are asked for. Equal phrases take occurrences left to right.
    "head" is found in "heads" no more than in "ahead". Answers list their parts after a colon, so when every phrase
    stands after the last colon those occurrences are taken: in "The wheel loader ... has the following visible parts:
    bucket, wheel." it is the second "wheel" that names the part.

    Args:
        text: the answer.
        phrases: the part labels, in any order; repeated labels need as many occurrences.

    Returns:
        One span per phrase, in the order of `phrases`. Spans never overlap.

    Raises:
        ValueError: a phrase has no free occurrence, naming text and phrase.
    """
    for start in dict.fromkeys((text.rfind(":") + 1, 0)):
        spans, missing = _locate_from(text, phrases, start)
        if missing is None:
            return spans
    raise ValueError(f"the phrase {missing!r} has no occurrence of its own in the text {text[:MAX_SHOWN]!r}")


def locate_listed(text: str, labels: Sequence[str]) -> tuple[CharSpan, ...]:
    """Give every label the entry of the answer's list at its place, whatever word stands there.

    The published correct answers to "... in common with a Y?" name a part by Y's word for it, or by its lemma, while
    the labels are those of the masks. Both are in one order: the authors' code writes text and labels from one list.

    Args:
        text: an answer that ends in a colon and a list, ": a, b, and c.".
        labels: the part labels, in the order of the list.

    Returns:
        One span per label, in reading order.

    Raises:
        ValueError: no list after a colon, another number of entries than labels, or a label that stands in the list
            at another place than its own.
    """
    entries = _list_entries(text)
    if len(entries) != len(labels):
        raise ValueError(
            f"the list after the colon of {text[:MAX_SHOWN]!r} has {len(entries)} entries, the answer {len(labels)}"
        )
    folded = [_fold(label) for label in labels]
    known = set(folded)
    for label, entry in zip(folded, entries, strict=True):
        word = _fold(text[entry.start : entry.end])
        if word in known and word != label:
            raise ValueError(
                f"the part {word!r} stands at another place of {text[:MAX_SHOWN]!r} than in the answer's parts"
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


def _locate_from(text: str, phrases: Sequence[str], start: int) -> tuple[tuple[CharSpan, ...], str | None]:
    """Locate all phrases at or after `start`; the second value is the first phrase that could not be."""
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
    """Where every phrase stands, left to right; one look-up per place and length, however many phrases there are."""
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
    """Lower case, letter by letter, so that places stay the same ("İ" would become two letters)."""
    lowered = text.lower()
    if len(lowered) == len(text):
        return lowered
    return "".join(letter.lower() if len(letter.lower()) == 1 else letter for letter in text)
