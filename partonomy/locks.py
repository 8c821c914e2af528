"""Locks of files and folders: one writer at a time, released when its process ends, however it ends."""

import errno
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

logger = logging.getLogger(__name__)

NO_LOCKS = frozenset({errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP})
"""What network file systems without locks answer."""


@contextmanager
def hold_lock(path: Path, refusal: str, *, wait: bool = False) -> Iterator[None]:
    """Hold the lock of a file or folder, which is a hidden file beside it.

    A file system without locks is said in a warning, and the work goes on without one.

    Args:
        path: What is written.
        refusal: Message for the second writer: who may hold the lock, and what to do.
        wait: Whether to wait for the first writer instead of refusing.

    Raises:
        BlockingIOError: Another process holds the lock.
    """
    lock = FileLock(path.with_name(f".{path.name}.lock"))
    try:
        lock.acquire(blocking=wait)
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
