"""How a training run ends before its last update: exit statuses, and the errors that a program reports as one line.

Nothing here imports torch, so that a program can report an error in its arguments at once. docs/exit_codes.md lists the
statuses.
"""

import signal
from enum import IntEnum

INTERRUPTED = 128 + signal.SIGINT
"""Ctrl-C."""
TERMINATED = 128 + signal.SIGTERM
REQUEUE = 75
"""SIGUSR1, or `max_minutes` is over: the same command, started again, goes on (EX_TEMPFAIL of sysexits.h)."""


class Request(IntEnum):
    """What a rank is asked for; the largest of all ranks holds."""

    NOTHING = 0
    SAVE = 1
    TIME_LIMIT = 2
    REQUEUE = 3
    INTERRUPT = 4
    TERMINATE = 5

    @property
    def stops(self) -> bool:
        """Whether the run ends after its checkpoint."""
        return self > Request.SAVE


_ENDS = {
    Request.TIME_LIMIT: (REQUEUE, "because the time of max_minutes is over"),
    Request.REQUEUE: (REQUEUE, "by SIGUSR1"),
    Request.INTERRUPT: (INTERRUPTED, "by Ctrl-C (SIGINT)"),
    Request.TERMINATE: (TERMINATED, "by SIGTERM"),
}


class RunStoppedError(Exception):
    """The run was told to stop and has written its checkpoint; `status` is the exit status."""

    def __init__(self, request: Request, update: int, num_updates: int) -> None:
        self.status, reason = _ENDS[request]
        super().__init__(
            f"stopped {reason} after update {update} of {num_updates} (exit status {self.status}); the checkpoint is "
            "written, and the same command goes on from it"
        )


class CheckpointError(RuntimeError):
    """A checkpoint could not be written or converted; the message says why and what is kept."""
