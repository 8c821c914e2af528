import argparse
import importlib.util
import socket
from pathlib import Path

import pytest

from plum.cli import demo as command
from plum.cli.main import build_parser, main

WORDS = ["demo", "--checkpoint", "./runs/none/model"]


def parse(*words: str) -> argparse.Namespace:
    return build_parser(["demo"]).parse_args([*WORDS, *words]).demo


def test_the_page_is_private_by_default() -> None:
    parsed = parse()
    assert (parsed.host, parsed.port, parsed.share) == ("127.0.0.1", 7860, False)
    assert (parsed.device, parsed.dtype, parsed.max_new_tokens) == ("auto", "auto", None)
    assert [parse(*words).share for words in (["--share", "false"], ["--share", "true"], ["--share"])] == [
        False,
        True,
        True,
    ]


@pytest.mark.parametrize("words", [["--share", "maybe"], ["--port", "0"], ["--port", "70000"], ["--port", "a"]])
def test_wrong_flags_are_refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parse(*words)
    assert caught.value.code == 2
    assert words[0] in capsys.readouterr().err


def test_a_missing_gradio_is_one_line_that_names_the_cure(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert main(WORDS) == 1
    written = capsys.readouterr().err
    assert written == f"error: the demo page needs gradio: {command.INSTALL}\n"
    assert (Path(__file__).parents[3] / command.INSTALL.split()[-1]).is_file()


def test_a_port_in_use_is_noticed_before_the_model_is_loaded(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("gradio")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main([*WORDS, "--port", str(port)]) == 1  # the checkpoint does not exist either
    written = capsys.readouterr().err
    assert written.startswith(f"error: 127.0.0.1:{port} cannot be used (")
    assert written.endswith("choose another --port or --host\n")
    assert main([*WORDS, "--port", str(port)]) == 1
    assert "runs/none/model" in capsys.readouterr().err
