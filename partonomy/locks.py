"""Locks of files and folders: one writer at a time, released when its process ends for any reason."""

import errno
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from partonomy.files import remove_remains

logger = logging.getLogger(__name__)

NO_LOCKS = frozenset({errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP})
"""Errors of network file systems without locks."""
LOCK_FILE = ".lock"
"""Name of the file that is locked by the process that writes a data set folder."""


@contextmanager
def hold_lock(path: Path, refusal: str, *, wait: bool = False) -> Iterator[None]:
    """Hold the lock of a file or folder, which is a hidden file next to it.

    If the file system has no locks, a warning is logged and the work continues without one.

    Args:
        path: The file or folder to write.
        refusal: Message for a second writer: who may hold the lock, and what to do.
        wait: Whether to wait for the first writer instead of refusing.

    Raises:
        BlockingIOError: Another process holds the lock.
    """
    with _hold(path.with_name(f".{path.name}.lock"), refusal, is_waiting=wait):
        yield


@contextmanager
def lock_folder(folder: Path, name: str = LOCK_FILE) -> Iterator[None]:
    """Hold the lock of a folder, or of a part of the work in it. The lock file in the folder is removed at the end.

    Args:
        folder: The folder, created if missing. Locking the whole folder deletes temporary files of killed writers.
        name: Name of the lock file; any name but the default locks only a part of the work.

    Raises:
        BlockingIOError: Another process holds the lock.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    refusal = (
        f"{folder}: another process is writing here and holds {path}; wait for it, end it, or choose another --output"
    )
    with _hold(path, refusal):
        try:
            if name == LOCK_FILE:
                remove_remains(folder)
            yield
        finally:
            # Removed while it is held: a process that opened it earlier finds it gone once it has the lock, and is
            # refused; the next one creates a new file.
            path.unlink(missing_ok=True)


@contextmanager
def _hold(path: Path, refusal: str, *, is_waiting: bool = False) -> Iterator[None]:
    lock = FileLock(path)
    try:
        lock.acquire(blocking=is_waiting)
    except Timeout as error:
        raise BlockingIOError(refusal) from error
    except (NotImplementedError, OSError) as error:
        if isinstance(error, OSError) and error.errno not in NO_LOCKS:
            raise
        logger.warning(
            "%s: the file system has no locks (%s); make sure that only one process writes here", path.parent, error
        )
    try:
        yield
    finally:
        lock.release()
