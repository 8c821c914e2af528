"""Flags of the commands of both programs: lists, booleans, YAML files, and what is refused."""

import shlex
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import yaml

from partonomy.__main__ import PROGRAM as PARTONOMY
from partonomy.__main__ import main as partonomy_main
from partonomy.cli.flags import read_arguments
from partonomy.cli.parsers import CommandParser, parse_words
from partonomy.cli.programs import Command, Program, command_parser
from partonomy.cli.run import benchmark_parser
from plum.checkpoints.published.system_request import LORA_ALPHA
from plum.cli.commands import COMMANDS, PROGRAM
from plum.cli.main import main
from plum.cli.model_flags import ModelFlags
from plum.inference.predictor import default_new_tokens
from tests.readme_commands import ROOT

MAINS = {"plum": main, "partonomy": partonomy_main}
RUN_FILE = ("doctor", "convert-llava")
"""Commands whose --config names the configuration of a run, as that of train.py does."""
ALL = [(program, command) for program in (PROGRAM, PARTONOMY) for command in program.commands]
WITH_FLAGS = [(program, command) for program, command in ALL if not command.fill and command.name not in RUN_FILE]


def arguments_of(program: Program, command: Command, words: list[str]) -> dict[str, Any]:
    """The arguments that the command's function would get."""
    parser = command_parser(program, command)
    return read_arguments(program.load(command.function), parse_words(parser, words))


def plum_arguments(name: str, *words: str) -> dict[str, Any]:
    """The arguments that a function of plum would get."""
    return arguments_of(PROGRAM, COMMANDS[name], list(words))


def filled(parser: CommandParser) -> list[str]:
    """Words that give every flag without a default a value, and every boolean and list flag as well."""
    words = []
    for action in parser._actions:
        (flag, *_) = action.option_strings or [""]
        if flag in parser.list_flags:
            kinds = str(getattr(action, "_typehint", ""))
            value = "1" if "int" in kinds else "36:45"
            words += [flag, value, flag, value]
        elif action.const is True:
            words.append(flag)
    return words


