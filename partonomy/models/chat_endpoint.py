"""Models behind OpenAI-compatible chat endpoints, which are shown all choices at once (`listwise`).

Several requests may be in flight at once. They are retried with exponential backoff and jitter. A reply has a maximum
size, and a request has one deadline, however slowly the endpoint sends. Answers are cached on disk as they arrive, so
repeated requests cost nothing. Keys are never written, not even if the endpoint repeats them in its answers
(`partonomy.models.key_redaction`).
"""

import asyncio
import base64
import datetime
import email.utils
import hashlib
import io
import json
import logging
import os
import random
import re
import threading
import zlib
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar
from urllib.parse import urlsplit

import numpy as np
from PIL import Image

from partonomy.files import read_json_as, write_text_atomically
from partonomy.images import hash_image
from partonomy.models.background_loop import BackgroundLoop
from partonomy.models.contract import Generation, ModelUnavailable, ReplyRefused, Role, Turn
from partonomy.models.key_redaction import HEADER_CHARACTERS, KeyRedactor
from partonomy.structures import CharSpan, ChoiceScore

if TYPE_CHECKING:
    import httpx

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ChatAnswer:
    """An endpoint's answer; `is_refusal` says that the endpoint itself marked it as a refusal."""

    text: str
    is_refusal: bool


@dataclass(frozen=True)
class _CachedAnswer:
    """What is read of a file of the cache; the request in it is for people."""

    answer: ChatAnswer


class AnswerCache:
    """Answers on disk, one JSON file per request, named by the request's hash; processes may share the folder.

    Args:
        folder: Created with the first answer.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def find(self, key: str) -> ChatAnswer | None:
        """Return the cached answer to a request; None if there is none.

        Raises:
            ModelUnavailable: The file is damaged; this must not count against the model.
        """
        path = self._path(key)
        if not path.is_file():
            return None
        try:
            return read_json_as(path, _CachedAnswer, "delete it, then continue with --resume").answer
        except ValueError as error:
            raise ModelUnavailable(f"{path.name} is not a cached answer: {error}") from error

    def store(self, key: str, answer: ChatAnswer, description: Mapping[str, object]) -> None:
        """Store an answer together with a readable description of its request."""
        path = self._path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        content = {"request": dict(description), "answer": asdict(answer)}
        write_text_atomically(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")

    def _path(self, key: str) -> Path:
        return self._folder / key[:2] / f"{key}.json"


def request_key(url: str, body: Mapping[str, object]) -> str:
    """Return the cache key of a request: the SHA-256 of its URL and body.

    Headers, and thus the API key, are not hashed."""
    return hashlib.sha256(json.dumps([url, body], sort_keys=True).encode()).hexdigest()


Answer = TypeVar("Answer")

BUSY: Final = 429
RETRIED: Final = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 520, 522, 524, 529})
FATAL: Final = frozenset({401, 402, 404, 405})
"""Status codes after which no question would be answered: wrong key, empty account, wrong address or model name."""
MAX_EXCERPT = 200
"""An endpoint's own error message is cut to this number of characters."""
MAX_ENCODING_NAME = 40
"""The name of an unknown compression is cut to this number of characters."""


class EndpointError(RuntimeError):
    """An endpoint did not answer one request."""


@dataclass(frozen=True)
class RetryPolicy:
    """When to retry a request; times are in seconds.

    Attributes:
        max_attempts: Total number of attempts.
        first_wait: Wait before the second attempt; doubled before each further one, up to `max_wait`. A wait is drawn
            uniformly from its upper half, so that parallel processes do not retry at the same time.
        max_retry_after: Longest wait that an endpoint may request (Retry-After); a longer one ends the run.
        timeout: Deadline of one request, from the connection to the last byte of the reply.
        max_reply_bytes: Maximum size of a reply, also after decompression.
    """

    max_attempts: int = 6
    first_wait: float = 1.0
    max_wait: float = 60.0
    max_retry_after: float = 600.0
    timeout: float = 120.0
    max_reply_bytes: int = 4 * 2**20


@dataclass(frozen=True)
class _Failure:
    """One failed attempt; `is_busy` says that the endpoint rather than the question is the cause."""

    reason: str
    is_busy: bool = False
    retry_after: float | None = None


