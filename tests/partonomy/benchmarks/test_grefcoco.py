"""gRefCOCO: records in the published form, and every metric worked out by hand."""

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from partonomy.__main__ import main
from partonomy.benchmarks.grefcoco import (
    NO_TARGET,
    NO_TARGET_ANSWER,
    TARGET,
    GrefcocoOptions,
    GrefcocoTask,
    read_grefcoco,
)
from partonomy.benchmarks.records import AnswerRecord
from partonomy.benchmarks.registry import find_benchmark
from partonomy.benchmarks.segmentation import SegmentationItem, SegmentationMode, Segmented
from partonomy.benchmarks.task import Source
from partonomy.masks import decode_mask, encode_mask
from tests.partonomy.benchmarks.vqa_world import draw

HEIGHT, WIDTH = 10, 12
IMAGE = "COCO_train2014_000000000009.jpg"
FIRST = [2.0, 2.0, 6.0, 2.0, 6.0, 6.0, 2.0, 6.0]  # pixels 2 to 5 of rows and columns
SECOND = [4.0, 4.0, 8.0, 4.0, 8.0, 8.0, 4.0, 8.0]  # pixels 4 to 7


def reference(number: int, annotations: object, sentences: Sequence[str] = ("The CUPS",), **changes: Any) -> Any:
    """A record with the keys of the published file."""
    return {
        "image_id": 7,
        "split": "val",
        "sentences": [
            {"tokens": text.split(), "raw": text, "sent_id": 10 * number + place, "sent": text, "exist": True}
            for place, text in enumerate(sentences)
        ],
        "file_name": IMAGE,
        "category_id": [1],
        "ann_id": annotations,
        "sent_ids": [10 * number + place for place in range(len(sentences))],
        "ref_id": number,
        "no_target": annotations == [-1],
    } | changes


def write_root(root: Path, references: Sequence[Any], segmentations: Sequence[Any] = ([FIRST], [SECOND])) -> Path:
    """A root with one photograph; annotations are numbered from 100."""
    folder = root / "refer_seg" / "grefcoco"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "grefs(unc).json").write_text(json.dumps(references))
    annotations = [
        {"id": 100 + number, "image_id": 7, "category_id": 1, "iscrowd": 0, "segmentation": one}
        for number, one in enumerate(segmentations)
    ]
    images = [{"id": 7, "file_name": IMAGE, "height": HEIGHT, "width": WIDTH}]
    content = {"annotations": annotations, "images": images, "categories": [{"id": 1, "name": "cup"}]}
    (folder / "instances.json").write_text(json.dumps(content))
    draw(root / "refer_seg/images/mscoco/images/train2014" / IMAGE, 0, (WIDTH, HEIGHT))
    return root


def test_one_target_several_and_none(tmp_path: Path) -> None:
    references = [
        reference(0, [100], ("The  Left CUP ", "")),
        reference(1, [100, 101]),
        reference(2, [-1], ("the dog",)),
        reference(3, [101], split="testA"),
    ]
    items = read_grefcoco(write_root(tmp_path, references), "val")
    assert [(item.item_id, item.text, item.group) for item in items] == [
        ("grefcoco/0/0", "the left cup", TARGET),
        ("grefcoco/1/10", "the cups", TARGET),
        ("grefcoco/2/20", "the dog", NO_TARGET),
    ]
    first, second = (np.zeros((HEIGHT, WIDTH), dtype=bool) for _ in range(2))
    first[2:6, 2:6], second[4:8, 4:8] = True, True
    for item, expected in zip(items, (first, first | second, np.zeros_like(first)), strict=True):
        assert np.array_equal(decode_mask(item.mask), expected)
        assert (item.height, item.width, item.is_sentence, item.image_id) == (HEIGHT, WIDTH, False, "grefcoco/7")
        assert item.image_path == tmp_path / "refer_seg/images/mscoco/images/train2014" / IMAGE
    assert [item.item_id for item in read_grefcoco(tmp_path, "testA")] == ["grefcoco/3/30"]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"ann_id": 100}, r"'ann_id' must be a list of annotations, or \[-1\] for none, got 100"),
        ({"ann_id": []}, r"'ann_id' must be a list of annotations, or \[-1\] for none, got \[\]"),
        ({"ann_id": [100, -1]}, r"'ann_id' has -1, which means no target, together with other ids: \[100, -1\]"),
        ({"ann_id": [100, 1.5]}, "'ann_id' must be an integer or a string, got 1.5"),
        ({"ann_id": [100, 555]}, "image 7 or annotation 555 is not in .*instances.json"),
        ({"ann_id": [-1], "image_id": 8}, "image 8 is not in .*instances.json"),
        ({"image_id": 9}, "refers to image 9, but .*annotation 100 belongs to image 7"),
        ({"sentences": [{"sent_id": 1}]}, "the key 'sent' is missing"),
        ({"ref_id": None}, "'ref_id' must be an integer or a string, got None"),
    ],
)
def test_broken_records_are_named(tmp_path: Path, changes: dict[str, Any], reason: str) -> None:
    root = write_root(tmp_path, [reference(0, [100]), reference(1, [100]) | changes])
    path = root / "refer_seg/grefcoco/instances.json"
    content = json.loads(path.read_text())
    content["images"].append({"id": 9, "file_name": IMAGE, "height": HEIGHT, "width": WIDTH})
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=reason) as caught:
        read_grefcoco(root, "val")
    assert str(caught.value).startswith(f"{root / 'refer_seg/grefcoco/grefs(unc).json'}, record 1: ")


