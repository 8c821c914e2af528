"""Files appear complete or not at all, and one process at a time writes a folder."""

import json
import os
import stat
from pathlib import Path

import pytest

from partonomy import files
from partonomy.files import (
    iterate_lists,
    iterate_records,
    json_bytes,
    open_atomically,
    reason_of,
    write_json,
    write_text_atomically,
)
from partonomy.locks import lock_folder


def test_the_old_content_stays_until_the_new_one_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_text_atomically(path, "old ü")
    assert path.read_bytes() == "old ü".encode()
    with open_atomically(path) as file:
        file.write(b"new")
        assert path.read_text(encoding="utf-8") == "old ü"
        (temporary,) = [one for one in tmp_path.iterdir() if one != path]
        assert temporary.name.startswith(".file.")
        assert temporary.suffix == ".tmp"
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_leaves_the_old_content_and_no_remains(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "file"
    path.write_text("old")

    def write() -> None:
        with open_atomically(path) as file:
            file.write(b"new")
            raise error

    with pytest.raises(error):
        write()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_what_cannot_be_json_leaves_no_remains(tmp_path: Path) -> None:
    with pytest.raises(TypeError):
        write_json(tmp_path / "a.json", {"a": object()})
    assert list(tmp_path.iterdir()) == []


def test_half_a_surrogate_pair_is_written_as_its_escape(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    content = {"a": "\ud800", "b": "ü"}
    write_json(path, content)
    assert path.read_bytes() == b'{"a":"\\ud800","b":"\xc3\xbc"}\n' == json_bytes(content).replace(b" ", b"") + b"\n"
    assert json.loads(path.read_bytes()) == content
    write_text_atomically(path, "a \ud800")
    assert path.read_bytes() == b"a \\ud800"


def test_two_writers_of_one_file_do_not_mix(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with open_atomically(path) as first:
        first.write(b"first ")
        write_text_atomically(path, "second")
        first.write(b"only")
    assert path.read_bytes() == b"first only"
    assert list(tmp_path.iterdir()) == [path]


def test_file_and_folder_are_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[str] = []
    sync, replace = os.fsync, os.replace

    def note_sync(descriptor: int) -> None:
        is_folder = stat.S_ISDIR(os.fstat(descriptor).st_mode)
        steps.append("sync folder" if is_folder else f"sync {os.fstat(descriptor).st_size} bytes")
        sync(descriptor)

    def note_replace(source: Path, target: Path) -> None:
        steps.append("replace")
        replace(source, target)

    monkeypatch.setattr(files.os, "fsync", note_sync)
    monkeypatch.setattr(files.os, "replace", note_replace)
    write_text_atomically(tmp_path / "file", "text")
    assert steps == ["sync 4 bytes", "replace", "sync folder"]


def test_permissions_are_those_of_an_ordinary_file(tmp_path: Path) -> None:
    write_text_atomically(tmp_path / "a", "")
    (tmp_path / "b").touch()
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "b").stat().st_mode


def test_a_locked_folder_refuses_a_second_lock_and_is_free_afterwards(tmp_path: Path) -> None:
    folder = tmp_path / "new"
    with lock_folder(folder):
        with pytest.raises(BlockingIOError, match=rf"{folder}: another process .* holds {folder}/.lock; wait for it"):
            lock_folder(folder).__enter__()
        with lock_folder(folder, "other.lock"):
            assert sorted(path.name for path in folder.iterdir()) == [".lock", "other.lock"]
    assert list(folder.iterdir()) == []
    with lock_folder(folder):
        pass


def test_a_strict_stream_refuses_what_read_json_refuses(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    path.write_text('{"images": [{"a": 1, "a": 2}]}')
    assert list(iterate_lists(path, ("images", "absent"))) == [("images", {"a": 2})]
    with pytest.raises(ValueError, match=r"record 0 of 'images': the key 'a' occurs twice"):
        list(iterate_lists(path, ("images",), is_strict=True))
    path.write_text('{"images": []}')
    assert list(iterate_lists(path, ("images",), is_strict=True)) == []
    with pytest.raises(ValueError, match="the list 'absent' is missing"):
        list(iterate_lists(path, ("images", "absent"), is_strict=True))
    path.write_text(json.dumps([1]) + " ")
    assert list(iterate_records(path, is_strict=True)) == [1]
    path.write_text('[{"a": 1, "a": 2}]')
    with pytest.raises(ValueError, match=r"record 0: the key 'a' occurs twice"):
        list(iterate_records(path, is_strict=True))


def test_who_holds_a_folder_deletes_what_a_killed_writer_left(tmp_path: Path) -> None:
    with open_atomically(tmp_path / "left.json"):
        (remains,) = tmp_path.iterdir()
        content = remains.name
    for name in (content, "questions.jsonl.tmp", ".hidden.tmp"):
        (tmp_path / name).touch()
    with lock_folder(tmp_path, "part.lock"):
        assert (tmp_path / content).exists()
    with lock_folder(tmp_path):
        pass
    assert sorted(path.name for path in tmp_path.iterdir()) == [".hidden.tmp", "left.json", "questions.jsonl.tmp"]


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (KeyError("mask"), "the key 'mask' is missing"),
        (TypeError("'int' object is not iterable"), "a value is of the wrong type ('int' object is not iterable)"),
        (AttributeError("no attribute 'strip'"), "a value is of the wrong type (no attribute 'strip')"),
        (IndexError("list index out of range"), "a list is too short (list index out of range)"),
        (ValueError("'id' must be {a number}"), "'id' must be {a number}"),
        (FileNotFoundError("a.jpg: not found"), "a.jpg: not found"),
        (ValueError("half a pair: \ud800"), r"half a pair: \ud800"),
    ],
)
def test_the_reason_of_a_broken_record(error: Exception, reason: str) -> None:
    assert reason_of(error) == reason