@dataclass
class _Progress:
    """How far an attempt has come; httpcore calls `note` for every step of it."""

    is_connected: bool = False

    async def note(self, event: str, details: Mapping[str, Any]) -> None:
        """Note that the request itself is being sent (events http11.*), on a new connection or on an earlier one."""
        self.is_connected = self.is_connected or event.startswith("http")


class JsonClient:
    """Posts and reads JSON.

    Threads may call `post` at once. Their requests run on one event loop, at most `max_concurrent` at a time; the rest
    wait.

    Args:
        key: Sent as a bearer token; None sends none. It appears in no message; `redactor` removes it from replies.
        policy: The retry policy.
        sleep: Waits for a number of seconds; tests replace it.
        max_concurrent: Maximum number of requests at a time, including those that wait to be retried.
    """

    def __init__(
        self,
        key: str | None,
        policy: RetryPolicy,
        sleep: Callable[[float], Awaitable[None]] | None = None,
        max_concurrent: int = 1,
    ) -> None:
        import httpx  # noqa: PLC0415  (a sixth of a second to import, for every command)

        self.redactor = KeyRedactor(key)
        self._policy = policy
        self._sleep = sleep or self._sleep_until_stopped
        self._jitter = random.Random()  # spreads requests in time; no result depends on it
        headers = {"Accept-Encoding": "identity", "Content-Type": "application/json"}
        if key is not None:
            headers["Authorization"] = f"Bearer {key}"
        # At level DEBUG, httpcore logs the headers of replies, and some endpoints repeat the key there.
        logging.getLogger("httpcore").setLevel(logging.INFO)
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=max_concurrent)
        self._client = httpx.AsyncClient(timeout=policy.timeout, headers=headers, limits=limits)
        self._loop = BackgroundLoop()
        self._slots = asyncio.Semaphore(max_concurrent)
        self._stopped = asyncio.Event()
        self.num_in_flight = 0

    def post(self, url: str, body: Mapping[str, object], read: Callable[[Any], Answer]) -> Answer:
        """Send a request until it is answered.

        Args:
            url: Address of the endpoint.
            body: The request.
            read: Turns the answer's JSON into a value; its ValueError or KeyError counts as a broken answer.

        Raises:
            EndpointError: This request could not be answered; others may still be.
            ModelUnavailable: No request can be answered.
        """
        content = json.dumps(body).encode("ascii")  # half a surrogate pair is sent as its escape
        return self._loop.run(self._post(url, content, read))

    def stop(self) -> None:
        """Send no further attempt; attempts in flight may end, others raise ModelUnavailable."""
        self._loop.call(self._stopped.set)

    async def _post(self, url: str, content: bytes, read: Callable[[Any], Answer]) -> Answer:
        async with self._slots:
            failure = _Failure("not asked")
            for attempt in range(self._policy.max_attempts):
                if attempt:
                    await self._wait(attempt, failure)
                if self._stopped.is_set():
                    raise ModelUnavailable("the run has ended; continue with --resume")
                outcome = await self._attempt(url, content, read)
                if not isinstance(outcome, _Failure):
                    return outcome
                failure = outcome
        message = f"{failure.reason} ({self._policy.max_attempts} attempts)"
        if failure.is_busy:
            raise ModelUnavailable(f"{url}: {message}; try again later with --resume")
        raise EndpointError(message)

    async def _attempt(self, url: str, body: bytes, read: Callable[[Any], Answer]) -> Answer | _Failure:
        self.num_in_flight += 1
        try:
            reply = await self._send(url, body)
        finally:
            self.num_in_flight -= 1
        if isinstance(reply, _Failure):
            return reply
        if reply.status in RETRIED:
            return _Failure(f"HTTP {reply.status}", reply.status == BUSY, _retry_after(reply.retry_after))
        self._check_status(url, reply)
        try:
            content = json.loads(reply.content)
        except (ValueError, RecursionError):  # ValueError also for broken UTF-8 and integers of thousands of digits
            return _Failure("the answer is not JSON, or is incomplete")
        try:
            return read(content)
        except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
            return _Failure(
                f"the answer lacks a required field ({self.redactor.in_message(repr(error))[:MAX_EXCERPT]})"
            )

    async def _send(self, url: str, content: bytes) -> "_Reply | _Failure":
        """Send a request once and read its reply, within the deadline and up to the maximum size."""
        import httpx  # noqa: PLC0415

        late = f"no complete answer within {self._policy.timeout:g} s"
        progress = _Progress()
        try:
            # The timeouts of httpx limit each read alone: an endpoint that sends a byte now and then would never end.
            async with (
                asyncio.timeout(self._policy.timeout),
                self._client.stream("POST", url, content=content, extensions={"trace": progress.note}) as response,
            ):
                received = await _read_content(response, self._policy.max_reply_bytes)
            return _Reply(response.status_code, received, response.headers.get("Retry-After"))
        except _ReplyRejected as error:
            return _Failure(str(error))
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            return _Failure(f"no connection: {self.redactor.in_message(str(error))}", is_busy=True)
        except (TimeoutError, httpx.TimeoutException):
            if not progress.is_connected:
                return _Failure(f"no connection: none within {self._policy.timeout:g} s", is_busy=True)
            return _Failure(late)
        except (httpx.TransportError, OSError) as error:  # e.g. the connection was closed in the middle of an answer
            return _Failure(f"the connection broke ({type(error).__name__})")

    def _check_status(self, url: str, reply: "_Reply") -> None:
        """Raise an error for a status that another attempt would not change."""
        if reply.status in FATAL:
            raise ModelUnavailable(f"{url}: {self._describe(reply)}; correct the key, --endpoint or --model_name")
        if reply.status != 200:
            raise EndpointError(self._describe(reply))

    async def _wait(self, attempt: int, failure: _Failure) -> None:
        asked = failure.retry_after or 0.0
        if asked > self._policy.max_retry_after:
            raise ModelUnavailable(
                f"{failure.reason}: the endpoint asks to wait {asked:.0f} s; continue with --resume after that"
            )
        backoff = min(self._policy.max_wait, self._policy.first_wait * 2 ** (attempt - 1))
        await self._sleep(max(asked, backoff * self._jitter.uniform(0.5, 1.0)))

    async def _sleep_until_stopped(self, seconds: float) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._stopped.wait(), seconds)

    def _describe(self, reply: "_Reply") -> str:
        """Return the status and the endpoint's own message without the key, which it may quote."""
        text = reply.content.decode("utf-8", errors="replace")
        excerpt = " ".join(self.redactor.in_message(text).split())[:MAX_EXCERPT]
        return f"HTTP {reply.status}: {excerpt}" if excerpt else f"HTTP {reply.status}"


