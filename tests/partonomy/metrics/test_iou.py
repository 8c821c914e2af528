from collections.abc import Sequence

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from partonomy.masks import canonical_rle, decode_mask, encode_mask, encode_masks, intersection_areas, rle_to_json
from partonomy.metrics.bootstrap import ImageIndex
from partonomy.metrics.iou import PairAverages, PairStatistics, count_pixels, missing_prediction
from partonomy.structures import RLE


def strip(width: int, start: int, end: int) -> np.ndarray:
    """A 1 x width mask that is true in [start, end)."""
    mask = np.zeros((1, width), dtype=bool)
    mask[0, start:end] = True
    return mask


def count_pair(predicted: np.ndarray, true: np.ndarray) -> PairStatistics:
    """Statistics of one prediction and one true mask."""
    return count_pixels([encode_mask(predicted)], [encode_mask(true)]).pair(0, 0)


def code_with_empty_runs() -> RLE:
    """4 x 5 pixels as runs 4, 0, 4, 8, 4 = pixels 8..15: valid, though no encoder would write the run of length 0."""
    code = coco_mask.frPyObjects({"size": [4, 5], "counts": [4, 0, 4, 8, 4]}, 4, 5)
    return RLE(4, 5, code["counts"].decode())


def test_iou_golden() -> None:
    # predicted pixels 0..5, true pixels 3..9: intersection 3..5 = 3, union 0..9 = 10.
    pair = count_pair(strip(12, 0, 6), strip(12, 3, 10))
    assert (pair.intersection, pair.union) == (3, 10)
    assert pair.iou == pytest.approx(0.3)


@pytest.mark.parametrize(
    ("predicted", "true", "expected"),
    [
        (strip(8, 0, 0), strip(8, 0, 0), 1.0),  # both empty
        (strip(8, 1, 4), strip(8, 1, 4), 1.0),  # perfect
        (strip(8, 0, 8), strip(8, 0, 8), 1.0),  # everything
        (strip(8, 0, 3), strip(8, 3, 6), 0.0),  # disjoint
        (strip(8, 0, 0), strip(8, 3, 6), 0.0),  # empty prediction
        (strip(8, 3, 6), strip(8, 0, 0), 0.0),  # empty truth
    ],
)
def test_iou_limits(predicted: np.ndarray, true: np.ndarray, expected: float) -> None:
    assert count_pair(predicted, true).iou == expected


@pytest.mark.parametrize("seed", range(20))
def test_counts_on_codes_equal_counts_on_arrays(seed: int) -> None:
    generator = np.random.default_rng(seed)
    height, width = generator.integers(1, 40, size=2)
    density = generator.random()
    predicted = generator.random((generator.integers(0, 6), height, width)) < density
    true = generator.random((generator.integers(1, 6), height, width)) < generator.random()
    true[0] = generator.random() < 0.5  # all or nothing
    counts = count_pixels(encode_masks(predicted), encode_masks(true))
    intersections = (predicted[:, None] & true[None]).sum(axis=(2, 3))
    unions = (predicted[:, None] | true[None]).sum(axis=(2, 3))
    assert counts.intersections.dtype == np.int64
    np.testing.assert_array_equal(counts.intersections, intersections)
    np.testing.assert_array_equal(counts.ious, np.where(unions == 0, 1.0, intersections / np.maximum(unions, 1)))
    predicted_union, true_union = predicted.any(axis=0), true.any(axis=0)
    assert counts.union_pair() == PairStatistics(
        int((predicted_union & true_union).sum()), int((predicted_union | true_union).sum())
    )


def test_iou_equals_pycocotools() -> None:
    generator = np.random.default_rng(0)
    predicted = encode_masks(generator.random((6, 17, 23)) < 0.4)
    true = encode_masks(generator.random((5, 17, 23)) < 0.6)
    reference = coco_mask.iou([rle_to_json(rle) for rle in predicted], [rle_to_json(rle) for rle in true], [0] * 5)
    np.testing.assert_allclose(count_pixels(predicted, true).ious, reference, rtol=0, atol=1e-12)


def test_codes_with_empty_runs_are_made_canonical() -> None:
    odd = code_with_empty_runs()
    assert int(intersection_areas([odd], [odd])[0, 0]) == 0  # what pycocotools makes of such codes: 8 pixels are lost
    code = canonical_rle(odd)
    assert code == encode_mask(decode_mask(odd))
    assert count_pixels([code], [code]).pair(0, 0) == PairStatistics(8, 8)
    assert canonical_rle(code) is code


Question = tuple[int, tuple[PairStatistics, ...]]
"""The image of a question, and the pixel counts of its masks."""


def averages(questions: Sequence[Question]) -> tuple[float | None, ...]:
    """Micro-gIoU, macro-gIoU and cIoU."""
    found = PairAverages()
    for image_id, pairs in questions:
        found.add(image_id, pairs)
    ratios = found.ratios(ImageIndex(image_id for image_id, _ in questions))
    return ratios.micro.value, ratios.macro.value, ratios.cumulative.value


def test_micro_macro_cumulative_golden() -> None:
    # Image 1: IoUs 1/2 and 1 (2/4 and 3/3), in two questions. Image 2: IoU 0/5. Image 3: no masks.
    first = [(1, (PairStatistics(2, 4),)), (1, (PairStatistics(3, 3),))]
    others = [(2, (PairStatistics(0, 5),)), (3, ())]
    expected = ((0.5 + 1 + 0) / 3, (0.75 + 0) / 2, 5 / 12)
    assert averages([*first, *others]) == pytest.approx(expected)
    assert averages([others[0], first[1], others[1], first[0]]) == pytest.approx(expected)


def test_missing_prediction_scores_zero_even_for_an_empty_true_mask() -> None:
    assert missing_prediction(0).iou == 0.0
    assert missing_prediction(7) == PairStatistics(0, 7, is_predicted=False)


def test_nothing_counted_is_none() -> None:
    assert averages([]) == (None, None, None)
    assert averages([(1, ())]) == (None, None, None)


def test_averages_of_empty_masks() -> None:
    assert averages([(1, (PairStatistics(0, 0),))]) == (1.0, 1.0, 1.0)
    assert averages([(1, (PairStatistics(0, 0), missing_prediction(0)))]) == (0.5, 0.5, 0.0)


def test_large_sums_do_not_overflow() -> None:
    assert averages([(1, (PairStatistics(3 * 10**9, 4 * 10**9),) * 3)])[2] == pytest.approx(0.75)


def test_other_shape_or_type_is_an_error() -> None:
    with pytest.raises(ValueError, match="original-image pixels"):
        count_pair(strip(8, 0, 3), strip(9, 0, 3))
    with pytest.raises(ValueError, match="must be a bool array"):
        encode_masks(strip(8, 0, 3)[None].astype(np.uint8))
    with pytest.raises(ValueError, match="cannot belong"):
        PairStatistics(5, 4)


def test_a_stack_is_encoded_as_its_masks_are() -> None:
    masks = np.random.default_rng(1).random((3, 7, 9)) < 0.5
    assert encode_masks(masks) == tuple(encode_mask(mask) for mask in masks)
    assert encode_masks(masks.transpose(0, 2, 1)) == tuple(encode_mask(mask.T) for mask in masks)
    assert encode_masks(masks[:0]) == ()
