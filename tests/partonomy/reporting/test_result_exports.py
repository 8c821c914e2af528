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
from partonomy.masks import decode_mask, rle_area
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
        assert {one.iou for one in sample.predicted.detections} == {1.0}
        assert not any(hasattr(one, "iou") for one in sample.true.detections)
    mine = tmp_path / "mine"
    mine.mkdir()
    flags = ["--format", "fiftyone", "--output", str(mine), "--overwrite"]
    assert main(["export-results", str(run), *flags]) == 1, "a folder that is not FiftyOne's is never replaced"
    (mine / "samples.json").touch()
    assert main(["export-results", str(run), *flags]) == 0
    export, _ = made.exports
    assert (export["export_dir"], export["export_media"]) == (str(tmp_path / "set"), False)
    assert made.is_deleted


def test_a_data_base_that_does_not_start_is_one_line(
    question_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class ConfigError(Exception):
        """An error of no common class."""

    def start() -> None:
        raise ConfigError("MongoDB could not be installed")

    module = ModuleType("fiftyone")
    module.__spec__ = importlib.machinery.ModuleSpec("fiftyone", None)
    module.__dict__["Dataset"] = start
    monkeypatch.setitem(sys.modules, "fiftyone", module)
    run = run_model("oracle", question_file, tmp_path / "run")
    capsys.readouterr()
    assert main(["export-results", str(run), "--format", "fiftyone", "--output", str(tmp_path / "set")]) == 1
    message = capsys.readouterr().err
    assert "ConfigError: MongoDB could not be installed); start MongoDB 6.0 or newer" in message
    assert len(message.splitlines()) == 1


@pytest.fixture
def fiftyone() -> Any:
    """The package itself, with a data base that answers."""
    package = pytest.importorskip("fiftyone", reason="fiftyone is not installed (pip install fiftyone)")
    try:
        package.Dataset().delete()
    except Exception as error:
        pytest.skip(f"FiftyOne's data base does not start; set FIFTYONE_DATABASE_URI ({error})")
    return package


@pytest.mark.parametrize("model", ["oracle", "random", "empty"])
def test_fiftyone_itself_reads_the_samples(
    fiftyone: Any, question_file: Path, tmp_path: Path, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run = run_model(model, question_file, tmp_path / "run")
    before = fiftyone.list_datasets()
    assert main(["export-results", str(run), "--format", "fiftyone", "--output", str(tmp_path / "set")]) == 0
    assert fiftyone.list_datasets() == before
    records = list(load_run(run).records)
    dataset = fiftyone.Dataset.from_dir(str(tmp_path / "set"), fiftyone.types.FiftyOneDataset)
    try:
        assert dataset.values("item_id") == [record.item_id for record in records]
        assert all(Path(path).is_file() for path in dataset.values("filepath"))
        masks = [mask for record in records for mask in record.segmentation.masks]
        num_empty = sum(not rle_area(mask) for mask in masks)
        assert dataset.count("predicted.detections") == len(masks) - num_empty
        assert dataset.count("true.detections") == sum(len(record.true_parts) for record in records)
        assert dataset.count("empty") == num_empty
        assert (f"{num_empty} of the masks are empty" in capsys.readouterr().out) == bool(num_empty)
        for sample, record in zip(dataset, records, strict=True):
            assert (sample.prompt, sample.quality) == (record.prompt, record.quality)
            assert [one.label for one in sample.true.detections] == [part.label for part in record.true_parts]
            drawn = [mask for mask in record.segmentation.masks if rle_area(mask)]
            for one, mask in zip(sample.predicted.detections, drawn, strict=True):
                x, y = (
                    round(value * side) for value, side in zip(one.bounding_box, (mask.width, mask.height), strict=True)
                )
                whole = np.zeros((mask.height, mask.width), bool)
                whole[y : y + one.mask.shape[0], x : x + one.mask.shape[1]] = one.mask
                assert np.array_equal(whole, decode_mask(mask))
        if model == "oracle":
            assert set(dataset.values("predicted.detections.iou", unwind=True)) == {1.0}
            assert dataset.count_values("verdict") == {"right": len(records)}
    finally:
        dataset.delete()
