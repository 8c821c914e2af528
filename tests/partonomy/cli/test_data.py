"""The data commands of `python -m partonomy`, as a user types them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from partonomy.__main__ import main
from partonomy.cli.exit_status import BROKEN_PIPE
from partonomy.datasets.store import load_questions
from partonomy.questions.templates import DEFAULT_TEMPLATES

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def coco_file(tmp_path: Path) -> Path:
    """Four photos of a car with some of five parts, annotated without objects."""
    names = ["door", "hood", "roof", "trunk", "wheel"]
    content: dict[str, list[dict[str, object]]] = {
        "images": [],
        "annotations": [],
        "categories": [{"id": number, "name": name} for number, name in enumerate(names)],
    }
    (tmp_path / "photos").mkdir()
    for image_id in range(4):
        Image.new("RGB", (30, 20)).save(tmp_path / "photos" / f"{image_id}.jpg")
        content["images"].append({"id": image_id, "file_name": f"{image_id}.jpg", "height": 20, "width": 30})
        for part in range(5):
            if part != image_id:
                polygon = [[part * 5, 2, part * 5 + 4, 2, part * 5 + 4, 9]]
                number = len(content["annotations"]) + 1
                content["annotations"].append(
                    {"id": number, "image_id": image_id, "category_id": part, "segmentation": polygon}
                )
    path = tmp_path / "instances.json"
    path.write_text(json.dumps(content))
    return path


def build_flags(coco_file: Path, output: Path) -> list[str]:
    source = ["--source", "coco", "--annotations", str(coco_file), "--images", str(coco_file.parent / "photos")]
    return ["build", *source, "--object_name", "car", "--output", str(output)]


def test_build_stats_export_import(coco_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(build_flags(coco_file, tmp_path / "out")) == 0
    assert "positive, 4 images: the data set has only one object class with parts" in capsys.readouterr().out
    assert main(["stats", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    (row,) = [line for line in printed.splitlines() if line.startswith(f"{tmp_path.name} ")]
    # Objects, parts, object-part labels, images, masks; one object in every image; its domain is not known.
    assert row.split()[1:] == ["1", "5", "5", "4", "16", "✓", "-", "4"]
    assert main(["export", "--questions", str(tmp_path / "out"), "--output", str(tmp_path / "qa_pairs.json")]) == 0
    assert main(["import", "--questions", str(tmp_path / "qa_pairs.json"), "--output", str(tmp_path / "back")]) == 0
    assert list(load_questions(tmp_path / "back").questions) == list(load_questions(tmp_path / "out").questions)


def test_what_a_build_leaves_out_is_stored_and_shown(
    coco_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = json.loads(coco_file.read_text())
    content["annotations"][0]["iscrowd"] = True
    content["annotations"][1]["segmentation"] = []
    content["images"].append({"id": 9, "file_name": "lost.jpg", "height": 20, "width": 30})  # without annotations
    coco_file.write_text(json.dumps(content))
    assert main([*build_flags(coco_file, tmp_path / "out"), "--invalid", "collect"]) == 0
    printed = capsys.readouterr().out
    rows = json.loads((tmp_path / "out" / "build.json").read_text())["left_out_annotations"]
    assert [(row["count"], row["example_ids"]) for row in rows if row["count"]] == [(1, [2])]
    assert any(row["count"] == 0 and "lost.jpg" in row["reason"] for row in rows)
    assert main(["stats", str(tmp_path / "out")]) == 0
    shown = capsys.readouterr().out
    for text in (printed, shown):
        assert "left out: 1 annotation (id 2): segmentation: the polygon is empty" in text
        assert "left out: 0 annotations: annotation of an image that cannot be used: " in text


def test_a_closed_pipe_ends_the_command_quietly(coco_file: Path, tmp_path: Path) -> None:
    assert main(build_flags(coco_file, tmp_path / "out")) == 0
    read_end, write_end = os.pipe()
    os.close(read_end)
    command = [sys.executable, "-m", "partonomy", "stats", str(tmp_path / "out")]
    with os.fdopen(write_end, "wb") as pipe:
        finished = subprocess.run(command, stdout=pipe, stderr=subprocess.PIPE, text=True, cwd=ROOT, check=False)
    assert (finished.returncode, finished.stderr) == (BROKEN_PIPE, "")


def test_another_wording_in_the_same_file_is_another_build(
    coco_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wording = tmp_path / "wording.yaml"
    flags = [*build_flags(coco_file, tmp_path / "out"), "--templates", str(wording)]
    assert main(flags) == 1
    assert "wording.yaml: --templates is neither a packaged wording" in capsys.readouterr().err
    text = DEFAULT_TEMPLATES.read_text(encoding="utf-8")
    wording.write_text(text, encoding="utf-8")
    assert main(flags) == 0
    wording.write_text(text.replace("What visible parts", "Which visible parts"), encoding="utf-8")
    assert main(flags) == 1
    assert "templates_sha256" in capsys.readouterr().err


def test_a_finished_folder_is_not_overwritten(
    coco_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = build_flags(coco_file, tmp_path / "out")
    assert main(flags) == 0
    before = (tmp_path / "out" / "questions.jsonl").stat().st_mtime_ns
    assert main(flags) == 0
    assert "already built" in capsys.readouterr().out
    assert (tmp_path / "out" / "questions.jsonl").stat().st_mtime_ns == before
    assert main([*flags, "--seed", "4"]) == 1
    assert "seed: 0 there, 4 now" in capsys.readouterr().err
    assert main([*flags, "--seed", "4", "--overwrite"]) == 0
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years of work")
    assert main(build_flags(coco_file, tmp_path / "mine")) == 1
    assert "holds files that do not belong to a data set (thesis.tex)" in capsys.readouterr().err


def test_config_file_and_flags(coco_file: Path, tmp_path: Path) -> None:
    config = tmp_path / "build.yaml"
    config.write_text(
        f"source: coco\nannotations: {coco_file}\nimages: {coco_file.parent / 'photos'}\nobject_name: car\n"
        f"output: {tmp_path / 'out'}\nquestion_types: [identification]\nseed: 1\n"
    )
    assert main(["build", "--config", str(config), "--seed", "2"]) == 0
    assert len(load_questions(tmp_path / "out").questions) == 4
    assert json.loads((tmp_path / "out" / "build.json").read_text())["config"]["seed"] == 2
    config.write_text(config.read_text() + "sed: 3\n")
    with pytest.raises(SystemExit):
        main(["build", "--config", str(config)])


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--split", "val"], "--source coco does not use --split"),
        (["--question_types", "identification,riddle"], "unknown question type 'riddle'"),
        (["--images", "nowhere"], "nowhere: the image folder"),
        (["--annotations", "none.json"], "none.json: the file of --annotations"),
    ],
)
def test_mistaken_flags(
    coco_file: Path, tmp_path: Path, flags: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*build_flags(coco_file, tmp_path / "out"), *flags]) == 1
    assert message in capsys.readouterr().err


def test_synthetic(tmp_path: Path) -> None:
    flags = ["--source", "synthetic", "--images", "6", "--split", "dev", "--embedding_model", "char-ngram-tfidf"]
    assert main(["build", *flags, "--output", str(tmp_path / "drawn"), "--mutation", "balanced"]) == 0
    loaded = load_questions(tmp_path / "drawn")
    assert {question.image_id for question in loaded.questions} == {1, 2, 3, 4, 5, 6}
    assert all(question.image_path.is_file() for question in loaded.questions)


@pytest.mark.parametrize(
    "command",
    [
        "build",
        "import",
        "export",
        "stats",
        "check",
        "describe",
        "prune",
        "merge",
        "split",
        "tables",
        "report",
        "export-predictions",
    ],
)
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main([command, "--help"])
    assert caught.value.code == 0
    assert "--config" in capsys.readouterr().out