@dataclass(frozen=True)
class _Reply:
    """A whole reply; `content` is decompressed."""

    status: int
    content: bytes
    retry_after: str | None


class _ReplyRejected(Exception):
    """A reply is too large or compressed in an unknown way."""


async def _read_content(response: "httpx.Response", max_bytes: int) -> bytes:
    """Read a reply's body, decompressed, holding no more than about `max_bytes`.

    The request asks for no compression. Proxies that compress nevertheless use gzip or deflate.

    Raises:
        _ReplyRejected: The body is larger, or compressed in another way.
    """
    encoding = response.headers.get("Content-Encoding", "").strip().lower()
    if encoding not in ("", "identity", "gzip", "x-gzip", "deflate"):
        raise _ReplyRejected(f"the answer is compressed in an unknown way ({encoding[:MAX_ENCODING_NAME]!r})")
    # zlib reads its own and gzip's header (32 + 15 bits of window) alike.
    unpack = None if encoding in ("", "identity") else zlib.decompressobj(wbits=32 + zlib.MAX_WBITS)
    content = bytearray()
    async for block in response.aiter_raw():
        if unpack is None:
            content += block
        else:
            try:
                content += unpack.decompress(block, max_bytes + 1 - len(content))
            except zlib.error as error:
                raise _ReplyRejected("the answer's compression is damaged") from error
        if len(content) > max_bytes:
            raise _ReplyRejected(f"the answer is larger than {max_bytes / 2**20:g} MB")
    return bytes(content)


