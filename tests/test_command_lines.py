"""What the command lines of both programs have in common: help, examples, flags, near names, version, completion."""

import argparse
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import partonomy
import plum
import train
import validate_partonomy
from partonomy.__main__ import COMMANDS as PARTONOMY_COMMANDS
from partonomy.__main__ import build_parser as partonomy_parser
from partonomy.__main__ import main as partonomy_main
from partonomy.benchmarks.registry import BENCHMARKS
from partonomy.cli.parsers import parse_words, spelling_hints, underscored
from partonomy.cli.run import benchmark_parser
from partonomy.suggestions import nearest, nearest_path
from plum.cli.commands import COMMANDS as PLUM_COMMANDS
from plum.cli.main import build_parser as plum_parser
from plum.cli.main import main as plum_main
from plum.training.config_file import build_parser as train_parser
from plum.training.config_file import load_train_config
from tests.readme_commands import ROOT, parse_command

PROGRAMS = {"plum": plum_main, "partonomy": partonomy_main}
OWN_PARSER = {("plum", "train")}
"""Commands whose flags another parser knows."""


def all_parsers() -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """Yield the name and the parser of every command of both programs, of train.py and of every benchmark."""
    for program, parser in (("plum", plum_parser()), ("partonomy", partonomy_parser())):
        yield program, parser
        for action in parser._actions:
            if isinstance(action, argparse._SubParsersAction):
                for name, command in action.choices.items():
                    if (program, name) not in OWN_PARSER:
                        yield f"{program} {name}", command
    yield "train.py", train_parser()
    for name in BENCHMARKS:
        yield f"partonomy run {name}", benchmark_parser(name)


PARSERS = dict(all_parsers())


@pytest.mark.parametrize("name", PARSERS)
def test_every_help_text_ends_with_an_example_that_the_parsers_take(name: str) -> None:
    text = PARSERS[name].format_help()
    at = text.rindex("\nexample:\n")
    (command,) = text[at:].replace("example:", "").replace("\\\n", " ").strip().splitlines()
    words = shlex.split(command)
    assert words[:1] == ["python"]
    if words[-1] != "--help":
        parse_command(words)
    program = "python train.py" if name == "train.py" else f"python -m {name}"
    assert " ".join(words).startswith(program)


def test_plum_train_shows_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        plum_main(["train", "--help"])
    assert stop.value.code == 0
    assert "example:\n  python train.py --config " in capsys.readouterr().out


@pytest.mark.parametrize("name", PARSERS)
def test_every_flag_is_explained_and_written_with_underscores(name: str) -> None:
    for action in PARSERS[name]._actions:
        if isinstance(action, argparse._SubParsersAction):
            continue
        assert action.help, f"{name}: {action.option_strings or action.dest}"
        for flag in action.option_strings:
            assert "-" not in flag.lstrip("-"), f"{name}: {flag}"


def test_flags_take_dashes_and_underscores() -> None:
    written = ["doctor", "--zero-stage=1", "--config", "my-run.yaml", "--set", "a-b=c-d", "--", "--as-it-is"]
    assert underscored(written) == ["doctor", "--zero_stage=1", *written[2:]]
    words = ["doctor", "--config", "a-b.yaml", "--zero-stage", "1", "--hash-cache", "x-y.json"]
    parsed = parse_words(plum_parser(["doctor"]), words).doctor
    assert (parsed.zero_stage, parsed.hash_cache, parsed.config) == (1, Path("x-y.json"), [Path("a-b.yaml")])
    words = ["build", "--source", "coco", "--output", "x", "--object-name", "race-car"]
    assert parse_words(partonomy_parser("build"), words).build.object_name == "race-car"
    config = str(ROOT / "configs/plum_tiny_stage0.yaml")
    assert load_train_config(["--config", config, "--save-every", "7"]).save_every == 7


