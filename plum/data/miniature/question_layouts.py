"""Short-answer benchmarks in their published formats: TextVQA with OCR tokens, GQA, POPE."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from partonomy.benchmarks.pope import CATEGORIES
from partonomy.benchmarks.vqa import NUM_HUMAN_ANSWERS
from plum.data.miniature.pictures import Picture, save_image, write_json

WORDS = ("ACME", "NOVA", "TAXI", "POLICE", "OPEN", "BRIO")
TEXT_PLACE = (2, 2)
FIRST_VAL_NUMBER = 500_000
NUM_SLIPS = 2
"""Number of the ten people who do not write exactly the word."""


def write_textvqa(root: Path, pictures: Sequence[Picture]) -> None:
    """Write `TextVQA_0.5.1_val.json`, Rosetta's tokens and `train_images`; every picture shows a word."""
    folder = root / "textvqa"
    records, tokens = [], []
    for picture in pictures:
        word, image_id = WORDS[picture.number % len(WORDS)], f"{picture.number:016x}"
        image = write_word(picture.image, word)
        save_image(folder / "train_images" / f"{image_id}.jpg", image)
        height, width = picture.mask.shape
        question = f"what is written beside the {picture.label}?"
        slips = [f"the {word.lower()}"] * NUM_SLIPS
        records.append(
            {
                "question": question,
                "image_id": image_id,
                "image_classes": [picture.label],
                "image_width": width,
                "image_height": height,
                "answers": [word.lower()] * (NUM_HUMAN_ANSWERS - NUM_SLIPS) + slips,
                "question_tokens": question.rstrip("?").split(),
                "question_id": 34602 + picture.number,
                "set_name": "val",
            }
        )
        # OCR misses the word of every third picture
        read = [word] if picture.number % 3 else []
        boxes = [{"word": one, "bounding_box": {"top_left_x": 0.02, "top_left_y": 0.02}} for one in read]
        tokens.append({"image_id": image_id, "ocr_tokens": read, "ocr_info": boxes})
    header = {"dataset_type": "val", "dataset_name": "textvqa", "dataset_version": "0.5.1"}
    write_json(folder / "TextVQA_0.5.1_val.json", {**header, "data": records})
    write_json(folder / "TextVQA_Rosetta_OCR_v0.2_val.json", {**header, "dataset_version": "0.2", "data": tokens})


def write_gqa(root: Path, pictures: Sequence[Picture]) -> None:
    """Write balanced questions of testdev and (for the compatible protocol) val: one open and one binary per image."""
    folder = root / "gqa"
    halves = {"testdev": pictures[::2], "val": pictures[1::2]}
    for split, members in halves.items():
        questions: dict[str, dict[str, Any]] = {}
        for picture in members:
            image_id = f"n{picture.number}"
            save_image(folder / "images" / f"{image_id}.jpg", picture.image)
            label, colour = picture.label, picture.colour
            first = 2 * picture.number
            other = pictures[(picture.number + 1) % len(pictures)].label
            is_there = "yes" if other == label else "no"
            article = "There is" if other == label else "There is no"
            questions[f"{201640614 + first}"] = _gqa_record(
                image_id, f"What color is the {label}?", colour, f"The {label} is {colour}.", "query"
            )
            questions[f"{201640615 + first}"] = _gqa_record(
                image_id, f"Is there a {other} in the picture?", is_there, f"{article} {other} in the picture.", "exist"
            )
        write_json(folder / f"{split}_balanced_questions.json", questions)


def write_pope(root: Path, pictures: Sequence[Picture]) -> None:
    """Write three JSON-lines files about photographs of val2014, with questions about present and absent objects."""
    folder = root / "pope"
    for picture in pictures:
        save_image(folder / "val2014" / _val2014_name(picture), picture.image)
    for step, category in enumerate(CATEGORIES, start=1):
        lines: list[dict[str, Any]] = []
        for position, picture in enumerate(pictures):
            absent = _absent_label(pictures, position, step)
            for label, answer in ((picture.label, "yes"), (absent, "no")):
                text = f"Is there a {label} in the image?"
                lines.append(
                    {"question_id": len(lines) + 1, "image": _val2014_name(picture), "text": text, "label": answer}
                )
        write_json_lines(folder / "coco" / f"coco_pope_{category}.json", lines)


def write_word(image: np.ndarray, word: str) -> np.ndarray:
    """Return the picture with a word in its upper left corner, black on white."""
    canvas = Image.fromarray(image)
    drawing = ImageDraw.Draw(canvas)
    font = ImageFont.load_default()
    drawing.rectangle(drawing.textbbox(TEXT_PLACE, word, font=font), fill="white")
    drawing.text(TEXT_PLACE, word, fill="black", font=font)
    return np.asarray(canvas)


def write_json_lines(path: Path, records: Sequence[dict[str, Any]]) -> None:
    """Write one record per line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")


def _gqa_record(image_id: str, question: str, answer: str, full_answer: str, structural: str) -> dict[str, Any]:
    return {
        "imageId": image_id,
        "question": question,
        "answer": answer,
        "fullAnswer": full_answer,
        "isBalanced": True,
        "types": {"structural": structural, "semantic": "attr" if structural == "query" else "obj", "detailed": ""},
    }


def _val2014_name(picture: Picture) -> str:
    """Return a file name whose number no training photograph has: COCO's val2014 and train2014 share none."""
    return f"COCO_val2014_{FIRST_VAL_NUMBER + picture.number:012d}.jpg"


def _absent_label(pictures: Sequence[Picture], position: int, step: int) -> str:
    """Return the label of another picture that this one does not show."""
    others = [picture.label for picture in pictures if picture.label != pictures[position].label]
    return others[(position + step) % len(others)]
