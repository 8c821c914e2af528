"""Record files: one JSON line per item, appended during a run and read with only a few records in memory.

Resuming drops a line that a killed process left half-written; any other damage is an error that names the file and the
line. Lines by earlier versions of the code are also read (`Record.upgrade`).
"""

import json
import logging
import os
from array import array
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, Self, overload

import msgspec

from partonomy.benchmarks.task import UNREADABLE, Record, RecordT, Status
from partonomy.files import open_atomically, shorten
from partonomy.line_checksums import add_checksum, require_checksum
from partonomy.locks import hold_lock
from partonomy.masks import find_sound_masks, rle_from_coco, rle_to_json
from partonomy.stored_lines import OpenFile

LINES_PER_BATCH = 256
BLOCK = 1 << 20
"""Bytes that are read at once in search of the last complete line."""

logger = logging.getLogger(__name__)


def record_to_line(record: Record) -> str:
    """Return one line of JSON without its newline: the fields of the dataclasses by their names, then a checksum."""
    # `vars` of a dataclass gives its fields in order; dataclasses.asdict would first copy all of them
    return add_checksum(json.dumps(vars(record), default=vars, ensure_ascii=False, allow_nan=False))


class RecordCodec(Generic[RecordT]):
    """Reads the lines of one type of record; every field is checked against its type in the dataclass."""

    def __init__(self, record_type: type[RecordT]) -> None:
        self._type = record_type
        self._decoder = msgspec.json.Decoder(record_type)

    def from_line(self, line: str | bytes) -> RecordT:
        """Read a line of `record_to_line`.

        Raises:
            ValueError: The line is not JSON, its fields are not a record's, a mask's code is damaged, or the line was
                changed since it was written.
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
        content = line.encode() if isinstance(line, str) else line
        require_checksum(content)
        record = self.decode(content)
        record.check()
        return record


class StoredRecords(Sequence[RecordT]):
    """The records of a complete, checked file; each access reads a record again."""

    def __init__(self, path: Path, codec: RecordCodec[RecordT]) -> None:
        self._path = path
        self._codec = codec
        self._file = OpenFile.of(path)
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
        start, end = self._starts[index % len(self)], self._starts[index % len(self) + 1]
        return self._codec.decode(self._file.read(start, end - start))

    def __iter__(self) -> Iterator[RecordT]:
        return map(self.__getitem__, range(len(self)))


class FoundRecords(Generic[RecordT]):
    """The records of some of the given items, by item id, in any number of files; each access reads a record again.

    Args:
        item_ids: Ids of all items, without duplicates.
        codec: The records' codec.

    Attributes:
        foreign: Ids of records of other items.
    """

    def __init__(self, item_ids: Sequence[str], codec: RecordCodec[RecordT]) -> None:
        self._codec = codec
        self._place_of = {item_id: place for place, item_id in enumerate(item_ids)}
        self._files: list[OpenFile] = []
        self._file_of = array("q", [-1]) * len(item_ids)
        self._starts = array("q", [0]) * len(item_ids)
        self._sizes = array("q", [0]) * len(item_ids)
        self._is_failed = array("b", [0]) * len(item_ids)
        self.foreign: set[str] = set()

    def add(self, path: Path) -> None:
        """Find the records of a file.

        Of several records of an item, the last one counts that did not fail, else the last one.

        Raises:
            ValueError: A line is damaged.
        """
        self._files.append(OpenFile.of(path))
        start = 0
        for record, size in self._codec.iterate(path):
            place = self._place_of.get(record.item_id)
            if place is None:
                self.foreign.add(record.item_id)
            else:
                is_failed = record.status is Status.FAILED
                if self._file_of[place] < 0 or self._is_failed[place] or not is_failed:
                    self._file_of[place], self._starts[place], self._sizes[place] = len(self._files) - 1, start, size
                    self._is_failed[place] = is_failed
            start += size

    def drop_stale(self) -> None:
        """Forget records of entries that could not be read once and are items today, and log their number."""
        stale = sorted(record_id for record_id in self.foreign if record_id.startswith(UNREADABLE))
        if stale:
            self.foreign.difference_update(stale)
            logger.warning(
                "dropped %d failed records of entries that could not be read once and now can, e.g. %s",
                len(stale),
                stale[0],
            )

    def __contains__(self, item_id: str) -> bool:
        place = self._place_of.get(item_id)
        return place is not None and self._file_of[place] >= 0

    def __len__(self) -> int:
        return sum(number >= 0 for number in self._file_of) + len(self.foreign)

    def line(self, item_id: str) -> bytes:
        """Return the line of an item's record."""
        place = self._place_of[item_id]
        return self._files[self._file_of[place]].read(self._starts[place], self._sizes[place])

    def __getitem__(self, item_id: str) -> RecordT:
        return self._codec.decode(self.line(item_id))


