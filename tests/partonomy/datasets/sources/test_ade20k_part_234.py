"""ADE20K-Part-234 in its published layout, and in PACO's form."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from partonomy.__main__ import main
from partonomy.datasets.sources.ade20k_part_234 import load_classes, part_map_of, read_ade20k_part_234
from partonomy.datasets.sources.records import CocoConfig
from partonomy.datasets.store import load_dataset
from partonomy.masks import decode_mask, encode_mask, rle_to_json

REAL_DATA = Path(os.environ.get("PARTONOMY_REAL_DATA", "no folder given"))
HEIGHT, WIDTH = 30, 40
NO_PART = 65535


def value_of(label: str, part: str) -> int:
    return load_classes().index((label, part))


def region(top: int, left: int, height: int, width: int) -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), dtype=bool)
    mask[top : top + height, left : left + width] = True
    return mask


CHAIR, SECOND, LAMP = region(5, 2, 20, 10), region(5, 15, 20, 10), region(2, 30, 25, 8)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two chairs and a lamp; legs of both chairs, a shade, and a wheel of no car."""
    values = np.full((HEIGHT, WIDTH), NO_PART, dtype=np.uint16)
    values[20:25, 0:30] = value_of("chair", "leg")
    values[5:8, 2:6] = value_of("chair", "back")
    values[2:6, 28:40] = value_of("lamp", "shade")
    values[29, 0] = value_of("car", "wheel")
    write_map(tmp_path, values)
    (tmp_path / "images" / "training").mkdir(parents=True)
    Image.new("RGB", (WIDTH, HEIGHT), (90, 90, 90)).save(tmp_path / "images" / "training" / "one.jpg")
    annotations = [
        {
            "id": number,
            "image_id": 7,
            "category_id": category,
            "iscrowd": 0,
            "segmentation": rle_to_json(encode_mask(mask)),
        }
        for number, (category, mask) in enumerate(((8, CHAIR), (8, SECOND), (21, LAMP)), start=1)
    ]
    content = {
        "images": [{"id": 7, "file_name": "one.jpg", "height": HEIGHT, "width": WIDTH}],
        "categories": [{"id": 8, "name": "chair"}, {"id": 21, "name": "lamp, light"}],
        "annotations": annotations,
    }
    (tmp_path / "ade20k_instance_train.json").write_text(json.dumps(content))
    return tmp_path


def write_map(root: Path, values: np.ndarray) -> None:
    folder = root / "annotations_detectron2_part" / "training"
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(folder / "one.png")


def config(root: Path, **settings: Any) -> CocoConfig:
    return CocoConfig(root / "ade20k_instance_train.json", root / "images" / "training", **settings)


def test_parts_are_cut_from_the_map_by_object(root: Path) -> None:
    reading = read_ade20k_part_234(config(root))
    assert reading.dataset.name == "ade20k_part_234"
    (image,) = reading.dataset.images
    found = {
        (one.label, one.instance_id, part.label): decode_mask(part.mask) for one in image.objects for part in one.parts
    }
    expected = {
        ("chair", 1, "leg"): region(20, 2, 5, 10),
        ("chair", 1, "back"): region(5, 2, 3, 4),
        ("chair", 2, "leg"): region(20, 15, 5, 10),
        ("lamp", 3, "shade"): region(2, 30, 4, 8),
    }
    assert found.keys() == expected.keys()
    for key, mask in expected.items():
        assert (found[key] == mask).all(), key
    assert [(row.reason, len(row.annotation_ids)) for row in reading.skipped] == [
        ("part of the map that lies in no object of its class", 1)
    ]


def test_the_list_of_classes() -> None:
    classes = load_classes()
    assert len(classes) == 234
    assert len({label for label, _ in classes}) == 44
    assert (classes[0], classes[13], classes[233]) == (("person", "arm"), ("clock", "face"), ("light", "shade"))


@pytest.mark.parametrize("invalid", ["raise", "collect"])
@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (np.full((HEIGHT, WIDTH), 234, dtype=np.uint16), "has the value 234"),
        (np.full((HEIGHT, WIDTH + 1), NO_PART, dtype=np.uint16), "the map is"),
        (np.zeros((HEIGHT, WIDTH), dtype=np.uint8), "one 16-bit channel"),
        (None, "finish the download"),
    ],
)
def test_an_image_whose_map_cannot_be_used(root: Path, invalid: Any, values: np.ndarray | None, reason: str) -> None:
    if values is None:
        (root / "annotations_detectron2_part" / "training" / "one.png").unlink()
    else:
        write_map(root, values)
    if invalid == "raise":
        with pytest.raises((ValueError, FileNotFoundError), match=reason):
            read_ade20k_part_234(config(root))
    else:
        reading = read_ade20k_part_234(config(root, invalid="collect"))
        assert reading.dataset.images == ()
        assert [(row.reason, row.annotation_ids) for row in reading.skipped] == [
            ("image without a usable part map", (1, 2, 3))
        ]


def test_the_place_of_a_map() -> None:
    assert part_map_of(Path("images/ade/images/training/a/b.jpg")) == Path(
        "images/ade/annotations_detectron2_part/training/a/b.png"
    )
    with pytest.raises(ValueError, match="must lie below a folder 'images'"):
        part_map_of(Path("ade/training/b.jpg"))


def test_the_command(root: Path, tmp_path: Path) -> None:
    flags = ["--annotations", str(root / "ade20k_instance_train.json"), "--images", str(root / "images" / "training")]
    flags += ["--embedding_model", "char-ngram-tfidf", "--output", str(tmp_path / "built")]
    assert main(["build", "--source", "ade20k_part_234", *flags]) == 0
    assert len(load_dataset(tmp_path / "built").images) == 1


@pytest.mark.skipif(not REAL_DATA.is_dir(), reason="PARTONOMY_REAL_DATA does not name a folder of photographs")
def test_photographs_with_parts_as_annotations() -> None:
    folder = REAL_DATA / "ade20k_parts"
    reading = read_ade20k_part_234(CocoConfig(folder / "instances_parts.json", folder / "images"))
    images = reading.dataset.images
    assert len(images) == 51
    assert sum(len(image.objects) for image in images) == 196
    known = set(load_classes())
    # Only names of the published list, which has "column" where this file has it, too.
    found = {(one.label, part.label) for image in images for one in image.objects for part in one.parts}
    assert len(found & known) / len(found) > 0.95
