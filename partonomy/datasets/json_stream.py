"""Large JSON files record by record, with one record in memory at a time: a list, or the lists of an object.

Python's own decoder (C code) reads each record out of a text buffer, so that a file of gigabytes costs megabytes.
"""

import json
import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from tqdm import tqdm

CHUNK_CHARACTERS = 1 << 22
LONGEST_LITERAL = len("-Infinity")  # closer to the end of the buffer than this, an error may only be a cut
BLANK = re.compile(r"[ \t\r\n]*")


def iterate_lists(path: Path, names: Collection[str]) -> Iterator[tuple[str, Any]]:
    """Yield (list name, record) for the records of the named lists of a file's top-level object, in file order.

    Everything else in the file is decoded, checked to be JSON and dropped. A progress bar counts characters.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not a JSON object, or a named entry is not a list; names the file, the list and the
            position.
    """
    with _open(path) as buffer:
        buffer.expect("{")
        while not buffer.skip("}"):
            name = buffer.decode_key()
            buffer.where = f"the entry {name!r}"
            buffer.expect(":")
            if buffer.peek() == "[":
                for record in _records(buffer, f" of {name!r}"):
                    if name in names:
                        yield name, record
            elif name in names:
                raise ValueError(f"{path}: {name!r} must be a list")
            else:
                buffer.decode()
            buffer.where = "the top-level object"
            if not buffer.skip(","):
                buffer.expect("}")
                break
        buffer.expect("")


def iterate_records(path: Path) -> Iterator[Any]:
    """Yield the records of a file that is one list, in file order. A progress bar counts characters.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not a JSON list; names the file, the record and the position.
    """
    with _open(path) as buffer:
        buffer.where = "the list"
        yield from _records(buffer, "")
        buffer.expect("")


@contextmanager
def _open(path: Path) -> Iterator["_Buffer"]:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: annotation file not found")
    with (
        path.open(encoding="utf-8-sig") as file,
        tqdm(total=path.stat().st_size, desc=path.name, unit="B", unit_scale=True, disable=None) as progress,
    ):
        yield _Buffer(path, file, progress)


def _records(buffer: "_Buffer", of_what: str) -> Iterator[Any]:
    buffer.expect("[")
    number = 0
    while not buffer.skip("]"):
        buffer.where = f"record {number}{of_what}"
        yield buffer.decode()
        number += 1
        if not buffer.skip(","):
            buffer.expect("]")
            return


class _Buffer:
    """The part of the file that is being decoded."""

    def __init__(self, path: Path, file: TextIO, progress: "tqdm[Any]") -> None:
        self._path = path
        self._file = file
        self._progress = progress
        self._decoder = json.JSONDecoder()
        self._text = ""
        self._at = 0
        self._dropped = 0  # characters before the buffer
        self.where = "the top-level object"

    def peek(self) -> str:
        """The next character that is not blank; empty at the end of the file."""
        while True:
            blank = BLANK.match(self._text, self._at)
            self._at = blank.end() if blank else self._at
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._read_more():
                return ""

    def skip(self, character: str) -> bool:
        """Whether the next character is this one; it is then consumed."""
        if self.peek() != character:
            return False
        self._at += len(character)
        return True

    def expect(self, character: str) -> None:
        """Consume this character (empty: the end of the file)."""
        if not self.skip(character):
            found, wanted = self.peek() or "the end of the file", character or "the end of the file"
            raise self._error(f"expected {wanted}, found {found}", self._at)

    def decode_key(self) -> str:
        """Decode a name of the top-level object."""
        if self.peek() != '"':
            self.expect('"')
        return str(self.decode())

    def decode(self) -> Any:
        """Decode one value of any kind."""
        self.peek()
        while True:
            try:
                value, end = self._decoder.raw_decode(self._text, self._at)
            except json.JSONDecodeError as error:
                is_cut = error.msg.startswith("Unterminated string") or error.pos + LONGEST_LITERAL > len(self._text)
                if not is_cut or not self._read_more():
                    raise self._error(error.msg, error.pos) from error
            except RecursionError as error:
                raise self._error("nested too deeply", self._at) from error
            except ValueError as error:  # an integer of thousands of digits
                raise self._error(str(error), self._at) from error
            else:
                if end < len(self._text) or not self._read_more():  # a number at the very end may go on
                    self._at = end
                    return value

    def _read_more(self) -> bool:
        """Extend the buffer, each time at least twofold, so that one huge record is not decoded again and again."""
        rest = self._text[self._at :]
        try:
            chunk = self._file.read(max(CHUNK_CHARACTERS, len(rest)))
        except UnicodeDecodeError as error:
            raise ValueError(f"{self._path}: not valid JSON, {self.where}: not UTF-8 text ({error})") from error
        if not chunk:
            return False
        self._dropped += self._at
        self._text, self._at = rest + chunk, 0
        self._progress.update(len(chunk))
        return True

    def _error(self, reason: str, position: int) -> ValueError:
        place = self._dropped + position
        return ValueError(f"{self._path}: not valid JSON, {self.where}: {reason}, near character {place}")
