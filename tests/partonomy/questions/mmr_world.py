"""An image of 20 x 40 pixels for MMR-like questions: two cars (front wheel and door; rear wheel) and a dog (ear, tail).

The right car comes first in the file. Every thing is a rectangle; the table of functions knows all but the door.
"""

from pathlib import Path

import numpy as np
from PIL import Image

from partonomy.masks import encode_mask
from partonomy.questions.mmr.templates import FunctionTable, load_functions
from partonomy.structures import RLE, AnnotatedImage, ObjectInstance, Part, PartDataset

HEIGHT, WIDTH = 20, 40
FUNCTIONS = """
parts:
  roll over the ground: front wheel, rear wheel
  listen to a sound: ear
  show joy: dog:tail
  fly straight: tail
objects:
  travel on a road: car
  guard a house: dog
"""


def box(left: int, top: int, width: int, height: int) -> RLE:
    mask = np.zeros((HEIGHT, WIDTH), dtype=bool)
    mask[top : top + height, left : left + width] = True
    return encode_mask(mask)


def make_image(image_id: int = 7) -> AnnotatedImage:
    right = ObjectInstance(1, "car", "thing", (Part("rear wheel", box(30, 8, 3, 3)),), box(28, 4, 8, 8))
    left_parts = (Part("front wheel", box(2, 8, 3, 3)), Part("door", box(5, 5, 2, 3)))
    left = ObjectInstance(2, "car", "thing", left_parts, box(1, 4, 8, 8))
    dog = ObjectInstance(
        3, "dog", "thing", (Part("ear", box(14, 2, 2, 2)), Part("tail", box(22, 5, 3, 1))), box(13, 2, 12, 9)
    )
    return AnnotatedImage(image_id, f"{image_id}.png", HEIGHT, WIDTH, (right, left, dog))


def make_dataset(folder: Path, num_images: int = 4) -> PartDataset:
    (folder / "images").mkdir(parents=True)
    images = tuple(make_image(number) for number in range(1, num_images + 1))
    for image in images:
        Image.new("RGB", (WIDTH, HEIGHT), (image.image_id, 90, 30)).save(folder / "images" / image.file_name)
    return PartDataset("street", folder / "images", images)


def write_functions(folder: Path, text: str = FUNCTIONS) -> Path:
    path = folder / "functions.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def make_table(folder: Path) -> FunctionTable:
    return load_functions(write_functions(folder))
