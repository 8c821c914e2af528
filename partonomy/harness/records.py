"""Record files: one JSON line per item, appended during a run and read with only a few records in memory.

Resuming drops a line that a killed process left half-written; any other damage is an error that names the file and the
line. Lines by earlier versions of the code are also read (`Record.upgrade`).
"""

import json
from array import array
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, Self, overload

import msgspec

from partonomy.benchmarks.task import Record, RecordT
from partonomy.files import open_atomically, shorten
from partonomy.locks import hold_lock
from partonomy.masks import find_sound_masks, rle_from_coco, rle_to_json

LINES_PER_BATCH = 256


def record_to_line(record: Record) -> str:
    """Return one line of JSON without its newline; field names are those of the dataclasses."""
    # `vars` of a dataclass gives its fields in order; dataclasses.asdict would first copy all of them
    return json.dumps(vars(record), default=vars, ensure_ascii=False, allow_nan=False)


class RecordCodec(Generic[RecordT]):
    """Reads the lines of one type of record; every field is checked against its type in the dataclass."""

    def __init__(self, record_type: type[RecordT]) -> None:
        self._type = record_type
        self._decoder = msgspec.json.Decoder(record_type)

    def from_line(self, line: str | bytes) -> RecordT:
        """Read a line of `record_to_line`.

        Raises:
            ValueError: The line is not JSON, its fields are not a record's, or a mask's code is damaged.
        """
        try:
            record = self._checked(line)
            for number, rle in enumerate(record.masks()):
                rle_from_coco(rle_to_json(rle), rle.height, rle.width, f"predicted mask {number}")
        except (ValueError, TypeError, RecursionError) as error:
            raise ValueError(f"not a record of an item: {shorten(_text(line))} ({error})") from error
        return record

    def decode(self, line: bytes) -> RecordT:
        """Read a line that has already been checked."""
        try:
            return self._decoder.decode(line)
        except msgspec.ValidationError:
            content = msgspec.json.decode(line)
            if not isinstance(content, dict):
                raise
            return msgspec.convert(self._type.upgrade(content), self._type)

    def iterate(self, path: Path) -> Iterator[tuple[RecordT, int]]:
        """Iterate over a file's records and the lengths of their lines in bytes.

        A last line without a newline (of a process that was killed while writing) is left out.

        Raises:
            ValueError: Another line is damaged; the message names the file and the line.
        """
        num_read = 0
        with path.open("rb") as file:
            while lines := list(islice(file, LINES_PER_BATCH)):
                if not lines[-1].endswith(b"\n"):
                    lines.pop()
                yield from zip(self._read_batch(lines, path, num_read + 1), map(len, lines), strict=True)
                num_read += len(lines)

    def read(self, path: Path) -> tuple[RecordT, ...]:
        """Read a whole file; see `iterate`."""
        return tuple(record for record, _ in self.iterate(path))

    def _read_batch(self, lines: Sequence[bytes], path: Path, first_line: int) -> list[RecordT]:
        """Read some lines. All their masks are checked at once, and one by one only if a check fails."""
        try:
            records = [self._checked(line) for line in lines]
            if all(find_sound_masks([mask for record in records for mask in record.masks()])):
                return records
        except (ValueError, TypeError, RecursionError):
            records = []
        for number, line in enumerate(lines, start=first_line):
            try:
                self.from_line(line)
            except ValueError as error:
                raise ValueError(f"{path}, line {number}: {error}; delete that line and resume") from error
        return records

    def _checked(self, line: str | bytes) -> RecordT:
        """Return a record after all checks except that of its masks' codes."""
        record = self.decode(line.encode() if isinstance(line, str) else line)
        record.check()
        return record


class StoredRecords(Sequence[RecordT]):
    """The records of a complete, checked file; each access reads a record again."""

    def __init__(self, path: Path, codec: RecordCodec[RecordT]) -> None:
        self._path = path
        self._codec = codec
        self._starts = array("q", [0])
        with path.open("rb") as file:
            for line in file:
                self._starts.append(self._starts[-1] + len(line))

    def __len__(self) -> int:
        return len(self._starts) - 1

    @overload
    def __getitem__(self, index: int) -> RecordT: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[RecordT, ...]: ...
    def __getitem__(self, index: int | slice) -> RecordT | tuple[RecordT, ...]:
        if isinstance(index, slice):
            return tuple(self[place] for place in range(*index.indices(len(self))))
        if not -len(self) <= index < len(self):
            raise IndexError(f"{self._path} has {len(self)} records; there is none at position {index}")
        place = index % len(self)
        with self._path.open("rb") as file:
            file.seek(self._starts[place])
            return self._codec.decode(file.read(self._starts[place + 1] - self._starts[place]))

    def __iter__(self) -> Iterator[RecordT]:
        with self._path.open("rb") as file:
            yield from map(self._codec.decode, file)


@dataclass(frozen=True)
class _Line:
    """The location of a record."""

    path: Path
    start: int
    length: int


def join_records(
    paths: Sequence[Path], item_ids: Sequence[str], output: Path, codec: RecordCodec[Any]
) -> tuple[str, ...]:
    """Write the records of several files into one, in item order, if every item has its record.

    The write is atomic. If several files answer an item, the last file wins.

    Args:
        paths: Record files; `output` may be among them.
        item_ids: Ids of all items.
        output: The file to write.
        codec: The records' codec.

    Returns:
        The items without a record; if there are any, nothing is written.

    Raises:
        ValueError: A line is damaged, or the files hold records of other items.
    """
    lines = {record_id: line for path in paths for record_id, line in _find_lines(path, codec)}
    if foreign := sorted(set(lines) - set(item_ids)):
        raise ValueError(
            f"{output.parent} has records of items that the run does not ask: {foreign[:3]}; choose another --output"
        )
    missing = tuple(item_id for item_id in item_ids if item_id not in lines)
    if missing:
        return missing
    with ExitStack() as stack:
        files = {path: stack.enter_context(path.open("rb")) for path in paths}
        joined = stack.enter_context(open_atomically(output))
        for line in map(lines.__getitem__, item_ids):
            files[line.path].seek(line.start)
            joined.write(files[line.path].read(line.length))
    return ()


def _find_lines(path: Path, codec: RecordCodec[Any]) -> Iterator[tuple[str, _Line]]:
    start = 0
    for record, length in codec.iterate(path):
        yield record.item_id, _Line(path, start, length)
        start += length


class RecordWriter:
    """Appends records, one line each, flushed immediately, under a lock that ends with its process.

    Raises:
        BlockingIOError: Another process is writing the file.
    """

    def __init__(self, path: Path) -> None:
        refusal = (
            f"{path} is being written by another process, perhaps a worker of a run that was killed; wait until it has "
            "ended, or end it"
        )
        with ExitStack() as stack:
            stack.enter_context(hold_lock(path, refusal))
            _drop_partial_line(path)
            self._file = stack.enter_context(path.open("a", encoding="utf-8"))
            self._stack = stack.pop_all()

    def write(self, record: Record) -> None:
        """Append one record."""
        self._file.write(record_to_line(record) + "\n")
        self._file.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stack.close()


def _drop_partial_line(path: Path) -> None:
    """Remove a last line that was not written completely."""
    if not path.is_file():
        return
    content = path.read_bytes()
    complete = content.rfind(b"\n") + 1
    if complete < len(content):
        with path.open("r+b") as file:
            file.truncate(complete)


def _text(line: str | bytes) -> str:
    return line if isinstance(line, str) else line.decode("utf-8", errors="replace")
