"""Reads the VGG Image Annotator's files: projects and exported annotations of VIA 1 and 2, projects of VIA 3.

VIA has no labels, only attributes. `--label_attribute` names the one that is the label; by default it is the attribute
"label", "name", "class", "category" or "type", else the only one. Coordinates are pixels of the image as a browser
shows it, and the files do not state its size.
"""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from partonomy.datasets.sources.annotation_tools.regions import (
    Point,
    Region,
    ellipse,
    ignored,
    polygon,
    read_number,
)
from partonomy.datasets.sources.annotation_tools.shapes import Collection, Naming, OpenedImage, list_files
from partonomy.datasets.sources.records import CocoImage
from partonomy.files import RECORD_ERRORS, check_text, is_integer, read_json, shorten

LABEL_ATTRIBUTES = ("label", "name", "class", "category", "type")
RESERVED = ("object", "part", "instance")
METADATA = "_via_img_metadata"
SHAPE_IDS = {
    1: "point",
    2: "rect",
    3: "circle",
    4: "ellipse",
    5: "line",
    6: "polyline",
    7: "polygon",
    8: "extreme_rect",
    9: "extreme_circle",
}
"""VIA 3's numbers of shapes."""
WITHOUT_AREA = {"point": "a point", "line": "a line", "polyline": "a polyline"}


def read_via(collection: Collection) -> None:
    """Read a file, or all *.json of a folder, into the collection.

    Raises:
        FileNotFoundError: there is no such file; or an image is missing and bad records are not collected.
        ValueError: a file is no such JSON; or a record is broken and bad records are not collected.
    """
    for path in list_files(collection.config.annotations, "*.json"):
        content = read_json(path)
        if isinstance(content.get("metadata"), dict) and isinstance(content.get("file"), dict):
            _read_version_3(path, content, collection)
            continue
        records = content.get(METADATA, content)
        if not isinstance(records, dict) or not any(
            isinstance(one, dict) and "regions" in one for one in records.values()
        ):
            raise ValueError(f"{path}: not a project of VIA, nor annotations exported by it as JSON")
        for key, record in records.items():
            _read_image(f"{path}, image {shorten(key)}", record, collection)


def _read_image(where: str, record: Any, collection: Collection) -> None:
    try:
        regions = record["regions"]
        if isinstance(regions, dict):  # VIA 1 numbers the regions
            regions = list(regions.values())
        if not isinstance(regions, list):
            raise ValueError(f"'regions' must be a list, got {shorten(regions)}")
        name = check_text(record["filename"], "'filename'")
    except RECORD_ERRORS as error:
        collection.leave_out_record(where, error)
        return
    image = collection.open_image(where, lambda: collection.find_image(name), lambda: None)
    for number, region in enumerate(regions):
        _add_region(f"{where}, region {number}", region, image, collection)


def _add_region(where: str, region: Any, image: OpenedImage, collection: Collection) -> None:
    collection.add_shape(
        where,
        image,
        lambda: _name(region["region_attributes"], collection.config.label_attribute),
        lambda opened: _draw_version_2(region["shape_attributes"], opened),
    )


def _name(attributes: Any, label_attribute: str | None) -> Naming:
    """Return what the attributes of a region say."""
    if not isinstance(attributes, Mapping):
        raise ValueError(f"the attributes of a region must be an object, got {shorten(attributes)}")
    texts = {str(name): _attribute_text(str(name), value) for name, value in attributes.items()}
    texts = {name: text for name, text in texts.items() if text}
    given = {name: texts.get(name) for name in RESERVED}
    others = [name for name in texts if name not in RESERVED]
    if label_attribute is not None:
        found = [label_attribute] if label_attribute in texts else []
    else:
        found = [name for name in LABEL_ATTRIBUTES if name in others] or (others if len(others) == 1 else [])
    label = texts[found[0]] if found else given["part"] or given["object"]
    if label is None:
        named = f"among {', '.join(map(repr, attributes))}" if attributes else "because it has no attributes"
        raise ValueError(
            f"no attribute is known to be the region's label {named}; set it in VIA, or name the attribute with "
            "--label_attribute"
        )
    return Naming(label, given["object"], given["part"], given["instance"])


