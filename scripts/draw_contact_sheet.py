"""Draw the README's picture of the embedded dataset: `python -m scripts.draw_contact_sheet docs/embedded_dataset.jpg`.

It shows one image of every class from the validation split of seed 0, and below it the same image with its part masks.
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from partonomy.datasets.synthetic.dataset import SyntheticConfig, class_names, draw_image
from partonomy.datasets.synthetic.scene import DrawnImage
from partonomy.visualize import colour_parts, part_colours

COLUMNS = 9
GAP = 6
TITLE_HEIGHT = 20
JPEG_QUALITY = 80


def draw_one_of_every_class() -> list[DrawnImage]:
    """Return the first images of the split, which show each class once, with siblings side by side."""
    num_classes = len(class_names())
    config = SyntheticConfig(num_images=num_classes, split="val", seed=0)
    drawn = [draw_image(config, index) for index in range(num_classes)]
    return sorted(drawn, key=lambda one: (one.category, one.label))


def draw_masks(drawn: DrawnImage) -> np.ndarray:
    """Return the image with its part masks in colours."""
    masks = np.stack(list(drawn.parts.values()))
    return colour_parts(drawn.image, masks, part_colours(len(masks)))


def draw_column(drawn: DrawnImage) -> np.ndarray:
    """Return class name, image and masks, one below the other, uint8 RGB."""
    title = Image.new("RGB", (drawn.image.shape[1], TITLE_HEIGHT), "white")
    ImageDraw.Draw(title).text((2, 1), drawn.label, fill=(30, 30, 30), font=ImageFont.load_default(15))
    return np.concatenate([np.asarray(title), drawn.image, draw_masks(drawn)])


def lay_out(columns: list[np.ndarray]) -> np.ndarray:
    """Lay out columns of one size on white, COLUMNS per row."""
    height, width = columns[0].shape[:2]
    num_rows = -(-len(columns) // COLUMNS)
    size = (num_rows * (height + GAP) - GAP, COLUMNS * (width + GAP) - GAP, 3)
    sheet = np.full(size, 255, dtype=np.uint8)
    for number, column in enumerate(columns):
        row, place = divmod(number, COLUMNS)
        top, left = row * (height + GAP), place * (width + GAP)
        sheet[top : top + height, left : left + width] = column
    return sheet


def main(path: Path) -> None:
    """Write the picture."""
    sheet = lay_out([draw_column(drawn) for drawn in draw_one_of_every_class()])
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(sheet).save(path, quality=JPEG_QUALITY)
    print(f"{path}: {sheet.shape[1]} x {sheet.shape[0]} pixels, {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "docs/embedded_dataset.jpg"))
