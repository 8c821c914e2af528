"""The mask codec: converts bool arrays to COCO run-length codes and back (pycocotools; Fortran order, ASCII counts).

Every segmentation is checked before it reaches pycocotools, whose C code trusts sizes, counts and coordinates.
"""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from partonomy.files import is_integer, shorten
from partonomy.structures import RLE

MIN_POLYGON_COORDINATES = 6
MAX_PIXELS = 178_956_970  # the most pixels that PIL opens; also keeps every run within the 32 bits of COCO's code
CODE = re.compile(r"[0-o]+")  # "P" to "o": the number continues
MAX_GROUPS = 7  # of 5 bits each: enough for any 32-bit number
LONG_NUMBER = re.compile(r"[P-o]{7}")
MAX_SHIFTED = 12  # this many groups fit into 64 bits; longer numbers are refused
BATCH_CHARACTERS = 1 << 16
MERGE_BATCH = 64
PLAIN_KEYS = {"size", "counts"}


def check_mask_size(height: object, width: object, where: str = "") -> None:
    """Check that the values are the height and width, in pixels, of an image that can be opened.

    Args:
        height: the height.
        width: the width.
        where: the file and record, as a prefix of the message; empty if the caller adds them.

    Raises:
        ValueError: they are not.
    """
    prefix = f"{where}: " if where else ""
    if not (is_integer(height) and is_integer(width)):
        raise ValueError(f"{prefix}height and width must be integers, got {shorten(height)}, {shorten(width)}")
    if not _is_image_size(height, width):
        raise ValueError(
            f"{prefix}the image size is invalid: {shorten(height)} x {shorten(width)} (height x width; at most "
            f"{MAX_PIXELS} pixels)"
        )


def check_size_entry(size: object, height: int, width: int, where: str) -> None:
    """Check a segmentation's "size" against the size of its image."""
    if not isinstance(size, Sequence) or len(size) != 2 or not all(is_integer(value) for value in size):
        raise ValueError(f"{where}: a segmentation needs 'size': [height, width], got {shorten(size)}")
    if (size[0], size[1]) != (height, width):
        raise ValueError(
            f"{where}: the mask is {shorten(size[0])} x {shorten(size[1])} (height x width), the image {height} x "
            f"{width}; masks must be given in the image's own pixels"
        )


def read_run_list(counts: object, num_pixels: int, where: str) -> np.ndarray:
    """Read uncompressed "counts": int64 run lengths that sum to the number of pixels."""
    if not isinstance(counts, Sequence) or not all(is_integer(run) and run >= 0 for run in counts):
        raise ValueError(f"{where}: 'counts' must be text, bytes or a list of run lengths, got {shorten(counts)}")
    if sum(counts) != num_pixels:
        raise ValueError(f"{where}: the run lengths sum to {shorten(sum(counts))}, the image has {num_pixels} pixels")
    return np.asarray(counts, dtype=np.int64)


def read_compressed_runs(counts: str, num_pixels: int, where: str) -> np.ndarray:
    """Read compressed "counts": int64 run lengths that sum to the number of pixels.

    pycocotools itself decodes a damaged code to noise, or reads past its end.
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
    """Find the compressed codes that `read_compressed_runs` accepts and that have no run of length 0 after the first.

    Codes are checked together because NumPy takes as long for a single short code as for a hundred.

    Args:
        counts: N compressed "counts".
        num_pixels: the number of pixels of each code's image.

    Returns:
        bool (N,). Read each code marked False by itself to get the reason.
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
    """Find the codes that `find_sound_codes` accepts among non-empty ASCII strings."""
    groups = np.frombuffer("".join(counts).encode("ascii"), dtype=np.uint8) - np.uint8(
        48
    )  # below "0": wraps far above 63
    sizes = np.array([len(code) for code in counts])
    last = np.cumsum(sizes) - 1
    is_good = np.maximum.reduceat(groups, last - sizes + 1) < 64
    is_good &= (groups[last] & 0x20) == 0
    groups = groups.astype(np.int64)
    groups[last] &= 0x1F  # a code that ends within a number must not run into the next code
    number_ends = np.flatnonzero((groups & 0x20) == 0)
    values, lengths = _decode_numbers(groups, number_ends)
    ends = np.searchsorted(number_ends, last)  # the last number of each code
    starts = np.append(0, ends[:-1] + 1)
    is_good &= np.maximum.reduceat(lengths, starts) <= MAX_GROUPS
    runs = _add_up(values, starts, ends)
    is_good &= np.maximum.reduceat(runs, starts) <= num_pixels
    is_good &= np.add.reduceat(runs, starts) == num_pixels
    runs[starts] += 1  # the first run may be 0
    is_good &= np.minimum.reduceat(runs, starts) > 0
    return is_good