def _attribute_text(name: str, value: object) -> str:
    """Return an attribute's value; of checkboxes, the one that is ticked."""
    if isinstance(value, Mapping):
        ticked = [str(option) for option, is_on in value.items() if is_on]
        if len(ticked) > 1:
            raise ValueError(f"the attribute {name!r} has several values ({', '.join(ticked)}); tick one")
        value = ticked[0] if ticked else ""
    if is_integer(value):
        return str(value)
    if not isinstance(value, str):
        raise ValueError(f"the attribute {name!r} must be text, got {shorten(value)}")
    return check_text(value.strip(), f"the attribute {name!r}") if value.strip() else ""


def _draw_version_2(shape: Mapping[str, Any], image: CocoImage) -> Region:
    kind = check_text(shape["name"], "the name of the shape")

    def number(key: str) -> float:
        return read_number(shape[key], repr(key))

    def points() -> list[Point]:
        xs, ys = shape["all_points_x"], shape["all_points_y"]
        if not isinstance(xs, list) or not isinstance(ys, list) or len(xs) != len(ys):
            raise ValueError("'all_points_x' and 'all_points_y' must be lists of the same length")
        return [
            (read_number(x, "'all_points_x'"), read_number(y, "'all_points_y'")) for x, y in zip(xs, ys, strict=True)
        ]

    read: Mapping[str, Callable[[], list[float] | list[Point]]] = {
        "rect": lambda: [number(key) for key in ("x", "y", "width", "height")],
        "circle": lambda: [number(key) for key in ("cx", "cy", "r")],
        "ellipse": lambda: [number(key) for key in ("cx", "cy", "rx", "ry")],
        "point": lambda: [(number("cx"), number("cy"))],
        "polygon": points,
        "polyline": points,
    }
    if kind not in read:
        return ignored(f"a shape of the unknown type {kind!r}", [], image.height, image.width)
    turn = read_number(shape.get("theta", 0), "'theta'") if kind == "ellipse" else 0.0
    return _draw(kind, read[kind](), math.degrees(turn), image)


def _draw(kind: str, values: Any, degrees: float, image: CocoImage) -> Region:
    """Draw a shape from its numbers, or from its points."""
    height, width = image.height, image.width
    if kind == "rect":
        x, y, box_width, box_height = values
        if min(box_width, box_height) < 0:
            raise ValueError(f"a rectangle's size must be 0 or more, got {box_width:g} x {box_height:g}")
        corners = [(x, y), (x + box_width, y), (x + box_width, y + box_height), (x, y + box_height)]
        return Region(polygon(corners, height, width).mask, is_box=True)
    if kind == "circle":
        x, y, radius = values
        return ellipse((x, y), (radius, radius), 0.0, height, width)
    if kind == "ellipse":
        x, y, radius_x, radius_y = values
        return ellipse((x, y), (radius_x, radius_y), degrees, height, width)
    if kind in WITHOUT_AREA:
        return ignored(WITHOUT_AREA[kind], values, height, width)
    return polygon(values, height, width)


def _read_version_3(path: Path, content: Mapping[str, Any], collection: Collection) -> None:
    """Read a project of VIA 3: files, views of files, and regions (`metadata`) of views."""
    regions_of: dict[str, list[tuple[str, Any]]] = {}
    for key, record in content["metadata"].items():
        view = str(record.get("vid")) if isinstance(record, Mapping) else ""
        regions_of.setdefault(view, []).append((key, record))
    views = content.get("view")
    if not isinstance(views, dict):
        raise ValueError(f"{path}: a project of VIA 3 needs the object 'view'")
    for view, record in views.items():
        where = f"{path}, view {shorten(view)}"
        regions = regions_of.pop(str(view), [])
        try:
            names = _file_names(record, content["file"])
        except RECORD_ERRORS as error:
            reason = collection.leave_out_record(where, error)
            image = OpenedImage(None, reason)
        else:
            image = _open_version_3(where, names, collection)
        for key, region in regions:
            _add_version_3(f"{path}, region {shorten(key)}", region, image, content.get("attribute"), collection)
    for view, regions in regions_of.items():
        where = f"{path}, region {shorten(regions[0][0])}"
        missing = ValueError(f"its view {shorten(view)} is not in the file")
        image = OpenedImage(None, collection.leave_out_record(where, missing))
        for key, region in regions:
            _add_version_3(f"{path}, region {shorten(key)}", region, image, content.get("attribute"), collection)


