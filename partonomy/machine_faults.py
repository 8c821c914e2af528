"""Tells faults of the machine from faults of a model or of a single file, in one place for all commands.

A full disk, an image folder that is not mounted, or a lack of memory says nothing about a model. A run that counted the
items it could not ask for such a reason as failed would turn a passing fault into a final score of 0. The run ends
instead, nothing is recorded for these items, and `--resume` asks them.
"""

import errno
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from os.path import isfile
from pathlib import Path

_OF_ONE_FILE = frozenset(
    {
        errno.ENOENT,
        errno.ENOTDIR,
        errno.EISDIR,
        errno.ELOOP,
        errno.ENAMETOOLONG,
        errno.EINVAL,
        errno.EOVERFLOW,
        errno.EILSEQ,
    }
)
"""Error numbers of an input file that is missing, is no file or is damaged (decoders seek to impossible positions)."""

_OF_RIGHTS = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})
"""Error numbers of a file or folder that this user may not read or write."""
_OPENCV_NO_MEMORY = -4
"""`cv2.error.code` of an allocation that failed (StsNoMem)."""
_MEMORY_WORDS = ("out of memory", "allocate memory", "not enough memory", "cublas_status_alloc_failed")
_DEVICE_WORDS = (
    *_MEMORY_WORDS,
    "cuda error",
    "hip error",
    "cublas_status",
    "cudnn_status",
    "can't start new thread",
)
"""Words of runtime errors that tell of the machine. After a CUDA error, no later call of the process succeeds."""


class MachineFault(RuntimeError):
    """A fault of the machine, described in one line. It ends the run, and nothing is recorded as failed."""

    def __init__(self, error: BaseException) -> None:
        reason = _missing_right(error) or " ".join(f"{type(error).__name__}: {error}".split())
        super().__init__(
            f"{reason} - this is a fault of the machine and not of the model, so the command ends and nothing is "
            "recorded as failed; mend it, then go on (runs and predictions: --resume)"
        )


def end_run_on_machine_fault(error: BaseException, *, of_input: bool = False) -> None:
    """Raise `MachineFault` if an error, or the error that it was raised from, is a fault of the machine.

    Args:
        error: What was raised.
        of_input: Whether it was raised while an input file was read, such as an image. A file that is missing or
            damaged is then a fault of that file alone.

    Raises:
        MachineFault: It is a fault of the machine.
    """
    for cause in _chain(error):
        if isinstance(cause, MachineFault):
            raise cause
        if _is_of_machine(cause, of_input):
            raise MachineFault(error) from error


