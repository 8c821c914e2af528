import base64
import datetime
import email.utils
import io
import json
import re
import time
import tracemalloc
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest
from PIL import Image

from partonomy.models.chat_endpoint import (
    DEFAULT_OPTIONS,
    AnswerCache,
    ChatEndpointModel,
    ChatSettings,
    EndpointError,
    JsonClient,
    RetryPolicy,
    build_chat_model,
    data_url,
    read_key,
)
from partonomy.models.contract import ModelUnavailable, ReplyRefused, Role, Turn
from tests.partonomy.models.chat_server import (
    Act,
    ScriptedServer,
    bomb,
    close_early,
    completion,
    compressed,
    drop,
    echo,
    hang,
    never_stop,
    raw,
    say,
    serve,
    status,
    trickle_body,
    trickle_headers,
)

KEY = "sk-secret-of-the-test-1234567890"
TURNS = (Turn(Role.USER, "Which?\nA. wing\nB. wheel"),)
IMAGE = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
HALF = completion("B")[:40]
MAX_NEW_TOKENS = 77


@pytest.fixture
def waits() -> list[float]:
    """Seconds that the client wanted to wait."""
    return []


def make_model(
    server: ScriptedServer, folder: Path, waits: list[float], options: str = DEFAULT_OPTIONS, **policy: Any
) -> ChatEndpointModel:
    """The adapter with a short patience; it notes its waits instead of waiting."""
    chosen = RetryPolicy(**({"max_attempts": 4, "timeout": 1.0} | policy))

    async def note(seconds: float) -> None:
        waits.append(seconds)

    client = JsonClient(KEY, chosen, sleep=note)
    settings = ChatSettings(server.endpoint, "some-model", request_options=options)
    return ChatEndpointModel(settings, client, AnswerCache(folder), MAX_NEW_TOKENS)


def test_request_has_image_conversation_and_key(tmp_path: Path, waits: list[float]) -> None:
    turns = (Turn(Role.USER, "What is it?"), Turn(Role.ASSISTANT, "It is a jet."), *TURNS)
    with serve(say("B")) as server:
        assert make_model(server, tmp_path, waits).reply(IMAGE, turns) == "B"
    (request,) = server.requests
    assert request.path == "/v1/chat/completions"
    assert request.authorization == f"Bearer {KEY}"
    assert (request.body["model"], request.body["temperature"], request.body["max_tokens"]) == (
        "some-model",
        0,
        MAX_NEW_TOKENS,
    )
    first, *others = request.body["messages"]
    image, text = first["content"]
    assert text == {"type": "text", "text": "What is it?"}
    header, _, encoded = image["image_url"]["url"].partition(",")
    assert header == "data:image/png;base64"
    np.testing.assert_array_equal(np.array(Image.open(io.BytesIO(base64.b64decode(encoded)))), IMAGE)
    assert others == [
        {"role": "assistant", "content": "It is a jet."},
        {"role": "user", "content": TURNS[0].text},
    ]


@pytest.mark.parametrize(
    ("options", "limits"),
    [
        ("{}", {"max_tokens": MAX_NEW_TOKENS}),
        ('{"max_tokens": 9}', {"max_tokens": 9}),
        ('{"max_completion_tokens": 9}', {"max_completion_tokens": 9}),
    ],
)
def test_a_limit_of_the_user_replaces_that_of_the_benchmark(
    tmp_path: Path, waits: list[float], options: str, limits: dict[str, int]
) -> None:
    with serve(say("B")) as server:
        make_model(server, tmp_path, waits, options).reply(IMAGE, TURNS)
    (request,) = server.requests
    assert {key: value for key, value in request.body.items() if key.startswith("max_")} == limits


def test_jpeg_is_smaller_and_close() -> None:
    ramp = np.linspace(0, 255, 64, dtype=np.uint8)
    image = np.stack([*np.meshgrid(ramp, ramp), np.full((64, 64), 90, np.uint8)], axis=-1)
    header, _, encoded = data_url(image, "jpeg").partition(",")
    assert header == "data:image/jpeg;base64"
    decoded = np.array(Image.open(io.BytesIO(base64.b64decode(encoded)))).astype(int)
    assert np.abs(decoded - image).max() < 12


