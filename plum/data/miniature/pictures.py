"""Synthetic pictures with exact masks, and writers of single files."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from partonomy.datasets.synthetic.dataset import SyntheticConfig, draw_image

FIRST_COCO_NUMBER = 100_000
SIDE_MARGIN = 16  # pixels added on the right, so that height and width differ


@dataclass(frozen=True)
class Picture:
    """A drawn photograph, uint8 RGB (H, W, 3), the bool mask (H, W) of its object, and those of its parts by name."""

    number: int
    image: np.ndarray
    label: str
    colour: str
    mask: np.ndarray
    parts: Mapping[str, np.ndarray]

    @property
    def coco_name(self) -> str:
        """File name in COCO's 2017 release."""
        return f"{FIRST_COCO_NUMBER + self.number:012d}.jpg"


def draw_pictures(count: int, size: int, seed: int) -> list[Picture]:
    """Draw pictures; each block of eighteen shows every class of the embedded data set once."""
    config = SyntheticConfig(num_images=count, split="train", seed=seed, image_size=size)
    pictures = []
    for number in range(count):
        drawn = draw_image(config, number)
        margin = ((0, 0), (0, SIDE_MARGIN))
        pictures.append(
            Picture(
                number,
                np.pad(drawn.image, (*margin, (0, 0)), mode="edge"),
                drawn.label,
                drawn.colour,
                np.pad(drawn.object_mask, margin),
                {name: np.pad(mask, margin) for name, mask in drawn.parts.items()},
            )
        )
    return pictures


def rings(mask: np.ndarray) -> list[list[list[int]]]:
    """Return the outlines of a mask as lists of [x, y], each with at least three points."""
    found, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    return [ring[:, 0].tolist() for ring in found if len(ring) >= 3]


def polygons(mask: np.ndarray) -> list[list[float]]:
    """Return a mask's outlines as COCO's polygons (flat lists)."""
    return [[float(value) for point in ring for value in point] for ring in rings(mask)]


def save_image(path: Path, image: np.ndarray) -> None:
    """Write a JPEG, or a PNG if the path ends so."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".png":
        Image.fromarray(image).save(path)
    else:
        Image.fromarray(image).save(path, format="JPEG", quality=92)


def save_map(path: Path, classes: np.ndarray, has_palette: bool = False) -> None:
    """Write class ids as a PNG, greyscale or with a palette."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(classes)
    if has_palette:
        image.putpalette([value for index in range(256) for value in (index, 255 - index, index * 7 % 256)])
    image.save(path)


def write_json(path: Path, content: object) -> None:
    """Write JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")
