"""Tiny TextVQA, GQA and POPE folders in the published formats, with drawn images."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

TEN = ("dakota",) * 3 + ("dakota digital",) * 2 + ("nokia",) * 4 + ("clos culombu",)


def draw(path: Path, seed: int, size: tuple[int, int] = (24, 18)) -> None:
    """A picture of noise, size (width, height)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    array = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(array).save(path)


def textvqa_record(question_id: int, image_id: str, answers: Sequence[str] = TEN) -> dict[str, Any]:
    return {
        "question": f"what is the brand of camera {question_id}?",
        "image_id": image_id,
        "image_width": 1024,
        "image_height": 664,
        "answers": list(answers),
        "question_tokens": ["what", "is"],
        "question_id": question_id,
        "set_name": "val",
    }


def write_textvqa(root: Path, records: Sequence[dict[str, Any]] | None = None) -> None:
    """Three questions about two images, and what Rosetta read in these."""
    if records is None:
        records = [textvqa_record(34602, "aa"), textvqa_record(34603, "bb"), textvqa_record(34604, "bb")]
    header = {"dataset_type": "val", "dataset_name": "textvqa", "dataset_version": "0.5.1"}
    root.mkdir(parents=True, exist_ok=True)
    (root / "TextVQA_0.5.1_val.json").write_text(json.dumps({**header, "data": records}))
    ocr = [{"image_id": "aa", "ocr_tokens": ["DAKOTA", "Single-Use"], "ocr_info": []}]
    ocr.append({"image_id": "bb", "ocr_tokens": [], "ocr_info": []})
    (root / "TextVQA_Rosetta_OCR_v0.2_val.json").write_text(json.dumps({**header, "data": ocr}))
    for number, name in enumerate(("aa", "bb")):
        draw(root / "train_images" / f"{name}.jpg", number)


def gqa_record(image_id: str, question: str, answer: str, full_answer: str, structural: str) -> dict[str, Any]:
    return {
        "imageId": image_id,
        "question": question,
        "answer": answer,
        "fullAnswer": full_answer,
        "types": {"detailed": "weather", "semantic": "global", "structural": structural},
        "isBalanced": True,
    }


def write_gqa(root: Path, split: str = "testdev") -> None:
    """Two open questions and a binary one about two images."""
    questions = {
        "201640614": gqa_record("n1", "Who is wearing the dress?", "woman", "The woman is wearing a dress.", "query"),
        "201640615": gqa_record("n1", "Is the dress red?", "yes", "Yes, the dress is red.", "verify"),
        "201640616": gqa_record("n2", "What is the animal?", "cat", "The animal is a cat.", "query"),
    }
    (root / "questions").mkdir(parents=True, exist_ok=True)
    (root / "questions" / f"{split}_balanced_questions.json").write_text(json.dumps(questions))
    for number, name in enumerate(("n1", "n2")):
        draw(root / "images" / f"{name}.jpg", number)


def write_pope(root: Path) -> None:
    """Per category two questions, yes and no, about two images that all categories share."""
    (root / "coco").mkdir(parents=True, exist_ok=True)
    for category, thing in (("random", "cup"), ("popular", "person"), ("adversarial", "knife")):
        lines = [
            {"question_id": number, "image": image, "text": f"Is there a {thing} in the image?", "label": label}
            for number, image, label in ((1, "COCO_1.jpg", "yes"), (2, "COCO_2.jpg", "no"))
        ]
        text = "\n".join(json.dumps(line) for line in lines)
        (root / "coco" / f"coco_pope_{category}.json").write_text(text + "\n")
    for number in (1, 2):
        draw(root / "val2014" / f"COCO_{number}.jpg", number)
