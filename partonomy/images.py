"""Reads image files as uint8 RGB arrays in the annotation's frame, and draws the box that marks an instance."""

import hashlib
import logging
from pathlib import Path

import numpy as np
from PIL import Image

BOX_COLOUR = (255, 0, 0)
EXIF_ORIENTATION = 0x0112
UPRIGHT = {  # EXIF orientation -> the turn that makes the image upright; 1 is upright already
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
QUARTER_TURNS = (5, 6, 7, 8)  # orientations that swap width and height
NUM_BOX_LINES_PER_SIDE = 200  # pixels of the image's shorter side per pixel of line width

logger = logging.getLogger(__name__)


def load_image(path: Path, height: int, width: int) -> np.ndarray:
    """Read an image file in the coordinate frame of its annotations.

    Cameras store rotated photographs with an EXIF orientation; some annotation tools apply it, others do not. The
    annotation's size decides: the rotated image is returned if its size fits, the raw one if only that fits. If both
    fit (square images, half turns and mirrorings), the orientation is applied, as viewers and browsers do. Damaged EXIF
    data is ignored. Of an animation, the first frame is read. Images with more pixels than PIL opens (179 million) are
    refused.

    Args:
        path: the image file.
        height: the annotation's height in pixels.
        width: the annotation's width in pixels.

    Returns:
        uint8 RGB (height, width, 3).

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged or not an image, or its size differs from its annotation's.
    """
    with _open(path) as image:
        orientation = _orientation(image, path)
        try:
            image.load()
            for candidate in (_turn(image, orientation), image):
                if candidate.size == (width, height):
                    return _to_rgb(candidate)
        except Exception as error:  # PIL's decoders raise errors of many types for damaged data
            raise ValueError(f"{path}: the image file is damaged ({error}); replace the file") from error
        raise ValueError(_describe_mismatch(path, image, height, width))


def load_label_map(path: Path, image: Path) -> np.ndarray:
    """Read a map of class ids, uint8 (H, W); a palette image's indices are its ids.

    Args:
        path: the map.
        image: the image that it labels, for the message.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged or is not a map of 8-bit ids; the message names it.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: not found; it is the label map of the image {image}: finish the download")
    try:
        with Image.open(path) as opened:
            labels = np.asarray(opened)
    except Exception as error:  # PIL's decoders raise errors of many types for damaged data
        raise ValueError(f"{path}: the label map cannot be read ({error}); replace the file") from error
    if labels.ndim != 2 or labels.dtype != np.uint8:
        raise ValueError(
            f"{path}: a label map has one 8-bit channel of class ids, this file is {labels.dtype} {labels.shape}"
        )
    return labels


def image_size(path: Path) -> tuple[int, int]:
    """Return (height, width) in pixels after the EXIF orientation is applied. Only the file's header is read.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not an image.
    """
    with _open(path) as image:
        return _upright_size(image, path)


def check_image(path: Path, height: int, width: int) -> None:
    """Check from the header alone that an image file exists and fits its annotation's size (see `load_image`).

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not an image, or its size differs.
    """
    with _open(path) as image:
        sizes = {(image.height, image.width), _upright_size(image, path)}
    if (height, width) not in sizes:
        raise ValueError(_describe_mismatch(path, image, height, width))


def draw_box(image: np.ndarray, box: tuple[int, int, int, int]) -> np.ndarray:
    """Draw a red frame around the instance that a question asks about.

    Args:
        image: uint8 RGB (H, W, 3); not changed.
        box: (x, y, width, height) in pixels. The frame lies outside the box wherever the image has room.

    Returns:
        A copy of the image with the frame.
    """
    height, width = image.shape[:2]
    line = max(1, round(min(height, width) / NUM_BOX_LINES_PER_SIDE))
    x, y, box_width, box_height = box
    left, top = max(x - line, 0), max(y - line, 0)
    right, bottom = min(x + box_width + line, width), min(y + box_height + line, height)
    framed = image.copy()
    framed[top : top + line, left:right] = BOX_COLOUR
    framed[max(bottom - line, 0) : bottom, left:right] = BOX_COLOUR
    framed[top:bottom, left : left + line] = BOX_COLOUR
    framed[top:bottom, max(right - line, 0) : right] = BOX_COLOUR
    return framed


def hash_image(image: np.ndarray) -> str:
    """Return the sha256 of an image's size and pixels, independent of the array's memory order.

    Args:
        image: uint8 RGB (H, W, 3).
    """
    digest = hashlib.sha256(str(image.shape).encode())
    digest.update(np.ascontiguousarray(image).data)
    return digest.hexdigest()


def _upright_size(image: Image.Image, path: Path) -> tuple[int, int]:
    is_turned = _orientation(image, path) in QUARTER_TURNS
    return (image.width, image.height) if is_turned else (image.height, image.width)


def _orientation(image: Image.Image, path: Path) -> int:
    """Return the EXIF orientation, 1 to 8; 1 if there is none or the EXIF data is damaged, as viewers do."""
    try:
        value = image.getexif().get(EXIF_ORIENTATION)
    except Exception as error:  # PIL's EXIF reader raises errors of many types for damaged data
        logger.warning("%s: the EXIF data is damaged (%s); the orientation is ignored", path, error)
        return 1
    return value if isinstance(value, int) and value in UPRIGHT else 1


def _turn(image: Image.Image, orientation: int) -> Image.Image:
    return image.transpose(UPRIGHT[orientation]) if orientation in UPRIGHT else image


def _describe_mismatch(path: Path, image: Image.Image, height: int, width: int) -> str:
    return (
        f"{path}: the image is {image.height} x {image.width} (height x width), its annotation {height} x {width}; "
        "correct the size in the annotation file or use the image that was annotated"
    )


def _open(path: Path) -> Image.Image:
    try:
        is_file = path.is_file()
    except OSError as error:  # for example, the name is too long
        raise ValueError(f"{path}: no image file can have this name ({error.strerror})") from error
    if not is_file:
        raise FileNotFoundError(f"{path}: image file not found; check the image folder of the dataset")
    try:
        return Image.open(path)
    except Exception as error:  # PIL's readers raise errors of many types for damaged headers
        raise ValueError(f"{path}: not a readable image file ({error}); replace the file") from error


def _to_rgb(image: Image.Image) -> np.ndarray:
    if image.mode.startswith(("I", "F")):
        return _grey_to_rgb(np.asarray(image))
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # PIL warns if a palette's transparent colour is dropped in a single step
    return np.array(image.convert("RGB"), dtype=np.uint8)


def _grey_to_rgb(values: np.ndarray) -> np.ndarray:
    """Scale 16-bit grey to 8 bits; PIL's own conversion clips everything above 255 to white."""
    values = np.nan_to_num(values.astype(np.float64))
    if values.max(initial=0.0) > 255:
        values = values / 257.0  # 65535 / 255
    grey = np.clip(np.rint(values), 0, 255).astype(np.uint8)
    return np.stack([grey] * 3, axis=-1)
