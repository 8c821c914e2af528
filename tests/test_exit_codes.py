"""The exit codes of docs/exit_codes.md, and one line without a traceback for mistakes of every command."""

import re
import shlex
from pathlib import Path

import pytest

from partonomy.__main__ import COMMANDS as PARTONOMY_COMMANDS
from partonomy.__main__ import main as partonomy_main
from partonomy.cli import exit_status as commands
from plum.cli.commands import COMMANDS as PLUM_COMMANDS
from plum.cli.main import main as plum_main
from plum.training import exit_status as training
from tests.readme_commands import ROOT

MAINS = {"partonomy": partonomy_main, "plum": plum_main}
MISTAKES = """
partonomy build --source coco --annotations {wrong} --images {folder} --output {new}
partonomy build-mmr {wrong} --output {new} --split val
partonomy build-mixedparts {wrong} --output {new} --num_train 1 --num_val 1 --num_test 1
partonomy import --questions {wrong} --output {new}
partonomy export --questions {wrong} --output {new}.json
partonomy push-dataset {wrong} --license mit --output {new}
partonomy pull-dataset {wrong} {new}
partonomy stats {wrong}
partonomy check {wrong}
partonomy seal {wrong}
partonomy describe {wrong} --output {new}
partonomy prune {wrong} --output {new}
partonomy merge {wrong} {wrong} --output {new}
partonomy split {wrong} --output_train {new} --output_val {new}_val
partonomy blind {wrong}
partonomy run partonomy --questions {wrong} --model random --output {new}
partonomy tables {wrong}
partonomy compare {wrong} {wrong}
partonomy report {wrong}
partonomy leaderboard {wrong} --output {new}.html
partonomy chart {wrong} --output {new}.svg
partonomy merge-runs {wrong} {wrong} --output {new}
partonomy export-predictions {wrong} --output {new}.json
partonomy export-results {wrong} --format coco --output {new}.json
partonomy import-predictions {wrong} --questions {wrong} --name x --output {new}
partonomy export-lmms-eval {wrong} --output {new}
plum train --config {wrong}
plum finetune --data {wrong} --init_from {wrong} --output {new}
plum segment --checkpoint {folder} --image {wrong} --question q --output {new}
plum chat --checkpoint {folder} --image {wrong}
plum train-tokenizer --datasets {wrong} --output {new}
plum teacher-forced --checkpoint {wrong} --data {folder} --output {new}.json
plum export {wrong} {new}
plum predict {wrong} --checkpoint {wrong} --question q --output {new}
plum data-status --root {wrong}
plum convert {wrong} {new}
plum convert-llava {wrong} {new} --sam {wrong}
plum adopt {wrong} {new} --sam {wrong}
plum validate partonomy --questions {wrong} --checkpoint {wrong} --output {new}
plum retention {wrong}
plum mmr-tables {wrong}
plum doctor --config {wrong}
plum costs {wrong}
plum demo --checkpoint {wrong}
plum push {wrong} org/name
""".strip().splitlines()
"""A command line for each command; {wrong} is the input that is wrong."""
WRONG = {
    "missing.json": None,
    "empty.json": b"",
    "damaged.json": b"{nope",
    "number.json": b"3\n",
    "binary.json": bytes(range(256)),
    "text.txt": b"hello\n",
}


def test_every_command_is_tried() -> None:
    tried = {tuple(line.split()[:2]) for line in MISTAKES}
    known = {("partonomy", command.name) for command in PARTONOMY_COMMANDS} | {("plum", name) for name in PLUM_COMMANDS}
    assert tried == known - {("plum", "pull")}  # it reads no file


@pytest.mark.parametrize("name", WRONG)
@pytest.mark.parametrize("line", MISTAKES, ids=lambda line: "-".join(line.split()[:2]))
def test_a_wrong_file_is_one_line_that_names_it(
    line: str, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if line.startswith("plum demo"):
        pytest.importorskip("gradio", reason="gradio is not installed (requirements-demo.txt)")
    wrong, folder = tmp_path / name, tmp_path / "folder"
    folder.mkdir()
    content = WRONG[name]
    if content is not None:
        wrong.write_bytes(content)
    program, *words = shlex.split(line.format(wrong=wrong, folder=folder, new=tmp_path / "new"))
    assert MAINS[program](words) == commands.ERROR
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert "error: " in error
    assert str(wrong) in error
    assert "Traceback" not in error


def test_the_page_lists_every_code() -> None:
    page = (ROOT / "docs" / "exit_codes.md").read_text(encoding="utf-8")
    listed = {int(code) for code in re.findall(r"^\| (\d+) \|", page, re.MULTILINE)}
    assert listed == {
        0,
        commands.ERROR,
        commands.USAGE,
        commands.INTERRUPTED,
        commands.BROKEN_PIPE,
        training.INTERRUPTED,
        training.TERMINATED,
        training.REQUEUE,
    }
    assert (commands.INTERRUPTED, commands.BROKEN_PIPE, training.TERMINATED, training.REQUEUE) == (130, 141, 143, 75)


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (ValueError("a\nb"), 1, "error: a\\nb\n"),
        (FileNotFoundError(2, "No such file or directory", "x.json"), 1, "error: x.json: No such file or directory\n"),
        (RuntimeError("broken"), 1, "error: broken\n"),
        (KeyboardInterrupt(), 130, "error: interrupted\n"),
    ],
)
def test_how_a_command_ends(
    error: BaseException, status: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def command() -> int:
        raise error

    assert commands.run_command(command, ["stats", "x"]) == status
    assert capsys.readouterr().err == message
    assert commands.run_command(lambda: None, []) == 0
    assert commands.run_command(lambda: 3, []) == 3
    with pytest.raises(KeyError):
        commands.run_command({}.popitem, [])  # a fault of the program keeps its traceback
