"""Several classes of an image in one question, over RefCOCO's files."""

import json
import logging
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from partonomy.benchmarks.mmr import MultiTargetItem
from partonomy.benchmarks.multi_referring import MULTI_REFERRING_NAMES, read_multi_referring
from partonomy.benchmarks.segmentation import Wording, segmentation_prompt
from partonomy.datasets.sources.mmr import Kind
from partonomy.masks import decode_mask
from tests.partonomy.benchmarks.vqa_world import draw

SIZE = (32, 24)  # width, height
CLASSES = ("cup", "dog", "wine_glass", "car", "person", "tree", "bench")


def square(place: int) -> list[list[int]]:
    left = 4 * place
    return [[left, 2, left + 4, 2, left + 4, 8, left, 8]]


def write_root(root: Path, num_classes: int = 7, **changes: Any) -> Path:
    """Image 1 (val) shows `num_classes` classes, the first of them twice; image 2 (val) two; image 3 is of testA."""
    images = root / "refer_seg/images/mscoco/images/train2014"
    names = {number: f"COCO_train2014_{number}.jpg" for number in (1, 2, 3)}
    for number, name in names.items():
        draw(images / name, number, SIZE)
    annotations = [
        {"id": 10 + place, "image_id": 1, "category_id": place, "segmentation": square(place)}
        for place in range(num_classes)
    ]
    annotations.append({"id": 30, "image_id": 1, "category_id": 0, "segmentation": [[0, 12, 4, 12, 4, 18, 0, 18]]})
    annotations += [
        {"id": 40 + place, "image_id": 2, "category_id": place, "segmentation": square(place)} for place in (0, 1)
    ]
    annotations.append({"id": 50, "image_id": 3, "category_id": 0, "segmentation": square(0)})
    width, height = SIZE
    instances = {
        "annotations": annotations,  # before the lists that explain them
        "categories": [{"id": place, "name": name} for place, name in enumerate(CLASSES)],
        "images": [
            {"id": number, "file_name": name, "height": height, "width": width} for number, name in names.items()
        ],
    } | changes
    references = [
        {"ref_id": number, "ann_id": annotation, "category_id": 0, "image_id": number, "split": split}
        | {"sentences": [{"sent_id": number, "sent": "cup", "tokens": []}]}
        for number, annotation, split in ((1, 10, "val"), (2, 40, "val"), (3, 50, "testA"))
    ]
    folder = root / "refer_seg" / "refcoco"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "refs(unc).p").write_bytes(pickle.dumps(references, protocol=2))
    (folder / "instances.json").write_text(json.dumps(instances))
    return root


def only_item(root: Path) -> MultiTargetItem:
    (item,) = read_multi_referring(root, "multirefcoco", "val")
    return item


def test_names() -> None:
    assert MULTI_REFERRING_NAMES == ("multirefcoco", "multirefcoco+", "multirefcocog")


def test_a_question_asks_for_four_to_six_classes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        item = only_item(write_root(tmp_path))
    assert "multirefcoco val: 1 of 2 images show fewer than 4 categories and are left out" in caplog.text
    names = [target.category_name for target in item.targets]
    assert 4 <= len(names) <= 6
    assert len(set(names)) == len(names)
    assert set(names) <= {name.replace("_", " ") for name in CLASSES}
    listed = ", ".join(names[:-1])
    assert segmentation_prompt(item, Wording.PLUM) == f"Can you segment the {listed}, and {names[-1]}?"
    lisa = f"What is the {listed}, and {names[-1]} in this image? Please output segmentation mask."
    assert segmentation_prompt(item, Wording.LISA) == lisa
    assert item.answer.text == f"It is the {', the '.join(names[:-1])}, and the {names[-1]}."
    spans = [span and item.answer.text[span.start : span.end] for span in item.answer.spans]
    assert spans == names
    assert item.kind is Kind.OBJECT
    assert only_item(tmp_path) == item  # the same classes every time


def test_a_class_is_all_its_instances(tmp_path: Path) -> None:
    item = only_item(write_root(tmp_path, num_classes=4))
    assert sorted(target.category_name for target in item.targets) == ["car", "cup", "dog", "wine glass"]
    cup = next(target for target in item.targets if target.category_name == "cup")
    expected = np.zeros((SIZE[1], SIZE[0]), dtype=bool)
    expected[2:8, :4] = expected[12:18, :4] = True
    assert np.array_equal(decode_mask(cup.mask), expected)


def test_different_images_get_different_classes(tmp_path: Path) -> None:
    """Ten images of seven classes: not all questions ask for the same ones in the same order."""
    root = write_root(tmp_path)
    folder = root / "refer_seg" / "refcoco"
    instances = json.loads((folder / "instances.json").read_text())
    references = pickle.loads((folder / "refs(unc).p").read_bytes())
    shown = [one for one in instances["annotations"] if one["image_id"] == 1]
    for number in range(100, 110):
        instances["images"].append({**instances["images"][0], "id": number})
        instances["annotations"] += [{**one, "id": number * 100 + one["id"], "image_id": number} for one in shown]
        references.append({**references[0], "ref_id": number, "image_id": number})
    (folder / "instances.json").write_text(json.dumps(instances))
    (folder / "refs(unc).p").write_bytes(pickle.dumps(references, protocol=2))
    items = read_multi_referring(root, "multirefcoco", "val")
    drawn = [tuple(target.category_name for target in item.targets) for item in items]
    assert len(set(drawn)) > 5
    assert {len(names) for names in drawn} == {4, 5, 6}


def test_broken_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"instances.json: no image of the split 'val' shows 4 categories or more"):
        read_multi_referring(write_root(tmp_path / "few", num_classes=3), "multirefcoco", "val")
    with pytest.raises(ValueError, match="no record belongs to the split 'testB'"):
        read_multi_referring(write_root(tmp_path / "split"), "multirefcoco", "testB")
    with pytest.raises(ValueError, match=r"instances.json: image 1 has an annotation of the unknown category 0"):
        read_multi_referring(write_root(tmp_path / "names", categories=[]), "multirefcoco", "val")
    with pytest.raises(ValueError, match=r"instances.json: image 1 is not in the list of images"):
        read_multi_referring(write_root(tmp_path / "images", images=[]), "multirefcoco", "val")
    broken = [{"id": 1, "image_id": 1, "category_id": 0}]
    with pytest.raises(ValueError, match=r"record 1 of 'annotations': the key 'segmentation' is missing"):
        read_multi_referring(write_root(tmp_path / "key", annotations=broken), "multirefcoco", "val")
    nameless = [{"id": number, "name": f"class {number}" if number else "a:"} for number in range(4)]
    with pytest.raises(
        ValueError, match=r"instances.json, record 0 of 'categories': the name '' is empty once cleaned"
    ):
        read_multi_referring(write_root(tmp_path / "empty", categories=nameless), "multirefcoco", "val")
    root = write_root(tmp_path / "photo")
    (root / "refer_seg/images/mscoco/images/train2014/COCO_train2014_1.jpg").unlink()
    with pytest.raises(FileNotFoundError, match="multirefcoco val: 1 of 1 images are missing"):
        read_multi_referring(root, "multirefcoco", "val")
