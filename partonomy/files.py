"""Files on disk: JSON with errors that name the file, atomic writes, checks of single values, content hashes.

Large JSON files are read record by record, with one record in memory at a time (`iterate_records`, `iterate_lists`).
"""

import hashlib
import json
import os
import re
import reprlib
import time
import uuid
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, TextIO, TypeGuard, TypeVar

import msgspec

from partonomy.progress import BYTES, Progress, progress

RECORD_ERRORS = (ValueError, KeyError, TypeError, IndexError, AttributeError, OverflowError, RecursionError, OSError)
"""The errors that a reader can raise on a malformed record."""

NOT_JSON = "not valid JSON"
CHUNK_CHARACTERS = 1 << 22
HASH_BLOCK = 1 << 20
LONGEST_LITERAL = len("-Infinity")  # an error closer than this to the buffer's end may only mean a cut-off value
BLANK = re.compile(r"[ \t\r\n]*")
REMAINS = re.compile(r"\..+\.[0-9a-f]{32}\.tmp")  # names of the temporary files of `open_atomically`

T = TypeVar("T")

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 80


_REASONS: tuple[tuple[tuple[type[Exception], ...], str], ...] = (
    ((KeyError,), "the key {} is missing"),
    ((IndexError,), "a list is too short ({})"),
    ((TypeError, AttributeError), "a value is of the wrong type ({})"),
)


def reason_of(error: Exception) -> str:
    """Return what is wrong with a record, from one of `RECORD_ERRORS`, worded as the end of a message."""
    wording = next((wording for kinds, wording in _REASONS if isinstance(error, kinds)), "{}")
    return printable(wording.format(error))


def hash_files(paths: Iterable[Path]) -> str:
    """Return the sha256 over the contents of the files, in the given order."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while block := file.read(HASH_BLOCK):
                digest.update(block)
    return digest.hexdigest()


def hash_json(content: object) -> str:
    """Return the sha256 of a JSON value, independent of the order of its keys."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode("utf-8")).hexdigest()


def json_bytes(content: object) -> bytes:
    """Return JSON in UTF-8. Half a surrogate pair, which UTF-8 cannot encode, becomes its JSON escape."""
    return json.dumps(content, ensure_ascii=False).encode("utf-8", errors="backslashreplace")


def write_json(path: Path, content: object, indent: int | None = None) -> None:
    """Write JSON in UTF-8 atomically (`open_atomically`), without whitespace unless `indent` is given."""
    separators = (",", ":") if indent is None else None
    write_text_atomically(path, json.dumps(content, indent=indent, separators=separators, ensure_ascii=False) + "\n")


def write_text_atomically(path: Path, text: str) -> None:
    """Write UTF-8 text atomically (`open_atomically`); half a surrogate pair becomes its escape, e.g. `\\ud800`."""
    with open_atomically(path) as file:
        file.write(text.encode("utf-8", errors="backslashreplace"))


@contextmanager
def open_atomically(path: Path) -> Iterator[BinaryIO]:
    """Open a temporary file for writing that replaces `path` atomically when the block ends without an error.

    Readers see the complete old or the complete new content, even after a power cut. The temporary file lies in the
    same folder under a unique name (`.NAME.<random>.tmp`), so that two writers cannot mix their bytes. An error
    removes it; only a killed process leaves it behind (see `remove_remains`).

    Args:
        path: the file to write, in an existing folder.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with temporary.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def remove_remains(folder: Path, min_seconds: float = 0.0) -> None:
    """Delete the temporary files of killed processes.

    Args:
        folder: the folder; other folders in it are left alone.
        min_seconds: minimum age of a file since its last change. 0 is only for the one process that writes to the
            folder.
    """
    for path in folder.glob(".*.tmp"):
        if not REMAINS.fullmatch(path.name):
            continue
        with suppress(FileNotFoundError):  # another process may have renamed or deleted it
            if not min_seconds or time.time() - path.stat().st_mtime > min_seconds:
                path.unlink()


def _sync_folder(folder: Path) -> None:
    """Flush a folder's entries to disk, because a power cut could otherwise lose a new file name."""
    if os.name == "nt":  # Windows cannot open a folder, and it journals renames
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def require_readable(path: Path) -> None:
    """Raise the system's error about a file that cannot be opened, before a library is asked that names another reason.

    Raises:
        OSError: the file is missing or may not be read; its `filename` names it.
    """
    path.open("rb").close()


