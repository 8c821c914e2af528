"""`check`, `describe` and `stats` as a user types them: tables, files, exit status."""

import json
from pathlib import Path

import pytest

from partonomy.__main__ import main
from partonomy.datasets.store import DatasetOrigin, save_dataset
from tests.partonomy.cli.test_curate import make_folder
from tests.partonomy.tiny_world import make_vehicles


def test_exit_status_by_severity(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_folder(tmp_path / "a", "first")
    assert main(["check", str(folder), "--strict"]) == 0
    assert "no problem found" in capsys.readouterr().out
    assert main(["check", str(folder), "--min_pixels", "100"]) == 0  # the drawn parts have 20 pixels
    printed = capsys.readouterr().out
    assert "mask of very few pixels" in printed
    assert "... and" in printed
    assert main(["check", str(folder), "--min_pixels", "100", "--strict"]) == 1
    (folder / "images" / "3.png").unlink()
    findings = tmp_path / "findings.json"
    assert main(["check", str(folder), "--num_workers", "2", "--output", str(findings)]) == 2
    content = json.loads(findings.read_text())
    assert content["counts"] == {"error": 1, "warning": 0, "note": 0}
    assert [(one["problem"], one["record"]) for one in content["findings"]] == [("missing image", "image 3")]


def test_raw_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_folder(tmp_path / "a", "first")
    raw = ["--annotations", str(folder / "annotations.json"), "--images", str(folder / "images")]
    assert main(["check", *raw]) == 0
    assert main(["check", str(folder), *raw]) == 1
    assert "--annotations, --images: these flags apply only to COCO-style files" in capsys.readouterr().err
    assert main(["check"]) == 1
    assert "pass the folder of a data set, or --annotations" in capsys.readouterr().err
    assert main(["check", *raw[:3], str(tmp_path / "nowhere")]) == 1
    assert "the image folder (--images) does not exist" in capsys.readouterr().err


def test_describe(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_folder(tmp_path / "a", "first", 6)
    assert main(["describe", str(folder), "--output", str(tmp_path / "charts")]) == 0
    assert str(tmp_path / "charts" / "describe.html") in capsys.readouterr().out
    assert len(list((tmp_path / "charts").glob("*.png"))) == 7


def test_stats_of_several_folders(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = make_folder(tmp_path / "a", "first", 6)
    save_dataset(make_vehicles(tmp_path / "b" / "images", 3), tmp_path / "b", DatasetOrigin("test"))
    assert main(["stats", str(first), str(tmp_path / "b"), str(tmp_path / "b"), "--quoted"]) == 0
    printed = capsys.readouterr().out
    # Six aircraft with 4 + 5 + 4 + 3 + 3 + 4 = 23 parts, of 10 names.
    (row,) = [line for line in printed.splitlines() if line.startswith("first ")]
    assert row.split() == ["first", "6", "10", "23", "6", "23", "✓", "-", "6"]
    assert f"tiny ({tmp_path / 'b'})" in printed, "two folders of one name are told apart"
    assert "[quoted from the paper, Table 8]" in printed
    assert "first: questions: none built" in printed
    target = tmp_path / "sizes.csv"
    assert main(["stats", str(first), "--format", "csv", "--output", str(target)]) == 0
    assert "first,6,10,23,6,23" in target.read_text(encoding="utf-8")