def _retry_after(value: str | None) -> float | None:
    """Return the seconds that a Retry-After header (a number or a date) requests; None if it is neither."""
    if value is None:
        return None
    if re.fullmatch(r"[0-9]{1,10}(\.[0-9]+)?", value.strip()):  # more digits are no wait that anyone means
        return float(value)
    try:
        moment = email.utils.parsedate_to_datetime(value)
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=datetime.UTC)
        return max(0.0, (moment - datetime.datetime.now(datetime.UTC)).total_seconds())
    except (ValueError, TypeError, IndexError, OverflowError):  # of the parser, for some texts that are no dates
        return None


DEFAULT_KEY_VARIABLE = "OPENAI_API_KEY"
DEFAULT_OPTIONS = '{"temperature": 0}'
LIMIT_OPTION = "max_tokens"
LIMIT_OPTIONS = (LIMIT_OPTION, "max_completion_tokens")
"""Options that limit the length of an answer. If a request has neither, the adapter adds the first."""
IMAGE_FORMATS = ("png", "jpeg")
JPEG_QUALITY = 95
DEFAULT_CONCURRENT = 8
"""Requests at a time if the user does not say."""
KEPT_IMAGES = 16
"""Number of encoded images that are kept in memory, because several requests show the same image."""
_OWN_KEYS = {"model", "messages", "stream", "n"}
"""Keys of a request that the adapter sets itself."""


@dataclass(frozen=True)
class ChatSettings:
    """The settings that determine the answers of an endpoint.

    Attributes:
        endpoint: Base address, e.g. http://localhost:8000/v1.
        model_name: Name of the requested model.
        image_format: png (the pixels that every other model sees) or jpeg (smaller).
        request_options: JSON object added to every request.
        max_image_side: Longest side in pixels that the endpoint takes; a larger image is shrunk. None sends all as they
            are.
    """

    endpoint: str
    model_name: str
    image_format: str = "png"
    request_options: str = DEFAULT_OPTIONS
    max_image_side: int | None = None

    def __post_init__(self) -> None:
        address = urlsplit(self.endpoint)
        if address.scheme not in ("http", "https") or not address.hostname:
            raise ValueError(f"--endpoint {self.endpoint!r} is not an address such as http://localhost:8000/v1")
        if address.query or address.fragment or address.username or address.password:
            raise ValueError("--endpoint must not contain a key or password, because it is recorded; use --api_key_env")
        if not self.model_name:
            raise ValueError("--model_name is empty")
        if self.image_format not in IMAGE_FORMATS:
            raise ValueError(f"--image_format must be one of {', '.join(IMAGE_FORMATS)}, got {self.image_format!r}")
        if self.max_image_side is not None and self.max_image_side < 1:
            raise ValueError(f"--max_image_side must be at least 1, got {self.max_image_side}")
        self.options()

    def options(self) -> dict[str, Any]:
        """Return the JSON object of `request_options`.

        Raises:
            ValueError: It is not a JSON object, or sets a key that the adapter sets itself.
        """
        try:
            options = json.loads(self.request_options)
        except json.JSONDecodeError as error:
            raise ValueError(f"--request_options is not JSON: {error}") from error
        if not isinstance(options, dict):
            raise ValueError(f"--request_options must be a JSON object such as {DEFAULT_OPTIONS}")
        taken = sorted(_OWN_KEYS & set(options))
        if taken:
            raise ValueError(f"--request_options must not set {', '.join(taken)}")
        return options


