"""Requests to a chat endpoint that are in flight together: bounded, each paid once, results as if asked in turn."""

import base64
import io
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from partonomy.benchmarks.partonomy.task import PartonomyOptions
from partonomy.models import chat_endpoint
from partonomy.models.chat_endpoint import AnswerCache, ChatEndpointModel, ChatSettings, JsonClient, RetryPolicy
from partonomy.models.contract import ConcurrentModel, ModelUnavailable, Role, Turn
from partonomy.structures import QuestionType
from tests.partonomy.conftest import write_questions
from tests.partonomy.models.chat_server import Handler, Request, ScriptedServer, completion, say, serve, status
from tests.partonomy.running import make_config, records_of, untimed
from validate_partonomy import main

TYPES = (QuestionType.POSITIVE, QuestionType.IDENTIFICATION, QuestionType.PART_TO_WHOLE)
NUM_IMAGES = 4
NUM_REQUESTS = NUM_IMAGES * (1 + 1 + 2)
IMAGE = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)


def text_of(request: Request) -> str:
    """The whole conversation of a request, without its image."""
    texts = [
        one["content"] if isinstance(one["content"], str) else one["content"][-1]["text"] for one in messages(request)
    ]
    return "\n".join(texts)


def messages(request: Request) -> list[dict[str, Any]]:
    listed: list[dict[str, Any]] = request["messages"]
    return listed


def identity(request: Request) -> tuple[str, str]:
    """What tells a request from others: its image and its texts."""
    return str(messages(request)[0]["content"][0]["image_url"]["url"]), text_of(request)


class SlowEndpoint:
    """Answers after a while, by the content of the request, and notes how many requests are in flight.

    Args:
        seconds: Latency.
        num_answered: Number of requests that are answered; the others are never. None answers all.
    """

    def __init__(self, seconds: float, num_answered: int | None = None) -> None:
        self.seconds, self.num_answered = seconds, num_answered
        self.max_in_flight = self.in_flight = self.num_asked = 0
        self.answered: list[tuple[str, str]] = []
        self._lock = threading.Lock()

    def __call__(self, handler: Handler, request: Request) -> None:
        with self._lock:
            self.in_flight += 1
            self.num_asked += 1
            self.max_in_flight = max(self.max_in_flight, self.in_flight)
            is_answered = self.num_answered is None or self.num_asked <= self.num_answered
        time.sleep(self.seconds if is_answered else 60)
        with self._lock:
            self.in_flight -= 1
            self.answered.append(identity(request))
        handler.send(200, completion(self.reply_to(request)))

    def reply_to(self, request: Request) -> str:
        """A letter that depends on the text alone."""
        return "ABCDE"[sum(text_of(request).encode()) % 5]


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    """Images with a question of three types each, one of them in two steps."""
    return write_questions(tmp_path, TYPES, NUM_IMAGES)


def flags(server: ScriptedServer, questions: Path, folder: Path, num_concurrent: int) -> list[str]:
    """A run with a cache of its own."""
    model = ["--model", "chat", "--endpoint", server.endpoint, "--model_name", "some-model"]
    model += ["--concurrent_requests", str(num_concurrent), "--answer_cache", str(folder / "cache")]
    return [*model, "--questions", str(questions), "--output", str(folder / "run")]


def test_records_equal_those_of_one_request_at_a_time(questions: Path, tmp_path: Path) -> None:
    plain, many = SlowEndpoint(0.0), SlowEndpoint(0.05)
    with serve(plain) as server:
        expected = main(flags(server, questions, tmp_path / "one", 1))
    with serve(many) as server:
        summary = main(flags(server, questions, tmp_path / "many", 4))
    assert plain.max_in_flight == 1
    assert 1 < many.max_in_flight <= 4
    assert len(many.answered) == NUM_REQUESTS
    assert sorted(many.answered) == sorted(plain.answered)
    assert untimed(tmp_path / "many" / "run") == untimed(tmp_path / "one" / "run")
    assert expected is not None
    assert summary is not None
    assert summary.groups == expected.groups


