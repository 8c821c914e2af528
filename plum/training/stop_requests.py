"""Requests to save or stop: signals and the clock, on which all ranks agree after every update."""

import os
import signal
import threading
import time
from types import FrameType, TracebackType

import torch
import torch.distributed

from plum.training.exit_status import Request
from plum.training.ranks import Ranks

SECONDS_BETWEEN_REPEATS = 1.0
"""A Ctrl-C that comes again within this time is the same one: the launcher may pass on what the rank has received."""
LOADER_SECONDS = 600
"""How long a loader process lives on after SIGTERM: its rank needs batches until the update is done."""


_OF_SIGNAL = {
    signal.SIGUSR1: Request.REQUEUE,
    signal.SIGINT: Request.INTERRUPT,
    signal.SIGTERM: Request.TERMINATE,
}


class StopRequests:
    """Takes signals while it is entered, and tells all ranks the same.

    Before and after, signals have their usual effects: there is nothing to save.

    Args:
        ranks: this process among the run's.
        max_minutes: time of this start, the last checkpoint included; None for no limit.
        save_every_minutes: time between checkpoints; None to save by updates alone.
        started: `time.monotonic()` when this start began.
    """

    def __init__(
        self, ranks: Ranks, max_minutes: float | None, save_every_minutes: float | None, started: float
    ) -> None:
        self.ranks = ranks
        self.max_seconds = None if max_minutes is None else 60 * max_minutes
        self.save_seconds = None if save_every_minutes is None else 60 * save_every_minutes
        self._started = started
        self._saved = self._updated = time.monotonic()
        self._longest_update = self._longest_save = 0.0
        self._received = Request.NOTHING
        self._received_at = 0.0
        self._process = os.getpid()
        self._before: dict[int, signal._HANDLER] = {}

    def __enter__(self) -> "StopRequests":
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._receive) for number in _OF_SIGNAL}
        self._saved = self._updated = time.monotonic()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def agree(self) -> Request:
        """Return what the ranks are asked for after an update. Collective."""
        now = time.monotonic()
        self._longest_update = max(self._longest_update, now - self._updated)
        self._updated = now
        request = max(self._received, self._read_clock(now) if self.ranks.is_main else Request.NOTHING)
        if self.ranks.world_size > 1:
            packed = torch.tensor(int(request), device=self.ranks.device)
            torch.distributed.all_reduce(packed, torch.distributed.ReduceOp.MAX)
            request = Request(int(packed))
        return request

    def end_save(self) -> None:
        """Note that a checkpoint was written since `agree`."""
        now = time.monotonic()
        self._longest_save = max(self._longest_save, now - self._updated)
        self._saved = self._updated = now

    def _read_clock(self, now: float) -> Request:
        if self.max_seconds is not None:
            needed = now - self._started + self._longest_update + self._longest_save
            if needed > self.max_seconds:
                return Request.TIME_LIMIT
        if self.save_seconds is not None and now - self._saved >= self.save_seconds:
            return Request.SAVE
        return Request.NOTHING

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:  # a loader process, which was forked from this one
            if number == signal.SIGTERM:
                signal.alarm(LOADER_SECONDS)
            return
        now = time.monotonic()
        if number == signal.SIGINT and self._received and now - self._received_at > SECONDS_BETWEEN_REPEATS:
            raise KeyboardInterrupt
        self._received = max(self._received, _OF_SIGNAL[signal.Signals(number)])
        self._received_at = now