def _open_version_3(where: str, names: list[str], collection: Collection) -> OpenedImage:
    return collection.open_image(where, lambda: collection.find_image(*names), lambda: None)


def _file_names(view: Any, files: Mapping[str, Any]) -> list[str]:
    ids = view["fid_list"]
    if not isinstance(ids, list) or len(ids) != 1:
        raise ValueError(f"a view must show one image, got the files {shorten(ids)}")
    file = files[str(ids[0])]
    names = [file.get("src"), file.get("fname")]
    # `src` may be the image itself ("data:image/png;base64,...")
    return [name for name in names if isinstance(name, str) and name and not name.startswith("data:")]


def _add_version_3(where: str, region: Any, image: OpenedImage, attributes: Any, collection: Collection) -> None:
    if isinstance(region, Mapping) and region.get("xy") == []:
        return  # attributes of the whole file or of a time segment, no shape
    collection.add_shape(
        where,
        image,
        lambda: _name(_read_attributes(region["av"], attributes), collection.config.label_attribute),
        lambda opened: _draw_version_3(region, opened),
    )


def _read_attributes(values: Any, attributes: Any) -> dict[str, Any]:
    """Return attribute name -> value, with options by their texts."""
    found: dict[str, Any] = {}
    for number, value in values.items():
        attribute = attributes[str(number)]
        options = attribute.get("options")
        texts = [value]
        if isinstance(options, Mapping) and options and isinstance(value, str):
            texts = [options.get(option, option) for option in value.split(",") if option]
        name = check_text(attribute["aname"], "the name of an attribute")
        found[name] = dict.fromkeys(map(str, texts), True) if len(texts) > 1 else (texts[0] if texts else "")
    return found


def _draw_version_3(region: Mapping[str, Any], image: CocoImage) -> Region:
    if region.get("z"):
        return ignored("a shape of a moment of a video", [], image.height, image.width)
    values = region["xy"]
    if not isinstance(values, list) or not values:
        raise ValueError(f"'xy' must be a list of the shape's number and its coordinates, got {shorten(values)}")
    kind = SHAPE_IDS.get(values[0]) if is_integer(values[0]) else None
    numbers = [read_number(value, "'xy'") for value in values[1:]]
    height, width = image.height, image.width
    if kind in ("rect", "circle", "ellipse"):
        expected = {"rect": 4, "circle": 3, "ellipse": 4}[kind]
        if len(numbers) != expected:
            raise ValueError(f"a {kind} has {expected} numbers in 'xy', got {len(numbers)}")
        return _draw(kind, numbers, 0.0, image)
    if len(numbers) % 2:
        raise ValueError("'xy' must hold pairs x, y")
    points = list(zip(numbers[::2], numbers[1::2], strict=True))
    if kind == "extreme_rect":
        left, top = min(x for x, _ in points), min(y for _, y in points)
        right, bottom = max(x for x, _ in points), max(y for _, y in points)
        return _draw("rect", [left, top, right - left, bottom - top], 0.0, image)
    if kind == "extreme_circle":
        return _draw("circle", _circle_through(points), 0.0, image)
    if kind is None:
        return ignored(f"a shape of the unknown type {shorten(values[0])}", points, height, width)
    return _draw(kind, points, 0.0, image)


def _circle_through(points: list[Point]) -> list[float]:
    """Return x, y and radius of the circle through three points."""
    if len(points) != 3:
        raise ValueError(f"a circle through points has 3 of them, got {len(points)}")
    (ax, ay), (bx, by), (cx, cy) = points
    area = 2 * (ax * (by - cy) + bx * (cy - ay) + cx * (ay - by))
    if not area:
        raise ValueError("the three points of a circle lie on a line")
    squares = [x * x + y * y for x, y in points]
    x = (squares[0] * (by - cy) + squares[1] * (cy - ay) + squares[2] * (ay - by)) / area
    y = (squares[0] * (cx - bx) + squares[1] * (ax - cx) + squares[2] * (bx - ax)) / area
    return [x, y, math.dist((x, y), points[0])]