def test_the_client_itself_bounds_the_requests_of_many_threads(tmp_path: Path) -> None:
    endpoint = SlowEndpoint(0.03)
    with serve(endpoint) as server:
        client = JsonClient(None, RetryPolicy(), max_concurrent=3)
        model = ChatEndpointModel(ChatSettings(server.endpoint, "m"), client, AnswerCache(tmp_path), 9, 3)
        turns = [(Turn(Role.USER, f"question {number}"),) for number in range(12)]
        with ThreadPoolExecutor(12) as pool:
            replies = list(pool.map(lambda one: model.reply(IMAGE, one), turns))
    assert isinstance(model, ConcurrentModel)
    assert endpoint.max_in_flight == 3
    assert replies == ["ABCDE"[sum(one[0].text.encode()) % 5] for one in turns]


def test_the_same_request_of_several_threads_is_sent_once(tmp_path: Path) -> None:
    endpoint = SlowEndpoint(0.05)
    with serve(endpoint) as server:
        client = JsonClient(None, RetryPolicy(), max_concurrent=4)
        model = ChatEndpointModel(ChatSettings(server.endpoint, "m"), client, AnswerCache(tmp_path), 9, 4)
        with ThreadPoolExecutor(4) as pool:
            replies = list(pool.map(lambda _: model.reply(IMAGE, (Turn(Role.USER, "Which?"),)), range(4)))
    assert len(endpoint.answered) == 1
    assert len(set(replies)) == 1
    assert model._locks._locks == {}


def test_a_killed_run_pays_for_no_answer_twice(questions: Path, tmp_path: Path) -> None:
    endpoint = SlowEndpoint(0.01, num_answered=7)
    with serve(endpoint) as server:
        arguments = flags(server, questions, tmp_path, 4)
        command = [sys.executable, "validate_partonomy.py", *arguments]
        process = subprocess.Popen(
            command, env=os.environ | {"NO_PROXY": "*"}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            deadline = time.monotonic() + 90
            while len(list((tmp_path / "cache").rglob("*.json"))) < 7:
                assert process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.02)
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()
        paid = list(endpoint.answered)
        assert len(paid) == 7
        endpoint.num_answered, endpoint.answered = None, []
        summary = main([*arguments, "--resume"])
        resumed = list(endpoint.answered)
    assert summary is not None
    assert (summary.num_expected, summary.num_failed) == (NUM_IMAGES * len(TYPES), 0)
    assert len(resumed) == NUM_REQUESTS - 7
    assert not set(resumed) & set(paid)
    with serve(SlowEndpoint(0.0)) as server:
        main(flags(server, questions, tmp_path / "whole", 1))
    assert untimed(tmp_path / "run") == untimed(tmp_path / "whole" / "run")


def test_an_error_of_one_request_loses_no_other(questions: Path, tmp_path: Path) -> None:
    class Picky(SlowEndpoint):
        def __call__(self, handler: Handler, request: Request) -> None:
            if "(identification)" in text_of(request) and identity(request)[0] == refused[0]:
                handler.send(400, b"no such thing")
            else:
                super().__call__(handler, request)

    refused = [chat_endpoint.data_url(np.array(Image.open(tmp_path / "image1.png")), "png")]
    endpoint = Picky(0.02)
    with serve(endpoint) as server:
        arguments = flags(server, questions, tmp_path, 4)
        summary = main(arguments)
        assert summary is not None
        assert summary.num_failed == 1
        assert summary.groups["identification"].reasons == {"EndpointError: HTTP 400: no such thing": 1}
        assert len(endpoint.answered) == NUM_REQUESTS - 1
        refused[0] = ""
        again = main([*arguments, "--resume"])
        assert again is not None
        assert again.num_failed == 0
        assert len(endpoint.answered) == NUM_REQUESTS


def test_answers_in_flight_are_kept_when_the_run_ends_early(tmp_path: Path) -> None:
    """The second request is refused first; two more are in flight, and no other is sent."""
    questions = write_questions(tmp_path, (QuestionType.POSITIVE,), 10)

    class Closing(SlowEndpoint):
        def __call__(self, handler: Handler, request: Request) -> None:
            with self._lock:
                self.num_asked += 1
                number = self.num_asked
            time.sleep(0.2 if number == 2 else 0.5 if number < 4 else 0)
            if number == 2:
                handler.send(401, b"no money left")
            else:
                with self._lock:
                    self.answered.append(identity(request))
                handler.send(200, completion(self.reply_to(request)))

    endpoint = Closing(0.0)
    with serve(endpoint) as server:
        arguments = flags(server, questions, tmp_path, 3)
        with pytest.raises(SystemExit, match="HTTP 401: no money left"):
            main(arguments)
        assert endpoint.num_asked == 3
        cached = len(list((tmp_path / "cache").rglob("*.json")))
        assert cached == len(endpoint.answered) == 2
        assert main([*arguments, "--resume"]) is not None
    assert Counter(endpoint.answered).most_common(1)[0][1] == 1
    assert len(endpoint.answered) == 10


