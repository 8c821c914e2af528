"""Starts a training program's log and reports how it ends: one line for what the user can fix, else a traceback."""

import logging
import os
import sys
import time
from collections.abc import Callable

from partonomy import machine_faults
from partonomy.terminal import SafeStream, escape_controls
from plum.training.exit_status import INTERRUPTED, CheckpointError, RunStoppedError

TRACEBACK_VARIABLE = "PLUM_TRACEBACK"
"""Environment variable; 1 shows the traceback of every error."""
USER_ERRORS = (OSError, ValueError, FloatingPointError, CheckpointError)
SECONDS_BEFORE_OTHERS = 3.0
"""How long a rank that is not the main one waits before it reports an error. The launcher ends it meanwhile if the main
rank has failed, too, so that the same error is not printed by every rank."""


def start_log() -> None:
    """Log with times: everything on the main rank, errors and replaced samples on the others."""
    is_main = _rank() == 0
    logging.basicConfig(
        stream=SafeStream(sys.stderr),
        level=logging.INFO if is_main else logging.ERROR,
        format="%(asctime)s %(message)s",
        datefmt="%Y-%m-%d %H:%M:%S",
    )
    for name in ("plum.data.sources", "plum.data.fitting_texts"):
        logging.getLogger(name).setLevel(logging.INFO if is_main else logging.WARNING)


def run_reported(name: str, program: Callable[[], int]) -> int:
    """Run a program on this rank, and report how it ends.

    Args:
        name: of the program, for messages.
        program: returns the exit status.

    Returns:
        The exit status: the program's, 1 after an error, or that of a stopped run (plum/training/exit_status.py).
    """
    try:
        return program()
    except RunStoppedError as stopped:
        if _rank() == 0:
            sys.stderr.write(f"{name}: {stopped}\n")
        return stopped.status
    except KeyboardInterrupt:
        sys.stderr.write(f"{name}: interrupted; the last checkpoint is kept\n")
        return INTERRUPTED
    except USER_ERRORS as error:
        if os.environ.get(TRACEBACK_VARIABLE) == "1":
            raise
        where = "" if _rank() == 0 else f"rank {_rank()}: "
        if where:
            time.sleep(SECONDS_BEFORE_OTHERS)
        sys.stderr.write(f"{name}: error: {where}{describe_error(error)}\n")
        return 1


def describe_error(error: Exception) -> str:
    """Return an error as one line; of one that a loader process has passed on, the error itself."""
    text = machine_faults.describe_error(error)
    if text.startswith("Caught ") and "Traceback" in text:  # torch.utils.data puts the traceback into the message
        last = text.strip().splitlines()[-1]
        text = last.partition(": ")[2] or last
    return escape_controls(" ".join(text.split()))


def _rank() -> int:
    return int(os.environ.get("RANK", "0"))
