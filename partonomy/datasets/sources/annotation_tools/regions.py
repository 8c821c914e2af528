"""Draws the shapes of annotation tools as masks of an image's size, with the pixels that the tool itself would fill."""

import base64
import binascii
import io
import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
from PIL import Image, ImageDraw

from partonomy.files import is_integer, shorten
from partonomy.images import open_encoded
from partonomy.masks import MIN_POLYGON_COORDINATES, encode_mask, read_ring, rle_from_coco
from partonomy.structures import RLE

Point = tuple[float, float]
Box = tuple[int, int, int, int]
FEW_POINTS = "a polygon of fewer than 3 points"
MAX_PNG_OVERHEAD = 1 << 16  # bytes of a PNG that its pixels do not account for: headers, a palette, texts


@dataclass(frozen=True)
class Region:
    """What a shape covers.

    Attributes:
        mask: its pixels; None if it encloses none that could be used.
        box: (x, y, width, height) in pixels of a shape without a mask; None if it lies outside the image.
        ignored: why there is no mask; None if there is one.
        is_box: whether the shape was drawn as a box around what it shows; otherwise `box` is only its extent.
    """

    mask: RLE | None = None
    box: Box | None = None
    ignored: str | None = None
    is_box: bool = False


def read_number(value: object, name: str) -> float:
    """Return a finite number.

    Raises:
        ValueError: it is no such number.
    """
    is_number = is_integer(value) or isinstance(value, float)
    if not is_number or not abs(value) < 1e15:  # type: ignore[arg-type]  # false for NaN too
        raise ValueError(f"{name} must be a finite number, got {shorten(value)}")
    return float(value)  # type: ignore[arg-type]


def read_points(values: object, name: str) -> list[Point]:
    """Return a list of [x, y] as points in pixels.

    Raises:
        ValueError: it is no such list.
    """
    if not isinstance(values, list) or not all(isinstance(point, list) and len(point) == 2 for point in values):
        raise ValueError(f"{name} must be a list of [x, y], got {shorten(values)}")
    return [(read_number(x, name), read_number(y, name)) for x, y in values]


def polygon(points: Sequence[Point], height: int, width: int) -> Region:
    """Fill a polygon as COCO does (`pycocotools`), which is how a COCO export of the same shape is read.

    Args:
        points: x, y in pixels.
        height, width: the image's size in pixels.

    Raises:
        ValueError: it lies far outside the image.
    """
    if _encloses_nothing(points):
        return ignored(FEW_POINTS, points, height, width)
    return Region(rle_from_coco([[value for point in points for value in point]], height, width, "the polygon"))


def polygon_with_holes(
    exterior: Sequence[Point], interiors: Sequence[Sequence[Point]], height: int, width: int
) -> Region:
    """Fill a polygon and clear its holes as Supervisely does (`cv2.fillPoly`: outlines belong to what they enclose).

    Args:
        exterior: x, y of the outline in pixels.
        interiors: the outlines of the holes.
        height, width: the image's size in pixels.

    Raises:
        ValueError: it lies far outside the image.
    """
    if _encloses_nothing(exterior):
        return ignored(FEW_POINTS, exterior, height, width)
    canvas = np.zeros((height, width), np.uint8)
    for ring, value in ((exterior, 1), *((hole, 0) for hole in interiors)):
        if not _encloses_nothing(ring):
            _check_ring(ring, height, width)
            cv2.fillPoly(canvas, [np.rint(np.asarray(ring)).astype(np.int32)], color=value)
    return Region(encode_mask(canvas.astype(bool)))


