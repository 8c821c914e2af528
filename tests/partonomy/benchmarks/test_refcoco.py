import json
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from partonomy.benchmarks.refcoco import is_in_split, read_referring, read_target, reference_file
from partonomy.masks import decode_mask, encode_mask, rle_area, rle_to_json

HEIGHT, WIDTH = 10, 12
FIRST = [2.0, 2.0, 6.0, 2.0, 6.0, 6.0, 2.0, 6.0]  # pixels 2 to 5 of rows and columns
SECOND = [4.0, 4.0, 8.0, 4.0, 8.0, 8.0, 4.0, 8.0]  # pixels 4 to 7


def reference(number: int, split: str, sentences: Sequence[str] = ("The Left Cup ",)) -> dict[str, Any]:
    records = [{"sent_id": 10 * number + i, "sent": text, "tokens": text.split()} for i, text in enumerate(sentences)]
    return {
        "ref_id": number,
        "ann_id": 100 + number,
        "category_id": 1,
        "image_id": 7,
        "split": split,
        "sentences": records,
    }


def annotation(number: int, segmentation: object) -> dict[str, Any]:
    return {"id": number, "image_id": 7, "category_id": 1, "segmentation": segmentation}


def write_set(
    root: Path, references: object, segmentations: Sequence[object] = ([FIRST, SECOND],), name: str = "refcoco"
) -> Path:
    """A set of one photograph; annotations are numbered from 100."""
    path = reference_file(root, name)
    path.parent.mkdir(parents=True)
    path.write_bytes(pickle.dumps(references, protocol=2))
    file_name = "9.jpg" if name == "refclef" else "COCO_train2014_000000000009.jpg"
    folder = "saiapr_tc-12" if name == "refclef" else "mscoco/images/train2014"
    image = root / "refer_seg" / "images" / folder / file_name
    image.parent.mkdir(parents=True)
    Image.new("RGB", (WIDTH, HEIGHT)).save(image)
    content = {
        # Annotations before images: the order of keys in the published files is arbitrary.
        "annotations": [annotation(100 + number, one) for number, one in enumerate(segmentations)],
        "images": [
            {"id": 7, "file_name": file_name, "height": HEIGHT, "width": WIDTH},
            {"id": 8, "file_name": "not_referred_to.jpg", "height": 1, "width": 1},
        ],
        "categories": [{"id": 1, "name": "cup"}],
    }
    (path.parent / "instances.json").write_text(json.dumps(content))
    return path


def test_one_item_per_sentence_with_the_union_of_the_polygons(tmp_path: Path) -> None:
    write_set(tmp_path, [reference(0, "train", ("The Left Cup ", "cup")), reference(1, "val")], [[FIRST, SECOND], []])
    items = read_referring(tmp_path, "refcoco", "train")
    assert [(item.item_id, item.text) for item in items] == [("refcoco/0/0", "the left cup"), ("refcoco/0/1", "cup")]
    first = items[0]
    assert (first.height, first.width, first.is_sentence, first.ignore_mask) == (HEIGHT, WIDTH, False, None)
    assert first.image_path.name == "COCO_train2014_000000000009.jpg"
    expected = np.zeros((HEIGHT, WIDTH), bool)
    expected[2:6, 2:6] = expected[4:8, 4:8] = True
    assert (decode_mask(first.mask) == expected).all()
    assert rle_area(first.mask) == 16 + 16 - 4  # a sum of the two would have 2 in four pixels


def test_nothing_drawn_is_an_empty_mask_and_thin_polygons_are_dropped(tmp_path: Path) -> None:
    write_set(tmp_path, [reference(0, "val")], [[]])
    assert rle_area(read_referring(tmp_path, "refcoco", "val")[0].mask) == 0
    assert rle_area(read_target([FIRST, [1.0, 1.0, 2.0, 2.0]], HEIGHT, WIDTH, "here")) == 16
    assert rle_area(read_target([[1.0, 1.0, 2.0, 2.0]], HEIGHT, WIDTH, "here")) == 0


def test_refclef_has_run_length_codes_and_images_of_its_own(tmp_path: Path) -> None:
    masks = np.zeros((2, HEIGHT, WIDTH), bool)
    masks[0, :2], masks[1, :, :3] = True, True
    write_set(tmp_path, [reference(0, "testAB")], [[rle_to_json(encode_mask(mask)) for mask in masks]], "refclef")
    for split in ("testA", "testB", "test"):
        (item,) = read_referring(tmp_path, "refclef", split)
        assert (decode_mask(item.mask) == masks.any(axis=0)).all()
        assert item.image_path == tmp_path / "refer_seg/images/saiapr_tc-12/9.jpg"
    with pytest.raises(ValueError, match="no record belongs to the split 'testC'; the splits are testAB"):
        read_referring(tmp_path, "refclef", "testC")


def test_splits() -> None:
    assert is_in_split("testB", "testB")
    assert not is_in_split("testA", "testB")
    assert is_in_split("testBC", "testC")
    assert not is_in_split("testA", "train")
    assert not is_in_split("trainA", "testA")


def test_sentences_without_words_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_set(tmp_path, [reference(0, "train", (" ", "cup"))])
    assert [item.text for item in read_referring(tmp_path, "refcoco", "train")] == ["cup"]
    assert "1 sentences have no words" in caplog.text


@pytest.mark.parametrize(
    ("references", "message"),
    [
        ([], "expected a list of references"),
        ({"a": 1}, "expected a list of references"),
        ([{"ref_id": 0}], r"refs\(unc\)\.p, record 0: the key 'sentences' is missing"),
        (
            [reference(0, "train"), reference(1, "train", ("x",)) | {"split": 3}],
            r"record 1: 'split' must be a non-empty string",
        ),
        ([reference(3, "train")], r"record 0: image 7 or annotation 103 is not in .*instances.json"),
    ],
)
def test_broken_references_are_named(tmp_path: Path, references: object, message: str) -> None:
    write_set(tmp_path, references)
    with pytest.raises(ValueError, match=message):
        read_referring(tmp_path, "refcoco", "train")


def test_broken_annotations_and_missing_images_are_named(tmp_path: Path) -> None:
    write_set(tmp_path / "a", [reference(0, "train")], [[[1.0, 2.0, float("nan"), 4.0, 5.0, 6.0]]])
    with pytest.raises(ValueError, match=r"instances\.json, annotation 100: the polygon has a coordinate"):
        read_referring(tmp_path / "a", "refcoco", "train")
    write_set(tmp_path / "b", [reference(0, "train")])
    next((tmp_path / "b").rglob("*.jpg")).unlink()
    with pytest.raises(FileNotFoundError, match="refcoco train: 1 of 1 images are missing, the first is .*000009.jpg"):
        read_referring(tmp_path / "b", "refcoco", "train")
    with pytest.raises(FileNotFoundError, match=r"refs\(umd\)\.p: not found"):
        read_referring(tmp_path, "refcocog", "train")
    with pytest.raises(ValueError, match="unknown referring data set 'refcoco-'"):
        read_referring(tmp_path, "refcoco-", "train")
