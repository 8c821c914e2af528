"""Reads Supervisely's JSON: a project folder with `DATASET/ann/NAME.jpg.json`, or a folder of such files.

Masks have the pixels that Supervisely's SDK draws. A rectangle is the mask of a part, but only the box of an object.
Figures with one binding key (`instance`), or one tag of that name, belong to one instance.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from partonomy.datasets.sources.annotation_tools.image_files import IMAGE_SUFFIXES
from partonomy.datasets.sources.annotation_tools.regions import (
    Region,
    ignored,
    inclusive_rectangle,
    inflate,
    paste,
    polygon_with_holes,
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
from partonomy.files import RECORD_ERRORS, check_text, is_integer, read_json, shorten
from partonomy.masks import check_mask_size

FOLDER = "ann"
PNG_MARK = b"\x89PNG"
WITHOUT_AREA = {"line": "a line", "polyline": "a line", "point": "a point", "graph": "key points", "cuboid": "a cuboid"}


def read_supervisely(collection: Collection) -> None:
    """Read the *.json of a project's folders `ann`, of another folder, or one file, into the collection.

    Raises:
        FileNotFoundError: there is no such file; or an image is missing and bad records are not collected.
        ValueError: a file or record is broken and bad records are not collected.
    """
    root = collection.config.annotations
    files = list_files(root, "*.json")
    in_place = [path for path in files if path.parent.name == FOLDER]
    for path in show_progress(in_place or files):
        try:
            content = read_json(path)
            if not isinstance(content.get("objects"), list) or not isinstance(content.get("size"), dict):
                raise ValueError(f"{path}: not an image's annotation of Supervisely, which has 'objects' and 'size'")
        except RECORD_ERRORS as error:
            collection.leave_out_record(str(path), error)
            continue
        _read_file(path, content, collection)


def _read_file(path: Path, content: Mapping[str, Any], collection: Collection) -> None:
    def size() -> tuple[int, int]:
        height, width = read_integer(content["size"], "height"), read_integer(content["size"], "width")
        check_mask_size(height, width)
        return height, width

    image = collection.open_image(str(path), lambda: collection.find_image(*_image_names(path, collection)), size)
    for number, record in enumerate(content["objects"]):
        identifier = record.get("id") if isinstance(record, Mapping) else None
        where = f"{path}, object {number if identifier is None else shorten(identifier)}"
        _add_object(where, record, image, collection)


def _add_object(where: str, record: Any, image: OpenedImage, collection: Collection) -> None:
    collection.add_shape(where, image, lambda: _name(record), lambda opened: _draw(record, opened))


def _image_names(path: Path, collection: Collection) -> list[str]:
    """Return the possible paths of an annotation's image: in the folder `img` of its data set, or its name alone."""
    root = collection.config.annotations
    base = root if root.is_dir() else root.parent
    folders = path.parent.relative_to(base).parts
    # Older exports name the file of a.jpg a.json.
    has_suffix = path.stem.lower().endswith(IMAGE_SUFFIXES)
    names = [path.stem] if has_suffix else [f"{path.stem}{suffix}" for suffix in IMAGE_SUFFIXES]
    places = [(*folders[:-1], "img"), folders[:-1]] if folders[-1:] == (FOLDER,) else [folders]
    return ["/".join((*place, name)) for place in places for name in names]


def _name(record: Mapping[str, Any]) -> Naming:
    tags = {name: text for tag in record.get("tags") or () for name, text in _read_tag(tag)}
    group = record.get("instance") or tags.get("instance") or None
    if group is not None and not is_integer(group) and not isinstance(group, str):
        raise ValueError(f"'instance' must be text, got {shorten(group)}")
    return Naming(
        check_text(record["classTitle"], "'classTitle'"),
        tags.get("object"),
        tags.get("part"),
        None if group is None else str(group),
    )


def _read_tag(tag: Mapping[str, Any]) -> list[tuple[str, str]]:
    name, value = check_text(tag["name"], "the name of a tag"), tag.get("value")
    if name not in ("object", "part", "instance") or value in (None, ""):
        return []
    return [(name, str(value) if is_integer(value) else check_text(value, f"the tag {name!r}"))]


def _draw(record: Mapping[str, Any], image: CocoImage) -> Region:
    kind = check_text(record["geometryType"], "'geometryType'")
    height, width = image.height, image.width
    if kind == "bitmap":
        return _read_bitmap(record["bitmap"], height, width)
    if kind not in ("polygon", "rectangle", *WITHOUT_AREA):
        return ignored(f"a shape of the unknown type {kind!r}", [], height, width)
    if kind in ("graph", "cuboid"):
        return ignored(WITHOUT_AREA[kind], [], height, width)
    points = record["points"]
    exterior = read_points(points["exterior"], "'exterior'")
    if kind in WITHOUT_AREA:
        return ignored(WITHOUT_AREA[kind], exterior, height, width)
    if kind == "rectangle":
        return Region(inclusive_rectangle(exterior, height, width).mask, is_box=True)
    interiors = [read_points(ring, "'interior'") for ring in points.get("interior") or ()]
    return polygon_with_holes(exterior, interiors, height, width)


def _read_bitmap(bitmap: Mapping[str, Any], height: int, width: int) -> Region:
    """Read a mask: a PNG packed with zlib, in base64; `origin` is its left upper corner."""
    origin = bitmap["origin"]
    if not isinstance(origin, list) or len(origin) != 2 or not all(map(is_integer, origin)):
        raise ValueError(f"'origin' must be [x, y] in whole pixels, got {shorten(origin)}")
    content = read_base64(bitmap["data"], "the data of the bitmap")
    if not content.startswith(PNG_MARK):  # the SDK reads a PNG that is not packed too
        content = inflate(content, height * width, "the data of the bitmap")
    crop = read_png_mask(content, height * width, "the data of the bitmap")
    return paste(crop, origin[0], origin[1], height, width)
