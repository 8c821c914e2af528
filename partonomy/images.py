"""Reads image files as uint8 RGB arrays in the annotation's frame, and draws the box that marks an instance.

Every image file of both packages is opened by this module alone. A file's format is known by its content, whatever its
name, and only the formats in `FORMATS` are opened: PIL would start other programs for some (Ghostscript for
PostScript). The header's size is checked before any pixel is decoded.
"""

import hashlib
import logging
import os
import struct
import sys
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image, ImageFile, PngImagePlugin, TiffImagePlugin, UnidentifiedImageError

from partonomy.masks import MAX_PIXELS

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "PPM")
"""The formats that are opened; PIL reads them in its own process. JPEG includes MPO, JPEG with further pictures."""
MAX_PIXELS_VARIABLE = "PARTONOMY_MAX_IMAGE_PIXELS"
"""Environment variable: the most pixels of an image that is decoded, 1 to `MAX_PIXELS`, which is the default."""
BOX_COLOUR = (255, 0, 0)
EXIF_ORIENTATION = 0x0112
TURNS: Mapping[int, Callable[[np.ndarray], np.ndarray]] = {
    # EXIF orientation -> the turn that makes the image upright; 1 is upright already
    2: lambda image: image[:, ::-1],
    3: lambda image: image[::-1, ::-1],
    4: lambda image: image[::-1],
    5: lambda image: image.transpose(1, 0, 2),
    6: lambda image: np.rot90(image, k=-1),
    7: lambda image: image[::-1, ::-1].transpose(1, 0, 2),
    8: np.rot90,
}
QUARTER_TURNS = (5, 6, 7, 8)  # orientations that swap width and height
TURNED_BACK = {6: 8, 8: 6}  # the orientations whose turn is not its own inverse
NUM_BOX_LINES_PER_SIDE = 200  # pixels of the image's shorter side per pixel of line width

COLOUR_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr")
DEEP_MODES = ("I", "I;16", "I;16B", "I;16L", "I;16N", "F")
LABEL_MODES = ("L", "P")
DEEP_LABEL_MODES = tuple(mode for mode in DEEP_MODES if mode != "F")
BAND_PIXELS = 1 << 20  # pixels converted at a time, so that no second copy of a large image is made
LARGEST_8_BIT, LARGEST_16_BIT = 255, 65_535
NATIVE, SWAPPED = ("L", "B") if sys.byteorder == "little" else ("B", "L")
LOW_BYTES = {  # PIL's raw mode of 16-bit colours, which keeps their high bytes -> the mode that keeps the low bytes
    f"{colours};16{order}": f"{colours};16{other}"
    for colours in ("RGB", "RGBA", "RGBX")
    for order, other in (("B", "L"), ("L", "B"), ("N", SWAPPED))
}
GREY_ALPHA = "LA;16B"
SIGNATURES: tuple[tuple[bytes, str], ...] = (
    (b"%!", "PostScript"),
    (b"\xc5\xd0\xd3\xc6", "PostScript"),
    (b"%PDF", "PDF"),
    (b"8BPS", "Photoshop"),
    (b"\x00\x00\x01\x00", "an icon"),
    (b"\x00\x00\x00\x0cjP", "JPEG 2000"),
    (b"\xff\x4f\xff\x51", "JPEG 2000"),
    (b"\xd7\xcd\xc6\x9a", "WMF"),
    (b"\x01\x00\x00\x00", "EMF"),
    (b"<?xml", "XML or SVG"),
    (b"<svg", "SVG"),
    (b"\x1f\x8b", "gzip"),
    (b"PK\x03\x04", "ZIP"),
)
CONTAINER = b"ftyp"  # from byte 4: AVIF, HEIC and videos
PNG_SIGNATURE_BYTES = 8

warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # `_check_pixels` decides instead
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Header:
    """What an image's header says.

    Attributes:
        raw: (height, width) of the stored pixels.
        orientation: the EXIF orientation, 1 to 8.
        is_turned_by_pil: whether PIL makes the image upright while decoding it, as it does with TIFF files.
    """

    raw: tuple[int, int]
    orientation: int
    is_turned_by_pil: bool

    @property
    def upright(self) -> tuple[int, int]:
        """(height, width) after the orientation is applied."""
        return self.raw[::-1] if self.orientation in QUARTER_TURNS else self.raw


def load_image(path: Path, height: int, width: int) -> np.ndarray:
    """Read an image file in the coordinate frame of its annotations.

    Cameras store rotated photographs with an EXIF orientation; some annotation tools apply it, others do not. The
    annotation's size decides: the rotated image is returned if its size fits, the raw one if only that fits. If both
    fit (square images, half turns and mirrorings), the orientation is applied, as viewers and browsers do. Damaged EXIF
    data is ignored. Of an animation, the first frame is read.

    Every image becomes 8-bit RGB. Grey is repeated in the three channels. Palettes and CMYK are converted by PIL,
    without colour profiles. Transparency is dropped: a transparent pixel has the colour that is stored for it. 16-bit
    values are rounded to the nearest of 0 to 255; a 16-bit or 32-bit grey image without a value above 255 is taken as
    8-bit. Floats from 0 to 1 are multiplied by 255.

    Files of other formats than `FORMATS`, images with more pixels than `PARTONOMY_MAX_IMAGE_PIXELS` (default 179
    million) and images of another size than their annotation are refused before a pixel is decoded.

    Args:
        path: the image file.
        height: the annotation's height in pixels.
        width: the annotation's width in pixels.

    Returns:
        uint8 RGB (height, width, 3).

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, not an image, of another format or too large, or its size differs from its
            annotation's.
    """
    with _open(path) as image:
        header = _read_header(image, path)
        _check_size(header, (height, width), path)
        mode, low_bytes = image.mode, _find_low_bytes(image)
        if mode not in (*COLOUR_MODES, *DEEP_MODES):
            raise ValueError(f"{path}: images of the colour mode {mode} are not read; convert the file to 8-bit RGB")
        try:
            pixels = _to_rgb(image) if mode not in DEEP_MODES else _deep_to_rgb(image, path)
        except _UnclearValuesError:
            raise
        except Exception as error:  # PIL's decoders raise errors of many types for damaged data
            raise _damaged(path, error) from error
    if low_bytes:
        _round_high_bytes(pixels, path)
    is_wanted_upright = header.upright == (height, width)
    if is_wanted_upright != header.is_turned_by_pil and header.orientation in TURNS:
        back = TURNED_BACK.get(header.orientation, header.orientation)
        pixels = TURNS[header.orientation if is_wanted_upright else back](pixels)
    return np.ascontiguousarray(pixels)


def load_label_map(path: Path, image: Path) -> np.ndarray:
    """Read a map of class ids, uint8 (H, W); a palette image's indices are its ids.

    Args:
        path: the map.
        image: the image that it labels, for the message.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, too large or not a map of 8-bit ids; the message names it.
    """
    return _load_ids(path, image, LABEL_MODES, np.uint8)


def load_deep_label_map(path: Path, image: Path) -> np.ndarray:
    """Read a map of 16-bit class ids, uint16 (H, W); see `load_label_map`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, too large or not a map of 16-bit ids; the message names it.
    """
    return _load_ids(path, image, DEEP_LABEL_MODES, np.uint16)


def _load_ids(path: Path, image: Path, modes: Collection[str], kind: type[np.unsignedinteger[Any]]) -> np.ndarray:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: not found; it is the label map of the image {image}: finish the download")
    try:
        with _open(path) as opened:
            mode = opened.mode
            if mode in modes:
                values = np.array(opened)
                if int(values.max(initial=0)) > np.iinfo(kind).max or int(values.min(initial=0)) < 0:
                    raise ValueError(f"it has the value {int(values.max())}")
                return values.astype(kind)
    except Exception as error:  # PIL's decoders raise errors of many types for damaged data
        reason = str(error).removeprefix(f"{path}: ")
        raise ValueError(f"{path}: the label map cannot be read ({reason})") from error
    bits = 8 * np.dtype(kind).itemsize
    raise ValueError(
        f"{path}: a label map has one {bits}-bit channel of class ids, this file has the colour mode {mode}"
    )


