"""A dozen annotated photographs of a data set for its description: are the masks on the parts?"""

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from partonomy.files import reason_of
from partonomy.images import load_image
from partonomy.masks import decode_mask, rle_area
from partonomy.structures import AnnotatedImage, Part, PartDataset
from partonomy.visualize import Colour, colour_parts, encode_base64, part_colours, resize

NUM_SMALLEST = 3
"""Photographs with the smallest masks."""
NUM_CROWDED = 3
"""Photographs with the most part masks."""
NUM_PICTURES = 12
"""Photographs in all; the others are drawn at random."""
SIDE = 640
"""Longer side of a picture, pixels; larger photographs are scaled down."""


@dataclass(frozen=True)
class PartName:
    """A part label on a photograph, its colour, and its number of masks there."""

    label: str
    colour: Colour
    count: int


@dataclass(frozen=True)
class Photograph:
    """An annotated photograph; `data` is a JPEG in base64, empty if the file cannot be read for `problem`."""

    file_name: str
    why: str
    objects: str
    parts: tuple[PartName, ...]
    data: str
    problem: str = ""


def draw_photographs(dataset: PartDataset) -> tuple[Photograph, ...]:
    """Draw photographs of a data set with their masks: those with the smallest masks, the most crowded, others.

    Args:
        dataset: The data set; its image files may be missing.

    Returns:
        At most `NUM_PICTURES`, each image once.
    """
    return tuple(_draw(dataset, image, why) for image, why in choose_images(dataset.images))


def choose_images(images: Sequence[AnnotatedImage]) -> tuple[tuple[AnnotatedImage, str], ...]:
    """Choose the images to draw, and say why each was chosen.

    Args:
        images: All images; those without a part mask are left out.
    """
    annotated = [image for image in images if _parts(image)]
    steps: tuple[tuple[int, Callable[[AnnotatedImage], float | bytes], Callable[[AnnotatedImage], str]], ...] = (
        (
            NUM_SMALLEST,
            _smallest_share,
            lambda image: f"smallest mask: {100 * _smallest_share(image):.3g}% of the image",
        ),
        (NUM_SMALLEST + NUM_CROWDED, lambda image: -len(_parts(image)), lambda image: f"{len(_parts(image))} masks"),
        (NUM_PICTURES, _draw_key, lambda image: "random"),
    )
    chosen: dict[int, tuple[AnnotatedImage, str]] = {}
    for limit, key, why in steps:
        for image in sorted(annotated, key=key):
            if len(chosen) == limit:
                break
            if image.image_id not in chosen:
                chosen[image.image_id] = (image, why(image))
    return tuple(chosen.values())


def _parts(image: AnnotatedImage) -> list[Part]:
    return [part for one in image.objects for part in one.parts]


def _smallest_share(image: AnnotatedImage) -> float:
    return min(rle_area(part.mask) for part in _parts(image)) / (image.height * image.width)


def _draw_key(image: AnnotatedImage) -> bytes:
    """Return a key in whose order images are drawn at random, the same on every machine."""
    return hashlib.sha256(f"{image.image_id}:{image.file_name}".encode()).digest()


def _draw(dataset: PartDataset, image: AnnotatedImage, why: str) -> Photograph:
    parts = _parts(image)
    counts = Counter(part.label for part in parts)
    colours = dict(zip(counts, part_colours(len(counts)), strict=True))
    objects = Counter(one.label for one in image.objects if one.parts)
    named = ", ".join(label if count == 1 else f"{count} x {label}" for label, count in objects.most_common())
    names = tuple(PartName(label, colours[label], count) for label, count in counts.items())
    try:
        pixels = load_image(dataset.image_root / image.file_name, image.height, image.width)
    except (OSError, ValueError) as error:
        return Photograph(image.file_name, why, named, names, "", reason_of(error))
    masks = np.stack([decode_mask(part.mask) for part in parts])
    scale = min(1.0, SIDE / max(pixels.shape[:2]))
    if scale < 1:
        pixels, masks = resize(pixels, masks, scale)
    drawn = colour_parts(pixels, masks, [colours[part.label] for part in parts])
    return Photograph(image.file_name, why, named, names, encode_base64(drawn, "JPEG"))