@pytest.mark.parametrize(("program", "command"), WITH_FLAGS, ids=lambda one: one.name)
def test_the_printed_configuration_is_read_again(
    program: Program, command: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [word for word in shlex.split(command.example) if word.strip()]
    words += filled(command_parser(program, command))
    file = tmp_path / "printed.yaml"
    with pytest.raises(SystemExit) as stop:
        MAINS[program.name]([command.name, *words, "--print_config"])
    assert stop.value.code == 0
    file.write_text(capsys.readouterr().out)
    given = arguments_of(program, command, words)
    assert arguments_of(program, command, ["--config", str(file)]) == given
    with pytest.raises(SystemExit):
        MAINS[program.name]([command.name, "--print_config", f"--config={file}"])
    assert capsys.readouterr().out == file.read_text()


@pytest.mark.parametrize("call", [["partonomy", "run"], ["plum", "validate"]], ids=" ".join)
def test_a_benchmarks_printed_configuration_is_read_again(
    call: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    program, command = call
    words = ["--root", "data", "--model", "plum", "--output", "out", "--resume", "--limit", "3", "--mode", "generated"]
    with pytest.raises(SystemExit) as stop:
        MAINS[program]([command, "refcoco", *words, "--print_config"])
    assert stop.value.code == 0
    (tmp_path / "a.yaml").write_text(capsys.readouterr().out)
    parsed = vars(parse_words(benchmark_parser("refcoco"), ["--config", str(tmp_path / "a.yaml")]))
    expected = vars(parse_words(benchmark_parser("refcoco"), words))
    assert {**parsed, "config": None} == expected
    assert (parsed["resume"], parsed["limit"], parsed["mode"]) == (True, 3, "generated")


def test_the_printed_configuration_of_a_run_is_read_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["train", "--config", str(ROOT / "configs/plum_tiny_stage0.yaml"), "--num_updates", "7"]
    with pytest.raises(SystemExit):
        main([*words, "--print_config"])
    (tmp_path / "a.yaml").write_text(capsys.readouterr().out)
    assert yaml.safe_load((tmp_path / "a.yaml").read_text())["num_updates"] == 7
    with pytest.raises(SystemExit):
        main(["train", "--config", str(tmp_path / "a.yaml"), "--print_config"])
    assert capsys.readouterr().out == (tmp_path / "a.yaml").read_text()


def test_flags_of_the_line_take_precedence_over_the_file(tmp_path: Path) -> None:
    path = tmp_path / "ask.yaml"
    path.write_text("checkpoint: model\nimage: [a.jpg, c.jpg]\nquestion: Where?\noutput: out\nforce: true\n")
    given = plum_arguments("segment", "--image", "b.jpg", f"--config={path}", "--phrases", "wheel")
    assert (given["model"].checkpoint, given["image"], given["question"]) == ("model", (Path("b.jpg"),), "Where?")
    assert (given["highlight"].force, given["highlight"].phrases) == (True, "wheel")
    given = plum_arguments("segment", "--phrases", "wheel", "--force", "false", "--config", str(path))
    assert (given["image"], given["highlight"].force) == ((Path("a.jpg"), Path("c.jpg")), False)
    (tmp_path / "over.yaml").write_text("image: d.jpg\nquestion: Which?\n")
    given = plum_arguments("segment", "--config", str(path), "--config", str(tmp_path / "over.yaml"))
    assert (given["image"], given["question"], given["output"]) == ((Path("d.jpg"),), "Which?", Path("out"))


@pytest.mark.parametrize(
    ("name", "words", "key", "expected"),
    [
        ("chat", ["--image", "a", "--checkpoint", "m", "--image", "b"], "image", (Path("a"), Path("b"))),
        ("chat", ["--checkpoint", "m", "--image", "a", "b"], "image", (Path("a"), Path("b"))),
        ("chat", ["--checkpoint", "m", "--image=[a] b, c.jpg"], "image", (Path("[a] b, c.jpg"),)),
        ("predict", ["--question", "a: b", "x", "--question=- c"], "question", ("a: b", "- c")),
        ("predict", ["x", "y", "--question", "null"], "question", ("null",)),
        ("predict", ["--question", "q", "x", "y", "--resume"], "images", (Path("x"), Path("y"))),
        ("predict", ["--resume", "x", "--questions", "q.json"], "images", (Path("x"),)),
        ("push", ["x", "y", "--tags", "a", "b", "--private", "--tags=1"], "tags", ("a", "b", "1")),
        ("export", ["x", "y", "--summary", "a", "--adapters-only"], "summary", (Path("a"),)),
        ("export", ["--adapters_only", "x", "y"], "destination", Path("y")),
        ("export", ["--adapt", "x", "y"], "destination", Path("y")),
        ("push", ["x", "y", "--tag", "a", "--tag=b"], "tags", ("a", "b")),
        ("export", ["x", "--adapters_only=False", "y"], "adapters_only", False),
        ("train-tokenizer", ["--datasets", "a", "b", "--output", "o"], "datasets", (Path("a"), Path("b"))),
        ("finetune", ["--set", "a=1", "--output", "o", "--set", "b=[1,2]"], "set", ("a=1", "b=[1,2]")),
        ("teacher-forced", ["--checkpoint", "m", "--output", "o", "--referring", "refcoco:testA"], "root", None),
        ("data-status", ["--missing", "--root", "r"], "missing", True),
        ("demo", ["--checkpoint", "m", "--share"], "share", True),
        ("demo", ["--share", "true", "--checkpoint", "m"], "share", True),
        ("demo", ["--share", "--checkpoint", "m", "--port", "80"], "port", 80),
    ],
)
def test_lists_and_booleans_of_the_command_line(name: str, words: list[str], key: str, expected: object) -> None:
    if name == "predict":
        words = [*words, "--checkpoint", "m", "--output", "o"]
    if name == "finetune":
        words = [*words, "--data", "d", "--init_from", "m"]
    assert plum_arguments(name, *words)[key] == expected


@pytest.mark.parametrize(
    "text",
    [
        "😀.jpg",
        "null",
        "1e3",
        "[a]",
        "{a: b}",
        "- x",
        "#c",
        '"q"',
        "\\n",
        "a\x85b\u2028c\td\ne\x1b",
        "",
        "é",
        "2024-01-01",
    ],
)
def test_texts_in_lists_stay_as_they_are(text: str) -> None:
    for words in ([text], [text, "b"]):
        flags = [f"--tags={word}" for word in words]
        assert plum_arguments("push", "folder", "name", *flags)["tags"] == tuple(words)


def test_a_name_that_is_not_utf_8(capsys: pytest.CaptureFixture[str]) -> None:
    name = b"caf\xe9.jpg".decode("utf-8", "surrogateescape")
    for words in (["chat", "--checkpoint", "m", "--image", name], ["predict", name]):
        assert main(words) == 1
        assert capsys.readouterr().err == "error: 'caf\\udce9.jpg' is not UTF-8; rename the file\n"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--baselines", "a", "run"], "a"),
        (["run", "--baselines", "[a, b]"], ["a", "b"]),
        (["--baselines", "a", "run", "--baselines=b"], ["a", "b"]),
        (["run"], None),
    ],
)
def test_a_list_that_may_be_a_text(words: list[str], expected: object) -> None:
    (command,) = (one for one in PARTONOMY.commands if one.name == "report")
    given = arguments_of(PARTONOMY, command, words)
    assert (given["run"], given["baselines"]) == ("run", expected)


