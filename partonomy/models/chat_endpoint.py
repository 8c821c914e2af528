"""Any OpenAI-compatible chat endpoint, for the rows in which a model sees all choices at once (`listwise`).

Requests are retried with exponential backoff and jitter. Answers are kept on disk, so that asking again costs nothing;
no key is ever written.
"""

import base64
import datetime
import email.utils
import hashlib
import io
import json
import os
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

import httpx
import numpy as np
from PIL import Image

from partonomy.files import write_text_atomically
from partonomy.models.contract import Generation, ModelUnavailable, ReplyRefused, Role, Turn
from partonomy.structures import CharSpan, ChoiceScore


@dataclass(frozen=True)
class ChatAnswer:
    """What an endpoint said; `is_refusal` where it marked that as a refusal itself."""

    text: str
    is_refusal: bool


class AnswerCache:
    """One JSON file per request, named by the request's hash; processes may share the folder.

    Args:
        folder: made on the first answer.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def find(self, key: str) -> ChatAnswer | None:
        """The answer to a request, if it was asked before.

        Raises:
            ModelUnavailable: Its file is damaged, which must not be counted against the model.
        """
        path = self._path(key)
        if not path.is_file():
            return None
        try:
            answer = json.loads(path.read_text(encoding="utf-8"))["answer"]
            return ChatAnswer(str(answer["text"]), bool(answer["is_refusal"]))
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise ModelUnavailable(f"{path} is no cached answer ({error!r}); delete it, then --resume") from error

    def store(self, key: str, answer: ChatAnswer, description: Mapping[str, object]) -> None:
        """Keep an answer, beside a description of its request for people who look into the file."""
        path = self._path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        content = {"request": dict(description), "answer": asdict(answer)}
        write_text_atomically(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")

    def _path(self, key: str) -> Path:
        return self._folder / key[:2] / f"{key}.json"


def request_key(url: str, body: Mapping[str, object]) -> str:
    """sha256 of everything that an answer depends on; headers, and with them the key, are no part of it."""
    return hashlib.sha256(json.dumps([url, body], sort_keys=True).encode()).hexdigest()


Answer = TypeVar("Answer")

BUSY: Final = 429
RETRIED: Final = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 520, 522, 524, 529})
FATAL: Final = frozenset({401, 402, 404, 405})
"""No question would be answered: a wrong key, an empty account, a wrong address or model name."""
MAX_EXCERPT = 200
"""Characters of an endpoint's own error message that are kept."""


class EndpointError(RuntimeError):
    """An endpoint did not answer one request."""


@dataclass(frozen=True)
class RetryPolicy:
    """When to try again, in seconds.

    Attributes:
        max_attempts: Requests in all.
        first_wait: Before the second attempt; doubled before each further one, up to `max_wait`. A wait is drawn
            uniformly from its upper half, so that parallel processes do not knock all at once.
        max_retry_after: Longest wait that an endpoint may ask for (Retry-After); more ends the run.
        timeout: Of one request.
    """

    max_attempts: int = 6
    first_wait: float = 1.0
    max_wait: float = 60.0
    max_retry_after: float = 600.0
    timeout: float = 120.0


@dataclass(frozen=True)
class _Failure:
    """One failed attempt. `is_busy`: the endpoint's fault and not the question's."""

    reason: str
    is_busy: bool = False
    retry_after: float | None = None


