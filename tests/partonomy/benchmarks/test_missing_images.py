"""An image that cannot be shown, in every benchmark: its known targets score 0, and their pixels enter cIoU's union.

Every case has one good image and one that is gone or damaged. The oracle is right wherever it is asked.
"""

import json
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from partonomy.__main__ import main
from partonomy.benchmarks.reason_seg import split_folder
from partonomy.benchmarks.refcoco import COCO_FOLDER, reference_file
from partonomy.harness.provenance import OVERLAP_KEY
from tests.partonomy.benchmarks import (
    test_grefcoco,
    test_instruct_part,
    test_multi_referring,
    test_multi_target_task,
    test_reason_seg_data,
    test_refcocom_data,
)
from tests.partonomy.benchmarks.vqa_world import draw

HEIGHT, WIDTH = 10, 12
SMALL = [2.0, 2.0, 6.0, 2.0, 6.0, 6.0, 2.0, 6.0]  # 4 x 4 = 16 pixels
LARGE = [0.0, 0.0, 7.0, 0.0, 7.0, 4.0, 0.0, 4.0]  # 7 x 4 = 28 pixels

Fault = Callable[[Path], object]


def truncate(path: Path) -> None:
    """Keep the header, and lose half of the pixels."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def replace_by_folder(path: Path) -> None:
    """Put a folder in place of the file."""
    path.unlink()
    path.mkdir()


def resize(path: Path) -> None:
    """Save an image of another size."""
    Image.new("RGB", (7, 5)).save(path)


FAULTS: dict[str, Fault] = {
    "gone": Path.unlink,
    "empty": lambda path: path.write_bytes(b""),
    "no image": lambda path: path.write_text("404: not found"),
    "truncated": truncate,
    "folder": replace_by_folder,
    "other size": resize,
}
every_fault = pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS.keys())


def scores(name: str, root: Path, output: Path, *flags: str, model: str = "oracle") -> dict[str, float]:
    """The metrics of a run, of which some items fail."""
    assert main(["run", name, "--root", str(root), "--model", model, "--output", str(output), *flags]) == 0
    summary = json.loads((output / "summary.json").read_text())
    group = summary["groups"]["all"]
    assert 0 < group["num_failed"] < group["num_expected"]
    assert summary["provenance"][OVERLAP_KEY]["num_images"] == 2
    return {metric: entry["value"] for metric, entry in group["metrics"].items()}


def write_images(root: Path, folder: str) -> Path:
    """Two photographs, numbers 7 and 8, and a file of instances: the small square on 7, the large one on 8."""
    names = {number: f"COCO_train2014_{number:012d}.jpg" for number in (7, 8)}
    for number, name in names.items():
        draw(root / COCO_FOLDER / name, number, (WIDTH, HEIGHT))
    content = {
        "images": [
            {"id": number, "file_name": name, "height": HEIGHT, "width": WIDTH} for number, name in names.items()
        ],
        "annotations": [
            {"id": 100 + number, "image_id": number, "category_id": 1, "iscrowd": 0, "segmentation": [ring]}
            for number, ring in ((7, SMALL), (8, LARGE))
        ],
        "categories": [{"id": 1, "name": "cup"}],
    }
    path = root / "refer_seg" / folder / "instances.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(content))
    return root / COCO_FOLDER / names[8]


@every_fault
def test_refcoco(tmp_path: Path, fault: Fault) -> None:
    broken = write_images(tmp_path, "refcoco")
    references = [
        {"ref_id": number, "ann_id": 100 + number, "image_id": number, "split": "val", "category_id": 1}
        | {"sentences": [{"sent_id": number, "sent": "the cup", "tokens": []}]}
        for number in (7, 8)
    ]
    reference_file(tmp_path, "refcoco").write_bytes(pickle.dumps(references, protocol=2))
    fault(broken)
    found = scores("refcoco", tmp_path, tmp_path / "run")
    # gIoU: 1 and 0. cIoU: 16 pixels found, 16 + 28 in the unions.
    assert found == pytest.approx({"giou": 1 / 2, "ciou": 16 / 44})


@every_fault
def test_grefcoco_also_without_a_target(tmp_path: Path, fault: Fault) -> None:
    broken = write_images(tmp_path, "grefcoco")
    references = [
        test_grefcoco.reference(0, [107], image_id=7),
        test_grefcoco.reference(1, [108], image_id=8),
        test_grefcoco.reference(2, [-1], image_id=8),
    ]
    (tmp_path / "refer_seg" / "grefcoco" / "grefs(unc).json").write_text(json.dumps(references))
    fault(broken)
    found = scores("grefcoco", tmp_path, tmp_path / "run")
    # One of three expressions is right. The lost one without a target has no pixel, and nobody said that it has none.
    assert found == pytest.approx(
        {"giou": 1 / 3, "ciou": 16 / 44, "n_acc": 0, "t_acc": 1 / 2, "pr@70": 1 / 2, "pr@80": 1 / 2, "pr@90": 1 / 2}
    )


def test_nothing_wanted_and_nothing_answered_is_no_perfect_ciou(tmp_path: Path) -> None:
    broken = write_images(tmp_path, "grefcoco")
    references = [test_grefcoco.reference(number, [-1], image_id=7 + number) for number in (0, 1)]
    (tmp_path / "refer_seg" / "grefcoco" / "grefs(unc).json").write_text(json.dumps(references))
    broken.unlink()
    found = scores("grefcoco", tmp_path, tmp_path / "run")
    # No union has a pixel: cIoU is 1 if everything was answered, and 0 since one expression failed.
    assert (found["giou"], found["ciou"], found["n_acc"]) == (1 / 2, 0.0, 1 / 2)


@every_fault
def test_refcocom(tmp_path: Path, fault: Fault) -> None:
    root = test_refcocom_data.write_root(tmp_path)
    path = root / "refer_seg" / "RefCOCOm" / "annotations" / "val_part.json"
    (record,) = json.loads(path.read_text())
    path.write_text(json.dumps([record, record | {"img_name": "other.jpg", "sentences": [{"sent": "a hand"}]}]))
    draw(root / COCO_FOLDER / "other.jpg", 1, test_refcocom_data.SIZE)
    fault(root / COCO_FOLDER / "other.jpg")
    found = scores("refcocom", root, tmp_path / "run", "--split", "val_part")
    # Two of three sentences, each about 6 x 16 = 96 pixels.
    assert found == pytest.approx({"giou": 2 / 3, "ciou": 192 / 288})


@every_fault
def test_classes_of_multi_referring(tmp_path: Path, fault: Fault) -> None:
    annotations = [
        {"id": 10 * image + place, "image_id": image, "category_id": place}
        | {"segmentation": test_multi_referring.square(place)}
        for image, places in ((1, range(4)), (2, range(1, 6)))
        for place in places
    ]
    annotations.append({"id": 50, "image_id": 3, "category_id": 0, "segmentation": test_multi_referring.square(0)})
    root = test_multi_referring.write_root(tmp_path, annotations=annotations)
    fault(root / COCO_FOLDER / "COCO_train2014_2.jpg")
    found = scores("multirefcoco", root, tmp_path / "run")
    record = json.loads((tmp_path / "run" / "records.jsonl").read_text().splitlines()[1])
    num_lost = len(record["truths"])  # 4 or 5 of the image's classes are drawn
    assert num_lost in (4, 5)
    # Four masks of 4 x 6 pixels are right, and the lost ones of the same size are not.
    assert found["giou"] == pytest.approx(4 / (4 + num_lost))
    assert found["ciou"] == pytest.approx(4 * 24 / ((4 + num_lost) * 24))


@every_fault
@pytest.mark.parametrize("mode", ["teacher_forced", "generate", "union"])
def test_mmr(tmp_path: Path, fault: Fault, mode: str) -> None:
    root = test_multi_target_task.write_root(tmp_path, num_images=2)
    (broken,) = root.rglob("1.png")
    fault(broken)
    found = scores("mmr", root, tmp_path / "run", "--mode", mode)
    # An image has the knife (40 pixels) with its handle (16 of them), and the handle alone: 3 masks, or 2 unions.
    assert (found["giou"], found["ciou"]) == (1 / 2, 1 / 2)
    assert found["giou_multiple"] == 1 / 2


@every_fault
def test_parts_of_instruct_part(tmp_path: Path, fault: Fault) -> None:
    root = test_instruct_part.write_root(tmp_path, test_instruct_part.records())
    (broken,) = root.rglob("images/b-coffee_pot-handle.jpg")
    for unasked in root.rglob("images/b-coffee_pot-spout_tip.jpg"):
        unasked.unlink()
    fault(broken)
    output = tmp_path / "run"
    assert main(["run", "instructpart", "--root", str(root), "--model", "oracle", "--output", str(output)]) == 0
    group = json.loads((output / "summary.json").read_text())["groups"]["all"]
    found = {metric: entry["value"] for metric, entry in group["metrics"].items()}
    # Two of three parts, each of 6 x 16 = 96 pixels.
    assert found == pytest.approx({"giou": 2 / 3, "ciou": 192 / 288, "p50": 2 / 3, "p50_95": 2 / 3})


@pytest.mark.parametrize("fault", [FAULTS[name] for name in FAULTS if name != "other size"])
def test_reason_seg_whose_records_name_no_size(tmp_path: Path, fault: Fault) -> None:
    box, record = test_reason_seg_data.box, test_reason_seg_data.record
    # The target has 4 x 4 pixels, and 2 x 3 of the lost one's 6 x 3 pixels are ignored.
    test_reason_seg_data.write_record(tmp_path, "a", record(shapes=[box("target", 2, 2, 5, 5)]), split="val")
    lost = record(shapes=[box("target", 1, 1, 6, 3), box("ignore", 5, 1, 6, 3)])
    test_reason_seg_data.write_record(tmp_path, "b", lost, split="val")
    fault(split_folder(tmp_path, "val") / "b.jpg")
    found = scores("reasonseg", tmp_path, tmp_path / "run")
    assert found == pytest.approx({"giou": 1 / 2, "ciou": 16 / (16 + 12)})


def test_a_reason_seg_record_too_large_for_any_image_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record, box = test_reason_seg_data.record, test_reason_seg_data.box
    test_reason_seg_data.write_record(tmp_path, "a", record(), split="val")
    test_reason_seg_data.write_record(tmp_path, "b", record(shapes=[box("target", 0, 0, 99_999, 99_999)]), split="val")
    (split_folder(tmp_path, "val") / "b.jpg").unlink()
    assert (
        main(["run", "reasonseg", "--root", str(tmp_path), "--model", "oracle", "--output", str(tmp_path / "r")]) == 1
    )
    assert "b.json: the frame of the shapes: the image size is invalid: 100000 x 100000" in capsys.readouterr().err
