"""Any OpenAI-compatible chat endpoint, for the rows in which a model sees all choices at once (`listwise`).

The image goes as a data URL in the first user message. Log-probabilities of given answers and masks are not offered by
such endpoints: those metrics are null.
"""

import base64
import hashlib
import io
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from PIL import Image

from partonomy.evaluation.model_api import ChoiceScore, Generation, ReplyRefused, Role, Turn
from partonomy.evaluation.models.answer_cache import AnswerCache, ChatAnswer, request_key
from partonomy.evaluation.models.json_client import JsonClient, RetryPolicy
from partonomy.structures import CharSpan

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