class _KeyedLocks:
    """A lock per key, which exists while it is held or awaited."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._locks: dict[str, tuple[threading.Lock, int]] = {}

    @contextmanager
    def hold(self, key: str) -> Iterator[None]:
        """Hold the lock of a key."""
        with self._guard:
            lock, num_users = self._locks.get(key, (threading.Lock(), 0))
            self._locks[key] = (lock, num_users + 1)
        try:
            with lock:
                yield
        finally:
            with self._guard:
                lock, num_users = self._locks.pop(key)
                if num_users > 1:
                    self._locks[key] = (lock, num_users - 1)


class ChatEndpointModel:
    """Adapts a chat endpoint to the model contract; it supports only `reply`.

    Args:
        settings: The model and its request settings.
        client: Posts the requests.
        cache: Earlier answers.
        max_new_tokens: Maximum length of an answer unless the request options limit it; None sets no maximum.
        max_concurrent: Number of items that may be asked at a time; see `ConcurrentModel`.
    """

    def __init__(
        self,
        settings: ChatSettings,
        client: JsonClient,
        cache: AnswerCache,
        max_new_tokens: int | None = None,
        max_concurrent: int = 1,
    ) -> None:
        self.name = f"chat:{settings.model_name}"
        self.max_concurrent = max_concurrent
        self._locks = _KeyedLocks()
        self._encoded: OrderedDict[str, str] = OrderedDict()
        self._guard = threading.Lock()
        self._settings = settings
        self._url = settings.endpoint.rstrip("/") + "/chat/completions"
        self._client = client
        self._cache = cache
        self._options = settings.options()
        if max_new_tokens is not None and not any(option in self._options for option in LIMIT_OPTIONS):
            self._options[LIMIT_OPTION] = max_new_tokens

    def score_choices(self, image: np.ndarray, turns: Sequence[Turn], choices: Sequence[str]) -> list[ChoiceScore]:
        """Not supported; raises NotImplementedError."""
        raise NotImplementedError("chat endpoints return no log-probabilities of given answers; use listwise choices")

    def segment(self, image: np.ndarray, turns: Sequence[Turn], answer: str, spans: Sequence[CharSpan]) -> np.ndarray:
        """Not supported; raises NotImplementedError."""
        raise NotImplementedError("chat endpoints return no masks")

    def generate(self, image: np.ndarray, turns: Sequence[Turn]) -> Generation:
        """Not supported: an answer is scored by its tagged parts and masks, and this model returns neither."""
        raise NotImplementedError("chat endpoints tag no parts")

    def reply(self, image: np.ndarray, turns: Sequence[Turn]) -> str:
        """Return the cached answer, or ask for one.

        Raises:
            ReplyRefused: The endpoint marks its answer as a refusal.
            EndpointError: The endpoint did not answer this question.
            ModelUnavailable: The endpoint answers no question.
        """
        name = self._name(image)
        named = self._body(turns, name)
        key = request_key(self._url, named)
        with self._locks.hold(key):  # the same request of another thread is awaited, not sent twice
            cached = self._cache.find(key)
            if cached is None:
                body = self._body(turns, self._encode(name, image))
                answer = self._without_key(self._client.post(self._url, body, read_answer))
                self._cache.store(key, answer, {"url": self._url, "body": named})
            else:
                answer = self._without_key(cached)  # earlier versions stored replies as they were
        if answer.is_refusal:
            raise ReplyRefused(answer.text)
        return answer.text

    def stop(self) -> None:
        """End the run: requests in flight may be answered and cached, no other is sent."""
        self._client.stop()
        if self._client.num_in_flight:
            logger.warning(
                "waiting for %d replies in flight, at most until their deadline, so that none has to be paid twice",
                self._client.num_in_flight,
            )

    def _name(self, image: np.ndarray) -> str:
        """Return what stands for the sent image in the cache: its format, its size if it is shrunk, and its hash."""
        side = self._settings.max_image_side
        size = f"{side}:" if side is not None and max(image.shape[:2]) > side else ""
        return f"{self._settings.image_format}:{size}{hash_image(image)}"

    def _encode(self, name: str, image: np.ndarray) -> str:
        """Return an image's data URL; it is encoded once for all requests that show it."""
        with self._locks.hold(name):
            with self._guard:
                if name in self._encoded:
                    self._encoded.move_to_end(name)
                    return self._encoded[name]
            url = data_url(shrink(image, self._settings.max_image_side), self._settings.image_format)
            with self._guard:
                self._encoded[name] = url
                if len(self._encoded) > KEPT_IMAGES:
                    self._encoded.popitem(last=False)
            return url

    def _without_key(self, answer: ChatAnswer) -> ChatAnswer:
        return replace(answer, text=self._client.redactor(answer.text))

    def _body(self, turns: Sequence[Turn], image_url: str) -> dict[str, object]:
        """Build the request; for the cache, the image's hash replaces the image."""
        return self._options | {
            "model": self._settings.model_name,
            "messages": _messages(turns, image_url),
        }


