"""Sequences whose entries stay on disk."""

import os
from pathlib import Path

import pytest

from partonomy.benchmarks.task import ChangedRecords
from partonomy.harness import records
from partonomy.harness.records import RecordWriter
from partonomy.stored_lines import Mapped, OpenFile, Spool, SpooledGroups, StoredLines
from partonomy.structures import RLE, Part


def test_lines_are_those_of_the_file_as_it_was_opened(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    path.write_bytes(b"one\ntwo\nthree\n")
    lines = StoredLines(OpenFile.of(path))
    lines.append(0, 4)
    lines.append(8, 6)
    (tmp_path / "new").write_bytes(b"other content")
    os.replace(tmp_path / "new", path)
    assert list(lines) == [b"one\n", b"three\n"]
    assert lines[-1] == b"three\n"
    assert list(lines[1:]) == [b"three\n"]
    with pytest.raises(IndexError):
        lines[2]


def test_a_spool_returns_equal_entries_and_the_same_shared_objects() -> None:
    parts = [Part(f"part {number}", RLE(2, 2, "04")) for number in range(3)]
    entries = [(number, "x" * number, (parts[number % 3], parts[0])) for number in range(10)]
    spool = Spool[tuple[int, str, tuple[Part, Part]]](Part)
    for number, entry in enumerate(entries):
        spool.append(entry)
        assert spool[number] == entry, "it is read while it is written"
    assert list(spool) == entries
    assert spool[-1] == entries[-1]
    assert spool[2:4] == (entries[2], entries[3])
    assert all(read[2][0] is entry[2][0] for read, entry in zip(spool, entries, strict=True))


def test_groups_come_in_the_order_of_their_first_entries() -> None:
    groups = SpooledGroups[tuple[str, list[float]]]()
    assert list(groups) == []
    keys = [5, -3, 5, 2**63 - 1, 0, -3, 5]
    for number, key in enumerate(keys):
        groups.append(key, (f"entry {number}", [number / 2]))
    assert len(groups) == 7
    read = [(key, [text for text, _ in entries]) for key, entries in groups]
    assert read == [
        (5, ["entry 0", "entry 2", "entry 6"]),
        (-3, ["entry 1", "entry 5"]),
        (2**63 - 1, ["entry 3"]),
        (0, ["entry 4"]),
    ]


def test_views_change_entries_on_access() -> None:
    doubled = Mapped([1, 2, 3], lambda value: 2 * value)
    assert (list(doubled), doubled[-1], list(doubled[1:]), len(doubled)) == ([2, 4, 6], 6, [4, 6], 3)
    chosen = ChangedRecords([1, 2, 3], lambda value: 10 * value, [2, 0])  # type: ignore[type-var, operator]
    assert (list(chosen), chosen[0], chosen[-1], chosen[:1], len(chosen)) == ([30, 10], 30, 10, (30,), 2)


@pytest.mark.parametrize("block", [1, 3, 4, 1 << 20])
@pytest.mark.parametrize(
    ("content", "kept"),
    [(b"", b""), (b"half", b""), (b"a\n", b"a\n"), (b"abc\nde", b"abc\n"), (b"abc\n\nlong and cut", b"abc\n\n")],
)
def test_a_half_written_line_is_dropped_however_far_back_it_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, kept: bytes, block: int
) -> None:
    monkeypatch.setattr(records, "BLOCK", block)
    (tmp_path / "records.jsonl").write_bytes(content)
    with RecordWriter(tmp_path / "records.jsonl"):
        pass
    assert (tmp_path / "records.jsonl").read_bytes() == kept