class JsonClient:
    """Posts JSON and reads JSON.

    Args:
        key: sent as a bearer token; None sends none. It appears in no message.
        policy: when to try again.
        sleep: waits so many seconds; tests replace it.
    """

    def __init__(self, key: str | None, policy: RetryPolicy, sleep: Callable[[float], None] = time.sleep) -> None:
        self._key = key
        self._policy = policy
        self._sleep = sleep
        self._jitter = random.Random()  # spreads requests in time; no result depends on it
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        self._client = httpx.Client(timeout=policy.timeout, headers=headers)

    def post(self, url: str, body: Mapping[str, object], read: Callable[[Any], Answer]) -> Answer:
        """Send a request until it is answered.

        Args:
            url: where to.
            body: the request.
            read: turns the answer's JSON into a value; a ValueError or KeyError of it counts as a broken answer.

        Raises:
            EndpointError: It could not be answered; others may be.
            ModelUnavailable: No request would be answered.
        """
        failure = _Failure("not asked")
        for attempt in range(self._policy.max_attempts):
            if attempt:
                self._wait(attempt, failure)
            outcome = self._attempt(url, body, read)
            if not isinstance(outcome, _Failure):
                return outcome
            failure = outcome
        message = f"{failure.reason} ({self._policy.max_attempts} attempts)"
        if failure.is_busy:
            raise ModelUnavailable(f"{url}: {message}; try again later with --resume")
        raise EndpointError(message)

    def _attempt(self, url: str, body: Mapping[str, object], read: Callable[[Any], Answer]) -> Answer | _Failure:
        response = self._send(url, body)
        if isinstance(response, _Failure):
            return response
        if response.status_code in RETRIED:
            is_busy = response.status_code == BUSY
            return _Failure(f"HTTP {response.status_code}", is_busy, _retry_after(response.headers.get("Retry-After")))
        self._check_status(response)
        try:
            return read(response.json())
        except (json.JSONDecodeError, UnicodeDecodeError):
            return _Failure("the answer is not JSON, or half of it is missing")
        except (ValueError, KeyError, TypeError, IndexError) as error:
            return _Failure(f"the answer lacks what was asked for ({self._redact(repr(error))[:MAX_EXCERPT]})")

    def _send(self, url: str, body: Mapping[str, object]) -> httpx.Response | _Failure:
        try:
            return self._client.post(url, json=body)
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            return _Failure(f"no connection: {self._redact(str(error))}", is_busy=True)
        except httpx.TimeoutException:
            return _Failure(f"no answer within {self._policy.timeout:g} s")
        except httpx.TransportError as error:  # the connection was closed in the middle of an answer, say
            return _Failure(f"the connection broke ({type(error).__name__})")

    def _check_status(self, response: httpx.Response) -> None:
        """Raise for an answer that another attempt would not change."""
        if response.status_code in FATAL:
            raise ModelUnavailable(
                f"{response.url}: {self._describe(response)}; correct the key, --endpoint or --model_name"
            )
        if response.status_code != 200:
            raise EndpointError(self._describe(response))

    def _wait(self, attempt: int, failure: _Failure) -> None:
        asked = failure.retry_after or 0.0
        if asked > self._policy.max_retry_after:
            raise ModelUnavailable(f"{failure.reason}: the endpoint asks to wait {asked:.0f} s; --resume then")
        backoff = min(self._policy.max_wait, self._policy.first_wait * 2 ** (attempt - 1))
        self._sleep(max(asked, backoff * self._jitter.uniform(0.5, 1.0)))

    def _describe(self, response: httpx.Response) -> str:
        """Status and the endpoint's own words, which may quote the key back."""
        excerpt = " ".join(self._redact(response.text).split())[:MAX_EXCERPT]
        return f"HTTP {response.status_code}: {excerpt}" if excerpt else f"HTTP {response.status_code}"

    def _redact(self, text: str) -> str:
        return text if not self._key else text.replace(self._key, "[key]")


def _retry_after(value: str | None) -> float | None:
    """Seconds that a Retry-After header asks for: a number or a date; None where it is neither."""
    if value is None:
        return None
    if value.strip().isdigit():
        return float(value)
    try:
        moment = email.utils.parsedate_to_datetime(value)
    except ValueError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=datetime.UTC)
    return max(0.0, (moment - datetime.datetime.now(datetime.UTC)).total_seconds())


DEFAULT_KEY_VARIABLE = "OPENAI_API_KEY"
DEFAULT_OPTIONS = '{"temperature": 0, "max_tokens": 256}'
IMAGE_FORMATS = ("png", "jpeg")
JPEG_QUALITY = 95
_OWN_KEYS = {"model", "messages", "stream", "n"}
"""Keys of a request that the adapter itself decides."""