@pytest.mark.parametrize(
    "bad",
    [
        status(500),
        status(503, b"busy"),
        hang,
        close_early,
        drop,
        raw(HALF),
        raw(b""),
        raw(b"<html>gateway</html>"),
        raw(b'{"error": {"message": "overloaded"}}'),
        raw(b'{"choices": []}'),
        raw(b'{"choices": [{"message": {}}]}'),
        raw(b'{"choices": [{"message": {"content": 7}}]}'),
        raw(b'["B"]'),
        raw(b"\xff\xfe"),
        raw(b"[" * 200_000),
        raw(b'{"choices": ' + b"7" * 10_000 + b"}"),
        raw(b'{"choices": [{"message": "B"}]}'),
        compressed(completion("B"), "br"),
        compressed(HALF),
    ],
)
def test_broken_answers_are_asked_again(tmp_path: Path, waits: list[float], bad: Act) -> None:
    with serve(bad, bad, say("B")) as server:
        assert make_model(server, tmp_path, waits).reply(IMAGE, TURNS) == "B"
    assert len(server.requests) == 3
    # Backoff doubles from one second; jitter takes at most half of it away.
    assert 0.5 <= waits[0] <= 1.0 <= waits[1] <= 2.0


def test_an_endpoint_that_stays_broken_fails_the_question_alone(tmp_path: Path, waits: list[float]) -> None:
    with serve(raw(HALF)) as server:
        with pytest.raises(EndpointError, match=r"not JSON, or is incomplete \(4 attempts\)"):
            make_model(server, tmp_path, waits).reply(IMAGE, TURNS)
        assert len(server.requests) == 4
    assert not list(tmp_path.rglob("*.json"))


def test_retry_after_is_honoured_in_seconds_and_as_a_date(tmp_path: Path, waits: list[float]) -> None:
    moment = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=100)
    date = email.utils.format_datetime(moment, usegmt=True)
    acts = [status(429, retry_after="7"), status(429, retry_after=date), status(429, retry_after="soon"), say("B")]
    with serve(*acts) as server:
        assert make_model(server, tmp_path, waits).reply(IMAGE, TURNS) == "B"
    assert waits[0] == 7.0
    assert 60 < waits[1] <= 100
    assert 2.0 <= waits[2] <= 4.0  # not understood: the third wait of the backoff


@pytest.mark.parametrize(
    ("act", "reason"),
    [
        (never_stop, "the answer is larger than 1 MB"),
        (bomb, "the answer is larger than 1 MB"),
        (raw(completion("B" * 2**21)), "the answer is larger than 1 MB"),
        (trickle_body, "no complete answer within 0.4 s"),
        (trickle_headers, "no complete answer within 0.4 s"),
        (hang, "no complete answer within 0.4 s"),
    ],
)
def test_size_and_time_of_a_reply_are_bounded(tmp_path: Path, waits: list[float], act: Act, reason: str) -> None:
    with serve(act) as server:
        model = make_model(server, tmp_path, waits, max_attempts=2, timeout=0.4, max_reply_bytes=2**20)
        tracemalloc.start()
        start = time.monotonic()
        with pytest.raises(EndpointError, match=re.escape(f"{reason} (2 attempts)")):
            model.reply(IMAGE, TURNS)
        seconds, (_, peak) = time.monotonic() - start, tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert len(server.requests) == 2
    assert seconds < 5
    assert peak < 64 * 2**20
    assert not list(tmp_path.rglob("*.json"))


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_a_compressed_answer_is_read(tmp_path: Path, waits: list[float], encoding: str) -> None:
    with serve(compressed(completion("B"), encoding)) as server:
        assert make_model(server, tmp_path, waits).reply(IMAGE, TURNS) == "B"


def test_half_a_surrogate_pair_is_stored_and_sent_back(tmp_path: Path, waits: list[float]) -> None:
    with serve(raw(completion("B \ud800")), say("C")) as server:
        model = make_model(server, tmp_path, waits)
        assert [model.reply(IMAGE, TURNS) for _ in range(2)] == ["B \ud800"] * 2
        model.reply(IMAGE, (*TURNS, Turn(Role.ASSISTANT, "B \ud800"), Turn(Role.USER, "And now?")))
    assert [len(request.body["messages"]) for request in server.requests] == [1, 3]
    assert server.requests[1].body["messages"][1]["content"] == "B \ud800"


