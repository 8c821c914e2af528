"""Reads "CVAT for images 1.1": an XML file with one `image` element per image and its shapes inside.

Read: `polygon`, `mask` (brush), `ellipse`, and `box` as the box of an object. The XML may hold no DTD: entities of a
downloaded file could read other files, or grow without end.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.parsers import expat

import numpy as np

from partonomy.datasets.sources.annotation_tools.regions import (
    Point,
    Region,
    bounding_box,
    ellipse,
    ignored,
    paste,
    polygon,
)
from partonomy.datasets.sources.annotation_tools.shapes import Collection, Naming, OpenedImage, list_files
from partonomy.datasets.sources.records import CocoImage
from partonomy.files import check_text, shorten
from partonomy.masks import check_mask_size

SHAPES = frozenset({"polygon", "mask", "box", "ellipse", "polyline", "points", "cuboid", "skeleton"})
UNDEFINED = "__undefined__"
"""What CVAT writes for an attribute that the annotator left open."""
VIDEO = (
    "holds the tracks of a video (CVAT for video 1.1); export the task as 'CVAT for images 1.1', which has every frame "
    "as an image"
)


@dataclass
class _Element:
    tag: str
    line: int
    values: dict[str, str]
    attributes: dict[str, str] = field(default_factory=dict)  # of the shape, by name


def read_cvat(collection: Collection) -> None:
    """Read a file, or all *.xml of a folder, into the collection.

    Raises:
        FileNotFoundError: there is no such file; or an image is missing and bad records are not collected.
        ValueError: a file is no such XML; or a record is broken and bad records are not collected.
    """
    for path in list_files(collection.config.annotations, "*.xml"):
        _File(path, collection).read()


class _File:
    """The handlers of the parser: shapes are read when their elements end."""

    def __init__(self, path: Path, collection: Collection) -> None:
        self._path = path
        self._collection = collection
        self._parser = expat.ParserCreate()
        self._open: list[str] = []
        self._image: OpenedImage | None = None
        self._shape: _Element | None = None
        self._attribute: str | None = None
        self._num_images = self._num_tracks = 0

    def read(self) -> None:
        self._parser.StartElementHandler = self._start
        self._parser.EndElementHandler = self._end
        self._parser.CharacterDataHandler = self._text
        self._parser.StartDoctypeDeclHandler = self._refuse_doctype
        self._parser.buffer_text = True
        try:
            with self._path.open("rb") as file:
                self._parser.ParseFile(file)
        except expat.ExpatError as error:
            raise ValueError(f"{self._path}: not valid XML ({error}); export the file again") from error
        except (LookupError, UnicodeError) as error:  # the declared encoding is unknown
            raise ValueError(f"{self._path}: not readable XML ({error}); save it in UTF-8") from error
        if not self._num_images:
            reason = VIDEO if self._num_tracks else "has no <image>; is it an export of 'CVAT for images 1.1'?"
            raise ValueError(f"{self._path}: {reason}")

    def _refuse_doctype(self, *_: object) -> None:
        raise ValueError(
            f"{self._path}, line {self._parser.CurrentLineNumber}: a DTD is not allowed, since its entities could read "
            "other files; CVAT writes none, so remove it"
        )

    def _start(self, tag: str, values: dict[str, str]) -> None:
        line = self._parser.CurrentLineNumber
        if not self._open and tag != "annotations":
            raise ValueError(f"{self._path}: the top element is <{tag}>, in an export of CVAT <annotations>")
        depth = len(self._open)
        self._open.append(tag)
        if depth == 1 and tag == "image":
            self._num_images += 1
            self._image = self._open_image(_Element(tag, line, values))
        elif depth == 1 and tag == "track":
            self._num_tracks += 1
            self._collection.leave_out("a track of a video")
        elif depth == 2 and self._image is not None and tag != "tag":
            self._shape = _Element(tag, line, values)
        elif depth == 3 and self._shape is not None and tag == "attribute":
            self._attribute = values.get("name", "")
            self._shape.attributes[self._attribute] = ""

    def _text(self, text: str) -> None:
        if self._attribute is not None and self._shape is not None:
            self._shape.attributes[self._attribute] += text

    def _end(self, tag: str) -> None:
        self._open.pop()
        depth = len(self._open)
        if depth == 3:
            self._attribute = None
        elif depth == 2 and self._shape is not None and self._image is not None:
            self._add_shape(self._shape, self._image)
            self._shape = None
        elif depth == 1:
            self._image = None

    def _open_image(self, element: _Element) -> OpenedImage:
        values = element.values
        where = f"{self._path}, line {element.line}, image {shorten(values.get('name', self._num_images - 1))}"

        def size() -> tuple[int, int]:
            height, width = _integer(values["height"], "'height'"), _integer(values["width"], "'width'")
            check_mask_size(height, width)
            return height, width

        return self._collection.open_image(where, lambda: self._collection.find_image(values["name"]), size)

    def _add_shape(self, element: _Element, image: OpenedImage) -> None:
        where = f"{self._path}, line {element.line}, {element.tag}"
        if element.tag not in SHAPES:
            self._collection.leave_out(f"a shape of the unknown type {element.tag!r}")
            return
        self._collection.add_shape(where, image, lambda: _name(element), lambda opened: _draw(element, opened))


def _name(element: _Element) -> Naming:
    attributes = {name: value.strip() for name, value in element.attributes.items() if value.strip() != UNDEFINED}
    group = attributes.get("instance") or element.values.get("group_id", "").strip()
    return Naming(
        check_text(element.values["label"], "the label"),
        attributes.get("object") or None,
        attributes.get("part") or None,
        None if group in ("", "0") else group,
    )


def _draw(element: _Element, image: CocoImage) -> Region:
    values, height, width = element.values, image.height, image.width
    draw: Mapping[str, Callable[[], Region]] = {
        "polygon": lambda: polygon(_points(values["points"]), height, width),
        "mask": lambda: _read_mask(values, height, width),
        "box": lambda: bounding_box(_corners(values), height, width),
        "ellipse": lambda: _read_ellipse(values, height, width),
        "polyline": lambda: ignored("a polyline", _points(values["points"]), height, width),
        "points": lambda: ignored("points", _points(values["points"]), height, width),
        "cuboid": lambda: ignored("a cuboid", [], height, width),
        "skeleton": lambda: ignored("a skeleton of points", [], height, width),
    }
    return draw[element.tag]()


def _read_ellipse(values: Mapping[str, str], height: int, width: int) -> Region:
    cx, cy, rx, ry = (_float(values[key], key) for key in ("cx", "cy", "rx", "ry"))
    return ellipse((cx, cy), (rx, ry), _float(values.get("rotation", "0"), "rotation"), height, width)


def _corners(values: Mapping[str, str]) -> list[Point]:
    """Return the corners of a box, which may be turned about its centre by `rotation` degrees."""
    left, top, right, bottom = (_float(values[key], key) for key in ("xtl", "ytl", "xbr", "ybr"))
    turn = math.radians(_float(values.get("rotation", "0"), "rotation"))
    x, y, cos, sin = (left + right) / 2, (top + bottom) / 2, math.cos(turn), math.sin(turn)
    corners = ((left, top), (right, top), (right, bottom), (left, bottom))
    if not turn:
        return list(corners)
    return [(x + (u - x) * cos - (v - y) * sin, y + (u - x) * sin + (v - y) * cos) for u, v in corners]


def _read_mask(values: Mapping[str, str], height: int, width: int) -> Region:
    """Read CVAT's run-length code: runs row by row inside the box of the mask, background first."""
    left, top, columns, rows = (_integer(values[key], key) for key in ("left", "top", "width", "height"))
    check_mask_size(rows, columns, "the box of the mask")
    if left < 0 or top < 0 or left + columns > width or top + rows > height:
        raise ValueError(
            f"the box of the mask (left {left}, top {top}, width {columns}, height {rows}) leaves the image of "
            f"{height} x {width} (height x width)"
        )
    runs = [_integer(run, "a run of 'rle'") for run in values["rle"].split(",")]
    if min(runs) < 0 or sum(runs) != rows * columns:
        raise ValueError(f"the runs of 'rle' sum to {sum(runs)}, the box of the mask has {rows * columns} pixels")
    crop = np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(rows, columns)
    return paste(crop, left, top, height, width)


def _points(text: str) -> list[Point]:
    pairs = [pair.split(",") for pair in text.split(";") if pair.strip()]
    if not all(len(pair) == 2 for pair in pairs):
        raise ValueError(f"'points' must be x,y;x,y;..., got {shorten(text)}")
    return [(_float(x, "'points'"), _float(y, "'points'")) for x, y in pairs]


def _float(text: str, name: str) -> float:
    try:
        value = float(text)
    except ValueError as error:
        raise ValueError(f"{name} must be a number, got {shorten(text)}") from error
    if not abs(value) < 1e15:
        raise ValueError(f"{name} must be a finite number, got {shorten(text)}")
    return value


def _integer(text: Any, name: str) -> int:
    try:
        return int(text)
    except ValueError as error:
        raise ValueError(f"{name} must be an integer, got {shorten(text)}") from error
