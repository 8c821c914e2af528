"""Photographs end to end through the commands: build, stats, validate, tables, report.

The folder that PARTONOMY_REAL_DATA names holds `ade20k_parts` (objects with linked parts, compressed run-length codes)
and `car_parts` (parts alone, polygons, COCO-Annotator's booleans); see "Your own annotations" in the README.
"""

import json
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from partonomy.__main__ import main
from partonomy.datasets.sources.mmr import CategoryName, read_mmr
from partonomy.datasets.store import load_dataset, load_questions
from partonomy.harness.summary import Summary
from partonomy.images import BOX_COLOUR, EXIF_ORIENTATION, draw_box, load_image
from partonomy.masks import rle_area, rle_bbox
from partonomy.models.bounds import BUILTIN_MODELS, OracleModel
from partonomy.models.contract import Turn
from partonomy.questions.mmr.templates import load_functions
from partonomy.structures import CharSpan, QuestionType
from tests.partonomy.quick_fits import quick_fits
from validate_partonomy import main as validate_main

REAL_DATA = Path(os.environ.get("PARTONOMY_REAL_DATA", "no folder given"))
needs_real_data = pytest.mark.skipif(
    not REAL_DATA.is_dir(), reason="PARTONOMY_REAL_DATA does not name a folder of photographs"
)
FRAMES = ("upright", "as stored")
TINY_SHARE = 0.0005
"""Of the image's pixels: below it a part counts as tiny."""


@dataclass(frozen=True)
class Built:
    """A data set made by `python -m partonomy build`: its annotation file, its folder and what the command printed."""

    annotations: Path
    folder: Path
    printed: str

    @property
    def content(self) -> dict[str, Any]:
        """The annotation file."""
        parsed: dict[str, Any] = json.loads(self.annotations.read_text())
        return parsed


def build(annotations: Path, images: Path, output: Path, *flags: str) -> None:
    """Build, with the object sampler that needs no language model."""
    source = ["--source", "coco", "--annotations", str(annotations), "--images", str(images), "--output", str(output)]
    assert main(["build", *source, "--embedding_model", "char-ngram-tfidf", *flags]) == 0


def validate(model: str, questions: Path, output: Path, *flags: str) -> Summary:
    """Validate a baseline on a question folder."""
    summary = validate_main(["--model", model, "--questions", str(questions), "--output", str(output), *flags])
    assert summary is not None
    return summary


@pytest.fixture(scope="module")
def ade20k(tmp_path_factory: pytest.TempPathFactory) -> Built:
    source, folder = REAL_DATA / "ade20k_parts", tmp_path_factory.mktemp("ade20k") / "questions"
    with quick_fits():  # what is asked, not how well the choices hide the answer; test_leaks.py asks that
        build(source / "instances_parts.json", source / "images", folder)
    return Built(source / "instances_parts.json", folder, "")


