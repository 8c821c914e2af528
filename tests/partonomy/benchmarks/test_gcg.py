"""Grounded conversation generation in the layout of GranD-f."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from partonomy.__main__ import main
from partonomy.benchmarks.gcg import ANNOTATIONS, IMAGES, GcgOptions, GcgTask, read_gcg
from partonomy.benchmarks.grounded_phrases import PhrasesRecord
from partonomy.harness.asking import answer_items
from partonomy.harness.ranks import deal_batches
from partonomy.harness.summary import read_summary
from partonomy.masks import rle_to_json
from partonomy.models.bounds import EmptyModel, OracleModel
from partonomy.models.contract import Generation, GroundedModel, Turn
from tests.partonomy.questions.mixed_parts.pair_world import rectangle

NGRAMS = "char-ngram-tfidf"
CAPTIONS = (
    ("A man walks his dog.", ["A man", "his dog"]),
    ("Two cars beside the old house.", ["the old house", "Two cars"]),
    ("A tree grows.", ["tree", "a lawn"]),  # the second label is not in the caption
)


def gcg_content() -> dict[str, dict[str, Any]]:
    """The two files of a split."""
    captions: dict[str, Any] = {"images": [], "annotations": []}
    masks: dict[str, Any] = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "object"}]}
    for number, (caption, labels) in enumerate(CAPTIONS):
        captions["images"].append({"id": number})
        captions["annotations"].append({"image_id": number, "id": number, "caption": caption, "labels": list(labels)})
        for place in range(len(labels)):
            mask = rle_to_json(rectangle(2 + 20 * place, 3 + number, 12, 20))
            entry = {"id": len(masks["annotations"]), "image_id": number, "category_id": 1, "segmentation": mask}
            masks["annotations"].append(entry)
    return {"caption": captions, "mask": masks}


@pytest.fixture
def content() -> dict[str, dict[str, Any]]:
    return gcg_content()


def write(root: Path, content: dict[str, dict[str, Any]]) -> Path:
    (root / IMAGES).mkdir(parents=True, exist_ok=True)
    (root / ANNOTATIONS).mkdir(parents=True, exist_ok=True)
    for number in range(len(CAPTIONS)):
        Image.new("RGB", (60, 40), (number * 40, 80, 120)).save(root / IMAGES / f"{number}.jpg")
    for kind, one in content.items():
        (root / ANNOTATIONS / f"val_gcg_coco_{kind}_gt.json").write_text(json.dumps(one))
    return root


@pytest.fixture
def task(tmp_path: Path, content: dict[str, dict[str, Any]]) -> GcgTask:
    return GcgTask("gcg", "val", GcgOptions(NGRAMS), read_gcg(write(tmp_path, content), "val"))


def values(task: GcgTask, model: GroundedModel) -> dict[str, float]:
    records = list(answer_items(model, task, deal_batches(task.items), lambda item: True))
    assert all(isinstance(record, PhrasesRecord) and record.is_scored for record in records)
    (group,) = task.groups(records)
    return {name: metric.value for name, metric in group.metrics.items()}  # type: ignore[misc, union-attr]


def test_bounds(task: GcgTask) -> None:
    found = values(task, OracleModel())
    cider = found.pop("cider")
    assert set(found.values()) == {1.0}
    assert 8 < cider <= 10
    assert set(values(task, EmptyModel()).values()) == {0.0}


def test_the_labels_are_found_in_the_caption(task: GcgTask) -> None:
    for item, (caption, labels) in zip(task.items, CAPTIONS, strict=True):
        text, spans = item.answer
        assert text.startswith(caption)
        assert [text[span.start : span.end].lower() for span in spans] == [label.lower() for label in labels]


class Edited(OracleModel):
    def __init__(self, shift: int, word: str) -> None:
        super().__init__()
        self._shift, self._word = shift, word

    def generate(self, image: np.ndarray, turns: Sequence[Turn]) -> Generation:
        right = super().generate(image, turns)
        text = self._word * len(right.text) if self._word else right.text
        return replace(right, text=text, masks=np.roll(right.masks, self._shift, axis=2))


class Cutter(OracleModel):
    def generate(self, image: np.ndarray, turns: Sequence[Turn]) -> Generation:
        return replace(super().generate(image, turns), is_cut=True)


def test_answers_that_were_cut_are_counted(task: GcgTask) -> None:
    notes = task.notes(list(answer_items(Cutter(), task, deal_batches(task.items), lambda item: True)))
    assert any(note.startswith(f"{len(task.items)} of {len(task.items)} answers were cut") for note in notes)


def test_words_and_masks_count_apart(task: GcgTask) -> None:
    words = values(task, Edited(0, "x"))
    assert (words["ap50"], words["miou"], words["recall"], words["siou"], words["cider"]) == (1, 1, 0, 0, 0)
    masks = values(task, Edited(10, ""))
    assert masks["miou"] == pytest.approx(1 / 3)
    assert (masks["ap50"], masks["recall"], masks["ss"], masks["siou"]) == (0, 0, 1, 1)
    assert masks["cider"] > 8


def test_a_run(tmp_path: Path, content: dict[str, dict[str, Any]]) -> None:
    root, output = write(tmp_path / "data", content), tmp_path / "run"
    flags = ["--root", str(root), "--model", "random", "--embedding_model", NGRAMS, "--output", str(output)]
    assert main(["run", "gcg", *flags]) == 0
    summary = read_summary(output / "summary.json")
    assert (summary.num_expected, summary.num_failed) == (3, 0)
    assert main(["report", str(output)]) == 0
    assert "A man walks his dog." in (output / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("path", "value", "reason"),
    [
        ("caption.annotations.1.labels", ["one"], "caption of image 1: the image has 1 labels and 2 masks"),
        ("caption.annotations.1.labels", "cars", "'labels' must be a list"),
        ("caption.annotations.1.labels.0", " ", "a label is empty"),
        ("caption.annotations.1.image_id", 0, "has two captions"),
        ("caption.annotations.1.image_id", "../0", "image_id"),
        ("caption.annotations.1.image_id", True, "image_id"),
        ("caption.annotations.1.caption", None, "'caption'"),
        ("mask.annotations.2.segmentation.counts", "zz", "annotation 2"),
        ("mask.annotations.2.segmentation", [[0, 0, 5, 5, 5, 0]], "annotation 2"),
        ("mask.annotations.2.segmentation.size", [30, 60], "annotation 2"),
        ("caption.annotations", [], "contains no captions"),
    ],
)
def test_broken_records(
    tmp_path: Path, content: dict[str, dict[str, Any]], path: str, value: object, reason: str
) -> None:
    *steps, last = (int(step) if step.isdigit() else step for step in path.split("."))
    place: Any = content
    for step in steps:
        place = place[step]
    place[last] = value
    with pytest.raises(ValueError, match="gcg_coco") as error:
        read_gcg(write(tmp_path, content), "val")
    assert reason in str(error.value)


def test_missing_files(tmp_path: Path, content: dict[str, dict[str, Any]]) -> None:
    with pytest.raises(FileNotFoundError):
        read_gcg(write(tmp_path, content), "test")
    with pytest.raises(ValueError, match="has the splits val, test"):
        read_gcg(tmp_path, "train")