def files_below(folder: Path) -> Iterator[Path]:
    """Yield the files of a folder and of all folders in it; links to folders are not followed.

    `Path.rglob` skips a folder that may not be read without a word.

    Raises:
        OSError: a folder may not be read; its `filename` names it.
    """

    def refuse(error: OSError) -> None:
        raise error

    for place, _, names in os.walk(folder, onerror=refuse):
        yield from (Path(place) / name for name in names)


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file does not hold a JSON object.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: not found; is {path.parent} the right folder?")
    content = parse_json(path.read_bytes(), f"{path}: not valid JSON")
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected a JSON object, got {type(content).__name__}")
    return content


def parse_json(content: bytes, where: str) -> Any:
    """Parse UTF-8 JSON, with or without a byte order mark.

    Raises:
        ValueError: the content is not JSON, is nested too deeply, or repeats a key in an object (the first value would
            be lost). The message begins with `where`.
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


def read_json_as(path: Path, kind: type[T], cure: str) -> T:
    """Read a JSON file that this project wrote itself, strictly; see `convert_json`.

    Args:
        path: the file.
        kind: the type of its content: a dataclass, a `msgspec.Struct`, or a type made of lists and mappings.
        cure: what to do about a damaged file, as the end of a message.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not JSON, or its content is not of this type. The message names the file, the place and
            the cure.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: not found; is {path.parent} the right folder?")
    try:
        content = parse_json(path.read_bytes(), f"{path}: not valid JSON")
    except ValueError as error:
        raise ValueError(f"{error}; {cure}") from error
    return convert_json(content, kind, str(path), cure)


def convert_json(content: object, kind: type[T], where: str, cure: str) -> T:
    """Return a parsed JSON value as `kind`, and change no value: "1", 1.0 and true are no integers, null is no text.

    Args:
        content: the value; keys that `kind` does not have are ignored.
        kind: a dataclass, a `msgspec.Struct`, or a type made of lists and mappings.
        where: the file, and the record if there are several; the message begins with it.
        cure: what to do about it; the message ends with it.

    Raises:
        ValueError: a field is missing or has another type, e.g. "curation.json: images[3]: 'source' is missing; ...".
    """
    try:
        return match_json(content, kind)
    except ValueError as error:
        raise ValueError(f"{where}: {error}; {cure}") from error


def match_json(content: object, kind: type[T]) -> T:
    """Return a parsed JSON value as `kind`, like `convert_json`, for a caller that names the file itself.

    Raises:
        ValueError: a field is missing or has another type, e.g. "images[3]: 'source' is missing".
    """
    try:
        return msgspec.convert(content, kind)
    except msgspec.ValidationError as error:
        raise ValueError(printable(_describe_mismatch(str(error), content))) from error


_MISMATCH = re.compile(r"(?P<what>.*?)(?: - at `(?:key in )?\$(?P<path>.*)`)?", re.DOTALL)
_STEP = re.compile(r"\.(?P<key>[^.\[]+)|\[(?P<index>\d+)\]")
_EXPECTED = re.compile(r"Expected `(?P<types>[a-z| ]+)`(?P<bound>.*), got .*", re.DOTALL)
_ANY_KEY = "[...]"  # in a path of msgspec: any key of a mapping
_TYPE_NAMES = {
    "int": "an integer",
    "float": "a number",
    "str": "a text",
    "bool": "true or false",
    "array": "a list",
    "object": "an object",
    "null": "null",
}