def test_the_groups_of_doctor() -> None:
    words = ["--config", "a.yaml", "b.yaml", "--config", "c.yaml", "--gpus", "1", "4", "--image_size", "20", "30"]
    given = plum_arguments("doctor", *words, "--set", "x.y=1", "--set", "z=null", "--record-answer")
    run, memory, weights = given["run"], given["memory"], given["weights"]
    assert run.config == (Path("a.yaml"), Path("b.yaml"), Path("c.yaml"))
    assert (run.set, run.table, memory.gpus, memory.image_size) == (("x.y=1", "z=null"), (), (1, 4), (20, 30))
    assert (memory.assumptions.image_size, weights.record_answer, weights.answers) == ((20, 30), True, None)


def test_doctor_prints_the_runs_configuration(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["doctor", "--config", str(ROOT / "configs/plum_tiny_stage0.yaml"), "--set", "num_updates=7"]
    with pytest.raises(SystemExit) as stop:
        main([*words, "--zero_stage", "1", "--print-config"])
    assert stop.value.code == 0
    (tmp_path / "a.yaml").write_text(capsys.readouterr().out)
    printed = yaml.safe_load((tmp_path / "a.yaml").read_text())
    assert (printed["num_updates"], printed["engine"]["zero_stage"]) == (7, 1)
    with pytest.raises(SystemExit):
        main(["doctor", "--config", str(tmp_path / "a.yaml"), "--print_config"])
    assert capsys.readouterr().out == (tmp_path / "a.yaml").read_text()


@pytest.mark.parametrize("words", [[], ["--config", "a.yaml", "--table", "b.yaml"]])
def test_doctor_needs_either_a_run_or_a_table(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", *words]) == 2
    error = capsys.readouterr().err
    assert "--config" in error
    assert "--table" in error


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["segment", "--image", "a"], "the following arguments are required: --question, --output, --checkpoint"),
        (["predict", "--output", "o", "--checkpoint", "m"], "the following arguments are required: images"),
        (["segment", "--image"], "argument --image: expected one argument"),
        (["segment", "--config"], "argument --config: expected one argument"),
        (["chat", "--max_new_tokens", "0"], "argument --max_new_tokens: '0' is not a positive integer"),
        (["chat", "--max_new_tokens", "1.5"], "argument --max_new_tokens: '1.5' is not a positive integer"),
        (["chat", "--dtype", "int8"], "argument --dtype: invalid choice: 'int8' (choose from 'auto', 'float32'"),
        (["demo", "--port", "70000"], "argument --port: '70000' is not a port; choose one from 1024 to 65535"),
        (["demo", "--share=maybe"], "argument --share: 'maybe' is neither true nor false"),
        (["demo", "--share", "maybe"], "unrecognized arguments: maybe"),
        (["export", "a", "b", "--max_shard_size", "4TB"], "argument --max_shard_size: '4TB' is not a size; write 4GB"),
        (["doctor", "--gpus", "1", "x"], "argument --gpus: 'x' is not an integer"),
        (["doctor", "--zero_stage", "3"], "argument --zero_stage: invalid choice: '3' (choose from 1, 2)"),
        (["doctor", "--image_size", "3"], "argument --image_size: Expected a tuple with 2 elements"),
        (["finetune", "--val_share", "much"], "argument --val_share: 'much' is not a number"),
        (["train-tokenizer", "--vocab_size", "-3"], "argument --vocab_size: "),
        (["mmr-tables", "run", "--format", "pdf"], "argument --format: invalid choice: 'pdf' (choose from 'text'"),
    ],
)
def test_a_refused_flag_is_named_with_its_value(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(words)
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert f"error: {message}" in error
    assert "jsonargparse" not in error


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("- a\n", "holds no settings; write lines of the form `key: value`"),
        ("question: [\n", "not YAML"),
        ("a: 1\na: 2\n", "line 2: the key 'a' occurs twice"),
    ],
)
def test_a_bad_file_is_named(tmp_path: Path, content: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(content)
    for run in (["segment"], ["predict", "photos"], ["validate", "pope"]):
        assert main([*run, "--config", str(path)]) == 1
        error = capsys.readouterr().err
        assert error.startswith(f"error: {path}")
        assert message in error


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("frase: wheel\n", "the key 'frase' is not a flag of this command"),
        ("question:\n", "argument --config: expected lines of the form `flag: value`, got 'question:'"),
        ("question: 5\n", "argument --question: '5' is not a text; put it in quotes"),
        ("max_new_tokens: 0\n", "argument --max_new_tokens: '0' is not a positive integer"),
        ("image: [a, 5]\n", "argument --image: '[a, 5]' is not a path; put it in quotes"),
        ("force: maybe\n", "argument --force: 'maybe' is neither true nor false"),
    ],
)
def test_a_bad_value_of_a_file_is_named_with_the_file(
    tmp_path: Path, content: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "ask.yaml"
    path.write_text(content)
    with pytest.raises(SystemExit) as stop:
        main(["segment", "--config", str(path)])
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert f"error: {message}" in error
    assert f"The settings came from {path} and the command line." in error


def test_a_misspelt_key_of_a_file_is_answered_with_the_nearest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "ask.yaml").write_text("phrase: wheel\n")
    with pytest.raises(SystemExit):
        main(["segment", "--config", str(tmp_path / "ask.yaml")])
    assert "key phrase: did you mean phrases?" in capsys.readouterr().err