def image_size(path: Path) -> tuple[int, int]:
    """Return (height, width) in pixels after the EXIF orientation is applied. Only the file's header is read.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not an image of a known format, or has too many pixels.
    """
    with _open(path) as image:
        return _read_header(image, path).upright


def check_image(path: Path, height: int, width: int) -> None:
    """Check from the header alone that an image file exists and fits its annotation's size (see `load_image`).

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not an image of a known format, has too many pixels, or its size differs.
    """
    with _open(path) as image:
        _check_size(_read_header(image, path), (height, width), path)


def max_image_pixels() -> int:
    """Return the most pixels of an image that is decoded.

    Raises:
        ValueError: the environment variable is no number from 1 to `MAX_PIXELS`.
    """
    text = os.environ.get(MAX_PIXELS_VARIABLE, "").strip()
    if not text:
        return MAX_PIXELS
    if not text.isascii() or not text.isdigit() or not 1 <= int(text[:20]) <= MAX_PIXELS:
        raise ValueError(f"the environment variable {MAX_PIXELS_VARIABLE} must be a number from 1 to {MAX_PIXELS}")
    return int(text)


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


class _UnclearValuesError(ValueError):
    """Grey values of more than 16 bits have no known white."""


def _damaged(path: Path, error: Exception) -> ValueError:
    return ValueError(f"{path}: the image file is damaged ({error}); replace the file")


def _read_header(image: ImageFile.ImageFile, path: Path) -> _Header:
    orientation = _orientation(image, path)
    if not isinstance(image, TiffImagePlugin.TiffImageFile):
        return _Header((image.height, image.width), orientation, is_turned_by_pil=False)
    # PIL gives the upright size of a TIFF file whose own tag turns it, and turns the pixels in `load`.
    is_swapped = image.tag_v2.get(EXIF_ORIENTATION) in QUARTER_TURNS
    raw = (image.width, image.height) if is_swapped else (image.height, image.width)
    return _Header(raw, orientation, is_turned_by_pil=True)


def _orientation(image: ImageFile.ImageFile, path: Path) -> int:
    """Return the EXIF orientation, 1 to 8; 1 if there is none or the EXIF data is damaged, as viewers do."""
    try:
        if isinstance(image, PngImagePlugin.PngImageFile) and "exif" not in image.info:
            late = _find_late_exif(path)
            if late is not None:
                image.info["exif"] = b"Exif\0\0" + late
        # The method of PngImageFile would decode the whole image to look for EXIF data behind the pixels.
        value = Image.Image.getexif(image).get(EXIF_ORIENTATION)
    except Exception as error:  # PIL's EXIF reader raises errors of many types for damaged data
        logger.warning("%s: the EXIF data is damaged (%s); the orientation is ignored", path, error)
        return 1
    return value if isinstance(value, int) and value in TURNS else 1


def _find_late_exif(path: Path) -> bytes | None:
    """Return the EXIF data of a PNG file that stands behind its pixels; None if there is none."""
    with path.open("rb") as file:
        file.seek(PNG_SIGNATURE_BYTES)
        while len(start := file.read(8)) == 8:
            length, kind = struct.unpack(">I4s", start)
            if kind == b"eXIf":
                return file.read(length)
            if kind == b"IEND":
                return None
            file.seek(length + 4, os.SEEK_CUR)  # the chunk and its check sum
    return None


def _check_size(header: _Header, size: tuple[int, int], path: Path) -> None:
    if size not in (header.raw, header.upright):
        (found_height, found_width), (height, width) = header.raw, size
        raise ValueError(
            f"{path}: the image is {found_height} x {found_width} (height x width), its annotation {height} x {width}; "
            "correct the size in the annotation file or use the image that was annotated"
        )


