"""`import --images FOLDER`: record files whose image paths are those of another machine."""

import json
from pathlib import Path

import pytest
from PIL import Image

from partonomy.__main__ import main
from partonomy.datasets.near_names import ImageRoot
from partonomy.datasets.store import load_dataset, load_questions
from tests.partonomy.datasets.published_records import RECORD, write_records
from tests.partonomy.tiny_world import HEIGHT, WIDTH


def save(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (WIDTH, HEIGHT)).save(path)
    return path


def records_of(folder: Path, *paths: str) -> Path:
    folder.mkdir(exist_ok=True)
    return write_records(folder, *(RECORD | {"image_path": path} for path in paths))


def run_import(records: Path, output: Path, *flags: str) -> int:
    return main(["import", "--questions", str(records), "--output", str(output), *flags])


@pytest.mark.parametrize(
    "spelling",
    [
        "/x/coco/val/7.png",
        "C:\\Users\\them\\coco\\val\\7.png",
        "../coco/val/7.png",
        "val/7.png",
        "7.png",
        "/x/COCO/Val/7.PNG",
    ],
)
def test_the_only_file_of_its_name_is_found(tmp_path: Path, spelling: str) -> None:
    image = save(tmp_path / "photos" / "val" / "7.png")
    save(tmp_path / "photos" / "val" / "17.png")
    records = records_of(tmp_path / "in", spelling)
    flags = ["--images", str(tmp_path / "photos")]
    assert run_import(records, tmp_path / "set", *flags) == 0
    assert load_dataset(tmp_path / "set").images[0].file_name == "val/7.png"
    (question,) = load_questions(tmp_path / "set").questions
    assert question.image_path.resolve() == image
    # Shards give the same folder.
    for number in (1, 2):
        assert run_import(records, tmp_path / "joined", *flags, "--shard", f"{number}/2") == 0
    assert run_import(records, tmp_path / "joined", *flags, "--merge") == 0
    for name in ("annotations.json", "questions.jsonl", "dataset.json", "build.json"):
        assert (tmp_path / "joined" / name).read_bytes() == (tmp_path / "set" / name).read_bytes()
    exported = tmp_path / "out" / "qa_pairs.json"
    assert main(["export", "--questions", str(tmp_path / "set"), "--output", str(exported)]) == 0
    assert json.loads(exported.read_text())[0]["image_path"] == "../photos/val/7.png"


def test_the_folders_above_decide(tmp_path: Path) -> None:
    for side in ("train", "val"):
        save(tmp_path / "photos" / side / "7.png")
    records = records_of(tmp_path / "in", "/x/coco/val/7.png", "/x/coco/train/7.png")
    assert run_import(records, tmp_path / "set", "--images", str(tmp_path / "photos")) == 0
    names = [image.file_name for image in load_dataset(tmp_path / "set").images]
    assert names == ["val/7.png", "train/7.png"]


def test_several_files_are_refused_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for side in ("a", "b"):
        save(tmp_path / "photos" / side / "7.png")
    save(tmp_path / "photos" / "8.png")
    records = records_of(tmp_path / "in", "/x/8.png", "/x/7.png", "/x/9.png")
    flags = ["--images", str(tmp_path / "photos")]
    assert run_import(records, tmp_path / "set", *flags) == 1
    message = capsys.readouterr().err
    assert "record 1: the image '/x/7.png' may be 2 files below" in message
    assert "'a/7.png', 'b/7.png'" in message
    assert run_import(records, tmp_path / "set", *flags, "--invalid", "collect") == 0
    printed = capsys.readouterr().out
    assert "record 1: the image '/x/7.png' may be 2 files" in printed
    assert "record 2: " in printed
    assert "no file here has the name of the image '/x/9.png'" in printed
    # The record of the missing image counts as failed, with its true parts.
    (bad, lost) = load_questions(tmp_path / "set", invalid="collect").invalid
    assert (bad.truth, lost.truth is not None) == (None, True)


def test_without_the_folder_the_message_names_the_flag(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_import(records_of(tmp_path / "in", "/x/7.png"), tmp_path / "set") == 1
    assert "record 0: 'image_path' '/x/7.png' leaves the image folder" in (message := capsys.readouterr().err)
    assert "import --images FOLDER" in message
    assert run_import(tmp_path / "in", tmp_path / "set", "--images", str(tmp_path / "nowhere")) == 1
    assert "nowhere: the image folder (--images) does not exist" in capsys.readouterr().err


def test_an_export_with_annotations_is_re_rooted_too(tmp_path: Path) -> None:
    image = save(tmp_path / "in" / "images" / "7.png")
    records = records_of(tmp_path / "in", "images/7.png")
    assert run_import(records, tmp_path / "set") == 0
    exported = tmp_path / "out" / "qa_pairs.json"
    assert main(["export", "--questions", str(tmp_path / "set"), "--output", str(exported)]) == 0
    moved = tmp_path / "elsewhere" / "7.png"
    moved.parent.mkdir()
    image.rename(moved)
    assert run_import(exported, tmp_path / "again", "--images", str(moved.parent)) == 0
    (question,) = load_questions(tmp_path / "again").questions
    assert question.image_path.resolve() == moved


@pytest.mark.parametrize(
    ("path", "found"),
    [("A.png", "a/A.png"), ("a.png", "b/a.png"), ("b/A.png", "b/a.png"), ("/", None), ("", None), ("x\0.png", None)],
)
def test_case_matters_only_if_both_exist(tmp_path: Path, path: str, found: str | None) -> None:
    save(tmp_path / "a" / "A.png")
    save(tmp_path / "b" / "a.png")
    root = ImageRoot(tmp_path)
    if found is None:
        with pytest.raises(FileNotFoundError, match="no file here has the name"):
            root.find(path)
    else:
        assert root.find(path) == found