@pytest.fixture
def cars(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Built:
    """The first ten photographs of cars, in an annotation file of their own."""
    source = REAL_DATA / "car_parts"
    content = json.loads((source / "annotations.json").read_text())
    content["images"] = content["images"][:10]
    kept = {image["id"] for image in content["images"]}
    content["annotations"] = [one for one in content["annotations"] if one["image_id"] in kept]
    path = tmp_path / "annotations.json"
    path.write_text(json.dumps(content))
    build(path, source / "JPEGImages", tmp_path / "questions", "--object_name", "car")
    return Built(path, tmp_path / "questions", capsys.readouterr().out)


@needs_real_data
def test_stats_of_ade20k(ade20k: Built, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["stats", str(ade20k.folder)]) == 0
    (row,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("ade20k_parts ")]
    # Objects, parts, object-part labels, images, masks; several objects in most images; object instances.
    assert row.split()[1:] == ["43", "70", "179", "51", "487", "×", "-", "196"]


@needs_real_data
def test_check_of_real_annotation_files(tmp_path: Path) -> None:
    """Both samples are sound; what `check` finds are two specks, small parts and categories that nothing uses."""
    found = {}
    for name, annotations, images, flags in (
        ("ade20k_parts", "instances_parts.json", "images", []),
        ("car_parts", "annotations.json", "JPEGImages", ["--object_name", "car"]),
    ):
        source, output = REAL_DATA / name, tmp_path / f"{name}.json"
        raw = ["--annotations", str(source / annotations), "--images", str(source / images)]
        assert main(["check", *raw, *flags, "--output", str(output)]) == 0
        findings = json.loads(output.read_text())["findings"]
        found[name] = Counter(one["problem"] for one in findings)
    assert found["ade20k_parts"] == {
        "mask of very few pixels": 2,
        "mask of a small share of its image": 56,
        "category without annotations": 56,
    }
    assert found["car_parts"] == {"mask of a small share of its image": 2, "category without annotations": 1}


@needs_real_data
def test_photographs_come_back_from_a_hub_data_set_byte_identical(ade20k: Built, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow", reason="pyarrow is not installed (requirements-hub.txt)")
    written, back = tmp_path / "written", tmp_path / "back"
    assert main(["push-dataset", str(ade20k.folder), "--license", "other", "--output", str(written)]) == 0
    assert main(["pull-dataset", str(written), str(back)]) == 0
    assert load_questions(back).content_hash == load_questions(ade20k.folder).content_hash
    images = load_dataset(ade20k.folder)
    assert any(len(image.objects) > 1 for image in images.images)
    for image in images.images:
        assert (back / "images" / image.file_name).read_bytes() == (images.image_root / image.file_name).read_bytes()
    size = sum(path.stat().st_size for path in (back / "images").rglob("*"))
    assert sum(path.stat().st_size for path in written.rglob("*.parquet")) < 1.5 * size
    for model in ("random", "oracle"):
        first, again = (
            validate(model, folder, tmp_path / f"{model}_{number}", "--limit", "4")
            for number, folder in enumerate((ade20k.folder, back))
        )
        assert {key: one.metrics for key, one in first.groups.items()} == {
            key: one.metrics for key, one in again.groups.items()
        }


@needs_real_data
def test_baselines_bound_every_model_on_photographs(
    ade20k: Built, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = {name: tmp_path / name for name in ("oracle", "random", "empty")}
    scores = {name: validate(name, ade20k.folder, run, "--limit", "4") for name, run in runs.items()}
    for question_type in QuestionType:
        oracle, guess, empty = (scores[name].groups[question_type.value] for name in runs)
        assert (oracle.num_expected, oracle.num_scored, oracle.num_failed) == (4, 4, 0)
        assert {metric.value for metric in oracle.metrics.values() if metric.count} == {1.0}
        assert 0.0 <= float(guess.metrics["giou_micro_paired"].value or 0) < 0.3
        assert empty.metrics["giou_micro_paired"].value == 0.0
    capsys.readouterr()
    assert main(["tables", *map(str, runs.values())]) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in runs)
    page = tmp_path / "report.html"
    assert main(["report", str(runs["random"]), "--baselines", f"[{runs['oracle']}]", "--output", str(page)]) == 0
    html = page.read_text()
    assert "data:image/" in html, "cases are drawn on the photographs"
    assert "ade20k_parts" in html


@needs_real_data
def test_one_of_several_instances_is_marked_by_its_box(ade20k: Built) -> None:
    instances = {one.instance_id: one for image in load_dataset(ade20k.folder).images for one in image.objects}
    labels = {
        image.image_id: Counter(one.label for one in image.objects) for image in load_dataset(ade20k.folder).images
    }
    marked = 0
    for question in load_questions(ade20k.folder).questions:
        instance = instances[question.instance_id]
        others = labels[question.image_id]
        if others[question.object_label] == 1 and (question.question_type.names_object or others.total() == 1):
            assert question.box is None
            continue
        assert instance.mask is not None
        assert question.box == rle_bbox(instance.mask)
        marked += 1
    assert marked > 20
    shown = next(question for question in load_questions(ade20k.folder).questions if question.box is not None)
    assert shown.box is not None
    photo = load_image(shown.image_path, shown.height, shown.width)
    framed = draw_box(photo, shown.box)
    changed = (framed != photo).any(axis=-1)
    assert (framed[changed] == BOX_COLOUR).all()
    x, y, width, height = shown.box
    assert not changed[y + 5 : y + height - 5, x + 5 : x + width - 5].any(), "the object itself stays as it was"
    assert changed.any()


@needs_real_data
def test_tiny_parts_are_kept(ade20k: Built) -> None:
    content = ade20k.content
    pixels = {image["id"]: image["height"] * image["width"] for image in content["images"]}
    parts = {category["id"] for category in content["categories"] if category["supercategory"] == "PART"}
    tiny = [
        one
        for one in content["annotations"]
        if one["category_id"] in parts and one["area"] < TINY_SHARE * pixels[one["image_id"]]
    ]
    assert len(tiny) > 40, "about a tenth of the parts"
    built = load_dataset(ade20k.folder)
    areas = Counter(
        (image.image_id, rle_area(part.mask)) for image in built.images for one in image.objects for part in one.parts
    )
    wanted = Counter((one["image_id"], int(one["area"])) for one in tiny)
    assert wanted - areas == Counter()
    questions = load_questions(ade20k.folder).questions
    asked = [rle_area(part.mask) < TINY_SHARE * one.height * one.width for one in questions for part in one.masks]
    assert any(asked)


@needs_real_data
def test_types_that_one_object_cannot_ask_report_zero_with_the_reason(cars: Built, tmp_path: Path) -> None:
    summary = validate("oracle", cars.folder, tmp_path / "run")
    for name, entry in summary.groups.items():
        if name.startswith("identification"):
            assert (entry.num_expected, entry.num_scored) == (10, 10)
            assert entry.metrics["giou_micro_paired"].value == 1.0
            continue
        assert (entry.num_expected, entry.num_scored, entry.num_failed) == (0, 0, 0)
        ((reason, count),) = entry.reasons.items()
        assert "object class" in reason
        assert count == 10
        assert f"{name}, 10 images: {reason}" in cars.printed
        assert all(metric.value is None and metric.count == 0 for metric in entry.metrics.values())


@needs_real_data
def test_boolean_crowds(cars: Built, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = cars.content
    assert {one["iscrowd"] for one in content["annotations"]} == {False}
    assert "left out" not in cars.printed, "false is not a crowd"
    crowd = content["annotations"][0]
    crowd["iscrowd"] = True
    path = tmp_path / "crowd.json"
    path.write_text(json.dumps(content))
    images = REAL_DATA / "car_parts" / "JPEGImages"
    build(path, images, tmp_path / "crowd", "--object_name", "car")
    assert "left out" not in capsys.readouterr().out
    kept, before = (
        Counter(part.label for image in load_dataset(folder).images for one in image.objects for part in one.parts)
        for folder in (tmp_path / "crowd", cars.folder)
    )
    assert kept == before, "records of a part are united anyway, so a crowd of it is the part"


class RedFinder(OracleModel):
    """Segments what is red in the image it is shown: right only if image and annotation are in one frame."""

    def segment(self, image: np.ndarray, turns: Sequence[Turn], answer: str, spans: Sequence[CharSpan]) -> np.ndarray:
        return np.stack([(image[..., 0] > 128) & (image[..., 1] < 128)] * len(spans))


def write_turned_photo(path: Path, orientation: int, quarter_turns: int) -> tuple[np.ndarray, np.ndarray]:
    """Write a JPEG with a red wheel as a turned camera stores it; return it as viewers show it and as it is stored."""
    upright = np.full((64, 96, 3), (20, 200, 40), np.uint8)
    upright[16:32, 48:80] = (230, 10, 10)
    stored = np.ascontiguousarray(np.rot90(upright, k=quarter_turns))  # counter-clockwise; viewers turn it back
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = orientation
    Image.fromarray(stored).save(path, quality=95, subsampling=0, exif=exif)
    return upright, stored


def annotate_red(photo: np.ndarray) -> dict[str, Any]:
    """An annotation of the red rectangle in a photograph, beside three black ones with other parts."""
    names = ("wheel", "hub", "tyre", "door")
    rows, columns = np.nonzero(photo[..., 0] > 128)
    left, top, right, bottom = (int(v) for v in (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1))
    polygons = [[left, top, right, top, right, bottom, left, bottom], *[[1, 1, 9, 1, 9, 9]] * 3]
    sizes = [photo.shape[:2], *[(64, 96)] * 3]
    return {
        "images": [
            {"id": number, "file_name": f"{number}.jpg", "height": height, "width": width}
            for number, (height, width) in enumerate(sizes)
        ],
        "categories": [{"id": number, "name": name} for number, name in enumerate(names)],
        "annotations": [
            {"id": number + 1, "image_id": number, "category_id": number, "segmentation": [polygon]}
            for number, polygon in enumerate(polygons)
        ],
    }


# Orientation 3 is a half turn: the size does not tell which frame was annotated, and viewers turn.
@pytest.mark.parametrize(
    ("orientation", "quarter_turns", "frame"),
    [(1, 0, "upright"), (3, 2, "upright"), *[(*turn, frame) for turn in ((6, 1), (8, 3)) for frame in FRAMES]],
)
def test_photo_with_exif_rotation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, orientation: int, quarter_turns: int, frame: str
) -> None:
    """The wheel of a photograph whose file is stored turned, annotated as a viewer shows it or as it is stored."""
    upright, stored = write_turned_photo(tmp_path / "0.jpg", orientation, quarter_turns)
    for number in (1, 2, 3):
        Image.new("RGB", (96, 64)).save(tmp_path / f"{number}.jpg")
    path = tmp_path / "instances.json"
    path.write_text(json.dumps(annotate_red(upright if frame == "upright" else stored)))
    build(path, tmp_path, tmp_path / "questions", "--object_name", "car")
    monkeypatch.setitem(BUILTIN_MODELS, "oracle", lambda seed: RedFinder())
    summary = validate("oracle", tmp_path / "questions", tmp_path / "run", "--generate", "none")
    for name in ("identification", "identification_with_label"):
        metrics = summary.groups[name].metrics
        # IoU 1 on the turned photograph, nothing red in the three others.
        assert metrics["giou_micro_paired"].value == pytest.approx(1 / 4)


def mmr_targets(folder: Path, root: Path) -> list[tuple[str, list[CategoryName]]]:
    """The questions of `build-mmr` about a data set, with the objects and parts that answer them."""
    assert (
        main(["build-mmr", str(folder), "--output", str(root), "--split", "train", "--questions_per_image", "9"]) == 0
    )
    return [
        (question.question, [target.category for target in question.targets])
        for image in read_mmr(root / "MMR" / "MMR_train.json")
        for question in image.questions
    ]


@needs_real_data
def test_functions_are_asked_only_of_parts_that_have_them(ade20k: Built, cars: Built, tmp_path: Path) -> None:
    """Each target of a question serves one of its purposes; a car's door and a wardrobe's do not serve the same one."""
    table = load_functions()
    asked = [
        *mmr_targets(ade20k.folder, tmp_path / "ade20k"),
        *mmr_targets(cars.folder, tmp_path / "cars"),
    ]
    assert len(asked) > 200
    for question, targets in asked:
        for target in targets:
            purposes = table.find(target.object_name, target.part_name)
            assert any(f" {purpose}" in question for purpose in purposes), (question, target)
            if target.part_name is not None:
                assert f"{target.object_name}:{target.part_name}" in table.parts
    entered = {
        (target.object_name, target.part_name)
        for question, targets in asked
        if "to get in and out" in question
        for target in targets
        if "get in and out" in table.find(target.object_name, target.part_name)
    }
    assert {name for name, _ in entered} <= {"car", "van", "truck", "bus", "airplane"}
    assert ("car", "door") in entered
    assert not any("daylight" in question for question, _ in asked)
