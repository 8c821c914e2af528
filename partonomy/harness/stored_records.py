"""Records that stay in their file: an evaluation of any size ends in the memory of a few of its records."""

import os
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import overload

from partonomy.benchmarks.partonomy.records import Record, decode_checked, iterate_records


class StoredRecords(Sequence[Record]):
    """The records of a complete file that was checked before; each is read again whenever it is asked for."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._starts = array("q", [0])
        with path.open("rb") as file:
            for line in file:
                self._starts.append(self._starts[-1] + len(line))

    def __len__(self) -> int:
        return len(self._starts) - 1

    @overload
    def __getitem__(self, index: int) -> Record: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Record, ...]: ...
    def __getitem__(self, index: int | slice) -> Record | tuple[Record, ...]:
        if isinstance(index, slice):
            return tuple(self[place] for place in range(*index.indices(len(self))))
        if not -len(self) <= index < len(self):
            raise IndexError(f"{self._path} has {len(self)} records, none at place {index}")
        place = index % len(self)
        with self._path.open("rb") as file:
            file.seek(self._starts[place])
            return decode_checked(file.read(self._starts[place + 1] - self._starts[place]))

    def __iter__(self) -> Iterator[Record]:
        with self._path.open("rb") as file:
            yield from map(decode_checked, file)


@dataclass(frozen=True)
class _Line:
    """Where a record stands."""

    path: Path
    start: int
    length: int


def join_records(paths: Sequence[Path], question_ids: Sequence[str], output: Path) -> tuple[str, ...]:
    """Write the records of several files into one, in the order of the questions, if every question has its record.

    The file is switched into place when it is whole. Of several records of one question the last file's is taken.

    Args:
        paths: record files; `output` may be among them.
        question_ids: of all the questions.
        output: the file to write.

    Returns:
        The questions without a record; then nothing is written.

    Raises:
        ValueError: A line is damaged, or the files hold records of other questions.
    """
    lines = {record_id: line for path in paths for record_id, line in _find_lines(path)}
    if foreign := sorted(set(lines) - set(question_ids)):
        raise ValueError(f"{output.parent} holds records of questions that are not asked here: {foreign[:3]}")
    missing = tuple(question_id for question_id in question_ids if question_id not in lines)
    if missing:
        return missing
    temporary = output.with_name(f".{output.name}.{os.getpid()}.tmp")
    files = {path: path.open("rb") for path in paths}
    try:
        with temporary.open("wb") as joined:
            for line in map(lines.__getitem__, question_ids):
                files[line.path].seek(line.start)
                joined.write(files[line.path].read(line.length))
    finally:
        for file in files.values():
            file.close()
    os.replace(temporary, output)
    return ()


def _find_lines(path: Path) -> Iterator[tuple[str, _Line]]:
    start = 0
    for record, length in iterate_records(path):
        yield record.question_id, _Line(path, start, length)
        start += length
