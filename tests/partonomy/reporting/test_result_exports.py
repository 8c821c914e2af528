"""COCO results and FiftyOne data sets of finished runs."""

import importlib.machinery
import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from partonomy.__main__ import main
from partonomy.reporting.loaded_run import load_run
from tests.partonomy.reporting.conftest import World
from tests.partonomy.reporting.test_report import run_model


def evaluate(results: Path) -> float:
    """The mean average precision by the reference code."""
    truth = COCO(str(results.with_name(f"{results.stem}.annotations.json")))
    evaluation = COCOeval(truth, truth.loadRes(str(results)), "segm")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return float(evaluation.stats[0])


@pytest.mark.parametrize(("model", "precision"), [("oracle", 1.0), ("random", 0.0)])
def test_coco_results_are_read_by_the_reference_code(
    question_file: Path, tmp_path: Path, model: str, precision: float
) -> None:
    run = run_model(model, question_file, tmp_path / "run")
    output = tmp_path / "out" / "results.json"
    assert main(["export-results", str(run), "--format", "coco", "--output", str(output)]) == 0
    assert evaluate(output) == pytest.approx(precision, abs=0.05)
    truth = json.loads(output.with_name("results.annotations.json").read_text())
    records = list(load_run(run).records)
    assert [image["item_id"] for image in truth["images"]] == [record.item_id for record in records]
    assert {entry["name"] for entry in truth["categories"]} == {"wheel", "wing", "tail fin", "door"}
    names = {entry["id"]: entry["name"] for entry in truth["categories"]}
    by_image: dict[int, list[str]] = {}
    for annotation in truth["annotations"]:
        by_image.setdefault(annotation["image_id"], []).append(names[annotation["category_id"]])
    assert by_image[1] == [part.label for part in records[0].true_parts]
    for image, record in zip(truth["images"], records, strict=True):
        assert (output.parent / image["file_name"]).resolve() == Path(record.image_path).resolve()
    results = json.loads(output.read_text())
    assert len(results) == sum(len(record.segmentation.masks) for record in records)
    assert {entry["score"] for entry in results} == {1.0}


@pytest.mark.parametrize("name", ["refcoco", "reasonseg", "refcocom", "mmr", "multirefcoco"])
def test_every_benchmark_with_masks_is_exported(benchmarks: World, name: str, tmp_path: Path) -> None:
    output = tmp_path / "results.json"
    run = benchmarks.pairs[name].oracle
    assert main(["export-results", str(run.path), "--format", "coco", "--output", str(output)]) == 0
    assert evaluate(output) > 0.99


def test_mistakes_are_named(
    benchmarks: World, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, words = str(benchmarks.pairs["refcoco"].oracle.path), str(benchmarks.pairs["gqa"].oracle.path)
    (tmp_path / "taken.json").touch()
    monkeypatch.setitem(sys.modules, "fiftyone", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for arguments, message in (
        ([run, "--format", "voc", "--output", str(tmp_path / "a.json")], "unknown format 'voc'; known: coco, fiftyone"),
        ([run, "--format", "coco", "--output", str(tmp_path / "a")], "choose a name that ends in .json"),
        ([run, "--format", "fiftyone", "--output", str(tmp_path / "a.json")], "choose a name without .json"),
        ([run, "--format", "coco", "--output", str(tmp_path / "taken.json")], "already exists; pass --overwrite"),
        ([words, "--format", "coco", "--output", str(tmp_path / "a.json")], "has no predicted masks to export"),
        ([run, "--format", "fiftyone", "--output", str(tmp_path / "a")], "pip install fiftyone"),
    ):
        capsys.readouterr()
        assert main(["export-results", *arguments]) == 1
        assert message in capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} == {"taken.json"}
    flags = ["--format", "coco", "--output", str(tmp_path / "taken.json"), "--overwrite"]
    assert main(["export-results", run, *flags]) == 0


@dataclass
class FakeDataset:
    """Records what FiftyOne's data set is asked for."""

    samples: list[Any] = field(default_factory=list)
    exports: list[dict[str, Any]] = field(default_factory=list)
    is_deleted: bool = False

    def add_sample(self, sample: Any) -> None:
        self.samples.append(sample)

    def export(self, **arguments: Any) -> None:
        self.exports.append(arguments)

    def delete(self) -> None:
        self.is_deleted = True


def test_fiftyone_samples(question_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = FakeDataset()
    module = ModuleType("fiftyone")
    module.__spec__ = importlib.machinery.ModuleSpec("fiftyone", None)
    module.__dict__.update(
        Dataset=lambda: made,
        Sample=SimpleNamespace,
        Detection=SimpleNamespace,
        Detections=SimpleNamespace,
        types=SimpleNamespace(FiftyOneDataset="FiftyOneDataset"),
    )
    monkeypatch.setitem(sys.modules, "fiftyone", module)
    run = run_model("oracle", question_file, tmp_path / "run")
    assert main(["export-results", str(run), "--format", "fiftyone", "--output", str(tmp_path / "set")]) == 0
    records = list(load_run(run).records)
    assert [sample.item_id for sample in made.samples] == [record.item_id for record in records]
    for sample, record in zip(made.samples, records, strict=True):
        assert Path(sample.filepath).is_file()
        assert sample.quality == record.quality
        for detections in (sample.true.detections, sample.predicted.detections):
            assert [one.label for one in detections] == [part.label for part in record.true_parts]
            for one, part in zip(detections, record.segmentation.masks, strict=True):
                x, y, width, height = np.array(one.bounding_box) * [part.width, part.height, part.width, part.height]
                assert one.mask.shape == (round(height), round(width))
                assert min(x, y) >= 0
                assert one.mask.all(), "the drawn parts are rectangles"
    mine = tmp_path / "mine"
    mine.mkdir()
    flags = ["--format", "fiftyone", "--output", str(mine), "--overwrite"]
    assert main(["export-results", str(run), *flags]) == 1, "a folder that is not FiftyOne's is never replaced"
    (mine / "samples.json").touch()
    assert main(["export-results", str(run), *flags]) == 0
    export, _ = made.exports
    assert (export["export_dir"], export["export_media"]) == (str(tmp_path / "set"), False)
    assert made.is_deleted
