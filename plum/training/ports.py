"""Free network ports, at which the ranks of a run meet."""

import contextlib
import random
import socket

PORTS = range(20000, 32000)
"""Range that is searched: below Linux's ephemeral ports, so that no outgoing connection takes a port before its use."""


def is_free(port: int) -> bool:
    """Return whether this machine can listen at a port."""
    with socket.socket() as probe, contextlib.suppress(OSError):
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the ranks' store does
        probe.bind(("", port))
        return True
    return False


def find_free_port() -> int:
    """Return a free port.

    Raises:
        OSError: all of a hundred sampled ports are taken.
    """
    for port in random.SystemRandom().sample(PORTS, 100):
        if is_free(port):
            return port
    raise OSError(f"no free port among a hundred sampled from {PORTS.start} to {PORTS.stop - 1}")
