import base64
import io

import numpy as np
import pytest
from PIL import Image

from partonomy.visualize import (
    MIN_SIDE,
    colour_parts,
    draw_overlay,
    encode_base64,
    encode_png_base64,
    enlarge,
    part_colours,
    side_by_side,
)


def test_colours_are_distinct_and_stable() -> None:
    colours = part_colours(40)
    assert len(set(colours)) == 40
    assert part_colours(5) == colours[:5]


def test_mask_is_filled_half_and_the_rest_untouched() -> None:
    image = np.full((40, 40, 3), 100, dtype=np.uint8)
    mask = np.zeros((1, 40, 40), dtype=bool)
    mask[0, 10:30, 10:30] = True
    drawn = colour_parts(image, mask, [(200, 0, 50)])
    assert drawn[20, 20].tolist() == [150, 50, 75]  # half of 100 plus half of the colour
    # The contour: the plain colour but for antialiasing.
    np.testing.assert_allclose(drawn[10, 20], [200, 0, 50], atol=12)
    assert drawn[5, 5].tolist() == [100, 100, 100]
    assert image[20, 20].tolist() == [100, 100, 100]


def test_small_masks_lie_on_top_of_large_ones() -> None:
    image = np.zeros((40, 40, 3), dtype=np.uint8)
    masks = np.zeros((2, 40, 40), dtype=bool)
    masks[0, 15:25, 15:25] = True
    masks[1] = True
    drawn = colour_parts(image, masks, [(200, 0, 0), (0, 200, 0)])
    assert drawn[20, 20].tolist() == [100, 50, 0]


def test_overlay_enlarges_tiny_images_and_adds_a_legend() -> None:
    image = np.zeros((30, 60, 3), dtype=np.uint8)
    masks = np.zeros((2, 30, 60), dtype=bool)
    masks[0, :10] = True
    overlay = draw_overlay(image, masks, ["wing", "tail fin"])
    assert overlay.dtype == np.uint8
    assert overlay.shape[0] > MIN_SIDE
    assert overlay.shape[1] == 2 * MIN_SIDE
    assert draw_overlay(image, masks, ["wing", "tail fin"], has_legend=False).shape == (MIN_SIDE, 2 * MIN_SIDE, 3)


def test_no_mask_leaves_the_image() -> None:
    image = np.random.default_rng(0).integers(0, 256, (400, 330, 3), dtype=np.uint8)
    none = np.zeros((0, 400, 330), dtype=bool)
    np.testing.assert_array_equal(draw_overlay(image, none, [], has_legend=False), image)
    assert draw_overlay(image, none, []).shape == (401, 330, 3)


def test_enlarging_keeps_the_masks_share() -> None:
    image = np.zeros((50, 50, 3), dtype=np.uint8)
    masks = np.zeros((1, 50, 50), dtype=bool)
    masks[0, 10:30, 5:45] = True
    _, large = enlarge(image, masks)
    assert large.shape == (1, MIN_SIDE, MIN_SIDE)
    assert large.mean() == pytest.approx(masks.mean(), rel=0.02)


def test_side_by_side_sizes() -> None:
    panels = [np.zeros((20, 30, 3), dtype=np.uint8), np.zeros((40, 10, 3), dtype=np.uint8)]
    row = side_by_side(panels, gap=8)
    assert row.shape == (40, 48, 3)
    assert row[30, 5].tolist() == [255, 255, 255]
    assert side_by_side(panels, ["true", "predicted"]).shape == (66, 48, 3)
    with pytest.raises(ValueError, match="at least one"):
        side_by_side([])
    with pytest.raises(ValueError, match="as many titles"):
        side_by_side(panels, ["one"])


def test_base64_survives() -> None:
    image = np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8)
    png = np.asarray(Image.open(io.BytesIO(base64.b64decode(encode_png_base64(image)))))
    np.testing.assert_array_equal(png, image)
    assert Image.open(io.BytesIO(base64.b64decode(encode_base64(image, "JPEG")))).format == "JPEG"


def test_shapes_must_fit() -> None:
    image = np.zeros((9, 7, 3), dtype=np.uint8)
    with pytest.raises(ValueError, match="do not fit an image"):
        colour_parts(image, np.zeros((1, 7, 9), dtype=bool), part_colours(1))
    with pytest.raises(ValueError, match="as many labels"):
        draw_overlay(image, np.zeros((1, 9, 7), dtype=bool), [])
