"""A file or folder that may not be read or written: one line with its path and what to do, and exit status 1."""

import errno
import shlex
import shutil
from pathlib import Path

import pytest

from partonomy.__main__ import main as partonomy_main
from partonomy.cli.exit_status import ERROR
from partonomy.machine_faults import MachineFault, describe_error
from plum.checkpoints.store import save_pretrained
from plum.cli.main import main as plum_main
from plum.training.reporting import describe_error as describe_training_error
from tests.permissions import file_modes_hold
from tests.plum.data.tokenizers_for_tests import byte_level
from tests.plum.predictor_world import make_model
from validate_partonomy import main as validate_main

MAINS = {"partonomy": partonomy_main, "plum": plum_main}
READ = "you may not read it: change its rights (chmod, chown), or name another path"
ENTER = "you may not enter {parent}: change its rights (chmod, chown), or name another path"
WRITE = "you may not write here: change its rights (chmod, chown), or choose another output"

OUTPUTS = """
partonomy build --source synthetic --images 2 --image_size 64 --output {new}
partonomy build --source synthetic --images 2 --image_size 64 --output {folder}
partonomy build-mmr {set} --output {new} --split val
partonomy build-mixedparts {set} --output {new} --num_train 1 --num_val 1 --num_test 1
partonomy export --questions {set} --output {new}.json
partonomy check {set} --output {new}.json
partonomy describe {set} --output {new}
partonomy prune {set} --output {new}
partonomy merge {set} {set} --output {new}
partonomy split {set} --output_train {new} --output_val {new}_val
partonomy blind {set} --output {new}.json
partonomy run partonomy --questions {set} --model random --output {new}
partonomy compare {run} {run} --output {new}.json
partonomy report {run} --output {new}.html
partonomy leaderboard {run} --output {new}.html
partonomy chart {run} --output {new}.svg
partonomy export-predictions {run} --output {new}.json
partonomy export-results {run} --format coco --output {new}.json
partonomy export-lmms-eval {set} --output {new}
plum segment --checkpoint {model} --image {image} --question q --output {new}
plum train-tokenizer --datasets {set} --output {new}
plum teacher-forced --checkpoint {model} --data {set} --output {new}.json
plum export {model} {new}
plum predict {image} --checkpoint {model} --question q --output {new}
plum convert-llava {model} {new} --sam {image}
plum validate partonomy --questions {set} --checkpoint {model} --output {new}
""".strip().splitlines()
"""Command lines whose output, {new} in {folder} or {folder} itself, may not be written."""
FOLDERS = """
partonomy build-mmr {wrong} --output {new} --split val
partonomy build-mixedparts {wrong} --output {new} --num_train 1 --num_val 1 --num_test 1
partonomy import --questions {wrong} --output {new}
partonomy export --questions {wrong} --output {new}.json
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
partonomy export-lmms-eval {wrong} --output {new}
partonomy push-dataset {wrong} --license mit --output {new}
plum finetune --data {wrong} --init_from {wrong} --output {new}
plum teacher-forced --checkpoint {wrong} --data {set} --output {new}.json
plum export {wrong} {new}
plum predict {wrong} --checkpoint {model} --question q --output {new}
plum data-status --root {wrong}
plum convert {wrong} {new}
plum convert-llava {wrong} {new} --sam {wrong}
plum validate partonomy --questions {set} --checkpoint {wrong} --output {new}
plum retention {wrong}
plum mmr-tables {wrong}
plum push {wrong} org/name
""".strip().splitlines()
"""Command lines whose input folder {wrong} may not be entered.

`train-tokenizer` is left out: its library reads in threads that may be older than the test, and so keep root's right.
"""
FILES = """
questions.jsonl | partonomy stats {set}
questions.jsonl | partonomy push-dataset {set} --license mit --output {new}
annotations.json | partonomy build --source coco --annotations {set}/annotations.json --images {set} --output {new}
annotations.json | partonomy describe {set} --output {new}
images/val_000000.jpg | partonomy run partonomy --questions {set} --model random --output {new}
images/val_000000.jpg | partonomy push-dataset {set} --license mit --output {new}
images/val_000000.jpg | plum segment --checkpoint {model} --image {set}/images/val_000000.jpg --question q --output a
images | plum predict {set} --checkpoint {model} --question q --output {new}
records.jsonl | partonomy report {run} --output {new}.html
summary.json | partonomy tables {run}
config.json | plum segment --checkpoint {model} --image {image} --question q --output {new}
model.safetensors | plum segment --checkpoint {model} --image {image} --question q --output {new}
model.safetensors | plum export {model} {new}
model.safetensors | plum push {model} org/name
model.safetensors | plum convert {model}/model.safetensors {new}
tokenizer.json | plum export {model} {new}
config.json | plum train --config {model}/config.json
config.json | plum doctor --config {model}/config.json
""".strip().splitlines()
"""A file or folder in {set}, {run} or {model} that may not be read, and a command line that reads it."""


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A question set, a run on it and a saved model."""
    folder = tmp_path_factory.mktemp("originals")
    flags = ["--source", "synthetic", "--split", "val", "--images", "2", "--image_size", "64"]
    flags += ["--embedding_model", "char-ngram-tfidf"]
    assert partonomy_main(["build", *flags, "--output", str(folder / "set")]) == 0
    run = ["--model", "random", "--questions", str(folder / "set"), "--output", str(folder / "run")]
    assert validate_main(run) is not None
    save_pretrained(make_model(), byte_level(), folder / "model", "")
    return folder


def _copy(originals: Path, folder: Path) -> dict[str, Path]:
    for name in ("set", "run", "model"):
        shutil.copytree(originals / name, folder / name)
    image = shutil.copy(originals / "set" / "images" / "val_000001.jpg", folder / "photo.jpg")
    return {name: folder / name for name in ("set", "run", "model")} | {"image": Path(image)}


def _fail(line: str, paths: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> str:
    """Run a command that must fail; return its line."""
    program, *words = shlex.split(line.format(**paths))
    capsys.readouterr()
    with file_modes_hold():
        status = MAINS[program](words)
    (printed,) = capsys.readouterr().err.strip().splitlines()
    assert status == ERROR, printed
    assert "error: " in printed
    return printed


@pytest.mark.parametrize("line", OUTPUTS, ids=lambda line: "-".join(line.split()[:2]))
def test_an_output_that_may_not_be_written(
    line: str, originals: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "locked"
    folder.mkdir(mode=0o555)
    paths = _copy(originals, tmp_path) | {"folder": folder, "new": folder / "new"}
    assert f"{folder}: Permission denied; {WRITE}" in _fail(line, paths, capsys)


@pytest.mark.parametrize("line", FOLDERS, ids=lambda line: "-".join(line.split()[:2]))
def test_a_folder_that_may_not_be_entered(
    line: str, originals: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = tmp_path / "wrong"
    wrong.mkdir()
    (wrong / "file").touch()
    wrong.chmod(0)
    printed = _fail(line, _copy(originals, tmp_path) | {"wrong": wrong, "new": tmp_path / "new"}, capsys)
    assert f"{wrong}: Permission denied; {READ}" in printed or f"; {ENTER.format(parent=wrong)}" in printed


@pytest.mark.parametrize("line", FILES, ids=lambda line: "-".join(line.split()[:1] + line.split()[2:4]))
def test_a_file_that_may_not_be_read(
    line: str, originals: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name, _, command = line.partition(" | ")
    paths = _copy(originals, tmp_path)
    (path,) = (folder / name for folder in paths.values() if f"{folder.name}}}" in line and (folder / name).exists())
    path.chmod(0)
    assert f"{path}: Permission denied; {READ}" in _fail(command, paths | {"new": tmp_path / "new"}, capsys)


@pytest.mark.parametrize("name", ["questions/val-00000-of-00001.parquet", "questions", "partonomy.json"])
def test_a_downloaded_data_set_that_may_not_be_read(
    originals: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    pytest.importorskip("pyarrow", reason="pyarrow is not installed (requirements-hub.txt)")
    flags = ["--license", "mit", "--split", "val", "--output", str(tmp_path / "hub")]
    assert partonomy_main(["push-dataset", str(originals / "set"), *flags]) == 0
    path = tmp_path / "hub" / name
    path.chmod(0)
    printed = _fail("partonomy pull-dataset {hub} {new}", {"hub": tmp_path / "hub", "new": tmp_path / "new"}, capsys)
    assert f"{path}: Permission denied; {READ}" in printed
    path.chmod(0o755)
    (tmp_path / "locked").mkdir(mode=0o555)
    for line in ("push-dataset {set} --license mit --output {new}", "pull-dataset {hub} {new}"):
        paths = {"set": originals / "set", "hub": tmp_path / "hub", "new": tmp_path / "locked" / "new"}
        assert f"{tmp_path / 'locked'}: Permission denied; {WRITE}" in _fail(f"partonomy {line}", paths, capsys)


def test_read_only_inputs_are_enough(originals: Path, tmp_path: Path) -> None:
    paths = _copy(originals, tmp_path) | {"new": tmp_path / "new"}
    for folder in ("set", "model"):
        for path in (paths[folder], *paths[folder].rglob("*")):
            path.chmod(0o555 if path.is_dir() else 0o444)
    for line in (
        "partonomy run partonomy --questions {set} --model random --output {new}/run",
        "plum segment --checkpoint {model} --image {image} --question q --output {new}/answer",
        "plum export {model} {new}/exported",
    ):
        program, *words = shlex.split(line.format(**paths))
        with file_modes_hold():
            assert MAINS[program](words) == 0


def test_the_page_beside_a_read_only_run_needs_another_output(
    originals: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = _copy(originals, tmp_path)
    paths["run"].chmod(0o555)
    assert f"{paths['run']}: Permission denied; {WRITE}" in _fail("partonomy report {run}", paths, capsys)


def test_the_right_that_is_missing_is_found(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch(mode=0o444)
    denied = PermissionError(errno.EACCES, "Permission denied", str(file))
    wrapped = ValueError("the file is damaged: download it again")
    wrapped.__cause__ = denied
    with file_modes_hold():
        cure = "you may not write it: change its rights (chmod, chown), or choose another output"
        assert describe_error(denied) == f"{file}: Permission denied; {cure}"
        assert describe_error(wrapped) == describe_error(denied) == describe_training_error(denied)
        fault = str(MachineFault(denied))
        assert fault.startswith(describe_error(denied) + " - this is a fault of the machine")
        assert describe_error(MachineFault(denied)) == fault
    file.chmod(0o644)
    assert "change the rights of the file or its folder" in describe_error(denied)
    full = OSError(errno.EROFS, "Read-only file system", str(file))
    assert describe_error(full) == f"{file}: Read-only file system; choose a folder on another file system"
    assert describe_error(PermissionError("no path")) == "no path"
    assert describe_error(FileNotFoundError(2, "No such file", "x")) == "x: No such file"
    assert describe_error(ValueError()) == "ValueError"