def read_answer(content: Any) -> ChatAnswer:
    """Read the answer of a chat endpoint.

    Raises:
        ValueError, KeyError, TypeError, IndexError: The answer is malformed.
    """
    if not isinstance(content, Mapping):
        raise ValueError(f"expected a JSON object, got {type(content).__name__}")
    choice = content["choices"][0]
    message = choice["message"]
    if message.get("refusal"):
        return ChatAnswer(str(message["refusal"]), is_refusal=True)
    if choice.get("finish_reason") == "content_filter":
        return ChatAnswer("content filter", is_refusal=True)
    return ChatAnswer(_text_of(message["content"]), is_refusal=False)


def shrink(image: np.ndarray, max_side: int | None) -> np.ndarray:
    """Shrink an image, uint8 RGB (H, W, 3), to a longest side in pixels, keeping its aspect ratio; None keeps it."""
    height, width = image.shape[:2]
    if max_side is None or max(height, width) <= max_side:
        return image
    scale = max_side / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.LANCZOS))


def data_url(image: np.ndarray, image_format: str) -> str:
    """Encode an image as a data URL; equal pixels give equal text.

    Args:
        image: uint8 RGB (H, W, 3).
        image_format: png or jpeg.
    """
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, image_format.upper(), quality=JPEG_QUALITY)
    return f"data:image/{image_format};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"


def read_key(variable: str | None) -> str | None:
    """Read the key from an environment variable.

    Returns:
        The key; None if no variable is named and the default one is unset, as for local servers.

    Raises:
        ValueError: The named variable is not set, or holds characters that no header can hold.
    """
    name = DEFAULT_KEY_VARIABLE if variable is None else variable
    key = os.environ.get(name, "").strip()
    if not key and variable is not None:
        raise ValueError(f"--api_key_env {variable}: the environment variable {variable} is not set or empty")
    if not HEADER_CHARACTERS.issuperset(key):
        raise ValueError(
            f"the environment variable {name} holds a character that a key cannot have, such as a line break or a "
            "letter outside ASCII; copy the key again"
        )
    return key or None


def refuse_key_in_settings(settings: ChatSettings, key: str | None) -> None:
    """Refuse settings that contain the API key, because a run records them.

    Raises:
        ValueError: The endpoint, the model's name or the request options contain the key.
    """
    redactor = KeyRedactor(key)
    values = {"endpoint": settings.endpoint, "model_name": settings.model_name}
    for flag, value in (values | {"request_options": settings.request_options}).items():
        if redactor.occurs_in(value):
            raise ValueError(f"--{flag} must not contain the API key, because it is recorded; use --api_key_env")


def build_chat_model(
    settings: ChatSettings,
    key_variable: str | None,
    cache_folder: Path,
    max_new_tokens: int | None = None,
    *,
    policy: RetryPolicy = RetryPolicy(),
    max_concurrent: int = 1,
) -> ChatEndpointModel:
    """Build the adapter with its client and cache; see `ChatEndpointModel` for the maxima.

    Raises:
        ValueError: The key is missing, or the settings contain it.
    """
    key = read_key(key_variable)
    refuse_key_in_settings(settings, key)
    client = JsonClient(key, policy, max_concurrent=max_concurrent)
    return ChatEndpointModel(settings, client, AnswerCache(cache_folder), max_new_tokens, max_concurrent)


def _messages(turns: Sequence[Turn], url: str) -> list[dict[str, object]]:
    messages: list[dict[str, object]] = []
    for turn in turns:
        content: object = turn.text
        if not messages:
            assert turn.role is Role.USER, "a conversation begins with the user"
            image = {"type": "image_url", "image_url": {"url": url}}
            content = [image, {"type": "text", "text": turn.text}]
        messages.append({"role": turn.role.value, "content": content})
    return messages


def _text_of(content: object) -> str:
    """Return the text of a message, whose content is a string, null, or a list of parts."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return "".join(str(part.get("text", "")) for part in content if isinstance(part, Mapping))
    raise ValueError(f"the message's content is a {type(content).__name__}")
