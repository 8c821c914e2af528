"""`python -m partonomy build` on every source, as a user types it."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from partonomy.__main__ import main
from partonomy.datasets.sources.registry import SOURCES
from partonomy.datasets.store import load_dataset, load_questions
from partonomy.images import BOX_COLOUR, draw_box, load_image
from partonomy.locks import lock_folder
from tests.partonomy.cli.build_inputs import source_flags, write_inputs
from tests.partonomy.datasets.published_files import write_json

FLAGS = ["--embedding_model", "char-ngram-tfidf", "--question_types", "identification,identification_with_label"]


@pytest.fixture
def inputs(tmp_path: Path) -> Path:
    write_inputs(tmp_path)
    return tmp_path


def build(source: str, inputs: Path, output: str, *flags: str) -> Path:
    command = ["build", *source_flags(source, inputs), "--output", str(inputs / output), *FLAGS, *flags]
    assert main(command) == 0
    return inputs / output


@pytest.mark.parametrize(
    ("source", "flags", "labels"),
    [
        ("coco", [], {"car", "bicycle"}),
        ("paco", [], {"car", "bicycle"}),
        ("part_imagenet", [], {"quadruped", "car"}),
        ("part_imagenet", ["--object_names", "classes.json"], {"english setter", "beach wagon"}),
        ("pascal_part", ["--fold_sides", "--num_workers", "2"], {"bird"}),
    ],
)
def test_every_source_is_built_and_then_found_built(
    inputs: Path, source: str, flags: list[str], labels: set[str], capsys: pytest.CaptureFixture[str]
) -> None:
    flags = [str(inputs / flag) if flag.endswith(".json") else flag for flag in flags]
    folder = build(source, inputs, "out", *flags)
    dataset = load_dataset(folder)
    assert {one.label for image in dataset.images for one in image.objects} == labels
    assert json.loads((folder / "dataset.json").read_text())["source"] == source
    capsys.readouterr()
    build(source, inputs, "out", *flags)
    assert "already built with these settings" in capsys.readouterr().out


def test_what_a_build_leaves_that_is_killed_at_its_very_end_is_deleted(
    inputs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--object_names", str(inputs / "classes.json")]
    folder = build("part_imagenet", inputs, "out", *flags)
    names = (".lock", "build.progress.tmp", "questions.jsonl.tmp", f".build.json.{'0' * 32}.tmp")
    whole = sorted(path.name for path in folder.iterdir())
    for name in names:
        (folder / name).touch()
    with lock_folder(folder, ".lock"):  # another process builds
        (folder / "build.progress.tmp").touch()
        build("part_imagenet", inputs, "out", *flags)
        assert (folder / "build.progress.tmp").exists()
    (folder / ".lock").touch()
    build("part_imagenet", inputs, "out", *flags)
    assert capsys.readouterr().out.count("already built with these settings") == 2
    assert sorted(path.name for path in folder.iterdir()) == whole


def test_another_file_behind_a_flag_is_another_build(inputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--object_names", str(inputs / "classes.json")]
    build("part_imagenet", inputs, "out", *flags)
    write_json(inputs / "classes.json", {"n02100735": "setter", "n02814533": "wagon"})
    assert main(["build", *source_flags("part_imagenet", inputs), "--output", str(inputs / "out"), *FLAGS, *flags]) == 1
    assert "object_names_sha256" in capsys.readouterr().err


def test_fold_sides_is_another_build(inputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    build("pascal_part", inputs, "out")
    command = ["build", *source_flags("pascal_part", inputs), "--output", str(inputs / "out"), *FLAGS, "--fold_sides"]
    assert main(command) == 1
    assert "fold_sides: None there, True now" in capsys.readouterr().err


def test_marked_images_are_stored_on_request_only(inputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = build("paco", inputs, "out")
    assert not (folder / "marked_images").exists()
    question = load_questions(folder).questions[0]
    assert question.box == (14, 0, 10, 10)  # the second car, around which a frame of one pixel is drawn
    build("paco", inputs, "out", "--store_marked_images")
    assert "1 images with the box drawn" in capsys.readouterr().out
    (path,) = (folder / "marked_images").iterdir()
    assert path.name == "391895.png"
    stored = np.asarray(Image.open(path))
    photo = load_image(question.image_path, question.height, question.width)
    np.testing.assert_array_equal(stored, draw_box(photo, question.box))
    changed = (stored != photo).any(axis=-1)
    assert (stored[changed] == BOX_COLOUR).all()
    # Columns 13 to 24, rows 0 to 10 (the image ends above row 0): the sides 2 x 11, the rest of top and bottom 2 x 10.
    assert changed.sum() == 2 * 11 + 2 * 10
    build("paco", inputs, "out")  # its folder is known as the data set's own


def test_a_data_set_folder_is_a_source(inputs: Path) -> None:
    built = build("paco", inputs, "built")
    again = build("dataset", inputs, "again")
    assert (again / "questions.jsonl").read_bytes() == (built / "questions.jsonl").read_bytes()


@pytest.mark.parametrize(
    ("source", "flags", "message"),
    [
        ("paco", ["--object_name", "car"], "--source paco does not use --object_name"),
        ("pascal_part", ["--object_names", "x.json"], "--source pascal_part does not use --object_names"),
        ("synthetic", ["--fold_sides"], "--source synthetic does not use --fold_sides"),
        ("part_imagenet", ["--object_names", "none.json"], "none.json: the file of --object_names does not exist"),
        ("paco", ["--images", "nowhere"], "nowhere: the image folder"),
        ("pascal_part", ["--annotations", "none"], "none: the file of --annotations does not exist"),
        ("dataset", ["--images", "nowhere"], "nowhere is not a data set folder"),
    ],
)
def test_mistaken_flags(
    inputs: Path, source: str, flags: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["build", *source_flags(source, inputs), "--output", str(inputs / "out"), *FLAGS, *flags]
    assert main(command) == 1
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("source", sorted(SOURCES))
def test_a_source_without_its_input_says_what_it_needs(
    source: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["build", "--source", source, "--output", str(tmp_path / "out")]) == 1
    assert "--images" in capsys.readouterr().err


def test_bad_records_of_a_source_are_collected_and_shown(inputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = json.loads((inputs / "paco_lvis_v1_train.json").read_text())
    content["annotations"][3]["obj_ann_id"] = 77
    write_json(inputs / "paco_lvis_v1_train.json", content)
    command = ["build", *source_flags("paco", inputs), "--output", str(inputs / "out"), *FLAGS]
    assert main(command) == 1
    assert "paco_lvis_v1_train.json, annotation 13: obj_ann_id 77 is no object annotation" in capsys.readouterr().err
    assert main([*command, "--invalid", "collect"]) == 0
    assert "left out: 1 annotation (id 13): obj_ann_id 77 is no object annotation" in capsys.readouterr().out
