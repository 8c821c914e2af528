"""Where an MMR answer names its targets: plain words without `{seg}`, and a place in them for every target."""

import re
from dataclasses import dataclass

from partonomy.datasets.mmr import TARGET_MARK, MmrQuestion
from partonomy.datasets.mmr_names import phrase_pattern
from partonomy.structures import CharSpan

_NO_SPACE_BEFORE = tuple(",.;:!?)]}'’")
_LAST_WORD = re.compile(r"\S+$")


@dataclass(frozen=True)
class GroundedAnswer:
    """An answer in plain words.

    Attributes:
        text: The text answer without `{seg}`, single spaces.
        spans: Per target the phrase that names it; None where its category's name does not stand between the `{seg}`
            before its own and its own, or where it has no `{seg}`. Phrases do not overlap.
        marked_words: Per target the word after which its `{seg}` stood: a [SEG] behind it is where the file has it.
            None where there is no such word. Two `{seg}` in a row share their word.
    """

    text: str
    spans: tuple[CharSpan | None, ...]
    marked_words: tuple[CharSpan | None, ...]


def ground_answer(question: MmrQuestion) -> GroundedAnswer:
    """Take `{seg}` out of an answer and find the phrase of every target, searched back from its `{seg}`."""
    pieces = [" ".join(piece.split()) for piece in question.text_answer.split(TARGET_MARK)]
    text, marks = "", []
    for number, piece in enumerate(pieces):
        if number:
            marks.append(len(text))
        needs_space = text and piece and not piece.startswith(_NO_SPACE_BEFORE)
        text += f" {piece}" if needs_space else piece
    starts = [0, *marks]
    spans: list[CharSpan | None] = []
    words: list[CharSpan | None] = []
    for place, target in enumerate(question.targets):
        if place >= len(marks):  # fewer `{seg}` than targets
            spans.append(None)
            words.append(None)
            continue
        found = list(phrase_pattern(target.category_name).finditer(text, starts[place], marks[place]))
        spans.append(CharSpan(*found[-1].span()) if found else None)
        word = _LAST_WORD.search(text[: marks[place]])
        words.append(CharSpan(*word.span()) if word else None)
    return GroundedAnswer(text, tuple(spans), tuple(words))
