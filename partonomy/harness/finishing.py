"""Which of several ranks ends last: it alone joins their records, writes the summary and shows it.

Ranks that end one after the other could look for each other's records; of two that end together both would find all.
So each adds itself, under a lock, to a list in the run's folder, and the one that completes the list is the last.
"""

import fcntl
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from partonomy.harness.ranks import Rank
from partonomy.harness.run_directory import NO_LOCKS

RANKS_FILE = "finished_ranks.json"


def sign_on(output: Path, rank: Rank) -> None:
    """Take a rank that starts off the list, on which an earlier run that was killed may have left it."""
    if rank.world_size > 1:
        with _locked(output) as file:
            _write(file, rank, _read(file, rank) - {rank.index})


def sign_off(output: Path, rank: Rank) -> bool:
    """Add a rank that has asked all its questions to the list.

    Returns:
        Whether it is the last one.
    """
    if rank.world_size == 1:
        return True
    with _locked(output) as file:
        finished = _read(file, rank) | {rank.index}
        _write(file, rank, finished)
    return len(finished) == rank.world_size


def remove_list(output: Path) -> None:
    """Delete the list once the records are joined."""
    (output / RANKS_FILE).unlink(missing_ok=True)


@contextmanager
def _locked(output: Path) -> Iterator[IO[str]]:
    with (output / RANKS_FILE).open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
        yield file


def _read(file: IO[str], rank: Rank) -> set[int]:
    """The ranks on the list; that of a run with another number of ranks, or a half-written one, is nobody's."""
    file.seek(0)
    try:
        content = json.loads(file.read() or "{}")
    except ValueError:
        return set()
    is_ours = content.get("world_size") == rank.world_size
    return set(content["finished"]) if is_ours else set()


def _write(file: IO[str], rank: Rank, finished: set[int]) -> None:
    file.truncate(0)
    file.write(json.dumps({"world_size": rank.world_size, "finished": sorted(finished)}) + "\n")