def _describe_mismatch(message: str, content: object) -> str:
    """Word an error of msgspec, e.g. "Expected `int`, got `str` - at `$.images[3].id`", with the value at fault."""
    match = _MISMATCH.fullmatch(message)
    path = (match["path"] if match else None) or ""
    what = match["what"] if match else message
    if missing := re.fullmatch(r"Object missing required field `(.*)`", what):
        return f"{path.lstrip('.')}: {missing[1]!r} is missing" if path else f"{missing[1]!r} is missing"
    place, _, field = path.replace(_ANY_KEY, "[]").lstrip(".").rpartition(".")
    place, field = place.replace("[]", _ANY_KEY), field.replace("[]", _ANY_KEY)
    name = f"{place}: {field!r}" if place else field if field.endswith("]") else repr(field)
    expected = _EXPECTED.fullmatch(what)
    if expected is None:  # e.g. "Invalid enum value 'x'"
        return f"{name}: {what[:1].lower()}{what[1:]}" if path else f"{what[:1].lower()}{what[1:]}"
    types = " or ".join(_TYPE_NAMES.get(one, one) for one in expected["types"].split(" | "))
    found, is_known = _find_value(content, path)
    shown = f", got {shorten(found)}" if is_known else ""
    return f"{name if path else 'the content'} must be {types}{expected['bound']}{shown}"


def _find_value(content: object, path: str) -> tuple[object, bool]:
    """Return the value at a path of msgspec, and whether the path names it (a key of a mapping is only `[...]`)."""
    position = 0
    while position < len(path):
        step = _STEP.match(path, position)
        if step is None:
            return None, False
        key, position = step["key"] if step["index"] is None else int(step["index"]), step.end()
        try:
            content = content[key]  # type: ignore[index]  # the path is that of an error in this content
        except (KeyError, IndexError, TypeError):
            return None, False
    return content, True


def is_integer(value: object) -> TypeGuard[int]:
    """Return whether a JSON value is an integer; true and false are not."""
    return isinstance(value, int) and not isinstance(value, bool)


def shorten(value: object) -> str:
    """Describe a value in about 80 characters at most, even if it is large or deeply nested."""
    return _SHORT.repr(value)


def check_text(value: object, name: str) -> str:
    """Return `value` if it is a non-empty string that UTF-8 can encode (JSON can contain half a surrogate pair).

    Raises:
        ValueError: it is not such a string.
    """
    if not isinstance(value, str) or not value:
        raise ValueError(f"{name} must be a non-empty string, got {shorten(value)}")
    if not value.isascii() and printable(value) != value:
        raise ValueError(
            f"{name} is not valid Unicode text: {shorten(value)} contains half a surrogate pair; "
            "write the text again as UTF-8"
        )
    return value


def printable(text: str) -> str:
    """Return `text` for use in messages, with escapes for characters that UTF-8 cannot encode."""
    return text.encode("utf-8", errors="backslashreplace").decode("utf-8")


def check_relative_path(value: object, name: str) -> str:
    """Return `value` if it is a relative path that stays in the folder it is relative to.

    Only the path's text is checked. An image folder may contain links to another disk, but a downloaded annotation file
    must not name files outside the folder.

    Raises:
        ValueError: it is not a string, is absolute, or contains `..`.
    """
    text = check_text(value, name)
    path = Path(text)
    if path.is_absolute() or path.drive or ".." in path.parts or "\0" in text:
        raise ValueError(
            f"{name} {shorten(text)} leaves the image folder; write it relative to that folder, without '..'"
        )
    return text


def check_box(values: object, name: str) -> tuple[int, int, int, int]:
    """Return `values` as a box (x, y, width, height) in whole pixels.

    Raises:
        ValueError: they are not four non-negative integers.
    """
    if not isinstance(values, list) or len(values) != 4 or not all(is_integer(value) for value in values):
        raise ValueError(f"{name} must be [x, y, width, height] in whole pixels, got {shorten(values)}")
    x, y, width, height = values
    if min(x, y, width, height) < 0:
        raise ValueError(f"{name} must not contain a negative number, got {shorten(values)}")
    return x, y, width, height


class MissingListsError(ValueError):
    """A file's top-level object lacks lists, or has other values under their names.

    Attributes:
        names: the names, in alphabetical order.
    """

    def __init__(self, message: str, names: Iterable[str]) -> None:
        super().__init__(message)
        self.names = tuple(sorted(names))


