"""Runs of validate_partonomy.py on a chat endpoint that misbehaves."""

from pathlib import Path

import pytest

from partonomy.benchmarks.partonomy.task import PartonomyTask
from partonomy.harness.summary import read_summary
from partonomy.models.chat_endpoint import JsonClient
from partonomy.structures import QuestionType
from tests.partonomy.conftest import write_questions
from tests.partonomy.models.chat_server import (
    ScriptedServer,
    choose_by_text,
    completion,
    echo,
    raw,
    say,
    serve,
    status,
)
from validate_partonomy import main

KEY = "sk-secret-of-the-test-1234567890"


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    """Three images with a plain and a two-step question each."""
    return write_questions(tmp_path, (QuestionType.POSITIVE, QuestionType.PART_TO_WHOLE), num_images=3)


@pytest.fixture
def keyed(monkeypatch: pytest.MonkeyPatch) -> str:
    """A key in the environment."""
    monkeypatch.setenv("KEY_OF_THE_TEST", KEY)
    return "KEY_OF_THE_TEST"


def flags(server: ScriptedServer, questions: Path, output: Path, key_variable: str) -> list[str]:
    """A run of the chat model."""
    model = ["--model", "chat", "--endpoint", server.endpoint, "--model_name", "some-model"]
    return [*model, "--api_key_env", key_variable, "--questions", str(questions), "--output", str(output)]


