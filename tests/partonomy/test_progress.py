"""Progress as a bar on a terminal and as sparse lines anywhere else."""

import io
import re
import sys

import pytest

from partonomy import progress as module
from partonomy.progress import counted, progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time in seconds, as a list of one number that a test sets."""
    now = [1000.0]
    monkeypatch.setattr(module, "monotonic", lambda: now[0])
    return now


def test_a_terminal_gets_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with progress(4, "questions", "image", initial=1) as shown:
        shown.set_note("dog")
        shown.update(3)
    assert re.search(r"\rquestions: 100%\|.*\| 4/4 \[.*image/s, dog\]", terminal.getvalue())


def test_a_log_gets_one_line_every_half_minute(capsys: pytest.CaptureFixture[str], clock: list[float]) -> None:
    with progress(5000, "questions", "image", initial=1000) as shown:
        for seconds in (10.0, 29.9, 30.0, 59.0, 60.0):
            clock[0] = 1000.0 + seconds
            shown.set_note("" if seconds < 60 else "loss 0.5")
            shown.update(300)
    stamp = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d"
    first, second = capsys.readouterr().err.splitlines()
    assert re.fullmatch(stamp + r" questions: 1,900/5,000 images, 30\.0 images/s", first)
    assert re.fullmatch(stamp + r" questions: 2,500/5,000 images, 25\.0 images/s, loss 0\.5", second)


@pytest.mark.parametrize(
    ("unit", "total", "done", "text"),
    [
        ("image", 9, 2, "2/9 images, 15.0 s/image"),
        ("image", 9, 0, "0/9 images, 0.0 images/s"),
        ("B", 9_000_000, 3_000_000, "3.00MB/9.00MB, 100kB/s"),
    ],
)
def test_the_rate_is_readable(
    *, unit: str, total: int, done: int, text: str, capsys: pytest.CaptureFixture[str], clock: list[float]
) -> None:
    with progress(total, "work", unit) as shown:
        clock[0] += 30.0
        shown.update(done)
    assert capsys.readouterr().err.endswith(f" work: {text}\n")


def test_short_work_and_hidden_work_write_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], clock: list[float]
) -> None:
    with progress(2, "work", "image") as shown:
        shown.update(2)
    with progress(2, "work", "image", is_shown=False) as shown:
        clock[0] += 90.0
        shown.update(2)
    assert capsys.readouterr().err == ""
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with progress(2, "work", "image", is_shown=False) as shown:
        shown.update(2)
    assert terminal.getvalue() == ""


def test_an_item_counts_once_its_work_is_done(capsys: pytest.CaptureFixture[str], clock: list[float]) -> None:
    with progress(3, "work", "image") as shown:
        for item in counted(["a", "b", "c"], shown):
            clock[0] += 30.0 if item == "b" else 1.0
    (line,) = capsys.readouterr().err.splitlines()
    assert " work: 2/3 images, " in line