def iterate_lists(path: Path, names: Collection[str], *, is_strict: bool = False) -> Iterator[tuple[str, Any]]:
    """Yield (list name, record) for the records of the named lists of a file's top-level object, in file order.

    Everything else in the file is decoded, checked to be JSON and dropped. Progress counts characters.

    Args:
        path: the file to read.
        names: the names of the lists.
        is_strict: refuse an object that repeats a key, as `read_json` does, and a file that lacks one of the lists.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not a JSON object, or a named entry is not a list (`MissingListsError`). The message
            names the file, the list and the position.
    """
    seen = set[str]()
    yield from _iterate_lists(path, names, is_strict, seen)
    if is_strict and (missing := set(names) - seen):
        raise MissingListsError(f"{path}: the list {min(missing)!r} is missing; copy or write the file again", missing)


def iterate_tables(path: Path, names: Sequence[str]) -> Iterator[tuple[str, Any]]:
    """Yield (list name, record) for the records of the named lists in the order of the names, wherever they are.

    The file is refused for what `read_json` refuses. Only the last list is read record by record; the others are held.
    If it does not come last in the file, the file is read twice.

    Args:
        path: the file to read.
        names: the names of the lists, that of the longest last.

    Raises:
        FileNotFoundError: there is no such file.
        MissingListsError: a named entry is missing, or is not a list.
        ValueError: the file is not a JSON object or repeats a key; the message names the file and the position.
    """
    if not path.is_file() or not _is_object(path):
        read_json(path)  # raises
    *first, last = names
    seen = set[str]()
    held: dict[str, list[Any]] = {name: [] for name in first}
    is_ready = False
    for name, record in _iterate_lists(path, names, True, seen, NOT_JSON):
        if name != last:
            held[name].append(record)
        elif is_ready or seen.issuperset(first):
            if not is_ready:
                yield from ((one, row) for one in first for row in held[one])
                is_ready = True
            yield name, record
    if missing := set(names) - seen:
        raise MissingListsError(f"{path}: the list {min(missing)!r} is missing; copy or write the file again", missing)
    if not is_ready:
        yield from ((one, row) for one in first for row in held[one])
        yield from _iterate_lists(path, (last,), True, set(), NOT_JSON)


def is_list(path: Path) -> bool:
    """Return whether the first character of a file's JSON begins a list."""
    return _first_character(path) == "["


def _is_object(path: Path) -> bool:
    return _first_character(path) == "{"


def _first_character(path: Path) -> str:
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        while (text := file.read(CHUNK_CHARACTERS)) and not text.strip(" \t\r\n"):
            pass
    return text.lstrip(" \t\r\n")[:1]


def _iterate_lists(
    path: Path, names: Collection[str], is_strict: bool, seen: set[str], refusal: str | None = None
) -> Iterator[tuple[str, Any]]:
    """Do the work of `iterate_lists`; `seen` receives the names of the top-level object as they begin."""
    with _open(path, is_strict, refusal) as buffer:
        buffer.expect("{")
        while not buffer.skip("}"):
            name = buffer.decode_key()
            if is_strict and name in seen:
                raise ValueError(f"{path}: not valid JSON (the key {shorten(name)} occurs twice in the object)")
            seen.add(name)
            buffer.where = f"the entry {name!r}"
            buffer.expect(":")
            if buffer.peek() == "[":
                for record in _records(buffer, f" of {name!r}"):
                    if name in names:
                        yield name, record
            elif name in names:
                raise MissingListsError(f"{path}: {name!r} must be a list", [name])
            else:
                buffer.decode()
            buffer.where = "the top-level object"
            if not buffer.skip(","):
                buffer.expect("}")
                break
        buffer.expect("")