def test_masks_of_another_size_are_refused(tmp_path: Path) -> None:
    other = {"size": [HEIGHT, WIDTH + 1], "counts": [0, HEIGHT * (WIDTH + 1)]}
    root = write_root(tmp_path, [reference(0, [101])], ([FIRST], other))
    with pytest.raises(ValueError, match=r"instances.json, annotation 101: the mask is 10 x 13 .* the image 10 x 12"):
        read_grefcoco(root, "val")


def test_missing_files_and_splits(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"grefs\(unc\).json"):
        read_grefcoco(tmp_path, "val")
    root = write_root(tmp_path, [reference(0, [100]), reference(1, [-1], split="testB")])
    with pytest.raises(ValueError, match="no record belongs to the split 'testA'; the splits are testB, val"):
        read_grefcoco(root, "testA")
    (root / "refer_seg/images/mscoco/images/train2014" / IMAGE).unlink()
    with pytest.raises(FileNotFoundError, match="grefcoco val: 1 of 1 images are missing"):
        read_grefcoco(root, "val")


def test_a_target_without_a_pixel_is_said_and_never_found(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = write_root(tmp_path, [reference(0, [100]), reference(1, [-1])], ([],))
    with caplog.at_level(logging.WARNING):
        blank, nothing = read_grefcoco(root, "val")
    assert "1 targets of val have no pixels; they score 0 whatever is predicted" in caplog.text
    task = make_task()
    empty = np.zeros((HEIGHT, WIDTH), dtype=bool)
    assert (score(task, blank, empty).score, score(task, nothing, empty).score) == (0.0, 1.0)
    assert score(task, blank, ~empty).score == 0.0


def make_task(items: Sequence[SegmentationItem] = (), min_pixels: int = 1) -> GrefcocoTask:
    return GrefcocoTask("grefcoco", "val", GrefcocoOptions(min_pixels=min_pixels), items)


def rows(*indices: int) -> np.ndarray:
    """Whole rows of ten pixels."""
    mask = np.zeros((10, 10), dtype=bool)
    mask[list(indices)] = True
    return mask


def make_item(number: int, target: np.ndarray | None) -> SegmentationItem:
    """Two items an image; None has no target."""
    mask = encode_mask(rows() if target is None else target)
    group = NO_TARGET if target is None else TARGET
    return SegmentationItem(f"{number}", f"{number // 2}", Path("x"), 10, 10, "a cup", False, mask, group=group)


def score(task: GrefcocoTask, item: SegmentationItem, *masks: np.ndarray) -> AnswerRecord:
    stack = np.stack(masks) if masks else np.zeros((0, item.height, item.width), dtype=bool)
    return task.score(item, Segmented(stack, "words"))


TARGETS: Sequence[np.ndarray | None] = (rows(0, 1), rows(0, 1, 2, 3), rows(5), rows(7, 8), None, None, None)
ANSWERS: Sequence[Sequence[np.ndarray]] = (
    (rows(0), rows(1)),  # the union is the target
    (rows(1, 2, 3, 4),),  # 30 of 50 pixels
    (),  # "no target", wrongly
    (rows(8),),  # 10 of 20
    (),  # "no target", rightly
    (rows(), rows()),  # two empty masks: the same
    (rows(0, 1),),  # a mask of 20 pixels where nothing is meant
)


def test_every_metric_by_hand() -> None:
    task = make_task()
    items = [make_item(number, target) for number, target in enumerate(TARGETS)]
    records = [score(task, item, *masks) for item, masks in zip(items, ANSWERS, strict=True)]
    assert [record.score for record in records] == [1.0, 0.6, 0.0, 0.5, 1.0, 1.0, 0.0]
    pixels = [(record.mask.intersection, record.mask.union) for record in records if record.mask]
    assert pixels == [(20, 20), (30, 50), (0, 10), (10, 20), (0, 0), (0, 0), (0, 20)]
    metrics = task.metrics(records)
    assert metrics["giou"] is not None
    assert metrics["giou"].value == pytest.approx((1 + 0.6 + 0 + 0.5 + 1 + 1 + 0) / 7)
    values = {name: metric and (metric.value, metric.count) for name, metric in metrics.items() if name != "giou"}
    assert values == {
        "ciou": (60 / 120, 7),  # 20 + 30 + 10 of 20 + 50 + 10 + 20 + 20
        "n_acc": (2 / 3, 3),
        "t_acc": (3 / 4, 4),
        "pr@70": (1 / 4, 4),
        "pr@80": (1 / 4, 4),
        "pr@90": (1 / 4, 4),
    }


@pytest.mark.parametrize(("num_rows", "reached"), [(7, 1), (8, 2), (9, 3), (6, 0)])
def test_an_iou_equal_to_the_threshold_reaches_it(num_rows: int, reached: int) -> None:
    task = make_task()
    record = score(task, make_item(0, rows(*range(10))), rows(*range(num_rows)))  # 7 of 10 rows: exactly 0.7
    metrics = task.metrics([record])
    found = [metrics[f"pr@{percent}"] for percent in (70, 80, 90)]
    assert [metric and metric.value for metric in found] == [1.0] * reached + [0.0] * (3 - reached)


def test_a_small_prediction_means_no_target() -> None:
    task = make_task(min_pixels=11)
    nothing, found = score(task, make_item(0, None), rows(3)), score(task, make_item(1, rows(3, 4)), rows(3))
    assert (nothing.prediction, nothing.score) == (NO_TARGET, 1.0)
    assert (found.prediction, found.score) == (NO_TARGET, 0.0)
    assert nothing.mask is not None
    assert found.mask is not None
    assert (nothing.mask.intersection, nothing.mask.union) == (0, 0)
    assert (found.mask.intersection, found.mask.union) == (0, 20)  # the union as predicted, as in ReLA
    large = score(task, make_item(2, rows(3, 4)), rows(3, 4))
    assert (large.prediction, large.score) == (TARGET, 1.0)
    assert task.protocol == "generated, no target below 11 pixels"
    assert score(make_task(min_pixels=10), make_item(3, rows(3)), rows(3)).prediction == TARGET


def test_a_failed_expression_is_wrong_everywhere() -> None:
    task = make_task()
    records = [task.fail(make_item(0, rows(0)), "no image"), task.fail(make_item(1, None), "no image")]
    values = {name: metric and metric.value for name, metric in task.metrics(records).items()}
    assert values == dict.fromkeys(("ciou", "giou", "n_acc", "t_acc", "pr@70", "pr@80", "pr@90"), 0.0)


def test_a_split_without_one_of_the_kinds_has_no_such_accuracy() -> None:
    task = make_task()
    values = {name: metric and metric.value for name, metric in task.metrics([score(task, make_item(0, None))]).items()}
    assert values == {"ciou": 1.0, "giou": 1.0, "n_acc": 1.0} | dict.fromkeys(("t_acc", "pr@70", "pr@80", "pr@90"))


def test_masks_of_another_size_fail() -> None:
    with pytest.raises(ValueError, match=r"must be bool \(10, 10\)"):
        score(make_task(), make_item(0, None), np.zeros((5, 5), dtype=bool))


def test_what_has_a_target_is_part_of_the_hash() -> None:
    blank = make_item(0, rows())
    assert make_task([blank]).content_hash() != make_task([make_item(0, None)]).content_hash()


def test_forced_answers_and_useless_sizes_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = write_root(tmp_path / "data", [reference(0, [100])])
    command = ["run", "grefcoco", "--root", str(root), "--model", "oracle", "--output", str(tmp_path / "run")]
    assert main([*command, "--mode", "forced"]) == 1
    assert "--mode of grefcoco is generated, not forced: a given answer says that there is a" in capsys.readouterr().err
    assert main([*command, "--min_pixels", "0"]) == 1
    assert "--min_pixels must be at least 1, got 0" in capsys.readouterr().err
    assert GrefcocoOptions().mode is SegmentationMode.GENERATED


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("oracle", {"giou": 1.0, "ciou": 1.0, "n_acc": 1.0, "t_acc": 1.0, "pr@70": 1.0, "pr@80": 1.0, "pr@90": 1.0}),
        ("empty", {"giou": 1 / 3, "ciou": 0.0, "n_acc": 1.0, "t_acc": 0.0, "pr@70": 0.0, "pr@80": 0.0, "pr@90": 0.0}),
        ("random", None),
    ],
)
def test_bounds(tmp_path: Path, model: str, expected: dict[str, float] | None) -> None:
    root = write_root(tmp_path / "data", [reference(0, [100]), reference(1, [100, 101]), reference(2, [-1])])
    assert main(["run", "grefcoco", "--root", str(root), "--model", model, "--output", str(tmp_path / "run")]) == 0
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    group = summary["groups"]["all"]
    assert (group["num_expected"], group["num_failed"]) == (3, 0)
    values = {name: metric["value"] for name, metric in group["metrics"].items()}
    assert expected is None or values == pytest.approx(expected)
    assert all(0 <= value <= 1 for value in values.values())
    assert (summary["split"], summary["headline"], summary["protocol_version"]) == ("val", "giou", "grefcoco-1.1")
    replies = [json.loads(line)["reply"] for line in (tmp_path / "run" / "records.jsonl").read_text().splitlines()]
    assert model != "oracle" or replies == ["It is the cups.", "It is the cups.", NO_TARGET_ANSWER]


