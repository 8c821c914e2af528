"""The one mask codec: bool arrays to COCO run-length codes and back (pycocotools; Fortran order, ASCII counts).

Every other file speaks of `RLE` or of bool arrays (H, W) in original-image pixels; only this one knows about Fortran
order, `bytes` counts and polygons.
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from partonomy.segmentation_checks import (
    MAX_PIXELS,
    check_mask_size,
    check_size_entry,
    decode_runs,
    find_sound_codes,
    is_integer,
    read_compressed_runs,
    read_ring,
    read_run_list,
    shorten,
)
from partonomy.structures import RLE

MERGE_BATCH = 64
PLAIN_KEYS = {"size", "counts"}


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
    """Decode a run-length code into a bool array (H, W), its columns contiguous."""
    return coco_mask.decode(_to_coco(rle)).view(np.bool_)


def rle_to_json(rle: RLE) -> dict[str, object]:
    """Return the COCO form of a code that JSON can hold: {"size": [h, w], "counts": ASCII text}."""
    return {"size": [rle.height, rle.width], "counts": rle.counts}


def rle_area(rle: RLE) -> int:
    """Number of pixels of the mask."""
    return int(coco_mask.area(_to_coco(rle)))


@lru_cache(maxsize=4096)  # every part of an image is compared with every object
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
    return _from_coco(_merge([_to_coco(mask) for mask in masks]))


def intersection_area(first: RLE, second: RLE) -> int:
    """Number of pixels in both masks."""
    return int(coco_mask.area(coco_mask.merge([_to_coco(first), _to_coco(second)], intersect=True)))


def encode_masks(masks: np.ndarray) -> tuple[RLE, ...]:
    """Encode a stack of masks at once.

    Args:
        masks: bool (N, H, W), original-image pixels.

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
    """The same mask without runs of length 0 inside its code.

    Such a code is valid, but pycocotools takes two of them that meet for the end when it unites or intersects masks.
    """
    runs = decode_runs(rle.counts)
    return rle if (runs[1:] > 0).all() else encode_mask(decode_mask(rle))


def mask_areas(masks: Sequence[RLE]) -> np.ndarray:
    """Numbers of pixels, int64 (N,)."""
    # One by one: pycocotools 2.0.11 counts the masks of a list in 8 bits and refuses more than 255.
    return np.asarray([coco_mask.area(_to_coco(mask)) for mask in masks], dtype=np.int64)


def intersection_areas(first: Sequence[RLE], second: Sequence[RLE]) -> np.ndarray:
    """Pixels that each of P masks shares with each of M masks of the same size, int64 (P, M).

    The codes must be canonical (`canonical_rle`).
    """
    if not first or not second:
        return np.zeros((len(first), len(second)), dtype=np.int64)
    coded = [_to_coco(mask) for mask in first]
    # For a "crowd" pycocotools divides the intersection by the first mask's area, in float64: rounding restores it.
    shares = coco_mask.iou(coded, [_to_coco(mask) for mask in second], [1] * len(second))  # [P, M]
    return np.rint(shares * mask_areas(first)[:, None]).astype(np.int64)


def rle_from_coco(segmentation: object, height: int, width: int, where: str) -> RLE:
    """Read any form of a COCO segmentation.

    Args:
        segmentation: a list of polygons, one flat polygon, {"size", "counts"} with counts as compressed text, bytes
            or a list of runs, {"size", "polygon"} (published Partonomy records), or any of them under "segmentation".
        height: of the image, pixels.
        width: of the image, pixels.
        where: names the file and record, for errors.

    Returns:
        The compressed code, of exactly the image's size and without runs of length 0 but for the first.

    Raises:
        ValueError: an unknown form, a mask of another size, an empty or broken polygon, counts that do not add up, a
            size that no image has.
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
    """Read those COCO segmentations that are compressed codes and right as they are: nearly all of most files.

    Checked together they take a tenth of the time that `rle_from_coco` takes for one after the other.

    Returns:
        What `rle_from_coco` returns for an image of the segmentation's own size; None for every other form and for what
        is damaged.
    """
    masks = [_plain_code(segmentation) for segmentation in segmentations]
    return [mask if sound else None for mask, sound in zip(masks, find_sound_masks(masks), strict=True)]


def find_sound_masks(masks: Sequence[RLE | None]) -> list[bool]:
    """Tell which masks have a size that images have, and a code that `rle_from_coco` leaves as it is."""
    is_sized = [mask is not None and _is_image_size(mask.height, mask.width) for mask in masks]
    sized = [mask for mask, good in zip(masks, is_sized, strict=True) if good and mask is not None]
    is_sound = iter(
        find_sound_codes([mask.counts for mask in sized], [mask.height * mask.width for mask in sized]).tolist()
    )
    return [good and next(is_sound) for good in is_sized]


def _plain_code(segmentation: object) -> RLE | None:
    """A segmentation of the form {"size": [h, w], "counts": text}, not checked any further."""
    if not isinstance(segmentation, dict) or segmentation.keys() != PLAIN_KEYS:
        return None
    size, counts = segmentation["size"], segmentation["counts"]
    if not isinstance(counts, str) or not isinstance(size, list) or len(size) != 2 or not all(map(is_integer, size)):
        return None
    return RLE(size[0], size[1], counts)


def _is_image_size(height: int, width: int) -> bool:
    return height >= 1 and width >= 1 and height * width <= MAX_PIXELS


def _merge(encoded: list[dict[str, Any]]) -> dict[str, Any]:
    """Unite codes of one size, in batches: pycocotools goes over all that it has united for every further one."""
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
        counts = counts.decode("latin-1")  # keeps every byte; only ASCII is a code
    if not isinstance(counts, str):
        return _encode_runs(read_run_list(counts, height * width, where), height, width)
    runs = read_compressed_runs(counts, height * width, where)
    return _encode_runs(runs, height, width) if (runs[1:] == 0).any() else RLE(height, width, counts)


def _encode_runs(runs: np.ndarray, height: int, width: int) -> RLE:
    """Compress runs that sum to the image; runs of length 0 after the first go, their neighbours become one.

    pycocotools takes two such runs that meet for the end of the masks when it unites or intersects them.
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
        if len(united) == MERGE_BATCH:  # not all rings at once: each may cover the image
            united = [_merge(united)]
    return _from_coco(_merge(united))
