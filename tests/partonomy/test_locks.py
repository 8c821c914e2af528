"""One writer at a time, on file systems with and without locks; what a killed one leaves is no obstacle."""

import errno
import os
import signal
import socket
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from filelock._native import _unix as native  # the only place where a lock of the operating system is taken

from partonomy.locks import has_other_files, hold_lock, lock_folder, lock_output, lock_path, require_unlocked

Hold = Callable[[Path], AbstractContextManager[None]]


def hold(path: Path) -> AbstractContextManager[None]:
    return hold_lock(path, "another process writes")


HOLDS = [pytest.param(hold, id="file"), pytest.param(lock_folder, id="folder"), pytest.param(lock_output, id="output")]


@pytest.fixture(params=[None, errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def number(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int | None:
    """The error of a file system without locks; None is one with locks."""
    if request.param is not None:

        def refuse(descriptor: int) -> bool:
            raise OSError(request.param, os.strerror(request.param))

        monkeypatch.setattr(native, "lock_fd_nonblocking", refuse)
    number: int | None = request.param
    return number


def in_child(work: Callable[[], None]) -> int:
    """Run in a forked process until it has written a byte, and leave it running."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            work_with_signal(work, writing)
        finally:
            os._exit(1)
    os.close(writing)
    assert os.read(reading, 1) == b"x"
    os.close(reading)
    return child


def work_with_signal(work: Callable[[], None], writing: int) -> None:
    work()
    os.write(writing, b"x")
    time.sleep(60)


def hold_for_ever(make: Hold, path: Path) -> Callable[[], None]:
    kept = []

    def work() -> None:
        kept.append(make(path))
        kept[0].__enter__()

    return work


def end(child: int) -> None:
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


@pytest.mark.parametrize("make", HOLDS)
def test_the_second_process_is_refused_and_a_killed_one_is_no_obstacle(
    make: Hold, tmp_path: Path, number: int | None, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "out"
    child = in_child(hold_for_ever(make, path))
    try:
        with pytest.raises(BlockingIOError, match="another process") as refused, make(path):
            raise AssertionError("two hold the lock")
        assert "\n" not in str(refused.value)
        if number is not None:
            owner = f"process {child} on {socket.gethostname()}"
            assert owner in str(refused.value)
            assert "delete " in str(refused.value)
    finally:
        end(child)
    caplog.clear()
    with make(path), pytest.raises(BlockingIOError), make(path):
        raise AssertionError("two hold the lock")
    assert ("the file system has no locks" in caplog.text) == (number is not None)
    assert (f"taken over from process {child}" in caplog.text) == (number is not None)
    left = [file.name for folder in (tmp_path, path) if folder.is_dir() for file in folder.glob(".*")]
    assert left == ([".out.lock"] if make is hold else [])


@pytest.mark.parametrize("number", [errno.ENOLCK], indirect=True)
def test_an_owner_on_another_host_is_refused_and_one_whose_number_went_to_us_is_not(
    tmp_path: Path, number: int, caplog: pytest.LogCaptureFixture
) -> None:
    owner = tmp_path / ".lock.owner"
    owner.write_text("17\nanother-host\n42\n")
    with pytest.raises(BlockingIOError, match=f"process 17 on another-host; if .* has ended, delete {owner}"):
        lock_folder(tmp_path).__enter__()
    assert owner.read_text() == "17\nanother-host\n42\n"
    owner.write_text(f"{os.getpid()}\n{socket.gethostname()}\n42\n")  # our number, but another start
    with lock_folder(tmp_path):
        assert not has_other_files(tmp_path)
    assert f"taken over from process {os.getpid()}" in caplog.text
    assert list(tmp_path.iterdir()) == []


def test_any_other_error_of_a_lock_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(descriptor: int) -> bool:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(native, "lock_fd_nonblocking", fail)
    with pytest.raises(OSError, match="Input/output error"):
        lock_folder(tmp_path).__enter__()


def test_a_lock_that_is_let_go_in_time_is_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    child = in_child(hold_for_ever(hold, path))
    try:
        with pytest.raises(BlockingIOError, match="still at work"):
            require_unlocked(path, "still at work", 0.05)
    finally:
        end(child)
    require_unlocked(path, "still at work", 0.05)
    with hold(path):
        assert lock_path(path).exists()


def test_of_several_writers_only_old_remains_are_deleted(tmp_path: Path) -> None:
    names = [f".records.jsonl.{number:032x}.tmp" for number in range(2)]
    for name in names:
        (tmp_path / name).touch()
    os.utime(tmp_path / names[0], (time.time() - 90_000,) * 2)  # more than a day ago
    with lock_folder(tmp_path, is_shared=True):
        assert sorted(path.name for path in tmp_path.glob("*.tmp")) == names[1:]
    with lock_folder(tmp_path):
        assert not list(tmp_path.glob("*.tmp"))
