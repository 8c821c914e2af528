"""Images in any form that a caller has: files, bytes, PIL images and arrays."""

import tempfile
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from partonomy.images import image_size, load_image

AnyImage = Path | str | bytes | Image.Image | np.ndarray
"""An image file's path, its content, a PIL image, or uint8 RGB (H, W, 3), grey (H, W) or RGBA (H, W, 4)."""


def read_image(image: AnyImage) -> np.ndarray:
    """Read an image upright as uint8 RGB (H, W, 3).

    Args:
        image: see `AnyImage`. A PIL image and the content of a file are turned by their EXIF orientation, as files are.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no image, or an array of another type or shape.
    """
    match image:
        case np.ndarray():
            return _read_array(image)
        case Image.Image():
            return _read_pil(image)
        case bytes() | bytearray() | memoryview():
            return _read_bytes(bytes(image))
        case str() | Path():
            return load_image(Path(image), *image_size(Path(image)))
    raise ValueError(
        f"an image must be a path, bytes, a PIL image or a uint8 array, got {type(image).__module__}."
        f"{type(image).__name__}"
    )


def _read_array(image: np.ndarray) -> np.ndarray:
    """Return an array as RGB."""
    is_image = image.dtype == np.uint8 and image.size > 0
    if is_image and image.ndim == 3 and image.shape[2] == 3:
        return image
    if is_image and (image.ndim == 2 or (image.ndim == 3 and image.shape[2] in (1, 4))):
        plane = image[..., 0] if image.ndim == 3 and image.shape[2] == 1 else image
        return np.array(Image.fromarray(plane).convert("RGB"))
    raise ValueError(
        f"an array must be uint8 RGB (H, W, 3), grey (H, W) or RGBA (H, W, 4), got {image.dtype} {image.shape}; for "
        "values from 0 to 1: (255 * array).round().astype(numpy.uint8)"
    )


def _read_pil(image: Image.Image) -> np.ndarray:
    """Return a PIL image as RGB; values of more than 8 bits are scaled as those of a file are."""
    try:
        upright = ImageOps.exif_transpose(image)
        if upright.mode in ("RGB", "RGBA", "L"):
            return _read_array(np.array(upright))
        if not upright.mode.startswith(("I", "F")):
            return np.array(upright.convert("RGB"))
        with tempfile.TemporaryDirectory(prefix="plum_image_") as folder:
            path = Path(folder) / "image.tiff"  # keeps 16 and 32 bits
            upright.save(path)
            return load_image(path, upright.height, upright.width)
    except (OSError, SyntaxError) as error:  # PIL decodes the file only now, which may be damaged
        raise ValueError(f"the PIL image cannot be read ({error})") from error


def _read_bytes(content: bytes) -> np.ndarray:
    """Return the content of an image file as RGB, through a file: so it is read as any file."""
    with tempfile.TemporaryDirectory(prefix="plum_image_") as folder:
        path = Path(folder) / "image"
        path.write_bytes(content)
        try:
            return load_image(path, *image_size(path))
        except ValueError as error:
            reason = str(error).removeprefix(f"{path}: ")
            raise ValueError(f"the {len(content)} bytes given as an image: {reason}") from error
