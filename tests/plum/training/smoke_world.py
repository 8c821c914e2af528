"""Eight drawn pictures that a tiny model can learn by heart in seconds: a wheel and a door, at different places."""

from pathlib import Path

import numpy as np
from PIL import Image

from partonomy.datasets.store import DatasetOrigin, save_dataset
from partonomy.masks import encode_mask
from partonomy.structures import AnnotatedImage, ObjectInstance, Part, PartDataset
from tests.plum.data.part_world import HEIGHT, WIDTH, box_mask


def write_pictures(folder: Path, count: int = 8) -> None:
    """Write a data set of annotations alone."""
    (folder / "images").mkdir(parents=True)
    images = []
    for number in range(count):
        boxes = {
            "wheel": box_mask(12, 2 + 3 * (number % 4), 10, 10),
            "door": box_mask(1, 18 - 4 * (number // 2 % 4), 9, 12),
        }
        pixels = np.full((HEIGHT, WIDTH, 3), 25 * number, dtype=np.uint8)
        pixels[boxes["wheel"]] = (230, 30, 20 * number)
        pixels[boxes["door"]] = (30, 20 * number, 230)
        Image.fromarray(pixels).save(folder / "images" / f"{number}.png")
        parts = tuple(Part(label, encode_mask(mask)) for label, mask in boxes.items())
        item = ObjectInstance(number, "car", "vehicles", parts, encode_mask(boxes["wheel"] | boxes["door"]))
        images.append(AnnotatedImage(number, f"{number}.png", HEIGHT, WIDTH, (item,)))
    dataset = PartDataset("pictures", folder / "images", tuple(images))
    save_dataset(dataset, folder, DatasetOrigin("test", 0))
