"""Pairing predicted with true masks: `paired`, `greedy`, `hungarian`, `union`.

`paired` (by position) is the protocol of the paper's tables, whose phrases are given; the others serve a model's own
answers, whose number and order of masks are free. Paper's authors: an image with another number of predictions than of
parts is skipped; here: a missing prediction scores 0 and a prediction without a true mask is left out.
"""

from collections.abc import Sequence
from enum import StrEnum

import numpy as np
from scipy.optimize import linear_sum_assignment

from partonomy.metrics.iou import PairStatistics, missing_prediction, pair_statistics, pairwise_statistics


class Matching(StrEnum):
    """How predictions find their true masks."""

    PAIRED = "paired"
    HUNGARIAN = "hungarian"
    GREEDY = "greedy"
    UNION = "union"


def match_masks(predicted: np.ndarray, true: np.ndarray, matching: Matching) -> tuple[PairStatistics, ...]:
    """Pair masks and count pixels.

    Args:
        predicted: bool (P, H, W), in reading order.
        true: bool (M, H, W), in reading order.
        matching: The strategy. `union` compares the union of all predictions with the union of all true masks.

    Returns:
        One entry per true mask, in their order; a single one for `union` (none without true masks).
    """
    if matching is Matching.UNION:
        return _match_union(predicted, true)
    if matching is Matching.PAIRED:
        return _match_by_position(predicted, true)
    intersections, unions = pairwise_statistics(predicted, true)
    ious = _iou_matrix(intersections, unions)
    if matching is Matching.HUNGARIAN:
        rows, columns = linear_sum_assignment(ious, maximize=True)
        assignment = list(zip(rows.tolist(), columns.tolist(), strict=True))
    else:
        assignment = greedy_assignment(ious)
    predicted_of_true = {column: row for row, column in assignment}
    pairs = []
    for column, true_mask in enumerate(true):
        if column in predicted_of_true:
            row = predicted_of_true[column]
            pairs.append(PairStatistics(int(intersections[row, column]), int(unions[row, column])))
        else:
            pairs.append(missing_prediction(int(np.count_nonzero(true_mask))))
    return tuple(pairs)


def match_nothing(true_areas: Sequence[int], union_area: int, matching: Matching) -> tuple[PairStatistics, ...]:
    """Statistics of a question on which the model failed: every true mask lacks its prediction.

    Args:
        true_areas: Pixels of each true mask.
        union_area: Pixels of the union of the true masks.
        matching: The strategy.
    """
    if matching is Matching.UNION:
        return (missing_prediction(union_area),) if true_areas else ()
    return tuple(missing_prediction(area) for area in true_areas)


def greedy_assignment(ious: np.ndarray) -> list[tuple[int, int]]:
    """Take the best remaining (prediction, true mask) pair until one side is used up.

    Ties go to the lower true index, then to the lower prediction index.

    Args:
        ious: float (P, M).
    """
    num_predicted, num_true = ious.shape
    order = sorted(
        ((row, column) for row in range(num_predicted) for column in range(num_true)),
        key=lambda pair: (-ious[pair], pair[1], pair[0]),
    )
    used_rows: set[int] = set()
    used_columns: set[int] = set()
    assignment = []
    for row, column in order:
        if row not in used_rows and column not in used_columns:
            assignment.append((row, column))
            used_rows.add(row)
            used_columns.add(column)
    return assignment


def _match_by_position(predicted: np.ndarray, true: np.ndarray) -> tuple[PairStatistics, ...]:
    return tuple(
        pair_statistics(predicted[index], true_mask)
        if index < len(predicted)
        else missing_prediction(int(np.count_nonzero(true_mask)))
        for index, true_mask in enumerate(true)
    )


def _match_union(predicted: np.ndarray, true: np.ndarray) -> tuple[PairStatistics, ...]:
    if not len(true):
        return ()
    true_union = np.logical_or.reduce(true)
    if not len(predicted):
        return (missing_prediction(int(np.count_nonzero(true_union))),)
    return (pair_statistics(np.logical_or.reduce(predicted), true_union),)


def _iou_matrix(intersections: np.ndarray, unions: np.ndarray) -> np.ndarray:
    """IoU of every pair, 1 where both masks are empty."""
    return np.where(unions == 0, 1.0, intersections / np.maximum(unions, 1))
