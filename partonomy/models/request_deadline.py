"""One deadline for a whole HTTP request.

The timeouts of httpx limit each read alone, so an endpoint that sends a byte now and then would never end. At the
deadline, the connection is shut down, which ends a pending read or write at once.
"""

import logging
import socket
import threading
from collections.abc import Mapping
from types import TracebackType
from typing import Any

logger = logging.getLogger(__name__)


class RequestDeadline:
    """Shuts the connection of a request down at its deadline.

    Use it as a context around one request, and give `note` to httpx as the request's "trace" extension.

    Args:
        seconds: Time from the start of the context to the deadline.
    """

    def __init__(self, seconds: float) -> None:
        self._timer = threading.Timer(seconds, self._end)
        self._timer.daemon = True
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self.is_over = False

    def __enter__(self) -> "RequestDeadline":
        self._timer.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._timer.cancel()
        with self._lock:
            self._forget()

    def note(self, event: str, details: Mapping[str, Any]) -> None:
        """Remember the request's connection; called by httpcore for every step of the request.

        Args:
            event: Name of the step.
            details: The step's arguments or its result ("return_value").
        """
        stream = details.get("return_value")
        if event.endswith(("connect_tcp.complete", "start_tls.complete")) and stream is not None:
            self._remember(stream.get_extra_info("socket"))

    def _remember(self, connection: socket.socket) -> None:
        with self._lock:
            self._forget()
            # A duplicate stays valid whatever httpcore does with its own; shutting it down ends the connection itself.
            self._socket = socket.fromfd(connection.fileno(), connection.family, connection.type)
            if self.is_over:
                _shut_down(self._socket)

    def _end(self) -> None:
        with self._lock:
            self.is_over = True
            if self._socket is not None:
                _shut_down(self._socket)

    def _forget(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None


def _shut_down(connection: socket.socket) -> None:
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError as error:  # the endpoint has closed it already
        logger.debug("the connection was closed before its deadline: %s", error)
