"""Image files as uint8 RGB arrays in the annotation's frame, and the box that marks the instance asked about."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

BOX_COLOUR = (255, 0, 0)
EXIF_ORIENTATION = 0x0112
QUARTER_TURNS = (5, 6, 7, 8)  # orientations that exchange width and height
NUM_BOX_LINES_PER_SIDE = 200  # one pixel of line per so many pixels of the image's shorter side


def load_image(path: Path, height: int, width: int) -> np.ndarray:
    """Read an image file in the frame of its annotations.

    Cameras write rotated photographs with an EXIF orientation; some annotation tools apply it, others do not. The
    annotation's size decides: the rotated image when its size fits, the raw one when only that fits. Where both fit
    (square images, half turns and mirrorings), the orientation is applied, as viewers and browsers do.

    Args:
        path: the image file.
        height: of the annotation, pixels.
        width: of the annotation, pixels.

    Returns:
        uint8 RGB (height, width, 3).

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged or no image, or has another size than its annotation.
    """
    raw = _read(path)
    upright = ImageOps.exif_transpose(raw)
    for candidate in (upright, raw):
        if candidate.size == (width, height):
            return _to_rgb(candidate)
    raise ValueError(_describe_mismatch(path, raw, height, width))


def image_size(path: Path) -> tuple[int, int]:
    """Return (height, width) in pixels after the EXIF orientation, reading only the file's header.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is no image.
    """
    with _open(path) as image:
        return _upright_size(image)


def check_image(path: Path, height: int, width: int) -> None:
    """Check, from the header alone, that an image file exists and fits its annotation's size (see `load_image`).

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is no image or has another size.
    """
    with _open(path) as image:
        sizes = {(image.height, image.width), _upright_size(image)}
    if (height, width) not in sizes:
        raise ValueError(_describe_mismatch(path, image, height, width))


def draw_box(image: np.ndarray, box: tuple[int, int, int, int]) -> np.ndarray:
    """Draw a red frame around the instance a question asks about.

    Args:
        image: uint8 RGB (H, W, 3); not changed.
        box: (x, y, width, height), pixels. The frame lies outside of it where the image has room.

    Returns:
        A copy with the frame.
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


def _upright_size(image: Image.Image) -> tuple[int, int]:
    is_turned = image.getexif().get(EXIF_ORIENTATION, 1) in QUARTER_TURNS
    return (image.width, image.height) if is_turned else (image.height, image.width)


def _describe_mismatch(path: Path, image: Image.Image, height: int, width: int) -> str:
    return (
        f"{path}: the image is {image.height} x {image.width} (height x width), its annotation {height} x {width}; "
        "correct the size in the annotation file or use the image that was annotated"
    )


def _open(path: Path) -> Image.Image:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: image file not found; check the image folder of the dataset")
    try:
        return Image.open(path)
    except (UnidentifiedImageError, OSError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path}: not a readable image file ({error}); replace the file") from error


def _read(path: Path) -> Image.Image:
    with _open(path) as image:
        try:
            image.load()
        except (OSError, SyntaxError, ValueError) as error:  # PIL raises SyntaxError for broken PNG chunks
            raise ValueError(f"{path}: the image file is damaged ({error}); replace the file") from error
        return image


def _to_rgb(image: Image.Image) -> np.ndarray:
    if image.mode.startswith(("I", "F")):
        return _grey_to_rgb(np.asarray(image))
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # PIL warns when the transparent colour of a palette is dropped in one step
    return np.array(image.convert("RGB"), dtype=np.uint8)


def _grey_to_rgb(values: np.ndarray) -> np.ndarray:
    """Scale 16-bit grey to 8 bits; PIL's own conversion clips everything above 255 to white."""
    values = values.astype(np.float64)
    if values.max(initial=0.0) > 255:
        values = values / 257.0  # 65535 / 255
    grey = np.clip(np.rint(values), 0, 255).astype(np.uint8)
    return np.stack([grey] * 3, axis=-1)
