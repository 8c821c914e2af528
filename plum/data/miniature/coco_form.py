"""Build a COCO-format file record by record."""

from dataclasses import dataclass
from typing import Any

from plum.data.miniature.pictures import Picture


@dataclass(frozen=True)
class Category:
    """A category of a COCO-format file."""

    name: str
    supercategory: str


class CocoForm:
    """Collects the records of a COCO-format file."""

    def __init__(self) -> None:
        self._categories: dict[Category, int] = {}
        self._images: list[dict[str, Any]] = []
        self._annotations: list[dict[str, Any]] = []

    def annotate(self, picture: Picture, category: Category, segmentation: object) -> dict[str, Any]:
        """Add an annotation and return its record."""
        record: dict[str, Any] = {
            "id": len(self._annotations) + 1,
            "image_id": picture.number,
            "category_id": self._categories.setdefault(category, len(self._categories) + 1),
            "segmentation": segmentation,
            "iscrowd": 0,
        }
        self._annotations.append(record)
        return record

    def add_image(self, picture: Picture, file_name: str) -> None:
        """Add an image."""
        height, width = picture.mask.shape
        self._images.append({"id": picture.number, "file_name": file_name, "height": height, "width": width})

    def content(self) -> dict[str, Any]:
        """Return the content of the file."""
        categories = [
            {"id": number, "name": one.name, "supercategory": one.supercategory}
            for one, number in self._categories.items()
        ]
        info = {"description": "drawn miniature"}
        return {
            "info": info,
            "images": self._images,
            "annotations": self._annotations,
            "categories": categories,
        }
