"""Small part data sets of drawn rectangles, for the tests of pairs."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from partonomy.datasets.store import DatasetOrigin, save_dataset
from partonomy.masks import encode_mask
from partonomy.structures import RLE, AnnotatedImage, ObjectInstance, Part, PartDataset

PARTS_OF = {
    "chair": ("arm", "back", "leg", "seat"),
    "stool": ("leg", "seat"),
    "sofa": ("arm", "back", "pillow"),
    "bus": ("door", "wheel"),
    "oven": ("door", "knob"),
}
CATEGORY_OF = {"chair": "seat", "stool": "seat", "sofa": "seat", "bus": "vehicle", "oven": "appliance"}
HEIGHT, WIDTH = 40, 60


def rectangle(top: int, left: int, height: int, width: int, size: tuple[int, int] = (HEIGHT, WIDTH)) -> RLE:
    mask = np.zeros(size, dtype=bool)
    mask[top : top + height, left : left + width] = True
    return encode_mask(mask)


def make_object(label: str, parts: Sequence[str], number: int, slot: int, size: tuple[int, int]) -> ObjectInstance:
    """An object in the third `slot` of the image, with a column per part."""
    left = slot * (size[1] // 3)
    masks = [rectangle(2 + place, left + 4 * place, 12, 4, size) for place in range(len(parts))]
    outline = rectangle(1, left, 20, 4 * max(1, len(parts)), size)
    made = tuple(Part(name, mask) for name, mask in zip(parts, masks, strict=True))
    return ObjectInstance(number, label, CATEGORY_OF.get(label, label), made, outline)


def draw_dataset(name: str, num_images: int, folder: Path, seed: int = 0) -> PartDataset:
    """Images with one to three objects of random classes, each with a random part of its class's parts."""
    generator = np.random.default_rng(seed)
    images = []
    for number in range(num_images):
        size = (HEIGHT + 2 * (number % 3), WIDTH + 3 * (number % 2))
        labels = generator.choice(sorted(PARTS_OF), size=int(generator.integers(1, 4)), replace=bool(number % 2))
        objects = []
        for slot, label in enumerate(map(str, labels)):
            names = [part for part in PARTS_OF[label] if generator.random() < 0.7]
            objects.append(make_object(label, names, 10 * number + slot, slot, size))
        images.append(AnnotatedImage(number, f"{name}_{number:03d}.png", *size, tuple(objects)))
    return PartDataset(name, folder, tuple(images))


def store_dataset(dataset: PartDataset, folder: Path) -> Path:
    """Write a data set with its images; return its folder."""
    images = folder / "images"
    images.mkdir(parents=True)
    for number, image in enumerate(dataset.images):
        colour = (number * 40 % 255, 90, 160)
        Image.new("RGB", (image.width, image.height), colour).save(images / image.file_name)
    stored = PartDataset(dataset.name, images, dataset.images)
    save_dataset(stored, folder, DatasetOrigin("test"))
    return folder


def labels_of(image: AnnotatedImage) -> Mapping[str, frozenset[str]]:
    """Part labels of each object label of an image."""
    found: dict[str, frozenset[str]] = {}
    for one in image.objects:
        found[one.label] = found.get(one.label, frozenset()) | {part.label for part in one.parts}
    return found
