"""A local chat endpoint that answers, or misbehaves, as a test tells it."""

import gzip
import json
import threading
import time
import zlib
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


def never_stop(handler: Handler, request: Request) -> None:
    """Send without an end, as fast as the client reads."""
    handler.send(200, b'{"choices": [', length=10**15)
    try:
        while True:
            handler.wfile.write(b" " * 2**16)
    except OSError:
        handler.close_connection = True


def trickle_body(handler: Handler, request: Request) -> None:
    """Send a proper answer, a byte every 50 ms."""
    body = completion("B" * 1000)
    handler.send(200, b"", length=len(body))
    _trickle(handler, body)


def trickle_headers(handler: Handler, request: Request) -> None:
    """Send the headers of an answer, a byte every 50 ms."""
    _trickle(handler, b"HTTP/1.1 200 OK\r\nX-Slow: " + b"a" * 1000)


def _trickle(handler: Handler, body: bytes) -> None:
    handler.close_connection = True
    try:
        for byte in body:
            handler.wfile.write(bytes([byte]))
            handler.wfile.flush()
            time.sleep(0.05)
    except OSError:
        return


def compressed(body: bytes, encoding: str = "gzip") -> Act:
    """Answer with a compressed body, although the request asks for none."""
    packed = zlib.compress(body) if encoding == "deflate" else gzip.compress(body)
    return lambda handler, request: handler.send(200, packed, [("Content-Encoding", encoding)])


def bomb(handler: Handler, request: Request) -> None:
    """Answer with a few MB that decompress to 1 GB."""
    packer = zlib.compressobj(1, wbits=16 + zlib.MAX_WBITS)
    handler.send(200, b"", [("Content-Encoding", "gzip")], length=10**9)
    handler.close_connection = True
    try:
        for _ in range(1024):
            handler.wfile.write(packer.compress(b" " * 2**20))
        handler.wfile.write(packer.flush())
    except OSError:
        return


def echo(handler: Handler, request: Request) -> None:
    """Repeat the request's headers in the answer, its content and its headers, as debugging proxies do."""
    received = [(name, value) for name, value in handler.headers.items() if name != "Content-Length"]
    text = "A " + json.dumps(dict(received))
    handler.send(200, completion(text), [(f"X-Echo-{name}", value) for name, value in received])


def choose_by_text(wanted: Callable[[str], bool]) -> Act:
    """Answer with the letter of the shown choice whose text fulfils a condition."""

    def act(handler: Handler, request: Request) -> None:
        content = request["messages"][-1]["content"]
        text = content if isinstance(content, str) else content[-1]["text"]
        lines = [line for line in text.split("\n") if line[1:3] == ". "]
        handler.send(200, completion(next(line[0] for line in lines if wanted(line[3:]))))

    return act
