"""JSON files read and written with errors that name them, checks of single values, and content hashes."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from partonomy.segmentation_checks import is_integer, shorten

RECORD_ERRORS = (ValueError, KeyError, TypeError, IndexError, AttributeError, OverflowError, RecursionError, OSError)
"""What a reader may raise while it walks through a record of any form."""


def hash_files(paths: Iterable[Path]) -> str:
    """sha256 over the contents of files, in the order given."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def hash_json(content: object) -> str:
    """sha256 of a JSON value, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode("utf-8")).hexdigest()


def write_json(path: Path, content: object, indent: int | None = None) -> None:
    """Write JSON beside its place, then switch, so that a reader never meets half a file."""
    temporary = path.with_name(path.name + ".tmp")
    separators = (",", ":") if indent is None else None
    text = json.dumps(content, indent=indent, separators=separators, ensure_ascii=False)
    temporary.write_text(text + "\n", encoding="utf-8")
    temporary.replace(path)


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object; errors name the file."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: not found; is {path.parent} a data set folder?")
    content = parse_json(path.read_bytes(), f"{path}: not valid JSON")
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected a JSON object, got {type(content).__name__}")
    return content


def parse_json(content: bytes, where: str) -> Any:
    """Parse JSON in UTF-8, with or without byte order mark.

    Raises:
        ValueError: it is none, is nested too deeply, or an object has a key twice (the first value would be lost);
            begins with `where`.
    """
    try:
        return json.loads(content.decode("utf-8-sig"), object_pairs_hook=_object_from_pairs)
    except (ValueError, RecursionError) as error:  # ValueError also for integers of thousands of digits
        raise ValueError(f"{where} ({error})") from error


def _object_from_pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {shorten(twice)} occurs twice in the object {shorten(content)}")
    return content


def check_text(value: object, name: str) -> str:
    """Return a value that must be a text, not empty, that UTF-8 can write (JSON can spell half a character).

    Raises:
        ValueError: it is something else.
    """
    if not isinstance(value, str) or not value:
        raise ValueError(f"{name} must be a text, got {shorten(value)}")
    if not value.isascii() and printable(value) != value:
        raise ValueError(f"{name} is no valid Unicode text: {shorten(printable(value))}")
    return value


def printable(text: str) -> str:
    """The text with what UTF-8 cannot write as escapes, for messages about it."""
    return text.encode("utf-8", errors="backslashreplace").decode("utf-8")


def check_relative_path(value: object, name: str) -> str:
    """Return a path that must stay in the folder it is relative to.

    By its name alone: an image folder may well hold links to another disk, but no file that comes from elsewhere may
    choose what is read outside of it.

    Raises:
        ValueError: it is no text, absolute, or has a `..` in it.
    """
    text = check_text(value, name)
    path = Path(text)
    if path.is_absolute() or path.drive or ".." in path.parts or "\0" in text:
        raise ValueError(
            f"{name} {shorten(text)} leaves the image folder; write it relative to that folder, without '..'"
        )
    return text


def check_box(values: object, name: str) -> tuple[int, int, int, int]:
    """Return a box (x, y, width, height) in whole pixels.

    Raises:
        ValueError: it is something else.
    """
    if not isinstance(values, list) or len(values) != 4 or not all(is_integer(value) for value in values):
        raise ValueError(f"{name} must be [x, y, width, height] in whole pixels, got {shorten(values)}")
    x, y, width, height = values
    if min(x, y, width, height) < 0:
        raise ValueError(f"{name} must not have a negative number, got {shorten(values)}")
    return x, y, width, height
