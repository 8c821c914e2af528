"""Sequences whose entries stay on disk and take a few bytes of memory each: lines of a file, and pickled objects.

A run may have hundreds of thousands of records, and a data set as many questions. Their lines are found once, and each
access reads one again. Entries that have no file of their own are pickled into a temporary one (`Spool`), also to be
read again group by group (`SpooledGroups`).
"""

import os
import pickle
import tempfile
import threading
import weakref
from array import array
from collections.abc import Callable, Iterator, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, Generic, TypeVar, overload

import numpy as np

EntryT = TypeVar("EntryT")
OtherT = TypeVar("OtherT")


class OpenFile:
    """A file that is read at any place by any thread or forked process, as it was when it was opened.

    It stays open: if it is replaced by a new version meanwhile, the places of the old one remain right.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._lock = threading.Lock()
        weakref.finalize(self, file.close)

    @classmethod
    def of(cls, path: Path) -> "OpenFile":
        """Open a file."""
        return cls(path.open("rb", buffering=0))

    def read(self, start: int, size: int) -> bytes:
        """Read so many bytes from a place."""
        if hasattr(os, "pread"):
            return os.pread(self._file.fileno(), size, start)
        with self._lock:  # Windows
            self._file.seek(start)
            return self._file.read(size)


class StoredLines(Sequence[bytes]):
    """Places in a file, each of which is read on access; 16 bytes of memory each."""

    def __init__(self, file: OpenFile, starts: "array[int] | None" = None, sizes: "array[int] | None" = None) -> None:
        self._file = file
        self._starts = array("q") if starts is None else starts
        self._sizes = array("q") if sizes is None else sizes

    def append(self, start: int, size: int) -> None:
        """Add a place."""
        self._starts.append(start)
        self._sizes.append(size)

    def __len__(self) -> int:
        return len(self._starts)

    @overload
    def __getitem__(self, index: int) -> bytes: ...
    @overload
    def __getitem__(self, index: slice) -> "StoredLines": ...
    def __getitem__(self, index: int | slice) -> "bytes | StoredLines":
        if isinstance(index, slice):
            return StoredLines(self._file, self._starts[index], self._sizes[index])
        return self._file.read(self._starts[index], self._sizes[index])


class Mapped(Sequence[OtherT], Generic[EntryT, OtherT]):
    """The entries of a sequence as a function returns them, called on each access.

    Args:
        entries: The sequence.
        change: Called with an entry.
    """

    def __init__(self, entries: Sequence[EntryT], change: Callable[[EntryT], OtherT]) -> None:
        self._entries, self._change = entries, change

    def __len__(self) -> int:
        return len(self._entries)

    @overload
    def __getitem__(self, index: int) -> OtherT: ...
    @overload
    def __getitem__(self, index: slice) -> "Mapped[EntryT, OtherT]": ...
    def __getitem__(self, index: int | slice) -> "OtherT | Mapped[EntryT, OtherT]":
        if isinstance(index, slice):
            return Mapped(self._entries[index], self._change)
        return self._change(self._entries[index])

    def __iter__(self) -> Iterator[OtherT]:
        return map(self._change, self._entries)


class Spool(Sequence[EntryT]):
    """A list in a temporary file, which no name leads to and which ends with the process.

    Args:
        shared: Objects of these types are not written: they stay in memory, each once however many entries hold it.
    """

    def __init__(self, *shared: type) -> None:
        self._writer = tempfile.TemporaryFile()  # noqa: SIM115  (open as long as the list is)
        self._lines = StoredLines(OpenFile(self._writer))
        self._end = 0
        self._types = shared
        self._shared: list[Any] = []
        self._number_of: dict[int, int] = {}  # by the object's id(), which `_shared` keeps from being given again

    def append(self, entry: EntryT) -> None:
        """Add an entry."""
        content = self._pack(entry)
        self._writer.write(content)
        self._lines.append(self._end, len(content))
        self._end += len(content)

    def __len__(self) -> int:
        return len(self._lines)

    @overload
    def __getitem__(self, index: int) -> EntryT: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[EntryT, ...]: ...
    def __getitem__(self, index: int | slice) -> EntryT | tuple[EntryT, ...]:
        if isinstance(index, slice):
            return tuple(self[place] for place in range(*index.indices(len(self))))
        self._writer.flush()
        unpickler = pickle.Unpickler(BytesIO(self._lines[index]))  # noqa: S301  (written by this process alone)
        unpickler.persistent_load = self._shared.__getitem__  # type: ignore[method-assign]
        entry: EntryT = unpickler.load()
        return entry

    def _pack(self, entry: EntryT) -> bytes:
        if not self._types:  # asking about every object that an entry holds takes several times as long as the rest
            return pickle.dumps(entry, pickle.HIGHEST_PROTOCOL)
        buffer = BytesIO()
        pickler = pickle.Pickler(buffer, pickle.HIGHEST_PROTOCOL)
        pickler.persistent_id = self._share  # type: ignore[method-assign]
        pickler.dump(entry)
        return buffer.getvalue()

    def _share(self, value: object) -> int | None:
        if not isinstance(value, self._types):
            return None
        if id(value) not in self._number_of:
            self._number_of[id(value)] = len(self._shared)
            self._shared.append(value)
        return self._number_of[id(value)]


class SpooledGroups(Generic[EntryT]):
    """Entries in a temporary file that belong to groups; 24 bytes of memory each, whatever the number of groups.

    Iterating yields (key, entries) of every group: the groups in the order of their first entries, and each one's
    entries in the order in which they were added.
    """

    def __init__(self) -> None:
        self._entries = Spool[EntryT]()
        self._keys = array("q")

    def append(self, key: int, entry: EntryT) -> None:
        """Add an entry to a group.

        Args:
            key: the group, an integer of 64 bits.
            entry: the entry.
        """
        self._entries.append(entry)
        self._keys.append(key)

    def __len__(self) -> int:
        """Return the number of entries."""
        return len(self._keys)

    def __iter__(self) -> Iterator[tuple[int, list[EntryT]]]:
        keys = np.array(self._keys, np.int64)
        by_key = np.argsort(keys, kind="stable")
        starts = np.flatnonzero(np.diff(keys[by_key], prepend=keys[by_key][:1] - 1)) if len(keys) else by_key
        ends = np.append(starts[1:], len(keys))
        for group in np.argsort(by_key[starts], kind="stable"):
            places = by_key[starts[group] : ends[group]]
            yield int(keys[places[0]]), [self._entries[int(place)] for place in places]