def test_run_scores_choices_repeats_for_free_and_never_writes_the_key(
    questions: Path, tmp_path: Path, keyed: str, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    # The correct answers of images 0, 1 and 2 name wheel; wheel, wing; tail fin, wheel, wing. The chosen ones name
    # engine; wheel, wing; tail fin, wheel, wing: 5 of 6 names right, 2 of 3 answers. Two of three are seaplanes.
    said = {"It has engine.", "It has wheel, wing.", "It has tail fin, wheel, wing.", "It is a seaplane."}
    act = choose_by_text(lambda text: text in said)
    with serve(act) as server:
        summary = main(flags(server, questions, tmp_path / "run", keyed))
        assert summary is not None
        assert len(server.requests) == 3 + 2 * 3
        assert {request.body["max_tokens"] for request in server.requests} == {PartonomyTask.MAX_NEW_TOKENS}
        again = main(flags(server, questions, tmp_path / "again", keyed))
        assert len(server.requests) == 3 + 2 * 3
    assert again is not None
    assert again.groups == summary.groups
    assert summary.provenance["config"]["options"]["choice_protocol"] == "listwise"
    assert summary.provenance["model"] == "chat:some-model"
    for entry in summary.groups.values():
        if not entry.num_expected:
            continue
        assert entry.num_failed == 0
        for name, estimate in entry.metrics.items():
            is_text = name.startswith(("parts_", "objects_", "authors_parts", "authors_objects"))
            assert (estimate.value is None) != is_text, name
        assert entry.metrics["parts_accuracy"].value == pytest.approx(2 / 3)
        assert entry.metrics["parts_precision"].value == pytest.approx(5 / 6)
        assert entry.metrics["parts_recall"].value == pytest.approx(5 / 6)
    assert summary.groups["part_to_whole"].metrics["objects_accuracy"].value == pytest.approx(2 / 3)
    captured = capsys.readouterr()
    assert KEY not in captured.out + captured.err + caplog.text
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(written) > 12
    assert [path for path in written if KEY.encode() in path.read_bytes()] == []


def test_a_key_that_the_endpoint_repeats_is_written_nowhere(
    questions: Path, tmp_path: Path, keyed: str, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    with serve(echo) as server:
        assert main(flags(server, questions, tmp_path / "run", keyed)) is not None
        assert {request.authorization for request in server.requests} == {f"Bearer {KEY}"}
    captured = capsys.readouterr()
    assert KEY[:8] not in captured.out + captured.err + caplog.text
    written = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert any(b"[key]" in content for content in written)
    assert not any(KEY[:8].encode() in content for content in written)


def test_a_reply_beyond_the_flag_fails_its_question_with_that_reason(
    questions: Path, tmp_path: Path, keyed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def wait(self: JsonClient, attempt: int, failure: object) -> None:
        """Try again at once."""

    monkeypatch.setattr(JsonClient, "_wait", wait)
    with serve(*[raw(completion("A" * 40_000))] * 6, say("A")) as server:
        arguments = [*flags(server, questions, tmp_path / "run", keyed), "--question_types", "positive"]
        limits = ["--max_reply_mb", "0.03125", "--request_timeout", "9", "--concurrent_requests", "1"]
        summary = main([*arguments, *limits])
    assert summary is not None
    entry = summary.groups["positive"]
    (reason,) = entry.reasons
    assert "the answer is larger than 0.03125 MB" in reason
    assert "(6 attempts)" in reason
    assert (entry.num_expected, entry.num_failed, len(server.requests)) == (3, 1, 8)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--max_reply_mb", "0"], "--max_reply_mb must be positive"),
        (["--request_timeout", "-3"], "--request_timeout must be positive"),
        (["--concurrent_requests", "0"], "--concurrent_requests must be at least 1, got 0"),
        (["--max_image_side", "0"], "--max_image_side must be at least 1, got 0"),
    ],
)
def test_limits_that_bound_nothing_are_refused(
    questions: Path, tmp_path: Path, keyed: str, arguments: list[str], message: str
) -> None:
    with serve(say("A")) as server, pytest.raises(SystemExit, match=message):
        main([*flags(server, questions, tmp_path / "run", keyed), *arguments])


def test_run_counts_what_it_cannot_use(questions: Path, tmp_path: Path, keyed: str) -> None:
    acts = [say("I'm sorry, but I can't help with that."), say(""), say("B or C"), say(None, refusal="No.")]
    with serve(*acts) as server:
        arguments = [*flags(server, questions, tmp_path / "run", keyed), "--question_types", "positive"]
        with pytest.raises(SystemExit, match="all 3 items failed, 1 of them for this reason: choice of parts"):
            main(arguments)
    entry = read_summary(tmp_path / "run" / "summary.json").groups["positive"]
    assert (entry.num_expected, entry.num_failed) == (3, 3)
    assert set(entry.reasons) == {
        "choice of parts only: the reply is a refusal",
        "choice of parts only: the reply is empty",
        "choice of parts only: the reply names several choices",
    }
    assert entry.metrics["parts_accuracy"].value == 0.0
    assert entry.metrics["parts_accuracy"].count == 3
    assert entry.metrics["giou_micro_paired"].value is None


def test_wrong_key_ends_the_run_and_resuming_finishes_it(questions: Path, tmp_path: Path, keyed: str) -> None:
    with serve(say("A"), status(401, f"bad key {KEY}".encode()), say("A")) as server:
        arguments = [*flags(server, questions, tmp_path / "run", keyed), "--concurrent_requests", "1"]
        with pytest.raises(SystemExit, match=r"HTTP 401: bad key \[key\]"):
            main(arguments)
        assert len((tmp_path / "run" / "records.jsonl").read_text().splitlines()) == 1
        summary = main([*arguments, "--resume"])
    assert summary is not None
    assert summary.num_failed == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "chat"], "needs --endpoint and --model_name"),
        (["--model", "oracle", "--endpoint", "http://h/v1"], "--endpoint belongs to --model chat"),
        (["--model", "open_vocabulary"], "needs --segmenter"),
        (["--model", "transformers"], "--model transformers needs --checkpoint, the folder of its weights"),
        (["--model", "oracle", "--checkpoint", "x"], "--checkpoint belongs to --model plum and transformers"),
        (
            ["--model", "chat", "--endpoint", "http://h/v1", "--model_name", "m", "--choice_protocol", "likelihood"],
            "pass --choice_protocol listwise",
        ),
        (
            ["--model", "chat", "--endpoint", "http://h/v1", "--model_name", "m", "--api_key_env", "NOT_SET_ANYWHERE"],
            "NOT_SET_ANYWHERE is not set",
        ),
    ],
)
def test_flags_that_do_not_fit_are_refused(questions: Path, tmp_path: Path, arguments: list[str], message: str) -> None:
    with pytest.raises(SystemExit, match=message):
        main([*arguments, "--questions", str(questions), "--output", str(tmp_path / "run")])
    assert not (tmp_path / "run").exists()