def ellipse(center: Point, radii: Point, degrees: float, height: int, width: int) -> Region:
    """Fill an ellipse: the pixels whose centres lie in it.

    Args:
        center: x, y in pixels.
        radii: half axes in pixels, before the turn.
        degrees: clockwise turn about the centre.
        height, width: the image's size in pixels.

    Raises:
        ValueError: a radius is negative, or the ellipse lies far outside the image.
    """
    if min(radii) < 0:
        raise ValueError(f"a radius must be 0 or more, got {min(radii):g}")
    _check_extent([center, (center[0] + max(radii), center[1]), (center[0], center[1] + max(radii))], height, width)
    if min(radii) == 0:
        return ignored("an ellipse without area", [center], height, width)
    y, x = np.ogrid[:height, :width]
    dx, dy = x + 0.5 - center[0], y + 0.5 - center[1]
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return Region(encode_mask(((dx * cos + dy * sin) / radii[0]) ** 2 + ((dy * cos - dx * sin) / radii[1]) ** 2 <= 1.0))


def inclusive_rectangle(points: Sequence[Point], height: int, width: int) -> Region:
    """Fill a rectangle between two corners, both of whose pixels belong to it (Supervisely).

    Args:
        points: two opposite corners x, y in pixels.
        height, width: the image's size in pixels.

    Raises:
        ValueError: there are not two corners, or they lie far outside the image.
    """
    if len(points) != 2:
        raise ValueError(f"a rectangle has 2 corners, got {len(points)}")
    _check_extent(points, height, width)
    corners = np.rint(np.asarray(points)).astype(int)
    (left, top), (right, bottom) = np.maximum(corners.min(axis=0), 0), corners.max(axis=0)
    canvas = np.zeros((height, width), bool)
    canvas[top : max(bottom + 1, 0), left : max(right + 1, 0)] = True
    return Region(encode_mask(canvas))


def labelme_mask(kind: str, points: Sequence[Point], height: int, width: int) -> np.ndarray:
    """Draw a shape as labelme does (`labelme.utils.shape_to_mask`: Pillow, with the outline).

    Args:
        kind: "polygon", "rectangle" (two corners), "oriented_rectangle" (four corners) or "circle" (the centre and a
            point of the rim).
        points: x, y in pixels.
        height, width: the image's size in pixels.

    Returns:
        bool (H, W).

    Raises:
        ValueError: the number of points does not fit the kind, or they lie far outside the image.
    """
    expected = {"rectangle": 2, "circle": 2, "oriented_rectangle": 4}.get(kind)
    if (len(points) != expected) if expected else len(points) < 3:
        wanted = expected or "3 or more"
        raise ValueError(f"a shape of the type {kind!r} has {wanted} points, got {len(points)}")
    image = Image.new("1", (width, height))
    draw = ImageDraw.Draw(image)
    if kind == "circle":
        (x, y), rim = points
        radius = math.dist(points[0], rim)
        _check_extent([(x - radius, y - radius), (x + radius, y + radius)], height, width, margin=2)
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), outline=1, fill=1)
    elif kind == "rectangle":
        _check_extent(points, height, width)
        (left, right), (top, bottom) = (sorted(values) for values in zip(*points, strict=True))
        draw.rectangle((left, top, right, bottom), outline=1, fill=1)
    else:
        _check_ring(points, height, width)
        draw.polygon(list(points), outline=1, fill=1)
    return np.array(image, dtype=bool)


def paste(crop: np.ndarray, left: int, top: int, height: int, width: int) -> Region:
    """Place a mask of a part of the image.

    Args:
        crop: bool (h, w).
        left, top: its first column and row in the image.
        height, width: the image's size in pixels.

    Raises:
        ValueError: it leaves the image.
    """
    right, bottom = left + crop.shape[1], top + crop.shape[0]
    if left < 0 or top < 0 or right > width or bottom > height:
        raise ValueError(
            f"the mask covers the columns {left} to {right} and the rows {top} to {bottom}, the image is {height} x "
            f"{width} (height x width); export it again from the image that was annotated"
        )
    canvas = np.zeros((height, width), bool)
    canvas[top:bottom, left:right] = crop
    return Region(encode_mask(canvas))


