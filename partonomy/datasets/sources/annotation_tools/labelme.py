"""Reads labelme's files: one JSON file per image, with the image's path or the image itself inside.

Masks have the pixels that labelme draws (`regions.labelme_mask`). A rectangle is the mask of a part, but only the box
of an object. Shapes of one `group_id` belong to one instance.
"""

from collections.abc import Mapping
from pathlib import Path, PureWindowsPath
from typing import Any

from partonomy.datasets.sources.annotation_tools.regions import (
    FEW_POINTS,
    Point,
    Region,
    ignored,
    labelme_mask,
    paste,
    read_base64,
    read_png_mask,
    read_points,
)
from partonomy.datasets.sources.annotation_tools.shapes import (
    Collection,
    Naming,
    OpenedImage,
    list_files,
    show_progress,
)
from partonomy.datasets.sources.coco import read_integer
from partonomy.datasets.sources.records import CocoImage
from partonomy.files import RECORD_ERRORS, check_text, is_integer, open_atomically, read_json, shorten
from partonomy.masks import check_mask_size, encode_mask

WITHOUT_AREA = {"line": "a line", "linestrip": "a line strip", "point": "a point", "points": "points"}
FILLED = ("polygon", "rectangle", "oriented_rectangle", "circle")
EMBEDDED_HINT = "this file holds the image itself: leave out --images to use the images inside the files"


def read_labelme(collection: Collection) -> None:
    """Read a file, or all *.json of a folder, into the collection.

    Raises:
        FileNotFoundError: there is no such file; or an image is missing and bad records are not collected.
        ValueError: a file or record is broken and bad records are not collected.
    """
    for path in show_progress(list_files(collection.config.annotations, "*.json")):
        try:
            content = read_json(path)
            if not isinstance(content.get("shapes"), list) or "imagePath" not in content:
                raise ValueError(
                    f"{path}: not a file of labelme, which has 'shapes' and 'imagePath'; move it to another folder"
                )
        except RECORD_ERRORS as error:
            collection.leave_out_record(str(path), error)
            continue
        _read_file(path, content, collection)


def _read_file(path: Path, content: Mapping[str, Any], collection: Collection) -> None:
    def size() -> tuple[int, int] | None:
        if content.get("imageHeight") is None or content.get("imageWidth") is None:
            return None
        height, width = read_integer(content, "imageHeight"), read_integer(content, "imageWidth")
        check_mask_size(height, width)
        return height, width

    image = collection.open_image(str(path), lambda: _find_image(path, content, collection), size)
    for number, record in enumerate(content["shapes"]):
        _add_shape(f"{path}, shape {number}", record, image, collection)


def _add_shape(where: str, record: Any, image: OpenedImage, collection: Collection) -> None:
    collection.add_shape(where, image, lambda: _name(record), lambda opened: _draw(record, opened))


def _find_image(path: Path, content: Mapping[str, Any], collection: Collection) -> str:
    config = collection.config
    name = check_text(content["imagePath"], "'imagePath'")
    if config.is_embedded:
        return _write_image(path, content, collection)
    in_place = (path.parent / name.replace("\\", "/")).resolve()
    root = config.images.resolve()
    names = [name]
    if in_place.is_relative_to(root):
        names.insert(0, in_place.relative_to(root).as_posix())
    try:
        return collection.find_image(*names)
    except FileNotFoundError as error:
        if content.get("imageData") is None:
            raise
        raise FileNotFoundError(f"{error} ({EMBEDDED_HINT})") from error


def _write_image(path: Path, content: Mapping[str, Any], collection: Collection) -> str:
    """Write the image inside a file to the image folder, under the path of the file."""
    config = collection.config
    if content.get("imageData") is None:
        raise ValueError("the file has no 'imageData', so pass the folder of the photographs as --images")
    image = read_base64(content["imageData"], "'imageData'")
    root = config.annotations if config.annotations.is_dir() else config.annotations.parent
    suffix = PureWindowsPath(content["imagePath"]).suffix or ".png"
    target = path.relative_to(root).with_suffix(suffix)
    (config.images / target).parent.mkdir(parents=True, exist_ok=True)
    with open_atomically(config.images / target) as file:
        file.write(image)
    return target.as_posix()


def _name(record: Mapping[str, Any]) -> Naming:
    group = record.get("group_id")
    if group is not None and not is_integer(group) and not isinstance(group, str):
        raise ValueError(f"'group_id' must be an integer, got {shorten(group)}")
    return Naming(check_text(record["label"], "'label'"), group=None if group in (None, "") else str(group))


def _draw(record: Mapping[str, Any], image: CocoImage) -> Region:
    kind = "polygon" if record.get("shape_type") is None else check_text(record["shape_type"], "'shape_type'")
    points = read_points(record["points"], "'points'")
    height, width = image.height, image.width
    if kind in WITHOUT_AREA:
        return ignored(WITHOUT_AREA[kind], points, height, width)
    if kind == "mask":
        return _read_mask(record, points, height, width)
    if kind not in FILLED:
        return ignored(f"a shape of the unknown type {kind!r}", points, height, width)
    if kind == "polygon" and len(points) < 3:
        return ignored(FEW_POINTS, points, height, width)
    return Region(
        encode_mask(labelme_mask(kind, points, height, width)), is_box=kind in ("rectangle", "oriented_rectangle")
    )


def _read_mask(record: Mapping[str, Any], points: list[Point], height: int, width: int) -> Region:
    if len(points) != 2:
        raise ValueError(f"a mask has 2 points, the corners of its box, got {len(points)}")
    (left, top), (right, bottom) = ((int(x), int(y)) for x, y in points)
    crop = read_png_mask(read_base64(record["mask"], "'mask'"), height * width, "'mask'")
    if crop.shape != (bottom - top + 1, right - left + 1):
        raise ValueError(
            f"the mask is {crop.shape[0]} x {crop.shape[1]} (height x width), its box from ({left}, {top}) to "
            f"({right}, {bottom}) is {bottom - top + 1} x {right - left + 1}; draw it again"
        )
    return paste(crop, left, top, height, width)