@pytest.mark.parametrize("nonsense", ["\u00b2", "9" * 400, "-5", "1e9", "Mon, 99 Foo", ""])
def test_a_retry_after_that_nobody_can_mean_is_ignored(tmp_path: Path, waits: list[float], nonsense: str) -> None:
    with serve(status(503, retry_after=nonsense), say("B")) as server:
        assert make_model(server, tmp_path, waits).reply(IMAGE, TURNS) == "B"
    assert 0.5 <= waits[0] <= 1.0


def test_a_retry_after_in_the_past_does_not_wait_for_it(tmp_path: Path, waits: list[float]) -> None:
    acts = [status(429, retry_after="Wed, 21 Oct 2015 07:28:00 GMT"), status(429, retry_after="1.5"), say("B")]
    with serve(*acts) as server:
        assert make_model(server, tmp_path, waits).reply(IMAGE, TURNS) == "B"
    assert 0.5 <= waits[0] <= 1.0
    assert 1.5 <= waits[1] <= 2.0


def test_an_echoed_key_is_in_no_answer_and_no_cache(
    tmp_path: Path, waits: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    with serve(echo) as server:
        answers = [make_model(server, tmp_path, waits).reply(IMAGE, TURNS) for _ in range(2)]
        assert server.requests[0].authorization == f"Bearer {KEY}"
    assert len(server.requests) == 1
    assert "Bearer [key]" in answers[0]
    (path,) = tmp_path.rglob("*.json")
    for text in (*answers, path.read_text(), caplog.text):
        assert KEY[:8] not in text


def test_a_key_that_an_earlier_version_cached_is_not_read(tmp_path: Path, waits: list[float]) -> None:
    with serve(say("A")) as server:
        model = make_model(server, tmp_path, waits)
        model.reply(IMAGE, TURNS)
        (path,) = tmp_path.rglob("*.json")
        path.write_text(path.read_text().replace('"text": "A"', f'"text": "A {KEY}"'))
        assert model.reply(IMAGE, TURNS) == "A [key]"


@pytest.mark.parametrize("act", [raw(b'{"error": "bad"}'), status(400, b"bad"), status(401, b"bad")])
def test_errors_hold_no_form_of_the_key(tmp_path: Path, waits: list[float], act: Act) -> None:
    def act_with_key(handler: Any, request: Any) -> None:
        wanted = handler.headers["Authorization"]
        code = base64.b64encode(f"user:{KEY}".encode()).decode()
        act(_Replacing(handler, f"bad: {wanted} {KEY[:12]}... {quote(KEY, safe='')} Basic {code}"), request)

    with serve(act_with_key) as server, pytest.raises((EndpointError, ModelUnavailable)) as caught:
        make_model(server, tmp_path, waits).reply(IMAGE, TURNS)
    assert KEY[:8] not in str(caught.value)
    assert base64.b64encode(f"user:{KEY}".encode()).decode()[8:20] not in str(caught.value)


class _Replacing:
    """A handler that sends a given text in place of the word "bad"."""

    def __init__(self, handler: Any, text: str) -> None:
        self._handler, self._text = handler, text

    def send(self, code: int, body: bytes, headers: Any = ()) -> None:
        self._handler.send(code, body.replace(b"bad", self._text.encode()), headers)


@pytest.mark.parametrize(
    ("acts", "message", "num_requests"),
    [
        ((status(429),), r"HTTP 429 \(4 attempts\); try again later with --resume", 4),
        ((status(429, retry_after="86400"),), "asks to wait 86400 s", 1),
        ((status(401, f"Incorrect API key provided: {KEY}".encode()),), r"HTTP 401: .*provided: \[key\]", 1),
        ((status(404, b"no such model"),), "HTTP 404: no such model; correct the key, --endpoint or --model_name", 1),
    ],
)
def test_what_no_question_would_get_past_ends_the_run(
    tmp_path: Path, waits: list[float], acts: tuple[Act, ...], message: str, num_requests: int
) -> None:
    with serve(*acts) as server:
        with pytest.raises(ModelUnavailable, match=message) as caught:
            make_model(server, tmp_path, waits).reply(IMAGE, TURNS)
        assert len(server.requests) == num_requests
    assert KEY not in str(caught.value)


def test_nobody_listening_ends_the_run(tmp_path: Path, waits: list[float]) -> None:
    with serve(say("B")) as server:
        pass
    with pytest.raises(ModelUnavailable, match="no connection"):
        make_model(server, tmp_path, waits).reply(IMAGE, TURNS)
    assert len(waits) == 3


def test_a_request_that_is_refused_as_such_is_not_repeated(tmp_path: Path, waits: list[float]) -> None:
    with serve(status(400, b'{"error": "image too large"}')) as server:
        with pytest.raises(EndpointError, match="HTTP 400: .*image too large"):
            make_model(server, tmp_path, waits).reply(IMAGE, TURNS)
        assert len(server.requests) == 1


def test_refusals_are_told_from_answers(tmp_path: Path, waits: list[float]) -> None:
    filtered = json.dumps({"choices": [{"finish_reason": "content_filter", "message": {"content": "A"}}]}).encode()
    with serve(say(None, refusal="I can't help with that."), raw(filtered), say(None), say("")) as server:
        model = make_model(server, tmp_path, waits)
        with pytest.raises(ReplyRefused, match="can't help"):
            model.reply(IMAGE, TURNS)
        with pytest.raises(ReplyRefused, match="content filter"):
            model.reply(255 - IMAGE, TURNS)
        assert model.reply(IMAGE // 2, TURNS) == ""
        assert model.reply(IMAGE // 3, TURNS) == ""
        with pytest.raises(ReplyRefused, match="can't help"):  # from the cache
            model.reply(IMAGE, TURNS)
        assert len(server.requests) == 4


def test_parts_of_a_message_are_joined(tmp_path: Path, waits: list[float]) -> None:
    with serve(say([{"type": "text", "text": "B. "}, {"type": "text", "text": "wheel"}])) as server:
        assert make_model(server, tmp_path, waits).reply(IMAGE, TURNS) == "B. wheel"


def test_the_same_question_is_asked_once(tmp_path: Path, waits: list[float]) -> None:
    with serve(say("A"), say("B")) as server:
        assert make_model(server, tmp_path, waits).reply(IMAGE, TURNS) == "A"
        assert make_model(server, tmp_path, waits).reply(IMAGE, TURNS) == "A"
        assert len(server.requests) == 1
        assert make_model(server, tmp_path, waits).reply(255 - IMAGE, TURNS) == "B"
        assert len(server.requests) == 2


def test_a_damaged_cache_file_is_named_and_not_counted_against_the_model(tmp_path: Path, waits: list[float]) -> None:
    with serve(say("A")) as server:
        model = make_model(server, tmp_path, waits)
        model.reply(IMAGE, TURNS)
        (path,) = tmp_path.rglob("*.json")
        path.write_text(path.read_text()[:30])
        with pytest.raises(ModelUnavailable, match=rf"{path.name} is not a cached answer"):
            model.reply(IMAGE, TURNS)


@pytest.mark.parametrize(
    "change",
    [{"endpoint": f"https://host/{KEY}/v1"}, {"request_options": json.dumps({"user": KEY})}, {"model_name": KEY}],
)
def test_a_key_in_recorded_settings_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, str]
) -> None:
    monkeypatch.setenv("KEY_OF_THE_TEST", KEY)
    settings = ChatSettings(**({"endpoint": "http://host/v1", "model_name": "m"} | change))
    (flag,) = change
    with pytest.raises(ValueError, match=f"--{flag} must not contain the API key"):
        build_chat_model(settings, "KEY_OF_THE_TEST", tmp_path)


@pytest.mark.parametrize("key", ["sk-\u201cquoted\u201d-1234567890", "sk-one\nsk-two-1234567890"])
def test_a_key_that_no_header_can_hold_is_refused(monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    monkeypatch.setenv("KEY_OF_THE_TEST", key)
    with pytest.raises(ValueError, match="KEY_OF_THE_TEST holds a character that a key cannot have") as caught:
        read_key("KEY_OF_THE_TEST")
    assert "1234567890" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"endpoint": "localhost:8000"}, "is not an address"),
        ({"endpoint": "https://user:pass@host/v1"}, "must not contain a key"),
        ({"endpoint": "https://host/v1?key=abc"}, "must not contain a key"),
        ({"image_format": "gif"}, "must be one of png, jpeg"),
        ({"request_options": "{"}, "not JSON"),
        ({"request_options": "[1]"}, "must be a JSON object"),
        ({"request_options": '{"model": "x", "n": 2}'}, "must not set model, n"),
    ],
)
def test_unusable_settings_are_refused(change: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ChatSettings(**({"endpoint": "http://host/v1", "model_name": "m"} | change))
