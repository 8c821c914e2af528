"""InstructPart: files in the published form, and every metric worked out by hand."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from partonomy.__main__ import main
from partonomy.benchmarks.instruct_part import (
    FOLDER,
    Instruction,
    InstructPartOptions,
    InstructPartTask,
    annotation_file,
    read_instruct_part,
)
from partonomy.benchmarks.segmentation import SegmentationItem, Segmented
from partonomy.masks import decode_mask, encode_mask
from partonomy.reporting.loaded_run import load_run
from partonomy.reporting.report import metric_tables
from tests.partonomy.benchmarks.vqa_world import draw

SIZE = (32, 24)  # width, height
WORDINGS = (
    "If I want to pour a coffee, which part should I hold?",
    "Which part would you grip in order to serve coffee?",
    "Show the handle of the coffee pot.",
    "Show the handle of the coffee pot that can be held.",
    "Handle  of the coffee pot",
    "handle of the coffee pot that can be held",
)


def target(place: int = 0) -> np.ndarray:
    mask = np.zeros((SIZE[1], SIZE[0]), dtype=bool)
    mask[3 + place : 9 + place, 4:20] = True
    return mask


def part(name: str = "handle", **changes: Any) -> dict[str, Any]:
    """A part with the keys of the published file."""
    record = {"object": "coffee pot", "part": name, "affordance": "hold", "action": "pour"}
    return record | {"instruction": list(WORDINGS)} | changes


def write_root(root: Path, records: Sequence[Any], split: str = "test", ending: str = ".png") -> Path:
    """A root with the photographs and masks of two parts of two images."""
    path = annotation_file(root, split)
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(records))
    (path.parent / "masks").mkdir()
    for image in ("a", "b"):
        for place, name in enumerate(("handle", "spout_tip")):
            draw(path.parent / "images" / f"{image}-coffee_pot-{name}.jpg", 0, SIZE)
            values = np.where(target(place), 255, 0).astype(np.uint8)
            Image.fromarray(values).save(path.parent / "masks" / f"{image}-coffee_pot-{name}{ending}")
    return root


def records() -> list[dict[str, Any]]:
    return [
        {"image_path": "a.jpg", "part_list": [part(), part("spout tip")]},
        {"image_path": "b.jpg", "part_list": [part()]},
    ]


def test_every_part_is_an_item(tmp_path: Path) -> None:
    items = read_instruct_part(write_root(tmp_path, records()), "test", Instruction.HUMAN)
    assert [(item.item_id, item.image_id) for item in items] == [
        ("instructpart/a-coffee_pot-handle", "instructpart/a.jpg"),
        ("instructpart/a-coffee_pot-spout_tip", "instructpart/a.jpg"),
        ("instructpart/b-coffee_pot-handle", "instructpart/b.jpg"),
    ]
    for item, place in zip(items, (0, 1, 0), strict=True):
        assert np.array_equal(decode_mask(item.mask), target(place))
        assert (item.text, item.is_sentence, item.height, item.width) == (WORDINGS[0], True, 24, 32)
    assert items[1].image_path == tmp_path / FOLDER / "test/images/a-coffee_pot-spout_tip.jpg"


@pytest.mark.parametrize(("place", "instruction"), enumerate(Instruction))
def test_wordings(tmp_path: Path, place: int, instruction: Instruction) -> None:
    item = read_instruct_part(write_root(tmp_path, records()), "test", instruction)[0]
    assert item.text == ("handle of the coffee pot" if place == 4 else WORDINGS[place])  # names are tidied
    assert item.is_sentence == (place < 4)


@pytest.mark.parametrize(
    ("split", "place"),
    [
        ("test", "test/data_test.json"),
        ("all", "all/data_all.json"),
        ("train1800", "train/train1800/data_train.json"),
        ("train", "train/data_train.json"),
    ],
)
def test_splits(tmp_path: Path, split: str, place: str) -> None:
    assert annotation_file(tmp_path, split) == tmp_path / "instructpart_part/InstructPart" / place
    assert len(read_instruct_part(write_root(tmp_path, records(), split), split, Instruction.HUMAN)) == 3


def test_masks_in_jpeg_and_of_other_values(tmp_path: Path) -> None:
    """The compression leaves grey at the edges; a PNG may as well hold 0 and 1."""
    root = write_root(tmp_path, records(), ending=".jpg")
    item = read_instruct_part(root, "test", Instruction.HUMAN)[0]
    wrong = np.count_nonzero(decode_mask(item.mask) != target())
    assert wrong <= 2
    folder = root / FOLDER / "test/masks"
    Image.fromarray(target(1).astype(np.uint8)).save(folder / "a-coffee_pot-handle.png")
    item = read_instruct_part(root, "test", Instruction.HUMAN)[0]
    assert np.array_equal(decode_mask(item.mask), target(1)), "a PNG comes first, and every value above 0 counts"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"part_list": 5}, "not iterable"),
        ({"part_list": [part(object="")]}, "'object' must be a non-empty string, got ''"),
        ({"part_list": [{}]}, "the key 'object' is missing"),
        ({"part_list": [part(instruction="hold it")]}, "'instruction' of b-coffee_pot-handle must be a list with"),
        ({"part_list": [part(instruction=list(WORDINGS[:4]))]}, "must be a list with part_name at position 4"),
        (
            {"part_list": [part(instruction=[5] * 6)]},
            "wording 4 of b-coffee_pot-handle must be a non-empty string, got 5",
        ),
        ({"part_list": [part(instruction=[" "] * 6)]}, "wording 4 of b-coffee_pot-handle has no words"),
        ({"part_list": [part(), part()]}, "instructpart/b-coffee_pot-handle occurs twice"),
        ({"part_list": [part("../../x")]}, "the part's file 'b-coffee_pot-../../x' leaves the image folder"),
        ({"image_path": "/etc/passwd"}, "'image_path' '/etc/passwd' leaves the image folder"),
    ],
)
def test_broken_records_are_named(tmp_path: Path, changes: dict[str, Any], reason: str) -> None:
    first, second = records()
    root = write_root(tmp_path, [first, second | changes])
    with pytest.raises(ValueError, match=reason) as caught:
        read_instruct_part(root, "test", Instruction.PART_NAME)
    image = changes.get("image_path", "b.jpg")
    assert str(caught.value).startswith(f"{root / FOLDER}/test/data_test.json, record 1 (image '{image}'): ")


def test_missing_and_wrong_files(tmp_path: Path) -> None:
    root = write_root(tmp_path, records())
    folder = root / FOLDER / "test"
    mask = folder / "masks/b-coffee_pot-handle.png"
    Image.fromarray(np.zeros((24, 32), dtype=np.uint8)).save(mask)
    with pytest.raises(ValueError, match=r"record 1 .*b-coffee_pot-handle.png: no value is above 0"):
        read_instruct_part(root, "test", Instruction.HUMAN)
    Image.fromarray(np.full((24, 31), 255, dtype=np.uint8)).save(mask)
    with pytest.raises(ValueError, match=r"record 1 .*b-coffee_pot-handle.png: .*31"):
        read_instruct_part(root, "test", Instruction.HUMAN)
    mask.unlink()
    with pytest.raises(FileNotFoundError, match=r"record 1 .*masks/b-coffee_pot-handle.png"):
        read_instruct_part(root, "test", Instruction.HUMAN)
    (folder / "images/a-coffee_pot-handle.jpg").unlink()
    with pytest.raises(FileNotFoundError, match=r"record 0 .*images/a-coffee_pot-handle.jpg"):
        read_instruct_part(root, "test", Instruction.HUMAN)
    (folder / "data_test.json").write_text("[]")
    with pytest.raises(ValueError, match="data_test.json: the file contains no parts"):
        read_instruct_part(root, "test", Instruction.HUMAN)
    with pytest.raises(FileNotFoundError, match="train200/data_train.json"):
        read_instruct_part(root, "train200", Instruction.HUMAN)
    with pytest.raises(ValueError, match="the split '../x' leaves"):
        read_instruct_part(root, "../x", Instruction.HUMAN)


def test_every_metric_by_hand() -> None:
    """Targets of 100 pixels; predictions within them, so that IoUs are their pixels in percent."""
    task = InstructPartTask("instructpart", "test", InstructPartOptions())
    whole = np.ones((10, 10), dtype=bool)
    found = []
    for number, num_pixels in enumerate((100, 50, 72, 49)):
        item = SegmentationItem(f"{number}", f"{number // 2}", Path("x"), 10, 10, "?", True, encode_mask(whole))
        predicted = (np.arange(100) < num_pixels).reshape(1, 10, 10)
        found.append(task.score(item, Segmented(predicted, None)))
    values = {name: metric and metric.value for name, metric in task.metrics(found).items()}
    assert values == pytest.approx(
        {
            "giou": (1 + 0.5 + 0.72 + 0.49) / 4,
            "ciou": (100 + 50 + 72 + 49) / 400,
            "p50": 3 / 4,  # 0.5 reaches it, 0.49 does not
            "p50_95": (10 + 1 + 5 + 0) / 40,  # thresholds reached: all ten; 0.50; 0.50 to 0.70; none
        }
    )
    failed = task.fail(item, "no image")
    values = {name: metric and metric.value for name, metric in task.metrics([*found[:1], failed]).items()}
    assert values == {"giou": 0.5, "ciou": 0.5, "p50": 0.5, "p50_95": 0.5}


@pytest.mark.parametrize("flags", [(), ("--mode", "generated", "--instruction", "affordance_name")])
@pytest.mark.parametrize(("model", "expected"), [("oracle", 1.0), ("empty", 0.0), ("random", None)])
def test_bounds(tmp_path: Path, flags: tuple[str, ...], model: str, expected: float | None) -> None:
    root = write_root(tmp_path / "data", records())
    command = ["run", "instructpart", "--root", str(root), "--model", model, "--output", str(tmp_path / "run")]
    assert main([*command, *flags]) == 0
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    group = summary["groups"]["all"]
    assert (group["num_expected"], group["num_failed"], summary["split"]) == (3, 0, "test")
    assert list(group["metrics"]) == ["ciou", "giou", "p50", "p50_95"]
    assert expected is None or {metric["value"] for metric in group["metrics"].values()} == {expected}
    wording = "generated, affordance_name instruction" if flags else "forced, human instruction"
    assert (summary["protocol"], summary["protocol_version"]) == (wording, "instruct-part-1.0")
    prompts = {json.loads(line)["prompt"] for line in (tmp_path / "run" / "records.jsonl").read_text().splitlines()}
    asked = f"Can you segment {WORDINGS[5]}?" if flags else f"{WORDINGS[0]} Please segment it."
    assert prompts == {asked}
    assert "3 parts" in metric_tables(load_run(tmp_path / "run"), [])[0].note
