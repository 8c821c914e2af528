"""Locks of files and folders: one writer at a time, released when its process ends for any reason.

On a file system without locks (some network file systems), a lock file with an owner takes their place: it is created
exclusively, names the host, the process and its start time, and outlives a killed process. A later process on the same
host takes it over if that process has ended; on another host, nobody can know, and a person must delete it.
"""

import errno
import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import BaseFileLock, FileLock, SoftFileLock, Timeout

from partonomy.files import remove_remains

logger = logging.getLogger(__name__)

NO_LOCKS = frozenset({errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP})
"""Errors of file systems without locks."""
LOCK_FILE = ".lock"
"""Name of the file that is locked by the process that writes a folder."""
SECONDS_OF_REMAINS = 24 * 3600.0
"""Age after which a temporary file in a folder with several writers is left by a killed one."""
OWNER_SUFFIX = ".owner"
"""Appended to a lock file's name where the file system has no locks."""


@contextmanager
def hold_lock(path: Path, refusal: str, *, wait: bool = False) -> Iterator[None]:
    """Hold the lock of a file or folder, which is a hidden file next to it.

    Args:
        path: The file or folder to write.
        refusal: Message for a second writer: who may hold the lock, and what to do.
        wait: Whether to wait for the first writer instead of refusing.

    Raises:
        BlockingIOError: Another process holds the lock.
    """
    with _hold(lock_path(path), refusal, seconds=-1.0 if wait else 0.0):
        yield


def lock_path(path: Path) -> Path:
    """Return the file that `hold_lock` locks."""
    return path.with_name(f".{path.name}.lock")


@contextmanager
def lock_folder(folder: Path, name: str = LOCK_FILE, *, is_shared: bool = False) -> Iterator[None]:
    """Hold the lock of a folder, or of a part of the work in it. The lock file in the folder is removed at the end.

    Args:
        folder: The folder, created if missing. Locking the whole folder deletes temporary files of killed writers.
        name: Name of the lock file; any name but the default locks only a part of the work.
        is_shared: Whether other processes of the same work write to the folder under locks of their own; only
            temporary files that nobody can be writing any more, because they are a day old, are then deleted.

    Raises:
        BlockingIOError: Another process holds the lock.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    with _hold_and_remove(path, _refusal(folder, path)):
        if name == LOCK_FILE:
            remove_remains(folder, SECONDS_OF_REMAINS if is_shared else 0.0)
        yield


@contextmanager
def lock_output(output: Path) -> Iterator[None]:
    """Hold the lock of a file or folder that does not exist yet: a hidden file next to it, removed at the end.

    Args:
        output: The file or folder. Its parents are created.

    Raises:
        BlockingIOError: Another process holds the lock.
    """
    output.parent.mkdir(parents=True, exist_ok=True)
    path = lock_path(output)
    with _hold_and_remove(path, _refusal(output, path)):
        yield


@contextmanager
def new_folder(folder: Path, advice: str, *, accept_empty: bool = False) -> Iterator[Path]:
    """Write a new folder under another name, and rename it once it is complete.

    One process at a time writes the same folder; what a killed one has left is deleted.

    Args:
        folder: The folder to write; its parents are created.
        advice: What to do if it exists, as the end of the message.
        accept_empty: Whether an empty folder may exist; it is replaced.

    Raises:
        FileExistsError: `folder` exists.
        BlockingIOError: Another process is writing it.
    """
    with lock_output(folder):
        if folder.exists() and not (accept_empty and folder.is_dir() and not any(folder.iterdir())):
            raise FileExistsError(f"{folder} exists; {advice}")
        partial = folder.with_name(f"{folder.name}.partial")
        if partial.exists():
            shutil.rmtree(partial)
        partial.mkdir()
        try:
            yield partial
            if folder.exists():
                folder.rmdir()
            partial.rename(folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)  # gone already, unless something failed


def has_other_files(folder: Path) -> bool:
    """Return whether a folder holds anything besides the files of its own lock."""
    return any(not is_lock_file(path) for path in folder.iterdir())


def is_lock_file(path: Path) -> bool:
    """Return whether a file belongs to the lock of the folder that it is in (`lock_folder`)."""
    return path.name == LOCK_FILE or path.name.startswith(LOCK_FILE + OWNER_SUFFIX)


def require_unlocked(path: Path, refusal: str, seconds: float) -> None:
    """Wait until no other process holds the lock of a file (`hold_lock`).

    Args:
        path: The file.
        refusal: The message if another process holds the lock.
        seconds: The longest time to wait.

    Raises:
        BlockingIOError: Another process still holds it.
    """
    with _hold(lock_path(path), refusal, seconds=seconds):
        pass


def _refusal(output: Path, path: Path) -> str:
    return f"{output}: another process is writing here and holds {path}; wait for it, end it, or choose another output"


@contextmanager
def _hold_and_remove(path: Path, refusal: str) -> Iterator[None]:
    with _hold(path, refusal):
        try:
            yield
        finally:
            # Removed while it is held: a process that opened it earlier finds it gone once it has the lock, and is
            # refused; the next one creates a new file.
            path.unlink(missing_ok=True)


@contextmanager
def _hold(path: Path, refusal: str, *, seconds: float = 0.0) -> Iterator[None]:
    """Hold the lock file, after waiting for it for some seconds; a negative number waits without end."""
    # filelock's own fallback knows only ENOSYS, and tells nobody whom it has replaced.
    lock: BaseFileLock = FileLock(path, timeout=seconds, fallback_to_soft=False)
    try:
        lock.acquire()
    except Timeout as error:
        raise BlockingIOError(refusal) from error
    except (NotImplementedError, OSError) as error:
        if isinstance(error, OSError) and error.errno not in NO_LOCKS:
            raise
        lock = _create_owner_file(path, refusal, seconds, error)
    try:
        yield
    finally:
        lock.release()


def _create_owner_file(path: Path, refusal: str, seconds: float, error: Exception) -> BaseFileLock:
    """Take the lock by creating a file that names this process."""
    owner_path = path.with_name(path.name + OWNER_SUFFIX)
    lock = SoftFileLock(owner_path, timeout=seconds)
    before = _read_owner(owner_path)
    try:
        lock.acquire()
    except Timeout as timeout:
        owner = _read_owner(owner_path) or before or "an unknown process"
        raise BlockingIOError(
            f"{refusal}. The file system has no locks, and {owner_path} names its owner, {owner}; if that process has "
            f"ended, delete {owner_path}"
        ) from timeout
    logger.warning("%s: the file system has no locks (%s); %s is used instead", path.parent, error, owner_path.name)
    if before is not None:
        logger.warning("%s: taken over from %s, which has ended", owner_path, before)
    return lock


def _read_owner(path: Path) -> str | None:
    """Return the process and host that a lock file names; None if there is no such file."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    except OSError:
        return None
    return f"process {lines[0]} on {lines[1]}" if len(lines) > 1 else "an unknown process"
