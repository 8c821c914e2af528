"""The mask codec against pycocotools and hand-drawn masks."""

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from partonomy.masks import (
    decode_mask,
    encode_mask,
    intersection_area,
    rle_area,
    rle_bbox,
    rle_from_coco,
    rle_to_json,
    union_masks,
)
from partonomy.structures import RLE

WHERE = "file.json, annotation 7"


def random_mask(height: int, width: int, density: float) -> np.ndarray:
    return np.random.default_rng(3).random((height, width)) < density


@pytest.mark.parametrize("shape", [(1, 1), (3, 7), (40, 33)])
@pytest.mark.parametrize("density", [0.0, 0.3, 1.0])
def test_round_trip(shape: tuple[int, int], density: float) -> None:
    mask = random_mask(*shape, density)
    for array in (mask, np.asfortranarray(mask)):
        rle = encode_mask(array)
        np.testing.assert_array_equal(decode_mask(rle), mask)
        assert rle_area(rle) == mask.sum()
        assert rle_from_coco(rle_to_json(rle), *shape, WHERE) == rle


def test_area_box_and_union_of_hand_drawn_masks() -> None:
    # Rows 1-2, columns 3-5: x 3, y 1, width 3, height 2, 6 pixels. The second covers one more column: 2 pixels more.
    first, second = np.zeros((4, 8), bool), np.zeros((4, 8), bool)
    first[1:3, 3:6] = True
    second[1:3, 5:7] = True
    rles = encode_mask(first), encode_mask(second)
    assert rle_bbox(rles[0]) == (3, 1, 3, 2)
    assert rle_area(rles[0]) == 6
    np.testing.assert_array_equal(decode_mask(union_masks(rles)), first | second)
    assert intersection_area(*rles) == 2
    assert rle_bbox(encode_mask(np.zeros((4, 8), bool))) == (0, 0, 0, 0)


def test_every_form_of_segmentation_reads_the_same() -> None:
    # The square with corners (2, 1) and (6, 4) holds the pixels of rows 1-3, columns 2-5.
    mask = np.zeros((6, 9), bool)
    mask[1:4, 2:6] = True
    polygon = [2, 1, 6, 1, 6, 4, 2, 4]
    compressed = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    # Column-major runs: 2 empty columns + 1 row = 13, then 3 on / 3 off four times, the last gap up to pixel 54.
    runs = [13, 3, 3, 3, 3, 3, 3, 3, 20]
    forms: list[object] = [
        [polygon],
        polygon,
        compressed,
        {"size": [6, 9], "counts": compressed["counts"].decode()},
        {"size": [6, 9], "counts": runs},
        {"size": [6, 9], "polygon": polygon},
        {"segmentation": {"size": [6, 9], "polygon": polygon}},
        {"segmentation": [polygon]},
    ]
    for form in forms:
        np.testing.assert_array_equal(decode_mask(rle_from_coco(form, 6, 9, WHERE)), mask)


def test_several_polygons_are_united() -> None:
    left, right = [0, 0, 2, 0, 2, 4, 0, 4], [6, 0, 8, 0, 8, 4, 6, 4]
    mask = decode_mask(rle_from_coco([left, right], 4, 8, WHERE))
    expected = np.zeros((4, 8), bool)
    expected[:, :2] = expected[:, 6:] = True
    np.testing.assert_array_equal(mask, expected)


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        ([], "polygon is empty"),
        ([[]], "at least 3 points"),
        ([[1, 2, 3, 4]], "at least 3 points"),
        ([[1, 2, 3, 4, 5, 6, 7]], "even count"),
        ([[1, 2, 3, float("nan"), 5, 6]], "not finite"),
        ([["a", "b"]], "flat list of numbers"),
        ("garbage", "unknown segmentation"),
        (None, "unknown segmentation"),
        ({"size": [4, 8]}, "unknown segmentation"),
        ({"counts": "abc"}, "needs 'size'"),
        ({"size": [8, 4], "counts": [32]}, "mask is 8 x 4 .* the image 4 x 8"),
        ({"size": [4, 8], "counts": [31]}, "sum to 31, the image has 32"),
        ({"size": [4, 8], "counts": [40, -8]}, "list of run lengths"),
        ({"size": [4, 8], "counts": "  "}, "not a compressed"),
        ({"size": [4, 8], "counts": ""}, "not a compressed"),
        ({"size": [4, 8], "counts": b"\xff"}, "not a compressed"),
    ],
)
def test_bad_segmentations_name_the_record(segmentation: object, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        rle_from_coco(segmentation, 4, 8, WHERE)
    assert WHERE in str(caught.value)


def test_a_code_of_another_image_is_refused() -> None:
    counts = encode_mask(random_mask(10, 12, 0.4)).counts
    with pytest.raises(ValueError, match="sum to 120, the image has 130"):
        rle_from_coco({"size": [10, 13], "counts": counts}, 10, 13, WHERE)


def test_encode_refuses_probabilities_and_stacks() -> None:
    with pytest.raises(ValueError, match="threshold"):
        encode_mask(np.zeros((3, 3), np.float32))
    with pytest.raises(ValueError, match="H, W"):
        encode_mask(np.zeros((2, 3, 3), bool))


def test_union_refuses_nothing_and_other_sizes() -> None:
    with pytest.raises(ValueError, match="at least one"):
        union_masks([])
    with pytest.raises(ValueError, match="several sizes"):
        union_masks([RLE(1, 1, "1"), RLE(1, 2, "2")])
