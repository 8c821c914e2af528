"""Flags that choose what to segment instead of the model's own tags, shared by `segment` and `predict`."""

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from plum.inference.highlight import Highlight


def add_highlight_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    parser.add_argument(
        "--phrases", default="", help="comma-separated phrases of the answer to segment; wheel#2 is the second wheel"
    )
    parser.add_argument(
        "--char_range",
        action="append",
        default=[],
        help="range of characters of the answer to segment, START:END; repeatable",
    )
    parser.add_argument("--answer", help="segment phrases of this answer instead of the model's own")
    parser.add_argument(
        "--force",
        action="store_true",
        help="segment the phrases in an answer that is built from them ('It is the wheel.')",
    )


def read_highlight(arguments: argparse.Namespace) -> "Highlight":
    """Return what the flags ask for.

    Raises:
        ValueError: they contradict each other, or a range is malformed.
    """
    from plum.inference.highlight import Highlight, parse_char_range

    ranges = tuple(map(parse_char_range, arguments.char_range))
    return Highlight(split_phrases(arguments.phrases), ranges, arguments.answer, arguments.force)


def split_phrases(text: str) -> tuple[str, ...]:
    """Split at commas and strip spaces."""
    return tuple(phrase.strip() for phrase in text.split(",") if phrase.strip())
