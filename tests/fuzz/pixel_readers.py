"""Readers of masks and pictures."""

from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st

from partonomy.images import check_image, image_size, load_image
from partonomy.masks import decode_mask, intersection_area, rle_area, rle_bbox, rle_from_coco, union_masks
from partonomy.structures import RLE
from tests.fuzz import mutations, worlds
from tests.fuzz.outcomes import ACCEPTED, Refusal, attempt
from tests.fuzz.trial import Reader

WHERE = Path("masks.json, annotation 7")
MAX_DECODED = 1 << 20


def make_pixel_readers() -> tuple[Reader, ...]:
    return (
        Reader("segmentations", _masks(), worlds.write_images, check_segmentation),
        Reader("image files", _image_files(), worlds.write_images, check_image_file),
    )


def check_segmentation(case: tuple[object, Any, Any], folder: Path) -> str:
    """Whatever is read is a mask of the image's size that every operation of the codec agrees on."""
    segmentation, height, width = case
    outcome = attempt(lambda: rle_from_coco(segmentation, height, width, str(WHERE)), WHERE)
    if isinstance(outcome, Refusal):
        return f"refused: {outcome.reason_class}"
    rle: RLE = outcome
    assert (rle.height, rle.width) == (height, width)
    if height * width <= MAX_DECODED:
        mask = decode_mask(rle)
        rows, columns = np.nonzero(mask)
        assert rle_area(rle) == mask.sum()
        assert np.array_equal(decode_mask(union_masks([rle, rle])), mask)
        assert intersection_area(rle, rle) == mask.sum()
        box = (columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1) if mask.any() else (0, 0, 0, 0)
        assert rle_bbox(rle) == box
    return ACCEPTED


def check_image_file(case: tuple[str, bytes], folder: Path) -> str:
    """Header and pixels of a picture."""
    name, content = case
    path = folder / f"ä 漢 {name}"
    path.write_bytes(content)
    size = attempt(lambda: image_size(path), path)
    if isinstance(size, Refusal):
        return f"refused: {size.reason_class}"
    check_image(path, *size)
    pixels = attempt(lambda: load_image(path, *size), path)
    if isinstance(pixels, Refusal):
        return f"header read, pixels refused: {pixels.reason_class}"
    assert pixels.shape == (*size, 3)
    assert pixels.dtype == np.uint8
    return ACCEPTED


@st.composite
def _masks(draw: st.DrawFn) -> tuple[object, Any, Any]:
    size: tuple[Any, Any] = (worlds.HEIGHT, worlds.WIDTH)
    segmentation = draw(mutations.segmentations(worlds.valid_segmentations(), size))
    if draw(st.integers(0, 5)) == 0:
        size = draw(
            st.sampled_from(((10**9, 10**9), (0, 5), (-3, 4), (2**16, 2**16), ("4", 4), (1, 1), (3.0, 2), (True, 1)))
        )
        if draw(st.booleans()) and isinstance(segmentation, dict):
            segmentation = segmentation | {"size": list(size)}
    return segmentation, *size


@st.composite
def _image_files(draw: st.DrawFn) -> tuple[str, bytes]:
    contents = worlds.image_contents()
    name = draw(st.sampled_from(sorted(contents)))
    if name.endswith(".png") and draw(st.integers(0, 4)) == 0:
        sides = st.sampled_from((0, 1, 31, 33, 20_000, 2**16, 2**31 - 1, 2**32 - 1))
        return name, worlds.claim_size(contents[name], draw(sides), draw(sides))
    if draw(st.integers(0, 9)) == 0:
        return name, contents[name]
    return name, draw(mutations.damaged_bytes(contents[name]))
