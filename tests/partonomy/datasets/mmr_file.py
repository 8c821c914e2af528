"""A file in MMR's published form, small."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from partonomy.masks import encode_mask, rle_to_json
from partonomy.structures import RLE

HEIGHT, WIDTH = 12, 16


def box(left: int, top: int, width: int, height: int) -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), dtype=bool)
    mask[top : top + height, left : left + width] = True
    return mask


def rle(left: int, top: int, width: int, height: int) -> RLE:
    return encode_mask(box(left, top, width, height))


def annotation(name: str, mask: RLE, **more: Any) -> dict[str, Any]:
    return {"category_name": name, "segmentation": rle_to_json(mask), "bbox": [0, 0, 1, 1], "category_id": 3} | more


def mmr_record(**changes: Any) -> dict[str, Any]:
    """A knife and its handle, asked for together and the handle alone."""
    knife = annotation("knife", rle(2, 2, 10, 4))
    handle = annotation("knife:handle", rle(2, 2, 4, 4))
    record = {
        "file_name": "train2017/000000000009.jpg",
        "height": HEIGHT,
        "width": WIDTH,
        "image_id": 9,
        "not_exhaustive_category_ids": [],
        "neg_category_ids": [7],
        "coco_url": "http://images.cocodataset.org/train2017/000000000009.jpg",
        "questions": ["What cuts bread, and where would you hold it?", "Where is a grip?"],
        "annotations": [knife, handle],
        "answers": [[knife, handle], [handle]],
        "text_answers": [
            "The knife {seg} cuts bread; hold it by the knife's handle {seg}.",
            "There is a handle {seg} .",
        ],
        "raw_answers": ["The knife_1 [2, 2, 12, 6] ...", "..."],
    }
    return record | changes


def write_records(folder: Path, *records: Any) -> Path:
    path = folder / "MMR" / "MMR_val.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(records), encoding="utf-8")
    return path