def ignored(reason: str, points: Sequence[Point], height: int, width: int) -> Region:
    """Return the region of a shape that has no mask: its extent inside the image.

    Args:
        reason: what it is.
        points: x, y in pixels.
        height, width: the image's size in pixels.
    """
    if not points:
        return Region(ignored=reason)
    limits = np.clip(np.asarray(points, dtype=np.float64), 0, (width, height))
    left, top = (math.floor(value) for value in limits.min(axis=0))
    right, bottom = (math.ceil(value) for value in limits.max(axis=0))
    left, top = min(left, width - 1), min(top, height - 1)
    return Region(box=(left, top, max(right - left, 1), max(bottom - top, 1)), ignored=reason)


def bounding_box(points: Sequence[Point], height: int, width: int) -> Region:
    """Return the region of a box: the box of an object, but no mask.

    Args:
        points: two or more corners x, y in pixels.
        height, width: the image's size in pixels.

    Raises:
        ValueError: they lie far outside the image.
    """
    _check_extent(points, height, width)
    return replace(ignored("a box", points, height, width), is_box=True)


def read_base64(value: object, name: str) -> bytes:
    """Decode base64 text.

    Raises:
        ValueError: it is no base64.
    """
    if not isinstance(value, str) or not value:
        raise ValueError(f"{name} must be base64 text, got {shorten(value)}")
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError(f"{name} is no base64 text ({error}); export the file again") from error


def inflate(content: bytes, num_pixels: int, name: str) -> bytes:
    """Decompress a PNG of at most this many pixels that was packed with zlib again.

    Raises:
        ValueError: the content is damaged, or larger than such a PNG can be.
    """
    limit = 8 * num_pixels + MAX_PNG_OVERHEAD
    unpacker = zlib.decompressobj()
    try:
        unpacked = unpacker.decompress(content, limit)
    except zlib.error as error:
        raise ValueError(f"{name} is damaged ({error}); export the file again") from error
    if unpacker.unconsumed_tail or not unpacker.eof:
        raise ValueError(f"{name} is cut off, or larger than its image; export the file again")
    return unpacked


def read_png_mask(content: bytes, num_pixels: int, name: str) -> np.ndarray:
    """Read a mask stored as an image: the alpha channel where there is one, else every pixel that is not 0.

    Args:
        content: the image file, usually a PNG.
        num_pixels: the pixels that the mask may have at most.
        name: what it is, for messages.

    Returns:
        bool (h, w).

    Raises:
        ValueError: it is no image, or has more pixels.
    """
    try:
        with open_encoded(io.BytesIO(content)) as image:
            if image.width * image.height > num_pixels:
                raise ValueError(f"it has {image.height} x {image.width} pixels, more than its image")
            if "A" in image.getbands():
                return np.asarray(image.getchannel("A")) != 0
            pixels = np.asarray(image)  # of a palette, the indices
    except Exception as error:  # PIL's decoders raise errors of many types for damaged data
        raise ValueError(f"{name} cannot be read ({error}); export the file again") from error
    return (pixels if pixels.ndim == 2 else pixels.any(axis=-1)) != 0


def _encloses_nothing(points: Sequence[Point]) -> bool:
    return 2 * len(points) < MIN_POLYGON_COORDINATES


def _check_ring(points: Sequence[Point], height: int, width: int) -> None:
    read_ring([value for point in points for value in point], height, width, "the polygon")


def _check_extent(points: Sequence[Point], height: int, width: int, margin: int = 1) -> None:
    """Refuse a shape that leaves the image by more than `margin` times the image's longer side."""
    values, reach = np.asarray(points, dtype=np.float64), margin * max(height, width)
    if values.min() < -reach or (values > (width + reach, height + reach)).any():
        raise ValueError(
            f"the shape lies far outside the image: from {values.min(axis=0).round().tolist()} to "
            f"{values.max(axis=0).round().tolist()} (x, y), the image is {height} x {width} (height x width)"
        )