def read_mask_image(path: Path, height: int, width: int, name: str) -> np.ndarray:
    """Read a mask from an image of two values at most, of which 0 (black) is the background.

    Args:
        path: The image file.
        height, width: The size that it must have, pixels.
        name: The mask's place in the entry, for messages.

    Returns:
        bool (H, W).

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is not an image, has another size, or more than one value besides 0, as probabilities have.
    """
    with _open(path) as image:
        if image.size != (width, height):  # as stored: a mask is not turned by EXIF data
            raise ValueError(
                f"{name}: {path} is {image.height} x {image.width}, but the image is {height} x {width} (height x "
                "width); resize the mask to the size of the annotations, without interpolation"
            )
        image.load()
        # An alpha channel says nothing about a mask; a palette's indices do.
        plain = image.convert("RGB") if image.mode in ("RGB", "RGBA", "PA", "CMYK", "YCbCr") else image
        values = np.asarray(plain.getchannel(0) if image.mode == "LA" else plain)
    grey = values.max(axis=-1) if values.ndim == 3 else values
    marked = np.unique(grey[grey != 0])
    if len(marked) > 1:
        raise ValueError(
            f"{name}: {path} has {len(marked)} values besides 0, the first are {marked[:3].tolist()}; a mask has one: "
            "threshold probabilities, and write an image per mask"
        )
    return np.asarray(grey != 0)


def open_encoded(file: BinaryIO) -> ImageFile.ImageFile:
    """Open an encoded image of one of the `FORMATS`; only its header is read. Every image is opened here.

    Raises:
        Exception: the content is damaged or of another format; PIL's readers raise errors of many types.
    """
    return Image.open(file, formats=FORMATS)


@contextmanager
def _open(path: Path) -> Iterator[ImageFile.ImageFile]:
    """Open an image file of one of the `FORMATS`; only its header is read."""
    try:
        is_file = path.is_file()
    except OSError as error:  # for example, the name is too long
        raise ValueError(f"{path}: no image file can have this name ({error.strerror})") from error
    if not is_file:
        raise FileNotFoundError(f"{path}: image file not found; check the image folder of the dataset")
    limit = max_image_pixels()
    # An open file instead of its name: PIL maps named files into memory, with the wrong size for turned TIFF files.
    with path.open("rb") as file:
        try:
            image = open_encoded(file)
        except Exception as error:  # PIL's readers raise errors of many types for damaged headers
            reason = _describe(path, error)
            raise ValueError(f"{path}: not a readable image file ({reason}); replace the file") from error
        if image.width * image.height > limit:
            raise ValueError(
                f"{path}: the image has {image.height} x {image.width} pixels (height x width), more than the "
                f"{limit:,} that are decoded; make it smaller (or see the environment variable {MAX_PIXELS_VARIABLE})"
            )
        yield image


def _describe(path: Path, error: Exception) -> str:
    """Return why a file is not opened: the name of its format if that is known, else PIL's reason."""
    with path.open("rb") as file:
        start = file.read(16)
    found = next((name for signature, name in SIGNATURES if start.startswith(signature)), None)
    if start[4:8] == CONTAINER:
        found = "AVIF, HEIC or a video"
    formats = f"{', '.join(FORMATS[:-1])} and {FORMATS[-1]} are read"
    if found is not None:
        return f"it holds {found}; {formats}"
    return (
        f"its content is not that of an image; {formats}" if isinstance(error, UnidentifiedImageError) else str(error)
    )