def compact_json(path: Path) -> Iterator[bytes]:
    """Yield a file's JSON object again, without whitespace, lists record by record, as `write_json` writes the whole.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not a JSON object or repeats a key; the message names the file and the position.
    """
    if not path.is_file() or not _is_object(path):
        read_json(path)  # raises
    seen = set[str]()
    with _open(path, is_strict=True, refusal=NOT_JSON) as buffer:
        buffer.expect("{")
        yield b"{"
        while not buffer.skip("}"):
            name = buffer.decode_key()
            if name in seen:
                raise ValueError(f"{path}: not valid JSON (the key {shorten(name)} occurs twice in the object)")
            yield (b"," if seen else b"") + compact_bytes(name) + b":"
            seen.add(name)
            buffer.where = f"the entry {name!r}"
            buffer.expect(":")
            if buffer.peek() == "[":
                yield b"["
                for number, record in enumerate(_records(buffer, f" of {name!r}")):
                    yield (b"," if number else b"") + compact_bytes(record)
                yield b"]"
            else:
                yield compact_bytes(buffer.decode())
            buffer.where = "the top-level object"
            if not buffer.skip(","):
                buffer.expect("}")
                break
        buffer.expect("")
    yield b"}"


def compact_bytes(content: object) -> bytes:
    """Return JSON without whitespace, as `write_json` writes it; see `json_bytes`."""
    text = json.dumps(content, separators=(",", ":"), ensure_ascii=False)
    return text.encode("utf-8", errors="backslashreplace")


def iterate_records(path: Path, *, is_strict: bool = False, refusal: str | None = None) -> Iterator[Any]:
    """Yield the records of a file that holds a single list, in file order. Progress counts characters.

    Args:
        path: the file to read.
        is_strict: refuse an object that repeats a key.
        refusal: what an error says of the whole file, before the reason and the place in brackets; None names the place
            first.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not a JSON list. The message names the file, the record and the position.
    """
    with _open(path, is_strict, refusal) as buffer:
        buffer.where = "the list"
        yield from _records(buffer, "")
        buffer.expect("")


@contextmanager
def _open(path: Path, is_strict: bool, refusal: str | None = None) -> Iterator["_Buffer"]:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: annotation file not found; is {path.parent} the right folder?")
    decoder = json.JSONDecoder(object_pairs_hook=_object_from_pairs) if is_strict else json.JSONDecoder()
    with (
        path.open(encoding="utf-8-sig") as file,
        progress(path.stat().st_size, path.name, BYTES) as shown,
    ):
        yield _Buffer(path, file, shown, decoder, refusal)


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
    """The portion of the file that is being decoded."""

    def __init__(
        self, path: Path, file: TextIO, shown: Progress, decoder: json.JSONDecoder, refusal: str | None = None
    ) -> None:
        self._path = path
        self._refusal = refusal
        self._file = file
        self._progress = shown
        self._decoder = decoder
        self._text = ""
        self._at = 0
        self._dropped = 0  # number of characters before the buffer
        self.where = "the top-level object"

    def peek(self) -> str:
        """Return the next character that is not whitespace; empty at the end of the file."""
        while True:
            blank = BLANK.match(self._text, self._at)
            self._at = blank.end() if blank else self._at
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._read_more():
                return ""

    def skip(self, character: str) -> bool:
        """Consume the next character if it equals `character`; return whether it did."""
        if self.peek() != character:
            return False
        self._at += len(character)
        return True

    def expect(self, character: str) -> None:
        """Consume this character, or raise; an empty string stands for the end of the file."""
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
                if end < len(self._text) or not self._read_more():  # a number at the very end may continue
                    self._at = end
                    return value

    def _read_more(self) -> bool:
        """Read at least as much as is left in the buffer, so that a huge record is not decoded again and again."""
        rest = self._text[self._at :]
        try:
            chunk = self._file.read(max(CHUNK_CHARACTERS, len(rest)))
        except UnicodeDecodeError as error:
            raise self._refuse(f"not UTF-8 text ({error})", "") from error
        if not chunk:
            return False
        self._dropped += self._at
        self._text, self._at = rest + chunk, 0
        self._progress.update(len(chunk))
        return True

    def _error(self, reason: str, position: int) -> ValueError:
        return self._refuse(reason, f", near character {self._dropped + position}")

    def _refuse(self, reason: str, place: str) -> ValueError:
        if self._refusal is None:
            return ValueError(f"{self._path}: {NOT_JSON}, {self.where}: {reason}{place}")
        return ValueError(f"{self._path}: {self._refusal} ({reason}; {self.where}{place})")
