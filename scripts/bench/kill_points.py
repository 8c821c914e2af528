"""Runs work in a forked process that dies at a chosen change of a folder, and compares what is left."""

import hashlib
import json
import os
import resource
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from partonomy.line_checksums import CHECKSUM_KEY

CHANGES = ("open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate")
"""Audit events of changes of the file system; `open` counts if it is for writing."""
WRITING = os.O_WRONLY | os.O_RDWR


@dataclass(frozen=True)
class Outcome:
    """How a process ended: its exit status, negative for a signal, and the changes that it made until then."""

    status: int
    num_changes: int


def run_until(
    work: Callable[[], int], folder: Path, kill_at: int | None = None, max_bytes: int | None = None
) -> Outcome:
    """Run work in a forked process.

    Args:
        work: The work; returns an exit status.
        folder: Changes below this folder, of itself and of its temporary neighbours are counted.
        kill_at: Number of the change, from 0, before which the process kills itself with SIGKILL; None for never.
        max_bytes: Largest size of any file, after which writes fail as on a full disk; None for no limit.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        _work_and_exit(work, str(folder), kill_at, max_bytes, writing)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        num_changes = len(pipe.read())
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return Outcome(status, num_changes)


def _work_and_exit(
    work: Callable[[], int], folder: str, kill_at: int | None, max_bytes: int | None, writing: int
) -> None:
    status, count = 1, 0

    def watch(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal count
        if event not in CHANGES or not _is_below(arguments[0], folder):
            return
        if event == "open" and not (isinstance(arguments[2], int) and arguments[2] & WRITING):
            return
        if count == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        count += 1
        os.write(writing, b"x")

    try:
        silence = os.open(os.devnull, os.O_WRONLY)
        for descriptor in (1, 2):
            os.dup2(silence, descriptor)
        if max_bytes is not None:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (max_bytes, max_bytes))
        sys.addaudithook(watch)
        status = work()
    finally:  # an error of the work is its status 1
        os._exit(status)


def _is_below(path: object, folder: str) -> bool:
    if not isinstance(path, str | bytes | os.PathLike):
        return False
    text, hidden = os.fsdecode(path), os.path.join(os.path.dirname(folder), f".{os.path.basename(folder)}.")
    return text == folder or text.startswith((folder + os.sep, folder + ".", hidden))


def hash_tree(folder: Path, ignored: Sequence[str] = ()) -> dict[str, str]:
    """Return the sha256 of every file below a folder by its relative path; names in `ignored` are left out."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in ignored
    }


def list_remains(folder: Path) -> list[str]:
    """Return the temporary files and lock files that should not outlive their process, in and next to a folder."""
    files = [*folder.rglob("*"), *folder.parent.glob(f"{folder.name}.*"), *folder.parent.glob(f".{folder.name}.*")]
    kept = (".records.jsonl.lock", ".finished_ranks.json.lock")  # a run's own, which are locked again by name
    return sorted(
        path.name
        for path in files
        if path.name not in kept
        and not path.name.startswith(".records.rank")
        and (path.suffix in (".tmp", ".part", ".partial", ".owner", ".lock") or path.name == ".lock")
    )


def read_lines_without(path: Path, key: str) -> list[dict[str, object]]:
    """Return the JSON objects of a file's lines without one of their keys and without their checksums."""
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [{name: value for name, value in line.items() if name not in (key, CHECKSUM_KEY)} for line in lines]
