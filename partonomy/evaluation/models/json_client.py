"""JSON requests to an endpoint that may be busy, slow or broken: retries with exponential backoff and jitter."""

import datetime
import email.utils
import json
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import httpx

from partonomy.evaluation.model_api import ModelUnavailable

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
