"""A small question file with photographs (noise), every question type, and exact masks; and quick fits."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from partonomy.masks import encode_mask, rle_to_json
from partonomy.structures import QuestionType
from tests.partonomy.quick_fits import quick_fits

HEIGHT, WIDTH = 24, 32
PARTS = ("wheel", "wing", "tail fin", "door")
WRONG = (("wheel",), ("wing", "rudder"), ("door", "tail fin", "wheel"), ("propeller",))


def answer(parts: Sequence[str]) -> str:
    """An answer text that names the parts."""
    return "It has " + ", ".join(parts) + "."


def make_record(image: str, index: int, question_type: QuestionType) -> dict[str, Any]:
    """One published record; the correct answer stands at position index % 5 and names 1 to 4 parts."""
    correct = sorted(PARTS[: 1 + index % 4])
    wrong = [list(parts) for parts in WRONG if set(parts) != set(correct)]
    wrong = [*wrong, ["engine"], ["hull", "mast"]][:4]
    position = index % 5
    choices = [*wrong[:position], correct, *wrong[position:]]
    record: dict[str, Any] = {
        "image_path": image,
        "image_label": "biplane" if index % 2 else "seaplane",
        "question": f"What visible parts does the object have ({question_type})?",
        "question_type": question_type.value,
        "answer_choices": [answer(sorted(parts)) for parts in choices],
        "answer_types": ["correct" if slot == position else "incorrect" for slot in range(5)],
        "answer_parts": [sorted(parts) for parts in choices],
        "segmentations": {},
        "object_question": None,
        "object_answer_choices": None,
        "object_answer_types": None,
        "object_answer_classes": None,
    }
    for number, part in enumerate(PARTS):
        mask = np.zeros((HEIGHT, WIDTH), dtype=bool)
        mask[2 + 5 * number : 6 + 5 * number, 3 + index : 3 + index + 4 + number] = True
        record["segmentations"][part] = [rle_to_json(encode_mask(mask))]
    if question_type.is_part_whole:
        labels = ["biplane", "seaplane", "jet", "glider", "airship"]
        right = labels.index(record["image_label"])
        record["object_question"] = "What is the object in the image?"
        record["object_answer_choices"] = [f"It is a {label}." for label in labels]
        record["object_answer_types"] = ["correct" if slot == right else "incorrect" for slot in range(5)]
        record["object_answer_classes"] = labels
    return record


def write_questions(folder: Path, types: Sequence[QuestionType], num_images: int = 4) -> Path:
    """Write images and a published record file."""
    generator = np.random.default_rng(0)
    records = []
    for index in range(num_images):
        name = f"image{index}.png"
        pixels = generator.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / name)
        records += [make_record(name, index, question_type) for question_type in types]
    path = folder / "test_qa_pairs.json"
    path.write_text(json.dumps(records), encoding="utf-8")
    return path


@pytest.fixture
def question_file(tmp_path: Path) -> Path:
    """Four images with one question of every type each."""
    return write_questions(tmp_path, tuple(QuestionType))


@pytest.fixture(autouse=True, scope="module")
def fits(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fits to few simulated questions, in all modules but those marked `shipped_fits`, which ask how good they are."""
    if request.node.get_closest_marker("shipped_fits") is not None:
        yield
        return
    with quick_fits():
        yield
