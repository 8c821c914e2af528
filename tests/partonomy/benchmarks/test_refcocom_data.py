"""RefCOCOm's expressions and mask files."""

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from partonomy.benchmarks.refcocom import read_refcocom
from partonomy.masks import decode_mask
from tests.partonomy.benchmarks.vqa_world import draw

SIZE = (32, 24)  # width, height
IMAGE = "COCO_train2014_000000000009.jpg"


def target() -> np.ndarray:
    mask = np.zeros((SIZE[1], SIZE[0]), dtype=bool)
    mask[3:9, 4:20] = True
    return mask


def write_root(root: Path, folder: str = "RefCOCOm", masks: str | None = None, **changes: Any) -> Path:
    draw(root / "refer_seg/images/mscoco/images/train2014" / IMAGE, 0, SIZE)
    values = np.where(target(), 255, 0).astype(np.uint8)
    values[0, :5] = 128  # edges of other values do not count
    path = root / "refer_seg" / (masks or folder) / "masks" / "12.png"
    path.parent.mkdir(parents=True)
    Image.fromarray(values).save(path)
    sentences = [{"sent": " Left hand\n of the MAN"}, {"sent": ""}, {"sent": "his hand"}]
    record = {"img_name": IMAGE, "segment_id": 12, "sentences": sentences, "cat": 1} | changes
    annotations = root / "refer_seg" / folder / "annotations" / "val_part.json"
    annotations.parent.mkdir(parents=True, exist_ok=True)
    annotations.write_text(json.dumps([record]))
    return root


def test_every_sentence_is_an_item(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        items = read_refcocom(write_root(tmp_path), "val_part")
    assert [item.text for item in items] == ["left hand of the man", "his hand"]
    assert [item.item_id for item in items] == ["refcocom/0/0", "refcocom/0/1"]
    assert {item.image_id for item in items} == {IMAGE}
    assert all(np.array_equal(decode_mask(item.mask), target()) for item in items)
    assert (items[0].height, items[0].width, items[0].is_sentence) == (24, 32, False)
    assert items[0].image_path.is_file()
    assert "1 sentences have no words and are left out" in caplog.text


def test_masks_under_their_other_spelling(tmp_path: Path) -> None:
    assert len(read_refcocom(write_root(tmp_path, masks="Refcocom"), "val_part")) == 2


def test_another_file(tmp_path: Path) -> None:
    root = write_root(tmp_path)
    moved = (root / "refer_seg/RefCOCOm/annotations/val_part.json").rename(tmp_path / "mine.json")
    assert len(read_refcocom(root, "val", moved)) == 2


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"segment_id": 13}, r"record 0 \(segment 13\): .*RefCOCOm/masks/13\.png: image file not found"),
        ({"segment_id": "../../x"}, "'segment_id' '../../x.png' leaves the image folder"),
        ({"img_name": "/etc/passwd"}, "'img_name' '/etc/passwd' leaves the image folder"),
        ({"sentences": [{}]}, "the key 'sent' is missing"),
        ({"sentences": [{"sent": 5}]}, "'sent' must be a non-empty string"),
        ({"sentences": []}, "the file contains no sentences"),
    ],
)
def test_broken_records_are_named(tmp_path: Path, changes: dict[str, Any], reason: str) -> None:
    root = write_root(tmp_path, **changes)
    with pytest.raises(ValueError, match=reason) as caught:
        read_refcocom(root, "val_part")
    assert str(caught.value).startswith(str(root / "refer_seg/RefCOCOm/annotations/val_part.json"))


def test_a_mask_of_ones_is_refused(tmp_path: Path) -> None:
    """0 and 1 instead of 0 and 255 would be an empty target for the published loader."""
    root = write_root(tmp_path)
    Image.fromarray(target().astype(np.uint8)).save(root / "refer_seg/RefCOCOm/masks/12.png")
    with pytest.raises(ValueError, match=r"12\.png: no pixel has the value 255, .* the largest is 1"):
        read_refcocom(root, "val_part")


def test_missing_files(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="val.json: not found; download RefCOCOm"):
        read_refcocom(tmp_path, "val")
    root = write_root(tmp_path)
    with pytest.raises(FileNotFoundError, match="val.json: not found; choose --split from val_part"):
        read_refcocom(root, "val")
    (root / "refer_seg/images/mscoco/images/train2014" / IMAGE).unlink()
    with pytest.raises(FileNotFoundError, match="1 of 1 images are missing"):
        read_refcocom(root, "val_part")
