"""The mask codec against pycocotools and hand-drawn masks."""

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from partonomy.masks import (
    decode_mask,
    encode_mask,
    intersection_area,
    intersection_areas,
    mask_areas,
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
        ({"size": [4, 8], "counts": "é0"}, "not a compressed"),
        ({"size": [4, 8], "counts": "P"}, "not a compressed"),
        ({"size": [4, 8], "counts": "PPPPPPP0"}, "not a compressed"),
        ({"size": [4, 8], "counts": [True, 31]}, "list of run lengths"),
        ({"size": [4, 8.0], "counts": [32]}, r"needs 'size': \[height, width\]"),
        ({"size": ["4", "8"], "counts": [32]}, "needs 'size'"),
        ([[0, 0, 17, 0, 5, 3]], "far outside the image: x from 0 to 17"),
        ([[0, -5, 7, 0, 5, 3]], "far outside the image: y from -5 to 3"),
        ([[0, 0, 10**400, 0, 5, 3]], "far outside"),
        ([[0, 0, 7, 0, True, 3]], "flat list of numbers"),
        (
            [[-8, 0, 16, 4] * 40],
            "an outline of 1920 pixels is too long for an image of 4 x 8",
        ),  # 80 points, 24 to the next
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
    with pytest.raises(ValueError, match="different sizes"):
        union_masks([RLE(1, 1, "1"), RLE(1, 2, "2")])


@pytest.mark.parametrize(
    ("height", "width"), [(0, 8), (4, -8), (10**9, 10**9), (4, 2**40), ("4", 8), (4.0, 8), (True, 8)]
)
def test_sizes_that_no_image_has(height: object, width: object) -> None:
    with pytest.raises(ValueError, match=rf"{WHERE}: (the image size is invalid|height and width must be integers)"):
        rle_from_coco([[0, 0, 4, 0, 4, 4]], height, width, WHERE)  # type: ignore[arg-type]


def test_runs_of_length_zero_are_joined() -> None:
    # 0 off, 2 on, 0 off, 3 on, 27 off of 32 pixels: the first five pixels, column by column.
    mask = np.zeros((4, 8), bool)
    mask[:, 0] = mask[0, 1] = True
    compressed = coco_mask.frPyObjects({"size": [4, 8], "counts": [0, 2, 0, 3, 27]}, 4, 8)
    for counts in ([0, 2, 0, 3, 27], [0, 5, 0, 0, 27], [0, 0, 0, 5, 27, 0], compressed["counts"]):
        rle = rle_from_coco({"size": [4, 8], "counts": counts}, 4, 8, WHERE)
        assert rle == encode_mask(mask)
        assert rle_area(union_masks([rle, encode_mask(~mask)])) == 32


def test_a_union_of_many_masks_is_their_union() -> None:
    masks = [random_mask(9, 11, 0.02) & (np.arange(11) == number % 11) for number in range(200)]
    rle = union_masks([encode_mask(mask) for mask in masks])
    np.testing.assert_array_equal(decode_mask(rle), np.any(masks, axis=0))


def test_nested_segmentations_of_any_depth() -> None:
    polygon: object = [[2, 1, 6, 1, 6, 4, 2, 4]]
    expected = rle_from_coco(polygon, 6, 9, WHERE)
    for _ in range(10_000):
        polygon = {"segmentation": polygon}
    assert rle_from_coco(polygon, 6, 9, WHERE) == expected


def test_areas_of_more_masks_than_eight_bits_count() -> None:
    masks = np.random.default_rng(0).random((300, 6, 7)) > 0.5
    codes = [encode_mask(mask) for mask in masks]
    np.testing.assert_array_equal(mask_areas(codes), masks.sum((1, 2)))
    shared = np.einsum("aij,bij->ab", masks.astype(int), masks.astype(int))
    np.testing.assert_array_equal(intersection_areas(codes, codes), shared)
