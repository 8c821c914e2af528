"""Answers of a paid endpoint on disk, so that asking again costs nothing. No key is ever given to it."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from partonomy.evaluation.files import write_text_atomically
from partonomy.evaluation.model_api import ModelUnavailable


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
