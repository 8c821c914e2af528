"""Records in the published form, for tests: two good ones, their file, and changed copies."""

import copy
import json
from pathlib import Path
from typing import Any

from PIL import Image

from partonomy.masks import rle_to_json
from tests.partonomy.tiny_world import HEIGHT, WIDTH, draw_part

WHEEL = {"size": [HEIGHT, WIDTH], "polygon": [2, 2, 6, 2, 6, 5, 2, 5]}  # 4 x 3 = 12 pixels
RECORD: dict[str, Any] = {
    "image_path": "images/a.png",
    "image_label": "cars--wheel loader",
    "question": "What visible parts does the wheel loader in the image have?",
    "question_type": "identification_with_label",
    "answer_choices": [
        "The wheel loader in the image has the following visible parts: front wheel, and wheel.",
        "The wheel loader in the image has the following visible parts: bucket.",
    ],
    "answer_types": ["correct", "incorrect"],
    "answer_parts": [["wheel", "front wheel"], ["bucket"]],
    "segmentations": {
        "wheel": [{"segmentation": WHEEL}],
        "front wheel": [rle_to_json(draw_part(1)), rle_to_json(draw_part(4))],
        "bucket": [rle_to_json(draw_part(7))],
    },
    "object_question": None,
    "object_answer_choices": None,
    "object_answer_types": None,
    "object_answer_classes": None,
}
PART_WHOLE: dict[str, Any] = RECORD | {
    "question_type": "part_to_whole",
    "object_question": "What is the object in the image?",
    "object_answer_choices": ["It is a crane.", "It is a wheel loader."],
    "object_answer_types": ["incorrect", "correct"],
    "object_answer_classes": ["cars--crane", "cars--wheel loader"],
}


def write_records(folder: Path, *records: object) -> Path:
    (folder / "images").mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (WIDTH, HEIGHT)).save(folder / "images" / "a.png")
    path = folder / "core_qa_pairs.json"
    path.write_text(json.dumps(records), encoding="utf-8")
    return path


def change(**changes: object) -> dict[str, Any]:
    return copy.deepcopy(RECORD) | changes
