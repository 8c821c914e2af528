"""Flags that choose what to segment instead of the model's own tags, shared by `segment` and `predict`."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from plum.inference.highlight import Highlight


@dataclass(frozen=True)
class HighlightFlags:
    """What to segment.

    Attributes:
        phrases: comma-separated phrases of the answer to segment; wheel#2 is the second wheel
        char_range: range of characters of the answer to segment, START:END; repeatable
        answer: segment phrases of this answer instead of the model's own
        force: segment the phrases in an answer that is built from them ('It is the wheel.')
    """

    phrases: str = ""
    char_range: tuple[str, ...] = ()
    answer: str | None = None
    force: bool = False

    def read(self) -> "Highlight":
        """Return what the flags ask for.

        Raises:
            ValueError: they contradict each other, or a range is malformed.
        """
        from plum.inference.highlight import Highlight, parse_char_range

        ranges = tuple(map(parse_char_range, self.char_range))
        return Highlight(split_phrases(self.phrases), ranges, self.answer, self.force)


def split_phrases(text: str) -> tuple[str, ...]:
    """Split at commas and strip spaces."""
    return tuple(phrase.strip() for phrase in text.split(",") if phrase.strip())
