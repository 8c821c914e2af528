"""Progress reports for long-running work: a bar on a terminal, otherwise a line of text every half minute."""

import sys
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime
from time import monotonic
from typing import Any, TypeVar

from tqdm import tqdm

from partonomy.terminal import one_line, unfiltered

Item = TypeVar("Item")

SECONDS_PER_LINE = 30.0
"""Time between two lines if standard error is not a terminal: at most 2,880 lines in a day's log."""
BYTES = "B"
"""The unit that is shown with metric prefixes (12.3MB)."""


class Progress(ABC):
    """The handle through which the caller of `progress` reports its work."""

    @abstractmethod
    def update(self, n: int = 1) -> None:
        """Count `n` more units as done."""

    @abstractmethod
    def set_note(self, text: str) -> None:
        """Show a short text, for example a loss, after the counts; an empty one removes it."""


@contextmanager
def progress(
    total: int, label: str, unit: str, *, initial: int = 0, position: int = 0, is_shown: bool = True
) -> Iterator[Progress]:
    """Report the progress of a piece of work on standard error.

    On a terminal this is a tqdm bar. Anywhere else (a file, a scheduler's log) a bar would fill the file with carriage
    returns, so a line with the time, the units done and the rate is written every 30 seconds; shorter work writes
    nothing.

    Args:
        total: number of units of the whole work.
        label: name of the work, shown before the counts.
        unit: singular name of the unit; "B" is shown in kB, MB and so on.
        initial: number of units done by an earlier run; they count towards `total` but not towards the rate.
        position: line of the bar, from 0, if several processes show bars on one terminal.
        is_shown: whether to show anything; pass False, for example, on all ranks except the first.
    """
    if not is_shown:
        yield _Silent()
    elif sys.stderr.isatty():
        with tqdm(
            total=total,
            desc=one_line(label),
            unit=unit,
            file=unfiltered(sys.stderr),
            initial=initial,
            position=position,
            unit_scale=unit == BYTES,
        ) as bar:
            yield _Bar(bar)
    else:
        yield _Lines(total, label, unit, initial)


def counted(items: Iterable[Item], shown: Progress) -> Iterator[Item]:
    """Yield items and count each as done when the next one is requested."""
    for item in items:
        yield item
        shown.update()


class _Silent(Progress):
    def update(self, n: int = 1) -> None:
        pass

    def set_note(self, text: str) -> None:
        pass


class _Bar(Progress):
    def __init__(self, bar: "tqdm[Any]") -> None:
        self._bar = bar

    def update(self, n: int = 1) -> None:
        self._bar.update(n)

    def set_note(self, text: str) -> None:
        self._bar.set_postfix_str(one_line(text), refresh=False)


class _Lines(Progress):
    def __init__(self, total: int, label: str, unit: str, initial: int) -> None:
        self._total, self._label, self._unit, self._initial = total, one_line(label), unit, initial
        self._done = initial
        self._note = ""
        self._started = self._written = monotonic()

    def update(self, n: int = 1) -> None:
        self._done += n
        now = monotonic()
        if now - self._written >= SECONDS_PER_LINE:
            self._written = now
            sys.stderr.write(self._line(now - self._started) + "\n")
            sys.stderr.flush()

    def set_note(self, text: str) -> None:
        self._note = one_line(text)

    def _line(self, seconds: float) -> str:
        is_bytes = self._unit == BYTES
        done, total = (
            (f"{tqdm.format_sizeof(self._done)}B", f"{tqdm.format_sizeof(self._total)}B")
            if is_bytes
            else (f"{self._done:,}", f"{self._total:,} {self._unit}s")
        )
        rate = (self._done - self._initial) / seconds
        if is_bytes:
            speed = f"{tqdm.format_sizeof(rate)}B/s"
        else:
            speed = f"{rate:.1f} {self._unit}s/s" if rate >= 1 or not rate else f"{1 / rate:.1f} s/{self._unit}"
        note = f", {self._note}" if self._note else ""
        return f"{datetime.now():%Y-%m-%d %H:%M:%S} {self._label}: {done}/{total}, {speed}{note}"
