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
MAX_GROUPS = 7  # of 5 bits: any number of 32 bits
LONG_NUMBER = re.compile(r"[P-o]{7}")
MAX_SHIFTED = 12  # groups fit into 64 bits; longer numbers are refused
BATCH_CHARACTERS = 1 << 16


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
    if runs.min() < 0 or runs.max() > num_pixels or int(runs.sum()) != num_pixels:
        raise ValueError(
            f"{where}: the compressed run lengths sum to {int(runs.sum())}, the image has {num_pixels} pixels; "
            "the code is damaged or belongs to another image size"
        )
    return runs


def find_sound_codes(counts: Sequence[str], num_pixels: Sequence[int]) -> np.ndarray:
    """Tell which of many compressed codes `read_compressed_runs` reads, and without a run of length 0 after the first.

    Many at once: alone, a code of some runs takes NumPy as long as a hundred codes together.

    Args:
        counts: compressed "counts", N of them.
        num_pixels: of the image of each.

    Returns:
        bool (N,). What is False is to be read alone, which says why.
    """
    is_sound = np.zeros(len(counts), dtype=bool)
    batch: list[int] = []
    size = 0
    for number, code in enumerate(counts):
        if code and code.isascii():
            batch.append(number)
            size += len(code)
        if batch and (size > BATCH_CHARACTERS or number == len(counts) - 1):
            is_sound[batch] = _are_sound([counts[one] for one in batch], [num_pixels[one] for one in batch])
            batch, size = [], 0
    return is_sound


def _are_sound(counts: Sequence[str], num_pixels: Sequence[int]) -> np.ndarray:
    """The same for ASCII texts, none empty."""
    groups = np.frombuffer("".join(counts).encode("ascii"), dtype=np.uint8) - np.uint8(48)  # below "0": far above 63
    sizes = np.array([len(code) for code in counts])
    last = np.cumsum(sizes) - 1
    is_good = np.maximum.reduceat(groups, last - sizes + 1) < 64
    is_good &= (groups[last] & 0x20) == 0
    groups = groups.astype(np.int64)
    groups[last] &= 0x1F  # a code that ends within a number must not run into the next
    number_ends = np.flatnonzero((groups & 0x20) == 0)
    values, lengths = _decode_numbers(groups, number_ends)
    ends = np.searchsorted(number_ends, last)  # the last number of each code
    starts = np.append(0, ends[:-1] + 1)
    is_good &= np.maximum.reduceat(lengths, starts) <= MAX_GROUPS
    runs = _add_up(values, starts, ends)
    is_good &= np.maximum.reduceat(runs, starts) <= num_pixels
    is_good &= np.add.reduceat(runs, starts) == num_pixels
    runs[starts] += 1  # the first may be 0
    is_good &= np.minimum.reduceat(runs, starts) > 0
    return is_good


def _add_up(values: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Undo the differences of codes that stand one after the other: each run adds to the last but one of its code."""
    sizes = ends - starts + 1
    places = np.arange(values.size) - np.repeat(starts, sizes)
    is_odd = places % 2 == 1
    odd = np.cumsum(np.where(is_odd, values, 0))
    even = np.cumsum(np.where(is_odd | (places == 0), 0, values))
    before = np.repeat(starts, sizes)  # the first run of a code is in neither sum
    runs: np.ndarray = np.where(is_odd, odd - odd[before], even - even[before])
    runs[starts] = values[starts]
    return runs


def decode_runs(counts: str) -> np.ndarray:
    """Undo COCO's code: 5 bits a character, lowest first, bit 5 = more follow; from the fourth run on, differences."""
    groups = np.frombuffer(counts.encode("ascii"), dtype=np.uint8).astype(np.int64) - 48
    values, _ = _decode_numbers(groups, np.flatnonzero((groups & 0x20) == 0))
    runs = values.copy()
    runs[1::2] = np.cumsum(values[1::2])
    runs[2::2] = np.cumsum(values[2::2])
    return runs


def _decode_numbers(groups: np.ndarray, ends: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Numbers from groups of 5 bits that end at `ends`, and how many groups each has."""
    starts = np.zeros_like(ends)
    starts[1:] = ends[:-1] + 1
    lengths = ends - starts + 1
    positions = np.minimum(np.arange(groups.size) - np.repeat(starts, lengths), MAX_SHIFTED)
    values = np.add.reduceat((groups & 0x1F) << (5 * positions), starts)
    is_negative = (groups[ends] & 0x10) != 0
    return values - np.where(is_negative, np.int64(1) << (5 * np.minimum(lengths, MAX_SHIFTED)), 0), lengths


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
