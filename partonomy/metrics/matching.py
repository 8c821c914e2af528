"""Pairs predicted with true masks: `paired`, `greedy`, `hungarian`, `union`.

`paired` (by position) is the protocol of the paper's tables, whose phrases are given. The others serve a model's own
answers, in which number and order of masks are free. Authors' code: the longer of the two lists is cut, and a question
without any mask is skipped; here: a missing prediction scores 0, and a prediction without a true mask is ignored.
"""

from collections.abc import Sequence
from enum import StrEnum

import numpy as np

from partonomy.metrics.iou import PairStatistics, PixelCounts, missing_prediction


class Matching(StrEnum):
    """The strategy for pairing predictions with true masks."""

    PAIRED = "paired"
    HUNGARIAN = "hungarian"
    GREEDY = "greedy"
    UNION = "union"


def match_masks(counts: PixelCounts, matching: Matching) -> tuple[PairStatistics, ...]:
    """Pair P predictions with M true masks; predictions without a partner are ignored, except by `union`.

    Args:
        counts: Their pixel counts; predictions and true masks both in reading order.
        matching: The strategy. `union` compares the union of all predictions with the union of all true masks.

    Returns:
        One entry per true mask, in order; a single entry for `union` (none without true masks).
    """
    num_predicted, num_true = counts.intersections.shape
    if matching is Matching.UNION:
        if not num_true:
            return ()
        return (counts.union_pair() if num_predicted else missing_prediction(counts.true_union_area),)
    if matching is Matching.PAIRED:
        assignment = [(index, index) for index in range(min(num_predicted, num_true))]
    elif matching is Matching.HUNGARIAN:
        assignment = hungarian_assignment(counts.ious)
    else:
        assignment = greedy_assignment(counts.ious)
    predicted_of_true = {column: row for row, column in assignment}
    return tuple(
        counts.pair(predicted_of_true[column], column)
        if column in predicted_of_true
        else missing_prediction(int(counts.true_areas[column]))
        for column in range(num_true)
    )


def match_nothing(true_areas: Sequence[int], union_area: int, matching: Matching) -> tuple[PairStatistics, ...]:
    """Return the statistics of a question on which the model failed: every true mask lacks its prediction.

    Args:
        true_areas: Pixels of each true mask.
        union_area: Pixels of the union of the true masks.
        matching: The strategy.
    """
    if matching is Matching.UNION:
        return (missing_prediction(union_area),) if true_areas else ()
    return tuple(missing_prediction(area) for area in true_areas)


def hungarian_assignment(ious: np.ndarray) -> list[tuple[int, int]]:
    """Pair predictions and true masks one to one so that the sum of their IoUs is maximal.

    Args:
        ious: float (P, M).

    Returns:
        min(P, M) pairs (prediction, true mask), including those with IoU 0.
    """
    from scipy.optimize import linear_sum_assignment  # noqa: PLC0415  (a third of a second to import)

    rows, columns = linear_sum_assignment(ious, maximize=True)
    return list(zip(rows.tolist(), columns.tolist(), strict=True))


def greedy_assignment(ious: np.ndarray) -> list[tuple[int, int]]:
    """Repeatedly take the best remaining (prediction, true mask) pair until one side is used up.

    Ties go to the lower true index, then to the lower prediction index.

    Args:
        ious: float (P, M).
    """
    num_predicted, num_true = ious.shape
    # A stable sort of the transposed matrix keeps ties in the order true index, prediction index.
    order = np.argsort(-ious.T, axis=None, kind="stable").tolist()
    used_rows: set[int] = set()
    used_columns: set[int] = set()
    assignment = []
    for position in order:
        column, row = divmod(position, num_predicted)
        if row not in used_rows and column not in used_columns:
            assignment.append((row, column))
            used_rows.add(row)
            used_columns.add(column)
            if len(assignment) == min(num_predicted, num_true):
                break
    return assignment
