"""Reads Label Studio's JSON export: a list of tasks, each with an image and its annotations.

Read: polygons, brush strokes and ellipses, and rectangles as boxes of objects. Coordinates are percents of the image as
a browser shows it, so the upright image's size counts. The tree of regions (`parentID`) and relations tell parts.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import numpy as np

from partonomy.datasets.sources.annotation_tools.image_files import IMAGE_SUFFIXES
from partonomy.datasets.sources.annotation_tools.regions import (
    Point,
    Region,
    bounding_box,
    ellipse,
    ignored,
    polygon,
    read_number,
    read_points,
)
from partonomy.datasets.sources.annotation_tools.shapes import Collection, Naming, OpenedImage, list_files
from partonomy.datasets.sources.coco import read_integer
from partonomy.datasets.sources.records import CocoImage
from partonomy.files import RECORD_ERRORS, check_text, is_integer, parse_json, shorten
from partonomy.images import check_image
from partonomy.masks import check_mask_size, encode_mask

GEOMETRIES = {"polygon": "points", "brush": "rle", "ellipse": "radiusX", "rectangle": "height", "keypoint": "x"}
"""The kinds of region and a key that a value of the kind has."""
ATTRIBUTES = frozenset({"object", "part", "instance"})
NUM_DECIMALS = 6
CHANNELS = 4
HEADER_BITS = 32 + 5 + 4 * 4


def read_label_studio(collection: Collection) -> None:
    """Read a file, or all *.json of a folder, into the collection.

    Raises:
        FileNotFoundError: there is no such file; or an image is missing and bad records are not collected.
        ValueError: a file is no such JSON; or a record is broken and bad records are not collected.
    """
    for path in list_files(collection.config.annotations, "*.json"):
        tasks = parse_json(path.read_bytes(), f"{path}: not valid JSON")
        tasks = [tasks] if isinstance(tasks, dict) and "data" in tasks else tasks
        if not isinstance(tasks, list):
            raise ValueError(f"{path}: expected the list of tasks that Label Studio exports as 'JSON'")
        for number, task in enumerate(tasks):
            identifier = task.get("id") if isinstance(task, Mapping) else None
            where = f"{path}, task {shorten(number if identifier is None else identifier)}"
            try:
                regions = _find_regions(task, collection)
            except RECORD_ERRORS as error:
                collection.leave_out_record(where, error)
                continue
            _read_task(where, task, regions, collection)


@dataclass(frozen=True)
class _Region:
    """The results of one region id, joined: its geometry, and its labels and attributes as the file has them."""

    key: str
    value: Mapping[str, Any]
    result: Mapping[str, Any]
    labels: tuple[Any, ...]
    attributes: Mapping[str, Any]
    group: str | None


def _find_regions(task: Any, collection: Collection) -> list[_Region]:
    """Return the regions of the annotation that counts: the ground truth, else the first that was not cancelled."""
    if not isinstance(task, Mapping) or not isinstance(task.get("data"), Mapping):
        raise ValueError("a task needs 'data'; export as 'JSON', not as 'JSON-MIN' or another format")
    annotations = task.get("annotations", task.get("completions"))
    if not isinstance(annotations, list) or not all(isinstance(one, Mapping) for one in annotations):
        raise ValueError("a task needs the list 'annotations'; export as 'JSON', not as 'JSON-MIN' or another format")
    usable = [one for one in annotations if not one.get("was_cancelled")]
    usable = [one for one in usable if one.get("ground_truth")] or usable
    for one in annotations:
        if usable and one is usable[0]:
            continue
        reason = "a region of a cancelled annotation" if one.get("was_cancelled") else "a region of another annotator"
        _count_regions(one, reason, collection)
    predictions = task.get("predictions")
    for one in predictions if isinstance(predictions, list) else ():
        _count_regions(one, "a region that a model predicted", collection)
    if not usable:
        return []
    results = usable[0]["result"]
    if not isinstance(results, list):
        raise ValueError(f"'result' must be a list, got {shorten(results)}")
    return _join_results(results)


def _count_regions(annotation: Any, reason: str, collection: Collection) -> None:
    """Count the regions of an annotation that is not read."""
    results = annotation.get("result") if isinstance(annotation, Mapping) else None
    for result in results if isinstance(results, list) else ():
        if isinstance(result, Mapping) and _kind(result) is not None:
            collection.leave_out(reason)


def _join_results(results: Sequence[Any]) -> list[_Region]:
    """Join the results with the same id: with the tag <Labels>, geometry and label are separate results."""
    by_key: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    groups = _Groups()
    images = set()
    for number, result in enumerate(results):
        if not isinstance(result, Mapping):
            raise ValueError(f"result {number} must be an object, got {shorten(result)}")
        if result.get("type") == "relation":
            groups.join(str(result.get("from_id")), str(result.get("to_id")))
            continue
        if _kind(result) is not None:
            images.add(str(result.get("to_name")))
        key = result.get("id")
        by_key[f"#{number}" if key is None else check_text(key, "the id of a region")].append(result)
    if len(images) > 1:
        raise ValueError(f"the task labels several images ({', '.join(sorted(images))}); give every task one image")
    regions = []
    for key, same in by_key.items():
        drawn = [result for result in same if _kind(result) is not None]
        if not drawn:
            continue  # a choice or a text about the whole image
        labels = [label for result in same for label in _labels(result)]
        labels = [label for number, label in enumerate(labels) if label not in labels[:number]]
        attributes = {name: text for result in same for name, text in _attributes(result)}
        regions.append(_Region(key, drawn[0]["value"], drawn[0], tuple(labels), attributes, groups.find(key)))
    return regions


class _Groups:
    """Regions joined by relations."""

    def __init__(self) -> None:
        self._first: dict[str, str] = {}

    def join(self, first: str, second: str) -> None:
        one, other = sorted((self._root(first), self._root(second)))
        self._first[one] = self._first[other] = one

    def find(self, key: str) -> str | None:
        return self._root(key) if key in self._first else None

    def _root(self, key: str) -> str:
        while self._first.get(key, key) != key:
            key = self._first[key]
        return key


def _kind(result: Mapping[str, Any]) -> str | None:
    """Return the kind of a result's region; None if it draws none."""
    value, name = result.get("value"), str(result.get("type", ""))
    if not isinstance(value, Mapping):
        return None
    for kind, key in GEOMETRIES.items():
        if name.startswith(kind) or (name == "labels" and key in value):
            return kind
    return name.removesuffix("labels") if name.endswith("labels") and name != "labels" else None


