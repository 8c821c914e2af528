"""A tiny annotated world for tests: 16 x 20 pixel images, one rectangle per part."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from partonomy.masks import encode_mask
from partonomy.structures import RLE, AnnotatedImage, ObjectInstance, Part, PartDataset

HEIGHT, WIDTH = 16, 20

VEHICLES = {
    "airplane": ("cockpit", "fuselage", "tail fin", "wing"),
    "biplane": ("fuselage", "lower wing", "propeller", "tail fin", "wing"),
    "seaplane": ("float", "fuselage", "propeller", "wing"),
    "glider": ("cockpit", "fuselage", "wing"),
    "drone": ("battery", "propeller", "rotor arm"),
    "jet": ("cockpit", "fuselage", "jet engine", "wing"),
}


def draw_part(number: int, offset: int = 0) -> RLE:
    """A two-pixel-wide column, another for every number."""
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[2 + offset : 12, (2 * number) % WIDTH : (2 * number) % WIDTH + 2] = True
    return encode_mask(mask)


def make_instance(
    number: int,
    label: str,
    parts: Sequence[str],
    category: str = "aircraft",
    box: tuple[int, int, int, int] | None = None,
) -> ObjectInstance:
    """An instance with one drawn mask per part and ids that are not yet unique."""
    drawn = tuple(Part(part, draw_part(position)) for position, part in enumerate(parts))
    return ObjectInstance(number, label, category, drawn, box=box)


def make_image(image_id: int, *instances: ObjectInstance) -> AnnotatedImage:
    """An image record whose file is `IMAGE_ID.png`."""
    return AnnotatedImage(image_id, f"{image_id}.png", HEIGHT, WIDTH, instances)


def make_dataset(folder: Path, images: Sequence[AnnotatedImage], name: str = "tiny") -> PartDataset:
    """A data set whose image files exist in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    for image in images:
        Image.new("RGB", (image.width, image.height), (90, 120, 30)).save(folder / image.file_name)
    return PartDataset(name, folder, tuple(images))


def make_vehicles(folder: Path, num_images: int = 24) -> PartDataset:
    """Images of six aircraft in turn, each with all of its parts or all but one."""
    images = []
    for number in range(num_images):
        labels = sorted(VEHICLES)
        label = labels[number % len(labels)]
        parts = list(VEHICLES[label])
        if number >= len(labels):
            parts.pop(number // len(labels) % len(parts))
        images.append(make_image(number + 1, make_instance(number, label, parts)))
    return make_dataset(folder, images)
