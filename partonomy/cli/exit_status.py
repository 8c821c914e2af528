"""How every command of both programs ends: its exit status, and one line for an error in the input.

docs/exit_codes.md lists the statuses, with those of a training run (plum/training/exit_status.py).
"""

import os
import signal
import sys
from collections.abc import Callable, Sequence

from partonomy.cli.parsers import error_line
from partonomy.machine_faults import MachineFault
from partonomy.terminal import one_line

ERROR = 1
"""The input is wrong, a file is missing, or a part of the work has failed; the message says which."""
USAGE = 2
"""The command line is wrong: argparse's own status."""
INTERRUPTED = 128 + signal.SIGINT
"""Ctrl-C."""
BROKEN_PIPE = 128 + signal.SIGPIPE
"""The reader of the output has closed it (`| head`)."""


class UsageError(ValueError):
    """The command line is wrong in a way that no parser notices, such as two flags that exclude each other."""


def run_command(command: Callable[[], int | None], arguments: Sequence[str], name: str = "") -> int:
    """Run a command and report how it ends; an error in the input is one line on stderr, without a traceback.

    Args:
        command: returns an exit status, or None for 0.
        arguments: the command's arguments, which tell what a wrong path may mean.
        name: the program, if its messages begin with it.

    Returns:
        The exit status.
    """
    start = f"{name}: error" if name else "error"
    try:
        status = command()
        sys.stdout.flush()
    except BrokenPipeError:
        # The rest of the buffer must not hit the closed pipe again when the interpreter flushes it at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except (OSError, ValueError, RuntimeError) as error:
        print(f"{start}: {error_line(error, arguments)}", file=sys.stderr)
        return USAGE if isinstance(error, UsageError) else ERROR
    except MemoryError as error:
        print(f"{start}: {one_line(str(MachineFault(error)))}", file=sys.stderr)
        return ERROR
    except KeyboardInterrupt:
        print(f"{start}: interrupted", file=sys.stderr)
        return INTERRUPTED
    return status or 0