def _labels(result: Mapping[str, Any]) -> list[Any]:
    """Return the labels of a result, as the file has them."""
    value = result.get("value")
    if not isinstance(value, Mapping):
        return []
    found = [labels for key, labels in value.items() if key.endswith("labels") and labels is not None]
    return [label for labels in found for label in (labels if isinstance(labels, list) else [labels])]


def _attributes(result: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Return the attributes that name object, part or instance: choices or texts about the region."""
    name, value = result.get("from_name"), result.get("value")
    if name not in ATTRIBUTES or not isinstance(value, Mapping):
        return []
    given = value.get("choices", value.get("text"))
    given = given[0] if isinstance(given, list) and len(given) == 1 else given
    return [] if not given else [(str(name), given)]


def _read_task(where: str, task: Mapping[str, Any], regions: Sequence[_Region], collection: Collection) -> None:
    image = collection.open_image(
        where,
        lambda: collection.find_image(*_image_names(task["data"]), is_uploaded=True),
        lambda: None,  # the upright size of the file; each region states the size that it was drawn at
    )
    for region in regions:
        _add_region(f"{where}, region {shorten(region.key)}", region, image, collection)


def _add_region(where: str, region: _Region, image: OpenedImage, collection: Collection) -> None:
    """Add a region once for each of its labels; its key is that of the first."""
    for number, label in enumerate(region.labels or (None,)):
        collection.add_shape(
            where,
            image,
            partial(_name, region, label, None if number else region.key),
            lambda opened: _draw(region, opened, collection.config.images),
        )


def _name(region: _Region, label: object, key: str | None) -> Naming:
    given = {name: check_text(text, f"the attribute {name!r}") for name, text in region.attributes.items()}
    label = label or given.get("part") or given.get("object")
    if label is None:
        raise ValueError("the region has no label; give it one in Label Studio")
    parent = region.result.get("parentID")
    return Naming(
        check_text(label, "the label"),
        given.get("object"),
        given.get("part"),
        given.get("instance") or region.group,
        key,
        None if parent is None else check_text(parent, "'parentID'"),
    )


def _image_names(data: Mapping[str, Any]) -> list[str]:
    """Return the possible paths of the task's image, from its URL, upload or path on the server."""
    texts = [text for text in data.values() if isinstance(text, str)]
    address = data.get("image")
    if not isinstance(address, str):
        found = [text for text in texts if path_of_address(text).lower().endswith(IMAGE_SUFFIXES)]
        if len(found) != 1:
            raise ValueError(f"'data' names {len(found)} images, expected one: {shorten(dict(data))}")
        address = found[0]
    path = path_of_address(address)
    return list(dict.fromkeys((unquote(path), path)))


def path_of_address(address: str) -> str:
    """Return the path that an address of Label Studio names, still percent-coded.

    `/data/local-files/?d=FOLDER/NAME` names it in its query; `/data/upload/1/NAME`, `s3://BUCKET/NAME` and
    `https://HOST/NAME?signature` in their path.
    """
    try:
        parts = urlsplit(address)
    except ValueError:
        return address
    if parts.path.rstrip("/").endswith("local-files"):
        return next(iter(parse_qs(parts.query).get("d", ())), "")
    is_address = bool(parts.scheme and parts.netloc) or parts.path.startswith("/data/")
    return parts.path if is_address else address


def _draw(region: _Region, image: CocoImage, folder: Path) -> Region:
    _check_frame(region.result, image, folder)
    kind = str(_kind(region.result))
    if kind not in DRAW:
        return ignored(f"a region of the unknown type {kind!r}", [], image.height, image.width)
    return DRAW[kind](region.value, image)


def _draw_polygon(value: Mapping[str, Any], image: CocoImage) -> Region:
    points = [_pixels(x, y, image) for x, y in read_points(value["points"], "'points'")]
    if value.get("closed") is False:
        return ignored("an open polygon", points, image.height, image.width)
    return polygon(points, image.height, image.width)


def _draw_brush(value: Mapping[str, Any], image: CocoImage) -> Region:
    return Region(encode_mask(decode_brush(value["rle"], image.height, image.width)))


def _draw_ellipse(value: Mapping[str, Any], image: CocoImage) -> Region:
    radii = _read_pair(value, "radiusX", "radiusY", image)
    return ellipse(_read_pair(value, "x", "y", image), radii, _rotation(value), image.height, image.width)


def _draw_rectangle(value: Mapping[str, Any], image: CocoImage) -> Region:
    return bounding_box(_corners(value, image), image.height, image.width)


def _draw_point(value: Mapping[str, Any], image: CocoImage) -> Region:
    return ignored("a key point", [_read_pair(value, "x", "y", image)], image.height, image.width)


DRAW: Mapping[str, Callable[[Mapping[str, Any], CocoImage], Region]] = {
    "polygon": _draw_polygon,
    "brush": _draw_brush,
    "ellipse": _draw_ellipse,
    "rectangle": _draw_rectangle,
    "keypoint": _draw_point,
}


def _check_frame(result: Mapping[str, Any], image: CocoImage, folder: Path) -> None:
    """Check that the region was drawn on this image, as it is shown."""
    turn = result.get("image_rotation")
    if turn not in (None, 0):
        raise ValueError(
            f"the image was turned by {shorten(turn)} degrees in Label Studio; turn it back there and export again"
        )
    if result.get("original_width") is None or result.get("original_height") is None:
        return
    height, width = read_integer(result, "original_height"), read_integer(result, "original_width")
    check_mask_size(height, width)
    if (height, width) != (image.height, image.width):
        # Raw sizes of a photograph that is stored on its side are fine: percents are of the upright image all the same.
        check_image(folder / image.file_name, height, width)


def _pixels(x: float, y: float, image: CocoImage) -> Point:
    """Turn percents into pixels, rounded so that a point at half a pixel stays there."""
    return round(x * image.width / 100.0, NUM_DECIMALS), round(y * image.height / 100.0, NUM_DECIMALS)


def _read_pair(value: Mapping[str, Any], first: str, second: str, image: CocoImage) -> Point:
    return _pixels(read_number(value[first], repr(first)), read_number(value[second], repr(second)), image)


def _rotation(value: Mapping[str, Any]) -> float:
    return read_number(value.get("rotation") or 0, "'rotation'")


def _corners(value: Mapping[str, Any], image: CocoImage) -> list[Point]:
    """Return the corners of a rectangle, which is turned clockwise about its first corner."""
    x, y = _read_pair(value, "x", "y", image)
    width, height = _read_pair(value, "width", "height", image)
    turn = math.radians(_rotation(value))
    cos, sin = math.cos(turn), math.sin(turn)
    corners = ((0.0, 0.0), (width, 0.0), (width, height), (0.0, height))
    return [(x + u * cos - v * sin, y + u * sin + v * cos) for u, v in corners]


def decode_brush(code: object, height: int, width: int) -> np.ndarray:
    """Decode Label Studio's run-length code of a brush region (the package rle-pack of thi.ng/umbrella).

    A stream of bits, the highest of a byte first: 32 bits for the number of values, 5 for their size in bits less 1,
    and four times 4 bits for the sizes of run lengths less 1. Then, until all values are there: one bit, which tells a
    run of one value from single values, two bits that choose one of the four sizes, the run's length less 1, and the
    value or values. The values are the RGBA pixels row by row; a pixel is painted if its alpha is not 0.

    Args:
        code: the bytes, as a list of integers.
        height, width: the image's size in pixels.

    Returns:
        bool (H, W).

    Raises:
        ValueError: the code is damaged, or is that of an image of another size.
    """
    if not isinstance(code, list) or not all(is_integer(byte) and 0 <= byte < 256 for byte in code):
        raise ValueError(f"'rle' must be a list of bytes, got {shorten(code)}")
    bits = np.unpackbits(np.asarray(code, dtype=np.uint8))
    if bits.size < HEADER_BITS:
        raise ValueError("'rle' is cut off; export the annotation again")
    num_values = _number(bits[:32])
    if num_values != CHANNELS * height * width:
        raise ValueError(
            f"'rle' has {num_values} values, an image of {height} x {width} (height x width) has "
            f"{CHANNELS * height * width}; use the image that was annotated"
        )
    value_size = _number(bits[32:37]) + 1
    run_sizes = [_number(bits[at : at + 4]) + 1 for at in range(37, HEADER_BITS, 4)]
    weights = 1 << np.arange(value_size, dtype=np.int64)[::-1]
    values = np.zeros(num_values, dtype=bool)
    at, filled = HEADER_BITS, 0
    while filled < num_values:
        is_run, run_size = bits[at : at + 1], run_sizes[_number(bits[at + 1 : at + 3])]
        length = _number(bits[at + 3 : at + 3 + run_size]) + 1
        at += 3 + run_size
        num_stored = 1 if is_run.any() else length
        stored = bits[at : at + num_stored * value_size]
        if stored.size < num_stored * value_size or filled + length > num_values:
            raise ValueError("'rle' is damaged: it ends too early, or has too many values; export it again")
        values[filled : filled + length] = (stored.reshape(num_stored, value_size) @ weights) != 0
        at += num_stored * value_size
        filled += length
    return values.reshape(height, width, CHANNELS)[..., CHANNELS - 1]


def _number(bits: np.ndarray) -> int:
    return int("".join(map(str, bits.tolist())) or "0", 2)
