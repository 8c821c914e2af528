"""Flags of a command out of a YAML file."""

from pathlib import Path

import pytest

from plum.cli.config_flags import expand_config
from plum.cli.main import WITH_CONFIG, build_parser, main


def test_flags_of_the_file_come_before_those_of_the_line(tmp_path: Path) -> None:
    path = tmp_path / "ask.yaml"
    path.write_text("checkpoint: model\nimage: a.jpg\nquestion: Where is the wheel?\noutput: out\nforce: true\n")
    words = expand_config(["segment", "--image", "b.jpg", f"--config={path}", "--phrases", "wheel"])
    parsed = build_parser(["segment"]).parse_args(words)
    assert (parsed.checkpoint, parsed.image, parsed.question) == ("model", [Path("b.jpg")], "Where is the wheel?")
    pair = expand_config(["segment", "--phrases", "wheel", f"--config={path}"])
    assert build_parser(["segment"]).parse_args(pair).image == [Path("a.jpg")]
    assert (parsed.force, parsed.phrases) == (True, "wheel")


def test_a_list_repeats_its_flag_and_false_leaves_it_out(tmp_path: Path) -> None:
    path = tmp_path / "ask.yaml"
    path.write_text("question:\n- Which parts?\n- Where is the wheel?\nresume: false\n")
    words = expand_config(["predict", "photos", "--config", str(path)])
    assert words == ["predict", "--question=Which parts?", "--question=Where is the wheel?", "photos"]
    assert expand_config(["chat", "--image", "a.jpg"]) == ["chat", "--image", "a.jpg"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("- a\n", "expected lines of the form `flag: value`"),
        ("question:\n", "question has a value that no flag can take"),
        ("question: {a: 1}\n", "question has a value that no flag can take"),
        ("question: [\n", "not YAML"),
    ],
)
def test_a_bad_file_is_named(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(content)
    with pytest.raises(ValueError, match=message) as caught:
        expand_config(["segment", "--config", str(path)])
    assert "bad.yaml" in str(caught.value)


def test_a_missing_file_is_an_error_without_a_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["segment", "--config", "nowhere.yaml"]) == 1
    assert "nowhere.yaml: no such file" in capsys.readouterr().err
    assert main(["segment", "--config"]) == 1
    assert "--config must be followed by the name of a YAML file" in capsys.readouterr().err


def test_an_unknown_flag_in_the_file_names_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "ask.yaml"
    path.write_text("checkpoint: model\nimage: a.jpg\nquestion: Where?\noutput: out\nfrase: wheel\n")
    with pytest.raises(SystemExit):
        main(["segment", "--config", str(path)])
    error = capsys.readouterr().err
    assert "--frase=wheel" in error
    assert str(path) in error


@pytest.mark.parametrize("command", WITH_CONFIG)
def test_the_flag_is_in_the_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([command, "--help"])
    assert "--config FILE" in capsys.readouterr().out
