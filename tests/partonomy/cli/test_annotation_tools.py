"""`build` and `check` on the native files of annotation tools, and docs/annotation_tools.md, as a user types them."""

import json
import re
import shlex
import typing
from pathlib import Path

import pytest

from partonomy.__main__ import main
from partonomy.cli.build import build
from partonomy.cli.check import check
from partonomy.datasets.sources.annotation_tools.roles import BOXED_PART
from partonomy.datasets.sources.annotation_tools.tools import TOOLS
from partonomy.datasets.store import load_dataset
from tests.partonomy.datasets import annotation_tool_files as files
from tests.partonomy.datasets.annotation_tool_files import CAR, DOOR, WHEEL
from tests.readme_commands import ROOT, bash_commands, parse_command

FAST = ["--embedding_model", "char-ngram-tfidf"]
BASIC = [("car", CAR), ("car:wheel", WHEEL), ("car:door", DOOR)]
PARTS = ["hood", "roof", "lamp", "grille", "mirror", "window"]
ASKABLE = [*BASIC, *((f"car:{name}", (34 + number, 8, 3, 3)) for number, name in enumerate(PARTS))]
PAGE = (ROOT / "docs" / "annotation_tools.md").read_text(encoding="utf-8")


def read_all(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def flags(tool: str, folder: Path, annotations: Path) -> list[str]:
    return ["--source", tool, "--annotations", str(annotations), "--images", str(folder / "images")]


@pytest.mark.parametrize("tool", TOOLS)
def test_one_command_builds_and_says_what_it_left_out(
    tool: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    annotations = files.write_tool(tool, tmp_path, [*ASKABLE, ("background", (0, 0, 3, 3))], ["a.png", "b.png"])
    source = flags(tool, tmp_path, annotations)
    assert main(["check", *source]) == 0
    printed = capsys.readouterr().out
    assert "2 images, 20 annotations" in printed
    assert "note: shape that is left out" in printed
    assert main(["build", *source, *FAST, "--output", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    assert "left out: 2 annotations (id 10, 20): background" in printed
    assert "questions about 2 images" in printed
    built = json.loads((tmp_path / "out" / "build.json").read_text())
    assert built["left_out_annotations"] == [{"reason": "background", "count": 2, "example_ids": [10, 20]}]
    assert main(["build", *source, *FAST, "--output", str(tmp_path / "out")]) == 0
    assert "already built with these settings" in capsys.readouterr().out


@pytest.mark.parametrize("tool", ["cvat", "supervisely"])  # a file, a folder of files
def test_shards_and_workers_make_the_same_files(tool: str, tmp_path: Path) -> None:
    annotations = files.write_tool(tool, tmp_path, ASKABLE, [f"{number}.png" for number in range(3)])
    command = ["build", *flags(tool, tmp_path, annotations), *FAST, "--question_types", "identification,part_to_whole"]
    assert main([*command, "--output", str(tmp_path / "whole")]) == 0
    whole = read_all(tmp_path / "whole")
    assert main([*command, "--output", str(tmp_path / "workers"), "--num_workers", "2"]) == 0
    sharded = [*command, "--output", str(tmp_path / "shards")]
    assert main([*sharded, "--prepare"]) == 0
    for number in ("2/2", "1/2"):
        assert main([*sharded, "--shard", number]) == 0
    assert main([*sharded, "--merge"]) == 0
    assert read_all(tmp_path / "shards") == whole
    assert {name for name in whole if read_all(tmp_path / "workers")[name] != whole[name]} == set()


def test_changed_files_and_settings_are_noticed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The files are in a folder; a renamed file of Supervisely names another image."""
    annotations = files.write_tool("supervisely", tmp_path, ASKABLE, ["a.png", "b.png"])
    command = ["build", *flags("supervisely", tmp_path, annotations), *FAST, "--output", str(tmp_path / "out")]
    assert main(command) == 0
    folder = annotations / "ds0" / "ann"
    (folder / "b.png.json").rename(folder / "c.png.json")
    files.save_photo(tmp_path / "images" / "c.png")
    assert main(command) == 1
    assert "annotations_sha256" in capsys.readouterr().err
    assert main([*command, "--label_separator", "/", "--object_name", "car"]) == 1
    assert "label_separator" in capsys.readouterr().err


def test_images_inside_labelme_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = files.save_photo(tmp_path / "photo.png").read_bytes()
    shapes = [files.labelme_shape(label, files.corners(box)) for label, box in ASKABLE]
    labels = files.write_json(tmp_path / "labels" / "a.json", files.labelme_file("a.png", shapes, content)).parent
    source = ["--source", "labelme", "--annotations", str(labels)]
    assert main(["check", *source]) == 0
    assert [path.name for path in labels.iterdir()] == ["a.json"], "a check writes nothing"
    out = tmp_path / "out"
    assert main(["build", *source, *FAST, "--output", str(out)]) == 0
    assert (out / "images" / "a.png").read_bytes() == content
    assert load_dataset(out).image_root == (out / "images").resolve()
    assert json.loads((out / "dataset.json").read_text())["image_root"] == "images"
    broken = files.labelme_file("a.png", shapes, b"no image")
    files.write_json(labels / "b.json", broken)
    assert main(["check", *source]) == 2
    printed = capsys.readouterr().out
    assert "error: broken record" in printed
    assert f"{labels / 'b.json'}: " in printed


def test_check_names_places(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    annotations = files.write_tool("cvat", tmp_path, [*BASIC, ("car:lamp", (36, 8, 1, 1))])
    text = annotations.read_text(encoding="utf-8")
    bad = [files.cvat_box("car:door", DOOR), files.cvat_polygon("car:hood", (4000, 1, 2, 2))]
    annotations.write_text(text.replace("</image>", "\n".join([*bad, "</image>"])), encoding="utf-8")
    source = flags("cvat", tmp_path, annotations)
    findings = tmp_path / "findings.json"
    assert main(["check", *source, "--output", str(findings)]) == 2
    found = {(one["problem"], one["record"]): one["detail"] for one in json.loads(findings.read_text())["findings"]}
    by_problem = {problem: (record, detail) for (problem, record), detail in found.items()}
    record, detail = by_problem["broken record"]
    assert re.fullmatch(rf"{re.escape(str(annotations))}, line \d+, polygon", record)
    assert "far outside the image" in detail
    assert by_problem["shape that is left out"][1] == BOXED_PART
    assert by_problem["mask of very few pixels"][0].startswith(f"annotation 4, {annotations}, line ")
    assert main(["build", *source, *FAST, "--output", str(tmp_path / "out")]) == 1
    assert f"{record}: " in capsys.readouterr().err
    shards = ["check", *source, "--output", str(tmp_path / "sharded.json")]
    for number in ("1/2", "2/2"):
        assert main([*shards, "--shard", number]) == 0
    assert main([*shards, "--merge"]) == 2
    assert json.loads((tmp_path / "sharded.json").read_text()) == json.loads(findings.read_text())


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        (["check", "data", "--source", "labelme"], "--source labelme needs --annotations; a data set folder"),
        (["check", "--source", "cvat", "--annotations", "x.xml"], "cvat needs --annotations .* --images FOLDER"),
        (["check", "--annotations", "x", "--images", "y", "--label_separator", "/"], "--label_separator: pass the"),
        (["check", "--source", "cvat", "--annotations", "x", "--label_attribute", "a"], "not use --label_attribute"),
        (["build", "--source", "cvat", "--annotations", "x", "--output", "o"], "--source cvat needs --annotations"),
        (["build", "--source", "coco", "--label_separator", "/", "--output", "o"], "does not use --label_separator"),
        (["build", "--source", "via", "--annotations", "x", "--images", "/nowhere", "--output", "o"], "does not exist"),
    ],
)  # fmt: skip
def test_flags_that_do_not_fit(command: list[str], reason: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(command) == 1
    assert re.search(reason, capsys.readouterr().err)


def test_both_commands_know_the_same_tools() -> None:
    for command in (build, check):
        assert set(TOOLS) <= set(typing.get_args(typing.get_type_hints(command)["source"]))


@pytest.mark.parametrize("command", bash_commands(PAGE))
def test_commands_of_the_page_parse(command: str) -> None:
    assert parse_command(shlex.split(command, comments=True)) == "-m partonomy"


def test_the_page_has_a_command_for_every_tool() -> None:
    named = {tool for tool in TOOLS for command in bash_commands(PAGE) if f"build --source {tool} " in command}
    assert named == set(TOOLS)


def test_the_page_names_the_flags_that_it_explains() -> None:
    named = set(re.findall(r"`(--\w+)", PAGE)) - {"--annotations", "--source"}
    assert named == {"--label_separator", "--object_name", "--images", "--label_attribute"}


def test_coco_annotator(tmp_path: Path) -> None:
    """Its export: `metadata`, `isbbox`, `iscrowd` as a boolean, key points, an image's path on its server."""
    files.save_photo(tmp_path / "images" / "a.png")
    polygons = {name: [[value for point in files.corners(box) for value in point]] for name, box in ASKABLE}
    categories = [
        {"id": number, "name": name, "supercategory": "", "color": "#aabbcc", "metadata": {}, "keypoint_colors": []}
        for number, name in enumerate(polygons, 2)
    ]
    image = {
        "id": 7,
        "path": "/datasets/cars/a.png",
        "file_name": "a.png",
        "height": files.HEIGHT,
        "width": files.WIDTH,
    }
    more = {"dataset_id": 1, "category_ids": [2], "annotated": True, "annotating": [], "num_annotations": 3}
    common = {"image_id": 7, "iscrowd": False, "isbbox": False, "color": "#ffee00", "metadata": {}, "keypoints": []}
    annotations = [
        {"id": 100 + number, "category_id": number, "segmentation": polygon, "area": 5, "bbox": [1, 1, 5, 5], **common}
        for number, polygon in enumerate(polygons.values(), 2)
    ]
    content = {"images": [image | more], "categories": categories, "annotations": annotations}
    path = files.write_json(tmp_path / "cars.json", content)
    source = ["--source", "coco", "--annotations", str(path), "--images", str(tmp_path / "images")]
    assert main(["build", *source, *FAST, "--output", str(tmp_path / "out")]) == 0
    (car,) = load_dataset(tmp_path / "out").images[0].objects
    assert {part.label for part in car.parts} == {"wheel", "door", *PARTS}