def is_machine_fault(error: BaseException, *, of_input: bool = False) -> bool:
    """Return whether an error is a fault of the machine rather than of a model or a single file.

    Faults of the machine are:

    - `MemoryError`, and every error that says that a device or the system has no memory left;
    - errors of a device (CUDA, HIP) and of the system's limits (threads);
    - `OSError` with an error number: a full disk, a quota, an input/output error, a stale file handle, missing rights,
      too many open files. An error of an image decoder carries no number.

    An error that was raised `from` such an error is one, too.

    Args:
        error: What was raised.
        of_input: See `end_run_on_machine_fault`.
    """
    return any(isinstance(cause, MachineFault) or _is_of_machine(cause, of_input) for cause in _chain(error))


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that the system or a device has no memory left."""
    return any(
        isinstance(cause, MemoryError)
        or (isinstance(cause, OSError) and cause.errno == errno.ENOMEM)
        or _is_opencv_without_memory(cause)
        or (_is_device_error(cause) and (_has_memory_type(cause) or _says(cause, _MEMORY_WORDS)))
        for cause in _chain(error)
    )


def describe_error(error: BaseException) -> str:
    """Return an error in words; of one for lack of rights, the path, whose right is missing and what to do.

    The lack of rights is found, too, if a reader has taken the file for a damaged one and raised an error from it.
    """
    if not isinstance(error, MachineFault) and (text := _missing_right(error)):
        return text
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return f"{error.filename}: {error.strerror}"
    return str(error) or type(error).__name__


def _missing_right(error: BaseException) -> str | None:
    """Return the path, whose right is missing and what to do, if an error is for lack of rights."""
    for cause in _chain(error):
        if isinstance(cause, OSError) and cause.errno in _OF_RIGHTS and isinstance(cause.filename, (str, bytes)):
            return _describe_missing_right(Path(os.fsdecode(cause.filename)), cause)
    return None


def _describe_missing_right(path: Path, error: OSError) -> str:
    reason = error.strerror or type(error).__name__
    if error.errno == errno.EROFS:
        return f"{path}: {reason}; choose a folder on another file system"
    folder = path
    while not os.path.lexists(folder) and folder.parent != folder:  # no error where a folder may not be entered
        folder = folder.parent
    if folder == path and not _may(path, os.R_OK | (os.X_OK if path.is_dir() else 0)):
        return f"{path}: {reason}; you may not read it: change its rights (chmod, chown), or name another path"
    if folder == path and not _may(path, os.W_OK):
        return f"{path}: {reason}; you may not write it: change its rights (chmod, chown), or choose another output"
    parent = folder.parent if folder == path else folder
    if not _may(parent, os.X_OK):
        return f"{path}: {reason}; you may not enter {parent}: change its rights (chmod, chown), or name another path"
    if not _may(parent, os.W_OK):
        return f"{parent}: {reason}; you may not write here: change its rights (chmod, chown), or choose another output"
    return f"{path}: {reason}; change the rights of the file or its folder (chmod, chown), or name another path"


def _may(path: Path, rights: int) -> bool:
    return os.access(path, rights, effective_ids=os.access in os.supports_effective_ids)


class InputFiles:
    """The input files of a run, for the question whether a missing one is gone alone or with its whole folder.

    Args:
        paths: Returns all files; called when the first one is missing.
    """

    def __init__(self, paths: Callable[[], Iterable[Path]]) -> None:
        self._list = paths

    def end_run_if_folder_is_missing(self, path: Path) -> None:
        """Raise `MachineFault` if everything is missing that a missing file should be found beside.

        An unmounted disk leaves no file of a folder, whether the folder is still there or not. If the folder should
        hold a single file, all files of the run are looked at.

        Args:
            path: The missing file.

        Raises:
            MachineFault: The folder is away.
        """
        beside = self._by_folder.get(path.parent, ())
        expected = beside if len(beside) > 1 else [file for files in self._by_folder.values() for file in files]
        if len(expected) > 1 and not any(map(isfile, expected)):
            raise MachineFault(FileNotFoundError(f"{path.parent}: none of the run's files is there any more"))

    @cached_property
    def _by_folder(self) -> dict[Path, list[Path]]:
        folders = defaultdict[Path, list[Path]](list)
        for path in dict.fromkeys(self._list()):
            folders[path.parent].append(path)
        return dict(folders)


def _is_of_machine(error: BaseException, of_input: bool) -> bool:
    if isinstance(error, MemoryError) or _is_device_error(error) or _is_opencv_without_memory(error):
        return True
    if not isinstance(error, OSError) or error.errno is None:
        return False
    return not (of_input and error.errno in _OF_ONE_FILE)


def _is_device_error(error: BaseException) -> bool:
    # By name, because this package does not import torch. The words alone do not decide for other classes: their
    # messages may quote what a model said.
    if not isinstance(error, RuntimeError):
        return False
    if _has_memory_type(error):
        return True
    is_plain = type(error) is RuntimeError or type(error).__module__.partition(".")[0] == "torch"
    return is_plain and _says(error, _DEVICE_WORDS)


def _is_opencv_without_memory(error: BaseException) -> bool:
    return type(error).__module__.partition(".")[0] == "cv2" and getattr(error, "code", None) == _OPENCV_NO_MEMORY


def _says(error: BaseException, phrases: Sequence[str]) -> bool:
    text = " ".join(str(error).lower().split())
    return any(phrase in text for phrase in phrases)


def _has_memory_type(error: BaseException) -> bool:
    return any(kind.__name__ == "OutOfMemoryError" for kind in type(error).__mro__)


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Generate an error and the errors that it was explicitly raised from."""
    seen: set[int] = set()
    found: BaseException | None = error
    while found is not None and id(found) not in seen:
        seen.add(id(found))
        yield found
        found = found.__cause__
