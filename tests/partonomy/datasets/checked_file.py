"""A COCO file without problems, and edits that give it one."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image

from partonomy.datasets.curation.check import CheckConfig, CheckReport, check_files
from partonomy.images import EXIF_ORIENTATION

WIDTH, HEIGHT = 100, 80
CONFIG = CheckConfig()
Content = dict[str, list[dict[str, Any]]]


def square(left: int, top: int, side: int) -> list[list[int]]:
    """A polygon that covers side x side pixels."""
    return [[left, top, left + side, top, left + side, top + side, left, top + side]]


def sound() -> Content:
    """Two photographs; in each a car of 50 x 50 pixels with a wheel of 10 x 10 and a door of 20 x 20 inside."""
    names = [("car", "OBJECT"), ("car:wheel", "PART"), ("car:door", "PART")]
    content: Content = {
        "images": [{"id": n, "file_name": f"{n}.png", "height": HEIGHT, "width": WIDTH} for n in (1, 2)],
        "categories": [{"id": n, "name": name, "supercategory": kind} for n, (name, kind) in enumerate(names)],
        "annotations": [],
    }
    for image in (1, 2):
        shapes = [square(10, 10, 50), square(15, 15, 10), square(30, 30, 20)]
        for category, polygon in enumerate(shapes):
            number = 10 * image + category
            record = {"id": number, "image_id": image, "category_id": category, "segmentation": polygon}
            content["annotations"].append(record | {"obj_ann_id": 10 * image})
    return content


def check(content: Content, photos: Path, config: CheckConfig = CONFIG) -> CheckReport:
    path = photos.parent / "instances.json"
    path.write_text(json.dumps(content))
    return check_files(path, photos, config)


def found(report: CheckReport) -> list[tuple[str, str]]:
    return [(finding.problem.title, finding.record) for finding in report.findings]


def remove_file(content: Content, photos: Path) -> None:
    (photos / "1.png").unlink()


def cut_file(content: Content, photos: Path) -> None:
    path = photos / "1.png"
    Image.effect_noise((WIDTH, HEIGHT), 60).save(path)  # noise: the file is long enough to be cut
    path.write_bytes(path.read_bytes()[:2000])


def write_no_image(content: Content, photos: Path) -> None:
    (photos / "1.png").write_text("not an image")


def turn_file(content: Content, photos: Path) -> None:
    Image.new("RGB", (HEIGHT, WIDTH)).save(photos / "1.png")


def copy_file(content: Content, photos: Path) -> None:
    shutil.copy(photos / "1.png", photos / "2.png")


def leave_folder(content: Content, photos: Path) -> None:
    content["images"][0]["file_name"] = "a/../../1.png"


def add_annotation(**changes: object) -> Callable[[Content, Path], None]:
    """Annotation 99: a wheel of image 1 like the sound ones but elsewhere, with changes; None removes a key."""
    record = {"id": 99, "image_id": 1, "category_id": 1, "obj_ann_id": 10, "segmentation": square(40, 12, 10)} | changes

    def edit(content: Content, photos: Path) -> None:
        content["annotations"].append({key: value for key, value in record.items() if value is not None})

    return edit


def add_category(name: str, kind: str | None = None, **fields: object) -> Callable[[Content, Path], None]:
    """A category 9 with one sound annotation, 99."""

    def edit(content: Content, photos: Path) -> None:
        content["categories"].append({"id": 9, "name": name, "supercategory": kind} | fields)
        add_annotation(category_id=9, segmentation=square(12, 40, 15))(content, photos)

    return edit


def edit_first(table: str, **changes: object) -> Callable[[Content, Path], None]:
    def edit(content: Content, photos: Path) -> None:
        content[table][0].update(changes)

    return edit


def repeat(table: str) -> Callable[[Content, Path], None]:
    def edit(content: Content, photos: Path) -> None:
        content[table].append(dict(content[table][0]))

    return edit


def add_unused_image(content: Content, photos: Path) -> None:
    Image.new("RGB", (WIDTH, HEIGHT)).save(photos / "3.png")
    content["images"].append({"id": 3, "file_name": "3.png", "height": HEIGHT, "width": WIDTH})


def add_unused_category(content: Content, photos: Path) -> None:
    content["categories"].append({"id": 9, "name": "car:roof", "supercategory": "PART"})


def turn_photograph(side: int) -> Callable[[Content, Path], None]:
    """Image 1 as a phone stores it, 100 wide and 80 high with a quarter turn; its car is drawn in the upright frame.

    The upright photograph is 80 wide and 100 high: a car of 80 x 80 below row 10 fits it alone.
    """

    def edit(content: Content, photos: Path) -> None:
        exif = Image.Exif()
        exif[EXIF_ORIENTATION] = 6
        Image.new("RGB", (WIDTH, HEIGHT), (9, 9, 9)).save(photos / "1.jpg", exif=exif)
        content["images"][0]["file_name"] = "1.jpg"
        content["annotations"][0]["segmentation"] = square(0, 10, side)

    return edit


def use_root_category(content: Content, photos: Path) -> None:
    content["categories"] = [
        {"id": 0, "name": "car", "supercategory": "none"},
        {"id": 1, "name": "wheel", "supercategory": "car"},
        {"id": 2, "name": "door", "supercategory": "car"},
    ]


def add_unlinked_class(content: Content, photos: Path) -> None:
    """A part of a class that has no object in the image, which shows another object."""
    content["categories"].append({"id": 9, "name": "bus:mirror", "supercategory": "PART"})
    add_annotation(category_id=9, obj_ann_id=None, segmentation=square(12, 40, 15))(content, photos)


def keep_objects(content: Content, photos: Path) -> None:
    content["categories"] = content["categories"][:1]
    content["annotations"] = [one for one in content["annotations"] if one["category_id"] == 0]


def drop_parts(content: Content, photos: Path) -> None:
    """Every part has iscrowd 0, its object iscrowd 1: a group, whose parts nobody can ask about."""
    for record in content["annotations"]:
        record["iscrowd"] = int(record["category_id"] == 0)