def _add_up(values: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Undo the difference coding of concatenated codes: each run adds to the run two before it in the same code."""
    sizes = ends - starts + 1
    places = np.arange(values.size) - np.repeat(starts, sizes)
    is_odd = places % 2 == 1
    odd = np.cumsum(np.where(is_odd, values, 0))
    even = np.cumsum(np.where(is_odd | (places == 0), 0, values))
    before = np.repeat(starts, sizes)  # neither sum includes a code's first run
    runs: np.ndarray = np.where(is_odd, odd - odd[before], even - even[before])
    runs[starts] = values[starts]
    return runs


def decode_runs(counts: str) -> np.ndarray:
    """Decode COCO's code: 5 bits per character, lowest first, bit 5 if more follow; differences from the fourth run."""
    groups = np.frombuffer(counts.encode("ascii"), dtype=np.uint8).astype(np.int64) - 48
    values, _ = _decode_numbers(groups, np.flatnonzero((groups & 0x20) == 0))
    runs = values.copy()
    runs[1::2] = np.cumsum(values[1::2])
    runs[2::2] = np.cumsum(values[2::2])
    return runs


def _decode_numbers(groups: np.ndarray, ends: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the numbers whose 5-bit groups end at `ends`, and the number of groups of each."""
    starts = np.zeros_like(ends)
    starts[1:] = ends[:-1] + 1
    lengths = ends - starts + 1
    positions = np.minimum(np.arange(groups.size) - np.repeat(starts, lengths), MAX_SHIFTED)
    values = np.add.reduceat((groups & 0x1F) << (5 * positions), starts)
    is_negative = (groups[ends] & 0x10) != 0
    return values - np.where(is_negative, np.int64(1) << (5 * np.minimum(lengths, MAX_SHIFTED)), 0), lengths


def read_ring(ring: object, height: int, width: int, where: str) -> list[float]:
    """Read one flat polygon x, y, x, y, ..., which may extend beyond the image by at most one image size."""
    if not isinstance(ring, Sequence) or not all(is_integer(value) or isinstance(value, float) for value in ring):
        raise ValueError(f"{where}: a polygon must be a flat list of numbers x, y, x, y, ..., got {shorten(ring)}")
    if len(ring) < MIN_POLYGON_COORDINATES or len(ring) % 2:
        raise ValueError(f"{where}: a polygon needs at least 3 points (6 numbers, an even count), got {len(ring)}")
    if any(isinstance(value, float) and not math.isfinite(value) for value in ring):
        raise ValueError(f"{where}: the polygon has a coordinate that is not finite")
    for name, values, size in (("x", ring[0::2], width), ("y", ring[1::2], height)):
        if min(values) < -size or max(values) > 2 * size:
            raise ValueError(
                f"{where}: the polygon lies far outside the image: {name} from {shorten(min(values))} to "
                f"{shorten(max(values))}, the image is {height} x {width} (height x width)"
            )
    # pycocotools lists every pixel of the outline, so an absurdly long outline would fill the memory.
    points = np.asarray(ring, dtype=np.float64).reshape(-1, 2)
    length = float(np.abs(points - np.roll(points, 1, axis=0)).max(axis=1).sum())
    if length > height * width + 64 * (height + width):
        raise ValueError(
            f"{where}: an outline of {length:.0f} pixels is too long for an image of {height} x {width}; check "
            "the polygon"
        )
    return [float(value) for value in ring]


def encode_mask(mask: np.ndarray) -> RLE:
    """Encode a mask.

    Args:
        mask: bool (H, W) in original-image pixels, in any memory order.

    Returns:
        Its COCO compressed run-length code.

    Raises:
        ValueError: the array is not two-dimensional or not bool (threshold a probability map first).
    """
    if mask.ndim != 2 or mask.dtype != np.bool_:
        raise ValueError(f"a mask must be a bool array (H, W), got {mask.dtype} {mask.shape}: threshold it first")
    encoded = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    return RLE(int(mask.shape[0]), int(mask.shape[1]), encoded["counts"].decode("ascii"))


def decode_mask(rle: RLE) -> np.ndarray:
    """Decode a run-length code into a bool array (H, W) whose columns are contiguous."""
    return coco_mask.decode(_to_coco(rle)).view(np.bool_)


def rle_to_json(rle: RLE) -> dict[str, object]:
    """Return a code in COCO's JSON form: {"size": [height, width] in pixels, "counts": compressed RLE, ASCII}."""
    return {"size": [rle.height, rle.width], "counts": rle.counts}


def rle_area(rle: RLE) -> int:
    """Return the number of pixels of the mask."""
    return int(coco_mask.area(_to_coco(rle)))


@lru_cache(maxsize=4096)  # every part of an image is compared with every object
def rle_bbox(rle: RLE) -> tuple[int, int, int, int]:
    """Return the tight box (x, y, width, height) in pixels; (0, 0, 0, 0) for an empty mask."""
    x, y, width, height = (int(value) for value in coco_mask.toBbox(_to_coco(rle)))
    return (x, y, width, height) if width and height else (0, 0, 0, 0)


def union_masks(masks: Sequence[RLE]) -> RLE:
    """Return the union of one or more masks of the same size.

    Raises:
        ValueError: there are no masks, or their sizes differ.
    """
    if not masks:
        raise ValueError("the union of no masks is undefined: pass at least one")
    sizes = {(mask.height, mask.width) for mask in masks}
    if len(sizes) > 1:
        raise ValueError(f"cannot unite masks of different sizes {sorted(sizes)}")
    if len(masks) == 1:
        return masks[0]
    return _from_coco(_merge([_to_coco(mask) for mask in masks]))


def intersection_area(first: RLE, second: RLE) -> int:
    """Return the number of pixels that both masks contain."""
    return int(coco_mask.area(coco_mask.merge([_to_coco(first), _to_coco(second)], intersect=True)))


def encode_masks(masks: np.ndarray) -> tuple[RLE, ...]:
    """Encode a stack of masks in a single call.

    Args:
        masks: bool (N, H, W) in original-image pixels.

    Raises:
        ValueError: the array is not three-dimensional or not bool.
    """
    if masks.ndim != 3 or masks.dtype != np.bool_:
        raise ValueError(f"masks must be a bool array (N, H, W), got {masks.dtype} {masks.shape}: threshold them first")
    if not len(masks):
        return ()
    by_column = np.ascontiguousarray(masks.view(np.uint8).transpose(0, 2, 1))  # (N, W, H)
    return tuple(_from_coco(encoded) for encoded in coco_mask.encode(by_column.transpose(2, 1, 0)))


@lru_cache(maxsize=4096)  # the questions of an image ask about the same masks
def canonical_rle(rle: RLE) -> RLE:
    """Return the same mask without runs of length 0 inside its code.

    A code with such runs is valid, but if two of them meet in a union or an intersection, pycocotools stops early.
    """
    runs = decode_runs(rle.counts)
    return rle if (runs[1:] > 0).all() else encode_mask(decode_mask(rle))


def mask_areas(masks: Sequence[RLE]) -> np.ndarray:
    """Return the number of pixels of each mask, int64 (N,)."""
    # One at a time: pycocotools 2.0.11 counts the masks of a list in 8 bits and refuses more than 255.
    return np.asarray([coco_mask.area(_to_coco(mask)) for mask in masks], dtype=np.int64)


def intersection_areas(first: Sequence[RLE], second: Sequence[RLE]) -> np.ndarray:
    """Return the number of pixels that each of P masks shares with each of M masks of the same size, int64 (P, M).

    The codes must be canonical (`canonical_rle`).
    """
    if not first or not second:
        return np.zeros((len(first), len(second)), dtype=np.int64)
    coded = [_to_coco(mask) for mask in first]
    # For a "crowd", pycocotools divides the intersection by the first mask's area in float64; rounding recovers it.
    shares = coco_mask.iou(coded, [_to_coco(mask) for mask in second], [1] * len(second))  # [P, M]
    return np.rint(shares * mask_areas(first)[:, None]).astype(np.int64)


def rle_from_coco(segmentation: object, height: int, width: int, where: str) -> RLE:
    """Read any form of a COCO segmentation.

    Args:
        segmentation: a list of polygons, one flat polygon, {"size", "counts"} with counts as a compressed string, bytes
            or a list of runs, {"size", "polygon"} (published Partonomy records), or any of them under "segmentation".
        height: the image's height in pixels.
        width: the image's width in pixels.
        where: the file and record, for error messages.

    Returns:
        The compressed code, of exactly the image's size; only its first run may have length 0.

    Raises:
        ValueError: the form is unknown, the mask has another size than the image, a polygon is empty or malformed, the
            counts do not add up, or the image size is invalid.
    """
    check_mask_size(height, width, where)
    while isinstance(segmentation, Mapping) and "segmentation" in segmentation:
        segmentation = segmentation["segmentation"]
    if isinstance(segmentation, Mapping):
        check_size_entry(segmentation.get("size"), height, width, where)
        if "polygon" in segmentation:
            segmentation = segmentation["polygon"]
        elif "counts" in segmentation:
            return _read_counts(segmentation["counts"], height, width, where)
    if isinstance(segmentation, Sequence) and not isinstance(segmentation, str | bytes):
        return _read_polygons(segmentation, height, width, where)
    raise ValueError(
        f"{where}: unknown segmentation {shorten(segmentation)}; expected polygons, or a mapping with 'size' and "
        "'counts' or 'polygon'"
    )


def read_sound_codes(segmentations: Iterable[object]) -> list[RLE | None]:
    """Read the COCO segmentations that are valid compressed codes already, as nearly all are in most files.

    Checking them together takes a tenth of the time that `rle_from_coco` takes one by one.

    Returns:
        For each segmentation, the result of `rle_from_coco` for an image of the segmentation's own size; None for every
        other form and for damaged codes.
    """
    masks = [_plain_code(segmentation) for segmentation in segmentations]
    return [mask if sound else None for mask, sound in zip(masks, find_sound_masks(masks), strict=True)]


def find_sound_masks(masks: Sequence[RLE | None]) -> list[bool]:
    """Return whether each mask has a valid image size and a code that `rle_from_coco` would not change."""
    is_sized = [mask is not None and _is_image_size(mask.height, mask.width) for mask in masks]
    sized = [mask for mask, good in zip(masks, is_sized, strict=True) if good and mask is not None]
    is_sound = iter(
        find_sound_codes([mask.counts for mask in sized], [mask.height * mask.width for mask in sized]).tolist()
    )
    return [good and next(is_sound) for good in is_sized]


def _plain_code(segmentation: object) -> RLE | None:
    """Read a segmentation of the form {"size": [h, w], "counts": text} without further checks; None for other forms."""
    if not isinstance(segmentation, dict) or segmentation.keys() != PLAIN_KEYS:
        return None
    size, counts = segmentation["size"], segmentation["counts"]
    if not isinstance(counts, str) or not isinstance(size, list) or len(size) != 2 or not all(map(is_integer, size)):
        return None
    return RLE(size[0], size[1], counts)


def _is_image_size(height: int, width: int) -> bool:
    return height >= 1 and width >= 1 and height * width <= MAX_PIXELS


def _merge(encoded: list[dict[str, Any]]) -> dict[str, Any]:
    """Unite codes of one size in batches, because pycocotools scans the whole union so far for every further code."""
    while len(encoded) > 1:
        starts = range(0, len(encoded), MERGE_BATCH)
        encoded = [coco_mask.merge(encoded[start : start + MERGE_BATCH]) for start in starts]
    return encoded[0]


def _to_coco(rle: RLE) -> dict[str, Any]:
    return {"size": [rle.height, rle.width], "counts": rle.counts.encode("ascii")}


def _from_coco(encoded: Mapping[str, Any]) -> RLE:
    height, width = encoded["size"]
    counts = encoded["counts"]
    return RLE(int(height), int(width), counts.decode("ascii") if isinstance(counts, bytes) else str(counts))


def _read_counts(counts: object, height: int, width: int, where: str) -> RLE:
    if isinstance(counts, bytes):
        counts = counts.decode("latin-1")  # latin-1 keeps every byte; only ASCII is a valid code
    if not isinstance(counts, str):
        return _encode_runs(read_run_list(counts, height * width, where), height, width)
    runs = read_compressed_runs(counts, height * width, where)
    return _encode_runs(runs, height, width) if (runs[1:] == 0).any() else RLE(height, width, counts)


def _encode_runs(runs: np.ndarray, height: int, width: int) -> RLE:
    """Compress runs that sum to the image. Runs of length 0 after the first are removed and their neighbours joined.

    If two such runs meet in a union or an intersection, pycocotools takes them for the end of the masks.
    """
    kept = np.flatnonzero(runs > 0)
    values = kept % 2
    starts = np.flatnonzero(np.concatenate([[True], values[1:] != values[:-1]]))
    lengths = np.add.reduceat(runs[kept], starts).tolist()
    background = [0] if values[0] else []  # a code begins with a run of background
    return _from_coco(coco_mask.frPyObjects({"size": [height, width], "counts": background + lengths}, height, width))


def _read_polygons(polygons: Sequence[Any], height: int, width: int, where: str) -> RLE:
    if polygons and isinstance(polygons[0], int | float):
        polygons = [polygons]
    if not polygons:
        raise ValueError(f"{where}: the polygon is empty")
    united: list[dict[str, Any]] = []
    for ring in polygons:
        united += coco_mask.frPyObjects([read_ring(ring, height, width, where)], height, width)
        if len(united) == MERGE_BATCH:  # limits memory: each ring may cover the image
            united = [_merge(united)]
    return _from_coco(_merge(united))