def join_records(
    paths: Sequence[Path], item_ids: Sequence[str], output: Path, codec: RecordCodec[Any]
) -> tuple[str, ...]:
    """Write the records of several files into one, in item order, if every item has its record.

    The write is atomic. If an item has several records, one that did not fail wins, then the last one. Failed records
    of entries that could not be read once, and now can, are left out, and their number is logged.

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
    found = FoundRecords(item_ids, codec)
    for path in paths:
        found.add(path)
    found.drop_stale()
    if found.foreign:
        raise ValueError(
            f"{output.parent} has records of items that the run does not ask: {sorted(found.foreign)[:3]}; choose "
            "another --output"
        )
    missing = tuple(item_id for item_id in item_ids if item_id not in found)
    if missing:
        return missing
    with open_atomically(output) as joined:
        joined.writelines(map(found.line, item_ids))
    return ()


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
        self._path = path
        with ExitStack() as stack:
            stack.enter_context(hold_lock(path, refusal))
            _drop_partial_line(path)
            self._file = stack.enter_context(path.open("a", encoding="utf-8"))
            self._stack = stack.pop_all()

    def write(self, record: Record) -> None:
        """Append one record."""
        self._file.write(record_to_line(record) + "\n")
        self._file.flush()

    def remove(self, item_ids: Collection[str], codec: RecordCodec[Any]) -> None:
        """Remove the records of some items from the file, atomically.

        Args:
            item_ids: The items; those without a record here are ignored.
            codec: The records' codec.
        """
        self._file.close()
        remove_records(self._path, item_ids, codec)
        self._file = self._stack.enter_context(self._path.open("a", encoding="utf-8"))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stack.close()


def remove_records(path: Path, item_ids: Collection[str], codec: RecordCodec[Any]) -> None:
    """Remove the records of some items from a file to which nobody writes, atomically.

    Args:
        path: The record file.
        item_ids: The items; those without a record in the file are ignored.
        codec: The records' codec.

    Raises:
        ValueError: A line is damaged.
    """
    sizes, is_kept = array("q"), bytearray()
    for record, size in codec.iterate(path):
        sizes.append(size)
        is_kept.append(record.item_id not in item_ids)
    if all(is_kept):
        return
    with path.open("rb") as source, open_atomically(path) as kept:
        for size, keeps in zip(sizes, is_kept, strict=True):
            content = source.read(size)
            if keeps:
                kept.write(content)


def _drop_partial_line(path: Path) -> None:
    """Remove a last line that was not written completely."""
    if not path.is_file():
        return
    with path.open("r+b") as file:
        size = start = file.seek(0, os.SEEK_END)
        while start:
            end, start = start, max(start - BLOCK, 0)
            file.seek(start)
            complete = start + file.read(end - start).rfind(b"\n") + 1
            if complete > start:
                break
        else:
            complete = 0
        if complete < size:
            file.truncate(complete)


def _text(line: str | bytes) -> str:
    return line if isinstance(line, str) else line.decode("utf-8", errors="replace")
