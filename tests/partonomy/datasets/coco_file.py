"""A COCO file under construction, for the tests of its reader."""

import json
from pathlib import Path
from typing import Any

from PIL import Image

from partonomy.datasets.sources.coco import read_coco
from partonomy.datasets.sources.records import CocoConfig
from partonomy.structures import ObjectInstance

HEIGHT, WIDTH = 20, 30


def box_polygon(x: int, y: int, width: int, height: int) -> list[list[int]]:
    return [[x, y, x + width, y, x + width, y + height, x, y + height]]


class CocoFile:
    """A COCO file under construction."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.images: list[dict[str, Any]] = []
        self.categories: list[dict[str, Any]] = []
        self.annotations: list[dict[str, Any]] = []

    def add_image(self, image_id: int, **extra: object) -> None:
        Image.new("RGB", (WIDTH, HEIGHT)).save(self.folder / f"{image_id}.png")
        record = {"id": image_id, "file_name": f"{image_id}.png", "height": HEIGHT, "width": WIDTH}
        self.images.append(record | extra)

    def add(self, category: str, box: tuple[int, int, int, int], image_id: int = 0, **extra: object) -> int:
        """Annotate a rectangle; returns the annotation's id."""
        number = len(self.annotations) + 1
        known = {record["name"]: record["id"] for record in self.categories}
        if category not in known:
            known[category] = len(self.categories)
            self.categories.append({"id": known[category], "name": category})
        record = {"id": number, "image_id": image_id, "category_id": known[category]}
        self.annotations.append(record | {"segmentation": box_polygon(*box)} | extra)
        return number

    def config(self, **settings: Any) -> CocoConfig:
        path = self.folder / "instances.json"
        content = {"images": self.images, "categories": self.categories, "annotations": self.annotations}
        path.write_text(json.dumps(content))
        return CocoConfig(path, self.folder, **settings)

    def objects(self, **settings: Any) -> tuple[ObjectInstance, ...]:
        """The objects of the first image."""
        return read_coco(self.config(**settings)).dataset.images[0].objects
