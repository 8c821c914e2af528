"""A drawn world of rectangles small enough to check by hand: six images of 24 x 32 pixels in the project's own form.

Even images show a biplane (front wheel, propeller, wheel; images 0 and 4 lack the propeller). Odd images show two cars
without object masks: one with a door and a wheel, one with a wheel.
"""

from pathlib import Path

import numpy as np
from PIL import Image

from partonomy.datasets.store import DatasetOrigin, save_dataset, write_questions
from partonomy.masks import decode_mask, encode_mask
from partonomy.structures import (
    AnnotatedImage,
    CharSpan,
    Choice,
    ObjectChoice,
    ObjectInstance,
    ObjectQuestion,
    Part,
    PartDataset,
    Question,
    QuestionType,
)

HEIGHT, WIDTH = 24, 32
VOCABULARY = ("biplane:front wheel", "biplane:propeller", "biplane:wheel", "car:door", "car:wheel")


def box_mask(top: int, left: int, height: int, width: int) -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), dtype=bool)
    mask[top : top + height, left : left + width] = True
    return mask


def _part(label: str, top: int, left: int, height: int, width: int) -> Part:
    return Part(label, encode_mask(box_mask(top, left, height, width)))


def _biplane(number: int, has_propeller: bool) -> ObjectInstance:
    parts = (_part("wheel", 16, 4, 4, 4), _part("front wheel", 16, 20, 4, 4))
    propeller = (_part("propeller", 4, 24, 8, 2),) if has_propeller else ()
    return ObjectInstance(number, "biplane", "airplanes", (*parts, *propeller), encode_mask(box_mask(4, 2, 16, 26)))


def _cars(number: int) -> tuple[ObjectInstance, ...]:
    first = ObjectInstance(number, "car", "vehicles", (_part("wheel", 10, 2, 4, 4), _part("door", 4, 2, 6, 6)))
    return first, ObjectInstance(number + 1, "car", "vehicles", (_part("wheel", 10, 20, 4, 4),))


def make_dataset(folder: Path) -> PartDataset:
    """Write the images and return their annotations."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    images = []
    for number in range(6):
        objects = _cars(10 * number) if number % 2 else (_biplane(10 * number, number == 2),)
        pixels = np.full((HEIGHT, WIDTH, 3), 40 * number, dtype=np.uint8)
        for item in objects:
            for shade, part in enumerate(item.parts):
                pixels[_decode(part)] = (200, 60 * shade, 90)
        Image.fromarray(pixels).save(folder / "images" / f"{number:03d}.png")
        images.append(AnnotatedImage(number, f"{number:03d}.png", HEIGHT, WIDTH, objects))
    return PartDataset("world", folder / "images", tuple(images))


def write_world(folder: Path) -> PartDataset:
    """Write annotations and three questions per image with a biplane."""
    dataset = save_dataset(make_dataset(folder), folder, DatasetOrigin("test", 0))
    questions = [question for image in dataset.images[::2] for question in _ask(dataset, image)]
    write_questions(questions, folder)
    return dataset


def make_choice(parts: tuple[str, ...], is_correct: bool) -> Choice:
    text = "The biplane has: "
    spans = []
    for part in parts:
        spans.append(CharSpan(len(text), len(text) + len(part)))
        text += part + ", "
    return Choice(text[:-2] + ".", parts, tuple(spans), is_correct)


def _ask(dataset: PartDataset, image: AnnotatedImage) -> tuple[Question, ...]:
    item = image.objects[0]
    parts = tuple(sorted(item.parts, key=lambda part: part.label))
    choices = (make_choice(("door",), False), make_choice(tuple(part.label for part in parts), True))
    whole = ObjectQuestion(
        "What is the object in the image?",
        (ObjectChoice("It is a biplane.", "biplane", True), ObjectChoice("It is a car.", "car", False)),
    )

    def make(question_type: QuestionType, object_question: ObjectQuestion | None) -> Question:
        return Question(
            question_id=f"{image.image_id}_{question_type}",
            question_type=question_type,
            image_id=image.image_id,
            instance_id=item.instance_id,
            image_path=dataset.image_root / image.file_name,
            height=image.height,
            width=image.width,
            object_label=item.label,
            text="What visible parts does the biplane have?",
            choices=choices,
            masks=parts,
            object_question=object_question,
        )

    return (
        make(QuestionType.IDENTIFICATION_WITH_LABEL, None),
        make(QuestionType.PART_TO_WHOLE, whole),
        make(QuestionType.WHOLE_TO_PART, whole),
    )


def _decode(part: Part) -> np.ndarray:
    return decode_mask(part.mask)