def test_the_main_functions_take_dashes(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    output = str(tmp_path / "x.txt")
    assert partonomy_main(["build", "--source", "coco", "--object-name", "car", "--output", output]) == 1
    assert "--annotations" in capsys.readouterr().err
    assert plum_main(["train", "--config", str(tmp_path / "none.yaml"), "--save-every", "3"]) == 1
    assert "none.yaml" in capsys.readouterr().err
    flags = ["--questions", str(tmp_path), "--model", "random", "--question-types", "riddle", "--output", output]
    with pytest.raises(SystemExit, match="unknown question type 'riddle'"):
        validate_partonomy.main(flags)
    words = ["--output", output, "--char-range", "1", "--checkpoint", "x"]
    assert plum_main(["segment", "--image", "x.png", "--question", "?", *words]) == 1
    assert "'1' is not a range of characters" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["plum", "segmnet"], "command segmnet: did you mean segment?"),
        (["plum", "segment", "--imagee", "x"], "flag --imagee: did you mean --image?"),
        (["plum", "export", "a", "b", "--dtype", "flaot32"], "--dtype flaot32: did you mean float32?"),
        (["plum", "export", "a", "b", "--max-shrd-size=1GB"], "flag --max_shrd_size: did you mean --max_shard_size?"),
        (["plum", "validate", "partonommy"], "benchmark partonommy: did you mean partonomy?"),
        (["plum", "validate", "partonomy", "--modle", "x"], "flag --modle: did you mean --model?"),
        (["partonomy", "biuld"], "command biuld: did you mean build?"),
        (["partonomy", "stats", "x", "--fromat", "csv"], "flag --fromat: did you mean --format?"),
        (["partonomy", "stats", "x", "--format", "latx"], "--format latx: did you mean latex?"),
        (["partonomy", "build", "--source", "coccoo", "--output", "x"], "--source coccoo: did you mean coco?"),
        (["partonomy", "run", "partonomy", "--question-typs", "x"], "flag --question_typs: did you mean --question_t"),
    ],
)
def test_misspelt_commands_flags_and_choices(words: list[str], hint: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        PROGRAMS[words[0]](words[1:])
    assert stop.value.code == 2
    assert hint in capsys.readouterr().err


def test_correct_words_are_not_suggested_again() -> None:
    words = ["export", "model", "out", "--dtype", "float32", "--summ", "runs/mine"]
    assert spelling_hints(plum_parser(["export"]), words) == []
    assert spelling_hints(plum_parser(["export"]), ["export", "model", "out", "--zzz", "1"]) == []


def test_misspelt_keys_of_a_training_configuration(tmp_path: Path) -> None:
    config = tmp_path / "run.yaml"
    base = (ROOT / "configs/plum_tiny_stage0.yaml").read_text(encoding="utf-8")
    config.write_text(base + "num_udpates: 3\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"key num_udpates: did you mean num_updates\?") as caught:
        load_train_config(["--config", str(config)])
    assert str(caught.value).count("did you mean") == 1, "keys of groups that may be null are not misspelt"
    with pytest.raises(ValueError, match=r"--optimizer.lerning_rate: did you mean --optimizer.learning_rate\?"):
        load_train_config(["--config", str(ROOT / "configs/plum_tiny_stage0.yaml"), "--optimizer.lerning-rate", "1"])


def test_misspelt_names_and_paths(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "data" / "cars").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert partonomy_main(["stats", "data/carz"]) == 1
    assert "(did you mean data/cars?)" in capsys.readouterr().err
    assert partonomy_main(["run", "partonomy", "--questions=dat/cars", "--model", "random", "--output", "out"]) == 1
    assert "(did you mean data/cars?)" in capsys.readouterr().err
    assert plum_main(["data-status", "--root", "daat"]) == 1
    assert "(did you mean data?)" in capsys.readouterr().err
    assert partonomy_main(["run", "partonommy"]) == 1
    assert capsys.readouterr().err.count("did you mean 'partonomy'?") == 1
    flags = ["--model", "random", "--output", "out", "--question_types", "identificaton"]
    assert partonomy_main(["run", "partonomy", "--questions", "data/cars", *flags]) == 1
    assert "did you mean 'identification'?" in capsys.readouterr().err


def test_nearest_names(tmp_path: Path) -> None:
    assert nearest("LABELME", ["coco", "labelme"]) == "labelme"
    assert nearest("xyz", ["coco", "labelme"]) is None
    (tmp_path / "photos" / "first.jpg").mkdir(parents=True)
    assert nearest_path(tmp_path / "photo" / "frist.jpg") == tmp_path / "photos" / "first.jpg"
    assert nearest_path(tmp_path / "photo" / "..") == tmp_path / "photos" / ".."
    assert nearest_path(tmp_path / "elsewhere" / "first.jpg") is None


def test_versions(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    content = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    version = re.findall(r'^version = "(.+)"$', content, re.MULTILINE)[0]
    assert plum.__version__ == partonomy.__version__ == version
    monkeypatch.setattr("sys.argv", ["train.py", "--version"])
    for main in (
        train.main,
        *(lambda run=run: run(["--version"]) for run in (*PROGRAMS.values(), validate_partonomy.main)),
    ):
        with pytest.raises(SystemExit) as stop:
            main()
        assert stop.value.code == 0
        assert capsys.readouterr().out == f"plum-partonomy {version}\n"
    with pytest.raises(AttributeError, match="no attribute 'versoin'"):
        getattr(plum, "versoin")  # noqa: B009


@pytest.mark.parametrize(
    ("program", "commands"),
    [("plum", list(PLUM_COMMANDS)), ("partonomy", [command.name for command in PARTONOMY_COMMANDS])],
)
@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_completion_scripts_know_every_command(
    program: str, commands: list[str], shell: str, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("shtab")
    with pytest.raises(SystemExit) as stop:
        PROGRAMS[program](["--print_completion", shell])
    assert stop.value.code == 0
    script = capsys.readouterr().out
    assert [name for name in commands if name not in script] == []
    assert "--output" in script
    if shell == "zsh":
        assert script.startswith(f"#compdef {program}")
        return
    typed = f"COMP_WORDS=({program} expor); COMP_CWORD=1; COMPREPLY=(); _shtab_{program} {program} expor {program}"
    done = subprocess.run(
        ["bash", "--norc", "-c", f'{script}\n{typed}\necho "${{COMPREPLY[@]}}"'],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == [name for name in commands if name.startswith("expor")]