def _bands(image: Image.Image) -> Iterator[tuple[slice, Image.Image]]:
    """Yield an image's rows in pieces of about `BAND_PIXELS`."""
    rows = max(1, BAND_PIXELS // max(1, image.width))
    if rows >= image.height:
        yield slice(0, image.height), image
        return
    for top in range(0, image.height, rows):
        bottom = min(top + rows, image.height)
        yield slice(top, bottom), image.crop((0, top, image.width, bottom))


def _to_rgb(image: Image.Image) -> np.ndarray:
    """Decode an image of 8 bits per channel; of 16-bit colours, PIL keeps the high bytes."""
    image.load()
    pixels = np.empty((image.height, image.width, 3), np.uint8)
    has_transparency = image.mode == "P" and "transparency" in image.info
    for rows, band in _bands(image):
        # PIL warns if a palette's transparent colour is dropped in a single step.
        colours = band.convert("RGBA") if has_transparency else band
        pixels[rows] = np.asarray(colours if colours.mode == "RGB" else colours.convert("RGB"))
    return pixels


def _deep_to_rgb(image: Image.Image, path: Path) -> np.ndarray:
    """Scale grey of 16 or 32 bits to 8 bits; PIL's own conversion clips everything above 255 to white."""
    image.load()
    lowest, highest, is_finite = np.inf, -np.inf, True
    for _, band in _bands(image):
        values = np.asarray(band)
        is_finite = is_finite and bool(np.isfinite(values).all())
        lowest, highest = min(lowest, float(values.min())), max(highest, float(values.max()))
    if not is_finite or lowest < 0 or highest > LARGEST_16_BIT:
        raise _UnclearValuesError(
            f"{path}: the grey values of this {image.mode} image are from {lowest:g} to {highest:g}, and which of them "
            f"is white is not known; save it with values from 0 to {LARGEST_8_BIT}, or to {LARGEST_16_BIT}"
        )
    pixels = np.empty((image.height, image.width, 3), np.uint8)
    nearest = ((np.arange(LARGEST_16_BIT + 1, dtype=np.uint32) + 128) // 257).astype(np.uint8)  # 65535 / 255 = 257
    for rows, band in _bands(image):
        values = np.asarray(band)
        if values.dtype.kind == "f":
            if highest <= 1:
                values = values * LARGEST_8_BIT
            values = np.rint(values)
        values = values.astype(np.uint16)
        grey = nearest[values] if highest > LARGEST_8_BIT else values.astype(np.uint8)
        pixels[rows] = grey[..., None]
    return pixels


def _find_low_bytes(image: ImageFile.ImageFile) -> bool:
    """Return whether an image that is not decoded yet has 16-bit colours whose low bytes PIL can read."""
    modes = [_raw_mode(tile.args) for tile in image.tile]
    return bool(modes) and all(mode in LOW_BYTES or mode == GREY_ALPHA for mode in modes)


def _raw_mode(arguments: object) -> object:
    return arguments[0] if isinstance(arguments, tuple) and arguments else arguments


def _round_high_bytes(pixels: np.ndarray, path: Path) -> None:
    """Round 16-bit colours, of which `pixels` has the high bytes, to the nearest 8-bit values; PIL cuts them off.

    A value 256 * high + low is 257 * high + (low - high), and 257 is one step of 8 bits.
    """
    with _open(path) as image:
        is_grey = _raw_mode(image.tile[0].args) == GREY_ALPHA
        if is_grey:  # the four bytes of a pixel are taken as four channels: grey's high and low byte, and alpha's
            image._mode = "RGBA"  # noqa: SLF001  as PIL's readers set it
            image.tile = [tile._replace(args="RGBA") for tile in image.tile]
        else:
            image.tile = [tile._replace(args=_with_low_bytes(tile.args)) for tile in image.tile]
        try:
            image.load()
            for rows, band in _bands(image):
                low = np.asarray(band)[..., 1:2] if is_grey else np.asarray(band)[..., :3]
                step = low.astype(np.int16) - pixels[rows]
                pixels[rows] += (step > 128).astype(np.uint8)
                pixels[rows] -= (step < -128).astype(np.uint8)
        except Exception as error:  # PIL's decoders raise errors of many types for damaged data
            raise _damaged(path, error) from error


def _with_low_bytes(arguments: "str | tuple[object, ...] | None") -> "str | tuple[object, ...]":
    if isinstance(arguments, tuple):
        return (LOW_BYTES[str(arguments[0])], *arguments[1:])
    return LOW_BYTES[str(arguments)]
