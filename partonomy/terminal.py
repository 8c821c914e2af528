"""Keeps names from files from controlling a terminal or running in a spreadsheet.

Names, replies and error messages can hold characters that a terminal obeys (escape sequences set its title, overwrite
lines, reverse the direction of text) and cells that a spreadsheet runs as formulas. Both packages' command lines print
through `safe_output`; every CSV file is written through `spreadsheet_cell`.
"""

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""C0 and C1 control characters but tab and newline, line separators, overrides of direction, halves of surrogates."""
BREAKS = re.compile("[\t\n]")
FORMULA_STARTS = tuple("=+-@\t\r\n＝＋－＠")  # noqa: RUF001  the wide forms start a formula, too
NUMBER = re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)([eE][-+]?\d+)?%?")


def escape_controls(text: str) -> str:
    """Return text whose control characters are written as escapes (`\\x1b`); tabs and newlines are kept."""
    return CONTROLS.sub(_escape, text)


def one_line(text: str) -> str:
    """Return text as one line without control characters: tabs and newlines are written as escapes, too."""
    return BREAKS.sub(_escape, escape_controls(text))


def spreadsheet_cell(value: str) -> str:
    """Return the text of a CSV cell that no spreadsheet runs as a formula.

    Text that begins like a formula gets an apostrophe in front, which spreadsheets read as "this is text". Numbers and
    a single dash stay as they are.
    """
    if value.startswith(FORMULA_STARTS) and value != "-" and not NUMBER.fullmatch(value):
        return f"'{value}"
    return value


class SafeStream:
    """A text stream that writes control characters as escapes; everything else is the wrapped stream's.

    Args:
        stream: the stream that is written to.
    """

    def __init__(self, stream: TextIO) -> None:
        self.wrapped = stream

    def write(self, text: str) -> int:
        """Write text; return the number of characters given."""
        self.wrapped.write(escape_controls(text))
        return len(text)

    def writelines(self, lines: Any) -> None:
        """Write several texts."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.wrapped, name)


@contextmanager
def safe_output() -> Iterator[None]:
    """Print through filters of control characters (`SafeStream`) within the block.

    A character that the terminal's encoding lacks is written as an escape instead of ending the program.
    """
    os.environ.setdefault("PYTHON_COLORS", "0")  # argparse's colours are escape sequences as well
    before = sys.stdout, sys.stderr
    for stream in before:
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    sys.stdout, sys.stderr = _safe(before[0]), _safe(before[1])
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


def unfiltered(stream: TextIO) -> TextIO:
    """Return the stream itself of a `SafeStream`, for progress bars, which move the cursor."""
    return stream.wrapped if isinstance(stream, SafeStream) else stream


def _safe(stream: Any) -> Any:
    return stream if stream is None or isinstance(stream, SafeStream) else SafeStream(stream)


def _escape(found: re.Match[str]) -> str:
    return found.group().encode("unicode_escape", errors="surrogatepass").decode("ascii")