@dataclass(frozen=True)
class ChatSettings:
    """What determines the answers of an endpoint.

    Attributes:
        endpoint: Base address, e.g. http://localhost:8000/v1.
        model_name: The model to ask for.
        image_format: png (the pixels that every other model sees) or jpeg (smaller).
        request_options: JSON object that is added to every request.
    """

    endpoint: str
    model_name: str
    image_format: str = "png"
    request_options: str = DEFAULT_OPTIONS

    def __post_init__(self) -> None:
        address = urlsplit(self.endpoint)
        if address.scheme not in ("http", "https") or not address.hostname:
            raise ValueError(f"--endpoint {self.endpoint!r} is no address such as http://localhost:8000/v1")
        if address.query or address.fragment or address.username or address.password:
            raise ValueError("--endpoint must hold no key or password: it is recorded. Put the key in --api_key_env")
        if not self.model_name:
            raise ValueError("--model_name is empty")
        if self.image_format not in IMAGE_FORMATS:
            raise ValueError(f"--image_format {self.image_format!r} is none of {', '.join(IMAGE_FORMATS)}")
        self.options()

    def options(self) -> dict[str, Any]:
        """The JSON object of `request_options`.

        Raises:
            ValueError: It is none, or sets what the adapter decides.
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


class ChatEndpointModel:
    """A chat model behind the benchmark's contract; it replies, and does nothing else.

    Args:
        settings: which model, and how it is asked.
        client: posts the requests.
        cache: answers that were given before.
    """

    def __init__(self, settings: ChatSettings, client: JsonClient, cache: AnswerCache) -> None:
        self.name = f"chat:{settings.model_name}"
        self._settings = settings
        self._url = settings.endpoint.rstrip("/") + "/chat/completions"
        self._client = client
        self._cache = cache

    def score_choices(self, image: np.ndarray, turns: Sequence[Turn], choices: Sequence[str]) -> list[ChoiceScore]:
        """Not offered."""
        raise NotImplementedError("chat endpoints give no log-probabilities of given answers; use listwise choices")

    def segment(self, image: np.ndarray, turns: Sequence[Turn], answer: str, spans: Sequence[CharSpan]) -> np.ndarray:
        """Not offered."""
        raise NotImplementedError("chat endpoints give no masks")

    def generate(self, image: np.ndarray, turns: Sequence[Turn]) -> Generation:
        """Not offered: an answer in own words is scored by its tagged parts and masks, and this one has neither."""
        raise NotImplementedError("chat endpoints tag no parts")

    def reply(self, image: np.ndarray, turns: Sequence[Turn]) -> str:
        """Ask, or read the answer that was given before.

        Raises:
            ReplyRefused: The endpoint marks its answer as a refusal.
            EndpointError: It did not answer this question.
            ModelUnavailable: It answers none.
        """
        digest = hashlib.sha256(repr(image.shape).encode() + image.tobytes()).hexdigest()
        named = self._body(turns, f"{self._settings.image_format}:{digest}")
        key = request_key(self._url, named)
        answer = self._cache.find(key)
        if answer is None:
            body = self._body(turns, data_url(image, self._settings.image_format))
            answer = self._client.post(self._url, body, read_answer)
            self._cache.store(key, answer, {"url": self._url, "body": named})
        if answer.is_refusal:
            raise ReplyRefused(answer.text)
        return answer.text

    def _body(self, turns: Sequence[Turn], image_url: str) -> dict[str, object]:
        """The request; the cache knows it with the image's hash in the place of the image."""
        return self._settings.options() | {
            "model": self._settings.model_name,
            "messages": _messages(turns, image_url),
        }


def read_answer(content: Any) -> ChatAnswer:
    """Read the answer of a chat endpoint.

    Raises:
        ValueError, KeyError, TypeError, IndexError: It has another form.
    """
    if not isinstance(content, Mapping):
        raise ValueError(f"a JSON object was expected, got {type(content).__name__}")
    choice = content["choices"][0]
    message = choice["message"]
    if message.get("refusal"):
        return ChatAnswer(str(message["refusal"]), is_refusal=True)
    if choice.get("finish_reason") == "content_filter":
        return ChatAnswer("content filter", is_refusal=True)
    return ChatAnswer(_text_of(message["content"]), is_refusal=False)


def data_url(image: np.ndarray, image_format: str) -> str:
    """An image as text, the same for the same pixels.

    Args:
        image: uint8 RGB (H, W, 3).
        image_format: png or jpeg.
    """
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, image_format.upper(), quality=JPEG_QUALITY)
    return f"data:image/{image_format};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"


def read_key(variable: str | None) -> str | None:
    """The key in an environment variable; None where none is named and the usual one is not set (local servers).

    Raises:
        ValueError: The named variable is not set.
    """
    key = os.environ.get(DEFAULT_KEY_VARIABLE if variable is None else variable, "").strip()
    if not key and variable is not None:
        raise ValueError(f"--api_key_env {variable}: the environment variable {variable} is not set or empty")
    return key or None


def build_chat_model(settings: ChatSettings, key_variable: str | None, cache_folder: Path) -> ChatEndpointModel:
    """Build the adapter with its client and cache."""
    client = JsonClient(read_key(key_variable), RetryPolicy())
    return ChatEndpointModel(settings, client, AnswerCache(cache_folder))


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
    """The text of a message: text, nothing, or a list of parts of which some are text."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return "".join(str(part.get("text", "")) for part in content if isinstance(part, Mapping))
    raise ValueError(f"the message's content is a {type(content).__name__}")
