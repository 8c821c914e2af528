"""A local chat endpoint that answers, or misbehaves, as a test tells it."""

import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Request = dict[str, Any]
Act = Callable[["Handler", Request], None]
"""Answers one request, well or badly."""


class Handler(BaseHTTPRequestHandler):
    """Plays the server's acts in turn; the last one is repeated."""

    server: "ScriptedServer"

    def do_POST(self) -> None:
        """Read the request, note it, play the next act."""
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            index = min(len(self.server.requests), len(self.server.acts) - 1)
            self.server.requests.append(Received(self.path, self.headers.get("Authorization"), body))
        self.server.acts[index](self, body)

    def send(
        self, status: int, body: bytes, headers: Sequence[tuple[str, str]] = (), length: int | None = None
    ) -> None:
        """Send an answer; a `length` beyond the body's promises more than comes."""
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body) if length is None else length))
        for name, value in headers:
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Keep the tests' output clean."""


@dataclass(frozen=True)
class Received:
    """One request as it arrived."""

    path: str
    authorization: str | None
    body: Request


@dataclass
class ScriptedServer(ThreadingHTTPServer):
    """The server; `requests` grows."""

    acts: Sequence[Act]
    requests: list[Received] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)

    @property
    def endpoint(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


@contextmanager
def serve(*acts: Act) -> Iterator[ScriptedServer]:
    """Run a server while the block lasts."""
    server = ScriptedServer(acts)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def completion(content: object, **message: object) -> bytes:
    """The body of a proper answer."""
    choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": content, **message}}
    return json.dumps({"id": "x", "choices": [choice]}).encode()


def say(content: object, **message: object) -> Act:
    """Answer properly."""
    return lambda handler, request: handler.send(200, completion(content, **message))


def status(code: int, body: bytes = b"", retry_after: str | None = None) -> Act:
    """Answer with an error."""
    headers = [] if retry_after is None else [("Retry-After", retry_after)]
    return lambda handler, request: handler.send(code, body, headers)


def raw(body: bytes) -> Act:
    """Answer 200 with any bytes."""
    return lambda handler, request: handler.send(200, body)


def hang(handler: Handler, request: Request) -> None:
    """Say nothing for longer than the client waits."""
    time.sleep(0.6)


def close_early(handler: Handler, request: Request) -> None:
    """Promise a whole answer, send half of it and close the connection."""
    body = completion("B")
    handler.send(200, body[: len(body) // 2], length=len(body))
    handler.close_connection = True


def drop(handler: Handler, request: Request) -> None:
    """Close the connection without a word."""
    handler.connection.close()


def choose_by_text(wanted: Callable[[str], bool]) -> Act:
    """Answer with the letter of the shown choice whose text fulfils a condition."""

    def act(handler: Handler, request: Request) -> None:
        content = request["messages"][-1]["content"]
        text = content if isinstance(content, str) else content[-1]["text"]
        lines = [line for line in text.split("\n") if line[1:3] == ". "]
        handler.send(200, completion(next(line[0] for line in lines if wanted(line[3:]))))

    return act