def test_a_positional_list_is_a_list_in_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "ask.yaml"
    path.write_text("images: photos\nquestion: Where?\ncheckpoint: m\noutput: o\n")
    assert main(["predict", "--config", str(path)]) == 1
    error = capsys.readouterr().err
    assert error == f"error: {path}: images is 'photos', it must be a list: write [photos]\n"
    path.write_text("images: [photos]\nquestion: Where?\ncheckpoint: m\noutput: o\n")
    assert plum_arguments("predict", "--config", str(path))["images"] == (Path("photos"),)
    assert plum_arguments("predict", "a", "b", "--config", str(path))["images"] == (Path("a"), Path("b"))


def test_a_missing_file_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "ask.yaml").touch()
    monkeypatch.chdir(tmp_path)
    for run in (main, partonomy_main):
        assert run([("segment" if run is main else "build"), "--config", "aks.yaml"]) == 1
        assert capsys.readouterr().err == (
            "error: aks.yaml: no such file (given by --config); correct the path (did you mean ask.yaml?)\n"
        )


@pytest.mark.parametrize(("program", "command"), WITH_FLAGS, ids=lambda one: one.name)
def test_every_help_text_names_the_file_of_flags(
    program: Program, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        MAINS[program.name]([command.name, "--help"])
    printed = capsys.readouterr().out
    assert "--config FILE" in printed
    assert f"usage: python -m {program.name} {command.name} " in printed
    assert "NoneType" not in printed


@pytest.mark.parametrize(("program", "command"), ALL, ids=lambda one: one.name)
def test_the_list_of_commands_says_what_each_does(program: Program, command: Command) -> None:
    function = program.load(command.function)
    assert (function.__doc__ or "").strip(), command.name
    assert command.example or command.fill


def test_defaults_that_help_texts_name() -> None:
    """The numbers stand in docstrings, because a help text must not import the predictor."""
    documented = " ".join((ModelFlags.__doc__ or "").split())
    assert f"(default: {default_new_tokens(1)}, about several images {default_new_tokens(2)})" in documented
    assert f"(default: {LORA_ALPHA})" in (COMMANDS["convert"] and PROGRAM.load("convert:convert").__doc__)
    assert [entry.name for entry in fields(ModelFlags)] == ["checkpoint", "device", "dtype", "max_new_tokens"]
