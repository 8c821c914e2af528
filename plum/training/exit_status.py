"""Exit statuses of a training run that was stopped before its last update; its checkpoint is written by then."""

import signal

INTERRUPTED = 128 + signal.SIGINT
"""Ctrl-C."""
TERMINATED = 128 + signal.SIGTERM
REQUEUE = 75
"""SIGUSR1, or `max_minutes` is over: the same command, started again, goes on (EX_TEMPFAIL of sysexits.h)."""
