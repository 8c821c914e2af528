"""The one mask codec: bool arrays to COCO run-length codes and back (pycocotools; Fortran order, ASCII counts).

Every other file speaks of `RLE` or of bool arrays (H, W) in original-image pixels; only this one knows about Fortran
order, `bytes` counts and polygons.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from partonomy.structures import RLE

MIN_POLYGON_COORDINATES = 6


def encode_mask(mask: np.ndarray) -> RLE:
    """Encode a mask.

    Args:
        mask: bool (H, W), original-image pixels. Any memory order.

    Returns:
        Its COCO compressed run-length code.

    Raises:
        ValueError: the array is not two-dimensional or not bool (a probability map has to be thresholded first).
    """
    if mask.ndim != 2 or mask.dtype != np.bool_:
        raise ValueError(f"a mask must be a bool array (H, W), got {mask.dtype} {mask.shape}: threshold it first")
    encoded = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    return RLE(int(mask.shape[0]), int(mask.shape[1]), encoded["counts"].decode("ascii"))


def decode_mask(rle: RLE) -> np.ndarray:
    """Decode a run-length code into a bool array (H, W)."""
    return coco_mask.decode(_to_coco(rle)).astype(bool)


def rle_to_json(rle: RLE) -> dict[str, object]:
    """Return the COCO form of a code that JSON can hold: {"size": [h, w], "counts": ASCII text}."""
    return {"size": [rle.height, rle.width], "counts": rle.counts}


def rle_area(rle: RLE) -> int:
    """Number of pixels of the mask."""
    return int(coco_mask.area(_to_coco(rle)))


def rle_bbox(rle: RLE) -> tuple[int, int, int, int]:
    """Tight box (x, y, width, height) in pixels; (0, 0, 0, 0) for an empty mask."""
    x, y, width, height = (int(value) for value in coco_mask.toBbox(_to_coco(rle)))
    return (x, y, width, height) if width and height else (0, 0, 0, 0)


def union_masks(masks: Sequence[RLE]) -> RLE:
    """Union of one or more masks of the same size.

    Raises:
        ValueError: no mask, or masks of several sizes.
    """
    if not masks:
        raise ValueError("the union of no masks is undefined: pass at least one")
    sizes = {(mask.height, mask.width) for mask in masks}
    if len(sizes) > 1:
        raise ValueError(f"cannot unite masks of several sizes {sorted(sizes)}")
    if len(masks) == 1:
        return masks[0]
    return _from_coco(coco_mask.merge([_to_coco(mask) for mask in masks]))


def intersection_area(first: RLE, second: RLE) -> int:
    """Number of pixels in both masks."""
    return int(coco_mask.area(coco_mask.merge([_to_coco(first), _to_coco(second)], intersect=True)))


def rle_from_coco(segmentation: object, height: int, width: int, where: str) -> RLE:
    """Read any form of a COCO segmentation.

    Args:
        segmentation: a list of polygons, one flat polygon, {"size", "counts"} with counts as compressed text, bytes
            or a list of runs, {"size", "polygon"} (published Partonomy records), or any of them under "segmentation".
        height: of the image, pixels.
        width: of the image, pixels.
        where: names the file and record, for errors.

    Returns:
        The compressed code, of exactly the image's size.

    Raises:
        ValueError: an unknown form, a mask of another size, an empty or broken polygon, counts that do not add up.
    """
    if isinstance(segmentation, Mapping):
        if "segmentation" in segmentation:
            return rle_from_coco(segmentation["segmentation"], height, width, where)
        _check_size(segmentation.get("size"), height, width, where)
        if "polygon" in segmentation:
            return rle_from_coco(segmentation["polygon"], height, width, where)
        if "counts" in segmentation:
            return _read_counts(segmentation["counts"], height, width, where)
    if isinstance(segmentation, Sequence) and not isinstance(segmentation, str | bytes):
        return _read_polygons(segmentation, height, width, where)
    raise ValueError(
        f"{where}: unknown segmentation {_shorten(segmentation)}; expected polygons, or a mapping with 'size' and "
        "'counts' or 'polygon'"
    )


def _to_coco(rle: RLE) -> dict[str, object]:
    return {"size": [rle.height, rle.width], "counts": rle.counts.encode("ascii")}


def _from_coco(encoded: Mapping[str, Any]) -> RLE:
    height, width = encoded["size"]
    counts = encoded["counts"]
    return RLE(int(height), int(width), counts.decode("ascii") if isinstance(counts, bytes) else str(counts))


def _check_size(size: object, height: int, width: int, where: str) -> None:
    if not isinstance(size, Sequence) or len(size) != 2:
        raise ValueError(f"{where}: a segmentation needs 'size': [height, width], got {_shorten(size)}")
    if (int(size[0]), int(size[1])) != (height, width):
        raise ValueError(
            f"{where}: the mask is {size[0]} x {size[1]} (height x width), the image {height} x {width}; "
            "masks must be given in the image's own pixels"
        )


def _read_counts(counts: object, height: int, width: int, where: str) -> RLE:
    if isinstance(counts, bytes):
        counts = _decode_ascii(counts, where)
    if isinstance(counts, str):
        _check_compressed(counts, height, width, where)
        return RLE(height, width, counts)
    if not isinstance(counts, Sequence) or not all(isinstance(run, int) and run >= 0 for run in counts):
        raise ValueError(f"{where}: 'counts' must be text, bytes or a list of run lengths, got {_shorten(counts)}")
    if sum(counts) != height * width:
        raise ValueError(f"{where}: the run lengths sum to {sum(counts)}, the image has {height * width} pixels")
    return _from_coco(coco_mask.frPyObjects({"size": [height, width], "counts": list(counts)}, height, width))


def _decode_ascii(counts: bytes, where: str) -> str:
    try:
        return counts.decode("ascii")
    except UnicodeDecodeError as error:
        raise ValueError(f"{where}: 'counts' is not a compressed COCO run-length code ({error})") from error


def _check_compressed(counts: str, height: int, width: int, where: str) -> None:
    """Sum the run lengths: pycocotools itself reads a code of the wrong length as noise, without an error."""
    groups = np.frombuffer(counts.encode("ascii", errors="replace"), dtype=np.uint8).astype(np.int64) - 48
    is_last = (groups & 0x20) == 0
    if groups.size == 0 or groups.min() < 0 or groups.max() > 63 or not is_last[-1]:
        raise ValueError(f"{where}: 'counts' is not a compressed COCO run-length code: {_shorten(counts)}")
    runs = _decode_runs(groups, is_last)
    if runs.min() < 0 or int(runs.sum()) != height * width:
        raise ValueError(
            f"{where}: the compressed run lengths sum to {int(runs.sum())}, the image has {height * width} pixels; "
            "the code is damaged or belongs to another image size"
        )


def _decode_runs(groups: np.ndarray, is_last: np.ndarray) -> np.ndarray:
    """Undo COCO's code: 5 bits a character, lowest first, bit 5 = more follow; from the fourth run on, differences."""
    ends = np.flatnonzero(is_last)
    starts = np.concatenate([[0], ends[:-1] + 1])
    positions = np.arange(groups.size) - np.repeat(starts, ends - starts + 1)
    values = np.add.reduceat((groups & 0x1F) << (5 * positions), starts)
    is_negative = (groups[ends] & 0x10) != 0
    values = values - np.where(is_negative, np.int64(1) << (5 * (ends - starts + 1)), 0)
    runs = values.copy()
    runs[1::2] = np.cumsum(values[1::2])
    runs[2::2] = np.cumsum(values[2::2])
    return runs


def _read_polygons(polygons: Sequence[object], height: int, width: int, where: str) -> RLE:
    if polygons and isinstance(polygons[0], int | float):
        polygons = [polygons]
    if not polygons:
        raise ValueError(f"{where}: the polygon is empty")
    rings = [_check_ring(ring, where) for ring in polygons]
    return _from_coco(coco_mask.merge(coco_mask.frPyObjects(rings, height, width)))


def _check_ring(ring: object, where: str) -> list[float]:
    if not isinstance(ring, Sequence) or not all(isinstance(value, int | float) for value in ring):
        raise ValueError(f"{where}: a polygon must be a flat list of numbers x, y, x, y, ..., got {_shorten(ring)}")
    if len(ring) < MIN_POLYGON_COORDINATES or len(ring) % 2:
        raise ValueError(f"{where}: a polygon needs at least 3 points (6 numbers, an even count), got {len(ring)}")
    if not all(np.isfinite(value) for value in ring):
        raise ValueError(f"{where}: the polygon has a coordinate that is not finite")
    return [float(value) for value in ring]


def _shorten(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
