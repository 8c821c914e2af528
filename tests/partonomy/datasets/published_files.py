"""Small files in the forms of the published part data sets, written field by field like the real ones."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from scipy.io import savemat

from partonomy.masks import encode_mask, rle_to_json

HEIGHT, WIDTH = 20, 30
Box = tuple[int, int, int, int]
MatPart = tuple[str, Box | None]
MatObject = tuple[str, Box, Sequence[MatPart]]


def box_mask(box: Box | None) -> np.ndarray:
    """Bool (HEIGHT, WIDTH): the rectangle (x, y, width, height), or nothing."""
    mask = np.zeros((HEIGHT, WIDTH), bool)
    if box is not None:
        x, y, width, height = box
        mask[y : y + height, x : x + width] = True
    return mask


def box_rle(box: Box) -> dict[str, object]:
    """The rectangle as COCO's compressed run-length code."""
    return rle_to_json(encode_mask(box_mask(box)))


def box_polygon(box: Box) -> list[list[float]]:
    """The rectangle as COCO's polygon."""
    x, y, width, height = box
    return [[float(v) for v in (x, y, x + width, y, x + width, y + height, x, y + height)]]


def save_image(path: Path) -> None:
    """A grey image of HEIGHT x WIDTH."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (WIDTH, HEIGHT), (90, 90, 90)).save(path)


def write_json(path: Path, content: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def paco_file() -> dict[str, Any]:
    """One image of two cars and a bicycle in the form of `paco_lvis_v1_train.json`; the second car has more parts."""

    def annotate(number: int, category: int, box: Box, owner: int) -> dict[str, Any]:
        return {
            "id": number,
            "bbox": [float(v) for v in box],
            "area": float(box[2] * box[3]),
            "category_id": category,
            "image_id": 391895,
            "segmentation": box_rle(box),
            "attribute_ids": [0, 14],
            "dom_color_ids": [0],
            "obj_ann_id": owner,
            "unknown_color": 0,
            "unknown_pattern_marking": 0,
            "unknown_material": 1,
            "unknown_transparency": 0,
        }

    image = {
        "id": 391895,
        "file_name": "train2017/000000391895.jpg",
        "width": WIDTH,
        "height": HEIGHT,
        "neg_category_ids": [23],
        "not_exhaustive_category_ids": [207],
        "neg_category_ids_attrs": [0, 1],
        "not_exhaustive_category_ids_attrs": [],
        "license": 3,
    }
    bicycle = {"synset": "bicycle.n.01", "frequency": "f", "image_count": 1, "instance_count": 1}
    return {
        "info": {"description": "PACO"},
        "images": [image],
        "annotations": [
            annotate(10, 207, (0, 0, 12, 12), 10),
            annotate(11, 207, (14, 0, 10, 10), 11),
            annotate(12, 94, (0, 14, 8, 5), 12),
            annotate(13, 2000, (2, 8, 3, 3), 10),
            annotate(14, 2000, (15, 7, 2, 2), 11),
            annotate(15, 2001, (16, 1, 4, 2), 11),
            annotate(16, 2002, (1, 15, 2, 2), 12),
        ],
        "categories": [
            {"supercategory": "OBJECT", "id": 94, "name": "bicycle", **bicycle},
            {"supercategory": "OBJECT", "id": 207, "name": "car_(automobile)", **bicycle},
            {"supercategory": "PART", "id": 2000, "name": "car_(automobile):wheel"},
            {"supercategory": "PART", "id": 2001, "name": "car_(automobile):turnsignal"},
            {"supercategory": "PART", "id": 2002, "name": "bicycle:wheel"},
        ],
        "part_categories": [{"supercategory": "PART", "id": 1, "name": "wheel"}],
        "attributes": [{"supercategory": "ATTR", "id": 0, "name": "black"}],
        "attr_type_to_attr_idxs": {"color": [0]},
    }


def part_imagenet_file() -> dict[str, Any]:
    """Two images in the form of PartImageNet's `train.json`, with its broken polygons and its misspelling."""
    names = [("Quadruped Head", "Quadruped"), ("Quadruped Foot", "Quadruped"), ("Car Tier", "Car"), ("Car Body", "Car")]

    def annotate(number: int, image: int, category: int, polygons: list[list[float]]) -> dict[str, Any]:
        record = {"id": number, "image_id": image, "category_id": category, "segmentation": polygons}
        return record | {"area": 1.5, "bbox": [1.0, 1.0, 3.5, 3.5], "iscrowd": 0}

    return {
        "images": [
            {"id": 0, "file_name": "n02100735_1234.JPEG", "height": HEIGHT, "width": WIDTH},
            {"id": 1, "file_name": "n02814533_77.JPEG", "height": HEIGHT, "width": WIDTH},
        ],
        "categories": [
            {"id": number, "name": name, "supercategory": above} for number, (name, above) in enumerate(names)
        ],
        "annotations": [
            annotate(0, 0, 0, [*box_polygon((1, 1, 4, 4)), [7.0, 7.0], [1.0, 1.0, 2.0, 2.0]]),
            annotate(1, 0, 1, box_polygon((2, 10, 2, 3))),
            annotate(2, 0, 1, box_polygon((8, 10, 2, 3))),
            annotate(3, 0, 1, [[3.0, 4.0]]),
            annotate(4, 1, 2, box_polygon((3, 12, 4, 4))),
            annotate(5, 1, 3, box_polygon((1, 2, 25, 9))),
            annotate(6, 1, 3, [[1.0, 1.0, 1.0, 1.0, 1.0, 1.0]]),
        ],
    }


def save_mat(path: Path, objects: Sequence[MatObject], image_name: str | None = None) -> Path:
    """Write `Annotations_Part/*.mat`: class name, box of the object, its parts as (code, box or None for no pixel)."""
    rows = np.zeros((1, len(objects)), dtype=[(name, "O") for name in ("class", "class_ind", "mask", "parts")])
    for number, (class_name, box, own_parts) in enumerate(objects):
        parts: np.ndarray = np.zeros((0, 0))  # what the release holds where an object has no part
        if own_parts:
            parts = np.zeros((1, len(own_parts)), dtype=[("part_name", "O"), ("mask", "O")])
            for position, (code, part_box) in enumerate(own_parts):
                parts[0, position] = (code, box_mask(part_box).astype(np.uint8))
        rows[0, number] = (class_name, np.uint8(7), box_mask(box).astype(np.uint8), parts)
    anno = np.zeros((1, 1), dtype=[("imname", "O"), ("objects", "O")])
    anno[0, 0] = (path.stem if image_name is None else image_name, rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    savemat(path, {"anno": anno}, do_compression=True)
    return path
