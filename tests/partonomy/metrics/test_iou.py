import numpy as np
import pytest
from pycocotools import mask as coco_mask

from partonomy.metrics.iou import (
    IoUStatistics,
    PairStatistics,
    image_statistics,
    missing_prediction,
    pair_statistics,
    pairwise_statistics,
)


def strip(width: int, start: int, end: int) -> np.ndarray:
    """A 1 x width mask that is true in [start, end)."""
    mask = np.zeros((1, width), dtype=bool)
    mask[0, start:end] = True
    return mask


def test_iou_golden() -> None:
    # predicted pixels 0..5, true pixels 3..9: intersection 3..5 = 3, union 0..9 = 10.
    pair = pair_statistics(strip(12, 0, 6), strip(12, 3, 10))
    assert (pair.intersection, pair.union) == (3, 10)
    assert pair.iou == pytest.approx(0.3)


@pytest.mark.parametrize(
    ("predicted", "true", "expected"),
    [
        (strip(8, 0, 0), strip(8, 0, 0), 1.0),  # both empty
        (strip(8, 1, 4), strip(8, 1, 4), 1.0),  # perfect
        (strip(8, 0, 3), strip(8, 3, 6), 0.0),  # disjoint
        (strip(8, 0, 0), strip(8, 3, 6), 0.0),  # empty prediction
        (strip(8, 3, 6), strip(8, 0, 0), 0.0),  # empty truth
    ],
)
def test_iou_limits(predicted: np.ndarray, true: np.ndarray, expected: float) -> None:
    assert pair_statistics(predicted, true).iou == expected


def test_iou_equals_pycocotools() -> None:
    generator = np.random.default_rng(0)
    predicted = generator.random((6, 17, 23)) < 0.4
    true = generator.random((5, 17, 23)) < 0.6
    intersections, unions = pairwise_statistics(predicted, true)

    def encode(masks: np.ndarray) -> list[dict[str, object]]:
        return [coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8)) for mask in masks]

    reference = coco_mask.iou(encode(predicted), encode(true), [0] * len(true))
    np.testing.assert_allclose(intersections / unions, reference, atol=1e-12)
    assert intersections.dtype == np.int64


def test_micro_macro_cumulative_golden() -> None:
    # Image A: IoUs 1/2 and 1 (2/4 and 3/3). Image B: IoU 0/5.
    first = image_statistics([PairStatistics(2, 4), PairStatistics(3, 3)])
    second = image_statistics([PairStatistics(0, 5)])
    total = first + second
    assert total.giou_micro == pytest.approx((0.5 + 1 + 0) / 3)
    assert total.giou_macro == pytest.approx((0.75 + 0) / 2)
    assert total.ciou == pytest.approx(5 / 12)


def test_statistics_add_up_in_any_grouping() -> None:
    images = [image_statistics([PairStatistics(index, 8), PairStatistics(1, 4)]) for index in range(5)]
    left = images[0] + images[1] + images[2] + images[3] + images[4]
    right = (images[0] + images[2]) + (images[1] + (images[4] + images[3]))
    assert left == right  # sums of eighths are exact


def test_missing_prediction_scores_zero_even_for_an_empty_true_mask() -> None:
    assert missing_prediction(0).iou == 0.0
    assert missing_prediction(7) == PairStatistics(0, 7, is_predicted=False)


def test_nothing_counted_is_none() -> None:
    empty = IoUStatistics()
    assert (empty.giou_micro, empty.giou_macro, empty.ciou) == (None, None, None)
    assert image_statistics([]) == empty


def test_ciou_of_empty_masks_is_one() -> None:
    assert image_statistics([PairStatistics(0, 0)]).ciou == 1.0


def test_large_sums_do_not_overflow() -> None:
    image = image_statistics([PairStatistics(3 * 10**9, 4 * 10**9)] * 3)
    assert image.ciou == pytest.approx(0.75)


def test_other_shape_or_type_is_an_error() -> None:
    with pytest.raises(ValueError, match="original-image pixels"):
        pair_statistics(strip(8, 0, 3), strip(9, 0, 3))
    with pytest.raises(ValueError, match="must be bool"):
        pair_statistics(strip(8, 0, 3).astype(np.uint8), strip(8, 0, 3))
    with pytest.raises(ValueError, match="cannot belong"):
        PairStatistics(5, 4)
