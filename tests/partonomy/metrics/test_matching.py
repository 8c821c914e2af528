from itertools import permutations

import numpy as np
import pytest

from partonomy.masks import encode_masks
from partonomy.metrics import matching as matching_module
from partonomy.metrics.iou import PairStatistics, count_pixels
from partonomy.metrics.matching import Matching, greedy_assignment, match_nothing


def masks(*ranges: tuple[int, int], width: int = 20) -> np.ndarray:
    """One mask (1, width) per range [start, end)."""
    stack = np.zeros((len(ranges), 1, width), dtype=bool)
    for mask, (start, end) in zip(stack, ranges, strict=True):
        mask[0, start:end] = True
    return stack


def match_masks(predicted: np.ndarray, true: np.ndarray, matching: Matching) -> tuple[PairStatistics, ...]:
    """Pair the masks of two arrays (N, H, W)."""
    return matching_module.match_masks(count_pixels(encode_masks(predicted), encode_masks(true)), matching)


def test_paired_goes_by_position_and_a_missing_prediction_scores_zero() -> None:
    true = masks((0, 4), (4, 8), (8, 12))
    pairs = match_masks(masks((0, 4), (6, 10)), true, Matching.PAIRED)
    # first: 4/4; second: pixels 6, 7 of a union 4..9 = 6; third: nothing predicted, 4 true pixels.
    assert pairs == (PairStatistics(4, 4), PairStatistics(2, 6), PairStatistics(0, 4, is_predicted=False))
    assert [pair.iou for pair in pairs] == [1.0, pytest.approx(1 / 3), 0.0]


def test_hungarian_beats_greedy_where_the_best_pair_is_a_trap() -> None:
    # IoU rows = predictions: a = [.8, .7], b = [.7, 0]. Greedy takes a-0 (.8) and is left with b-1 (0);
    # the best sum is a-1 + b-0 = 1.4.
    ious = np.array([[0.8, 0.7], [0.7, 0.0]])
    assert greedy_assignment(ious) == [(0, 0), (1, 1)]


def test_greedy_ties_go_to_the_lower_true_then_the_lower_predicted_index() -> None:
    assert greedy_assignment(np.array([[0.5, 0.5], [0.5, 0.5], [0.5, 0.9]])) == [(2, 1), (0, 0)]
    assert greedy_assignment(np.full((2, 3), 0.5)) == [(0, 0), (1, 1)]
    assert greedy_assignment(np.zeros((0, 3))) == []


def test_hungarian_golden() -> None:
    # true 0: 0..9; true 1: 5..14. predicted 0 = 2..11 overlaps both, predicted 1 = 0..9 is true 0.
    true = masks((0, 10), (5, 15))
    predicted = masks((2, 12), (0, 10))
    pairs = match_masks(predicted, true, Matching.HUNGARIAN)
    # predicted 1 - true 0: 10/10; predicted 0 - true 1: 5..11 = 7 over 2..14 = 13.
    assert pairs == (PairStatistics(10, 10), PairStatistics(7, 13))


def test_hungarian_equals_the_best_permutation() -> None:
    generator = np.random.default_rng(3)
    true, predicted = generator.random((4, 6, 6)) < 0.5, generator.random((4, 6, 6)) < 0.5
    found = sum(pair.iou for pair in match_masks(predicted, true, Matching.HUNGARIAN))
    best = max(
        sum(pair.iou for pair in match_masks(predicted[list(order)], true, Matching.PAIRED))
        for order in permutations(range(4))
    )
    assert found == pytest.approx(best)
    assert sum(pair.iou for pair in match_masks(predicted, true, Matching.GREEDY)) <= best + 1e-12


@pytest.mark.parametrize("matching", [Matching.GREEDY, Matching.HUNGARIAN])
def test_spare_predictions_are_left_out_and_missing_ones_score_zero(matching: Matching) -> None:
    true = masks((0, 4))
    assert match_masks(masks((10, 14), (0, 4), (1, 3)), true, matching) == (PairStatistics(4, 4),)
    few = match_masks(masks((0, 4)), masks((8, 12), (0, 4)), matching)
    assert few == (PairStatistics(0, 4, is_predicted=False), PairStatistics(4, 4))


def test_union_golden() -> None:
    # predicted 0..5 and 4..7 cover 0..7; true 2..5 and 10..11 cover 6 pixels; intersection 2..5 = 4; union 8 + 2 = 10.
    pairs = match_masks(masks((0, 6), (4, 8)), masks((2, 6), (10, 12)), Matching.UNION)
    assert pairs == (PairStatistics(4, 10),)


@pytest.mark.parametrize("matching", list(Matching))
def test_no_prediction_equals_a_failed_question(matching: Matching) -> None:
    true = masks((0, 4), (2, 8))
    none = match_masks(masks(), true, matching)
    assert none == match_nothing((4, 6), 8, matching)
    assert all(pair.iou == 0 for pair in none)
    assert match_masks(masks((0, 4)), masks(), matching) == ()


@pytest.mark.parametrize("matching", list(Matching))
def test_perfect_in_order(matching: Matching) -> None:
    true = masks((0, 4), (4, 8), (15, 16))
    assert all(pair.iou == 1 for pair in match_masks(true, true, matching))