def test_a_stopped_client_waits_for_no_retry(tmp_path: Path) -> None:
    with serve(status(503, retry_after="500")) as server:
        client = JsonClient(None, RetryPolicy(), max_concurrent=2)
        threading.Timer(0.3, client.stop).start()
        start = time.monotonic()
        with pytest.raises(ModelUnavailable, match="the run has ended; continue with --resume"):
            client.post(server.endpoint, {}, lambda content: content)
        assert time.monotonic() - start < 10
        assert len(server.requests) == 1


def test_one_slow_answer_does_not_stop_the_others(questions: Path, tmp_path: Path) -> None:
    """The first question waits until three others are answered, which needs them to be asked meanwhile."""
    is_released = threading.Event()

    class FirstWaits(SlowEndpoint):
        def __call__(self, handler: Handler, request: Request) -> None:
            with self._lock:
                self.num_asked += 1
                is_first = self.num_asked == 1
            if is_first:
                assert is_released.wait(30)
            with self._lock:
                self.answered.append(identity(request))
                if len(self.answered) == 3:
                    is_released.set()
            handler.send(200, completion(self.reply_to(request)))

    with serve(FirstWaits(0.0)) as server:
        summary = main(flags(server, questions, tmp_path, 2))
    assert summary is not None
    assert is_released.is_set()
    assert summary.num_failed == 0


def test_records_come_in_the_order_of_the_items(questions: Path, tmp_path: Path) -> None:
    class Uneven(SlowEndpoint):
        def __call__(self, handler: Handler, request: Request) -> None:
            time.sleep(sum(text_of(request).encode()) % 7 / 100)
            super().__call__(handler, request)

    options = PartonomyOptions(choice_protocol="listwise", generate="none")
    task = make_config(questions, tmp_path / "run", options=options).load_task()
    with serve(Uneven(0.0)) as server:
        client = JsonClient(None, RetryPolicy(), max_concurrent=4)
        model = ChatEndpointModel(ChatSettings(server.endpoint, "m"), client, AnswerCache(tmp_path / "cache"), 9, 4)
        records = records_of(model, task)
    assert [record.item_id for record in records] == [item.item_id for item in task.items]


def test_an_image_is_encoded_once_and_in_the_size_that_the_endpoint_takes(
    questions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded: list[tuple[int, ...]] = []
    plain = chat_endpoint.data_url

    def note(image: np.ndarray, image_format: str) -> str:
        encoded.append(image.shape)
        return plain(image, image_format)

    monkeypatch.setattr(chat_endpoint, "data_url", note)
    with serve(SlowEndpoint(0.0)) as server:
        main([*flags(server, questions, tmp_path, 4), "--max_image_side", "16"])
        first = {identity(request.body)[0] for request in server.requests}
        assert len(server.requests) == NUM_REQUESTS
    assert encoded == [(12, 16, 3)] * NUM_IMAGES  # the images have 24 x 32 pixels
    assert len(first) == NUM_IMAGES
    for url in first:
        assert Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))).size == (16, 12)


def test_an_image_that_is_not_shrunk_keeps_its_cached_answers(tmp_path: Path) -> None:
    with serve(say("A"), say("B"), say("C")) as server:
        replies = []
        for side in (None, 8, 7, 7, None):
            settings = ChatSettings(server.endpoint, "m", max_image_side=side)
            model = ChatEndpointModel(settings, JsonClient(None, RetryPolicy()), AnswerCache(tmp_path))
            replies.append(model.reply(IMAGE, (Turn(Role.USER, "Which?"),)))
    assert replies == ["A", "A", "B", "B", "A"]


def test_shrinking_keeps_the_aspect_ratio() -> None:
    assert chat_endpoint.shrink(np.zeros((100, 7, 3), np.uint8), 10).shape == (10, 1, 3)
    assert chat_endpoint.shrink(np.zeros((3, 1000, 3), np.uint8), 10).shape == (1, 10, 3)
    assert chat_endpoint.shrink(np.zeros((30, 40, 3), np.uint8), 40).shape == (30, 40, 3)
