"""What a COCO segmentation must fulfil before pycocotools sees it, whose C code trusts sizes, counts and coordinates.

Nothing here allocates more than the image's size and the length of the data bound; every error is a ValueError that
begins with `where`, the name of file and record.
"""

import math
import re
import reprlib
from collections.abc import Sequence

import numpy as np

MIN_POLYGON_COORDINATES = 6
MAX_PIXELS = 178_956_970  # of an image that PIL opens; also keeps every run within the 32 bits that COCO's code has
CODE = re.compile(r"[0-o]+")  # "P" to "o": more of the number follows
LONG_NUMBER = re.compile(r"[P-o]{7}")  # 7 groups of 5 bits hold any number of 32 bits


def check_mask_size(height: object, width: object, where: str) -> None:
    """Check that two values are the height and width, in pixels, of an image that can be opened."""
    if not (is_integer(height) and is_integer(width)):
        raise ValueError(f"{where}: height and width must be whole numbers, got {shorten(height)}, {shorten(width)}")
    assert isinstance(height, int)
    assert isinstance(width, int)
    if min(height, width) < 1 or max(height, width) > MAX_PIXELS or height * width > MAX_PIXELS:
        raise ValueError(
            f"{where}: no image is {shorten(height)} x {shorten(width)} (height x width; at most {MAX_PIXELS} pixels)"
        )


def check_size_entry(size: object, height: int, width: int, where: str) -> None:
    """Check the "size" of a segmentation against its image's."""
    if not isinstance(size, Sequence) or len(size) != 2 or not all(is_integer(value) for value in size):
        raise ValueError(f"{where}: a segmentation needs 'size': [height, width], got {shorten(size)}")
    if (size[0], size[1]) != (height, width):
        raise ValueError(
            f"{where}: the mask is {shorten(size[0])} x {shorten(size[1])} (height x width), the image {height} x "
            f"{width}; masks must be given in the image's own pixels"
        )


def read_run_list(counts: object, num_pixels: int, where: str) -> np.ndarray:
    """Read uncompressed "counts": run lengths, int64, that sum to the image."""
    if not isinstance(counts, Sequence) or not all(is_integer(run) and run >= 0 for run in counts):
        raise ValueError(f"{where}: 'counts' must be text, bytes or a list of run lengths, got {shorten(counts)}")
    if sum(counts) != num_pixels:
        raise ValueError(f"{where}: the run lengths sum to {shorten(sum(counts))}, the image has {num_pixels} pixels")
    return np.asarray(counts, dtype=np.int64)


def read_compressed_runs(counts: str, num_pixels: int, where: str) -> np.ndarray:
    """Read compressed "counts": run lengths, int64, that sum to the image.

    pycocotools itself reads a damaged code as noise, or beyond its end.
    """
    if not CODE.fullmatch(counts) or counts[-1] >= "P" or LONG_NUMBER.search(counts):
        raise ValueError(f"{where}: 'counts' is not a compressed COCO run-length code: {shorten(counts)}")
    runs = decode_runs(counts)
    if runs.min() < 0 or int(runs.sum()) != num_pixels:
        raise ValueError(
            f"{where}: the compressed run lengths sum to {int(runs.sum())}, the image has {num_pixels} pixels; "
            "the code is damaged or belongs to another image size"
        )
    return runs


def decode_runs(counts: str) -> np.ndarray:
    """Undo COCO's code: 5 bits a character, lowest first, bit 5 = more follow; from the fourth run on, differences."""
    groups = np.frombuffer(counts.encode("ascii"), dtype=np.uint8).astype(np.int64) - 48
    ends = np.flatnonzero((groups & 0x20) == 0)
    starts = np.zeros_like(ends)
    starts[1:] = ends[:-1] + 1
    lengths = ends - starts + 1
    positions = np.arange(groups.size) - np.repeat(starts, lengths)
    values = np.add.reduceat((groups & 0x1F) << (5 * positions), starts)
    is_negative = (groups[ends] & 0x10) != 0
    values = values - np.where(is_negative, np.int64(1) << (5 * lengths), 0)
    runs = values.copy()
    runs[1::2] = np.cumsum(values[1::2])
    runs[2::2] = np.cumsum(values[2::2])
    return runs


def read_ring(ring: object, height: int, width: int, where: str) -> list[float]:
    """Read one flat polygon x, y, x, y, ...; at most one image size outside of the image."""
    if not isinstance(ring, Sequence) or not all(is_integer(value) or isinstance(value, float) for value in ring):
        raise ValueError(f"{where}: a polygon must be a flat list of numbers x, y, x, y, ..., got {shorten(ring)}")
    if len(ring) < MIN_POLYGON_COORDINATES or len(ring) % 2:
        raise ValueError(f"{where}: a polygon needs at least 3 points (6 numbers, an even count), got {len(ring)}")
    if any(isinstance(value, float) and not math.isfinite(value) for value in ring):
        raise ValueError(f"{where}: the polygon has a coordinate that is not finite")
    for name, values, size in (("x", ring[0::2], width), ("y", ring[1::2], height)):
        if min(values) < -size or max(values) > 2 * size:
            raise ValueError(
                f"{where}: the polygon lies far outside of the image: {name} from {shorten(min(values))} to "
                f"{shorten(max(values))}, the image is {height} x {width} (height x width)"
            )
    # pycocotools lists every pixel of the outline: one longer than any that makes sense would fill the memory.
    points = np.asarray(ring, dtype=np.float64).reshape(-1, 2)
    length = float(np.abs(points - np.roll(points, 1, axis=0)).max(axis=1).sum())
    if length > height * width + 64 * (height + width):
        raise ValueError(
            f"{where}: an outline of {length:.0f} pixels is none in an image of {height} x {width}; check the polygon"
        )
    return [float(value) for value in ring]


def is_integer(value: object) -> bool:
    """Whether a JSON value is a whole number; true and false are none."""
    return isinstance(value, int) and not isinstance(value, bool)


def shorten(value: object) -> str:
    """A value in at most some 80 characters, also where it is large or deeply nested."""
    return _SHORT.repr(value)


_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 80