def test_a_guess_may_say_that_there_is_nothing(tmp_path: Path) -> None:
    """Over many expressions the random bound finds some of both kinds, and not all."""
    references = [reference(number, [100] if number % 2 else [-1]) for number in range(40)]
    root = write_root(tmp_path / "data", references)
    assert main(["run", "grefcoco", "--root", str(root), "--model", "random", "--output", str(tmp_path / "run")]) == 0
    metrics = json.loads((tmp_path / "run" / "summary.json").read_text())["groups"]["all"]["metrics"]
    assert 0.2 < metrics["n_acc"]["value"] < 0.8
    assert 0.2 < metrics["t_acc"]["value"] < 0.8


def test_limit(tmp_path: Path) -> None:
    root = write_root(tmp_path, [reference(number, [-1]) for number in range(3)])
    task = find_benchmark("grefcoco").read(Source(root, limit=2), GrefcocoOptions())
    assert (task.split, len(task.items)) == ("val", 2)


def test_a_page_says_what_there_is() -> None:
    """A picture without a mask looks like the photograph, and no target has no name."""
    task, blank, item = make_task(), make_item(0, None), make_item(1, rows(3))
    for asked, masks, reading, notes, labels in (
        (blank, (), "there is no target", ["", "no mask", "no mask"], []),
        (blank, (rows(3),), "there is a target", ["", "no mask", ""], []),
        (item, (), "there is no target", ["", "", "no mask"], ["target"]),
        (item, (rows(3),), "there is a target", ["", "", ""], ["target"]),
    ):
        case = task.show(score(task, asked, *masks), asked)
        assert [text.text for text in case.texts if text.heading == "Read as"] == [reading]
        assert [picture.note for picture in case.pictures] == notes
        assert [label.name for label in case.labels] == labels
    failed = task.show(task.fail(blank, "no image"), blank)
    assert not [text for text in failed.texts if text.heading == "Read as"]
