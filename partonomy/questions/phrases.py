"""Where part phrases stand in an answer's text (character spans), so that masks and tags can be tied to words."""

import re
from collections.abc import Sequence

from partonomy.structures import CharSpan


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
    raise ValueError(f"the phrase {missing!r} has no occurrence of its own in the text {text!r}")


def _locate_from(text: str, phrases: Sequence[str], start: int) -> tuple[tuple[CharSpan, ...], str | None]:
    """Locate all phrases at or after `start`; the second value is the first phrase that could not be."""
    taken: list[CharSpan] = []
    located: dict[int, CharSpan] = {}
    for index in sorted(range(len(phrases)), key=lambda i: (-len(phrases[i]), i)):
        span = _find_free(text, phrases[index], start, taken)
        if span is None:
            return (), phrases[index]
        taken.append(span)
        located[index] = span
    return tuple(located[index] for index in range(len(phrases))), None


def _find_free(text: str, phrase: str, start: int, taken: Sequence[CharSpan]) -> CharSpan | None:
    if not phrase.strip():
        return None
    pattern = re.compile(rf"(?<!\w){re.escape(phrase)}(?!\w)", flags=re.IGNORECASE)
    for match in pattern.finditer(text, start):
        if all(match.end() <= span.start or match.start() >= span.end for span in taken):
            return CharSpan(match.start(), match.end())
    return None
