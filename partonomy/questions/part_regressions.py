"""Which parts occur together: one L2 logistic regression per part on the other parts (paper, appendix B).

The authors fit scikit-learn's on every image. Here equal part sets are one row with a weight, all regressions share
one sparse design, and Newton's method uses that few pairs of parts ever meet: the same optimum (a test compares), in
seconds at the size of the training set.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import combinations_with_replacement

import numpy as np
from scipy.linalg.lapack import dposv
from scipy.sparse import csr_array
from scipy.special import expit
from threadpoolctl import threadpool_limits

L2_PENALTY = 1.0  # scikit-learn's C = 1
MAX_STEP = 1e-6
"""Where Newton's method stops: what is left to go is of the order of its last step squared."""
MAX_ITERATIONS = 100
MAX_HALVINGS = 40
SUFFICIENT_DECREASE = 1e-4
ROUNDING = 1e-13


@dataclass(frozen=True)
class PartRegressions:
    """Weights (P, P), whose column p holds the regression of part p on the others (its diagonal is 0); biases (P,)."""

    weights: np.ndarray
    biases: np.ndarray


def fit_part_regressions(part_sets: Iterable[frozenset[int]], num_parts: int) -> PartRegressions:
    """Fit every part's regression; one that all or no sets have gets the constant logit 0.

    Args:
        part_sets: the part indices of every annotated instance.
        num_parts: size P of the vocabulary.
    """
    design = _make_design(part_sets, num_parts)
    weights, biases = np.zeros((num_parts, num_parts)), np.zeros(num_parts)
    with threadpool_limits(limits=1):  # the matrices are small: threads cost ten times what they save
        for part in range(num_parts):
            is_present = design.rows[:, [part]].toarray()[:, 0] == 1.0
            if not is_present.all() and is_present.any():
                coefficients = _fit_one(design, part, is_present)
                weights[:, part], biases[part] = coefficients[:-1], coefficients[-1]
    return PartRegressions(weights, biases)


@dataclass(frozen=True)
class _Design:
    """Distinct part sets and what Newton's method needs of them. A last column of ones stands for the bias.

    Attributes:
        rows: (N, P + 1) of 0 and 1.
        columns: its transpose.
        counts: (N,) how many instances have each set.
        pair_sums: (Q, N) of 0 and 1: which sets hold each pair of columns that meets in any.
        pair_places: (Q,) where each pair's curvature stands in the upper triangle, columns one after the other.
        penalties: (P + 1,) weight of half of each squared coefficient in the loss; 0 for the bias.
    """

    rows: csr_array
    columns: csr_array
    counts: np.ndarray
    pair_sums: csr_array
    pair_places: np.ndarray
    penalties: np.ndarray


def _make_design(part_sets: Iterable[frozenset[int]], num_parts: int) -> _Design:
    distinct = Counter(tuple(sorted(part_set)) for part_set in part_sets)
    keys = [(*key, num_parts) for key in sorted(distinct)]
    sets_of_pair: dict[tuple[int, int], list[int]] = {}
    for row, key in enumerate(keys):
        for pair in combinations_with_replacement(key, 2):
            sets_of_pair.setdefault(pair, []).append(row)
    rows = _zero_one_matrix(keys, num_parts + 1)
    penalties = np.full(num_parts + 1, L2_PENALTY)
    penalties[-1] = 0.0
    return _Design(
        rows=rows,
        columns=rows.T.tocsr(),
        counts=np.array([distinct[key[:-1]] for key in keys], dtype=np.float64),
        pair_sums=_zero_one_matrix(list(sets_of_pair.values()), len(keys)),
        pair_places=np.array([first + second * (num_parts + 1) for first, second in sets_of_pair]),
        penalties=penalties,
    )


def _zero_one_matrix(columns_of_rows: "list[tuple[int, ...]] | list[list[int]]", num_columns: int) -> csr_array:
    ends = np.cumsum([0, *map(len, columns_of_rows)])
    columns = np.array([column for row in columns_of_rows for column in row])
    return csr_array((np.ones(len(columns)), columns, ends), shape=(len(columns_of_rows), num_columns))


def _fit_one(design: _Design, part: int, is_present: np.ndarray) -> np.ndarray:
    """Newton's method with step halving: weights of all parts, 0 at `part` itself, then the bias."""
    size, penalties = len(design.penalties), design.penalties
    signs = np.where(is_present, 1.0, -1.0)
    share = float(design.counts @ is_present / design.counts.sum())
    coefficients = np.zeros(size)
    coefficients[-1] = np.log(share / (1.0 - share))

    def loss(margins: np.ndarray, candidate: np.ndarray) -> float:
        return float(design.counts @ np.logaddexp(0.0, -margins) + 0.5 * penalties @ candidate**2)

    margins = signs * (design.rows @ coefficients)
    value = loss(margins, coefficients)
    for _ in range(MAX_ITERATIONS):
        misses = expit(-margins)
        gradient = penalties * coefficients - design.columns @ (design.counts * signs * misses)
        curvature = np.diag(penalties).ravel()  # an upper triangle as LAPACK stores it, column by column
        curvature[design.pair_places] += design.pair_sums @ (design.counts * misses * (1.0 - misses))
        upper = curvature.reshape(size, size).T
        # The part itself is no input: its weight is held at 0.
        gradient[part] = 0.0
        upper[part, :], upper[:, part], upper[part, part] = 0.0, 0.0, 1.0
        _, step, failure = dposv(upper, -gradient, lower=0, overwrite_a=1)
        if failure:
            raise ValueError(f"the curvature of part {part}'s regression is not positive definite (LAPACK: {failure})")
        slope = float(gradient @ step)
        for halving in range(MAX_HALVINGS):
            candidate = coefficients + 0.5**halving * step
            new_margins = signs * (design.rows @ candidate)
            new_value = loss(new_margins, candidate)
            if new_value <= value + SUFFICIENT_DECREASE * 0.5**halving * slope + ROUNDING * abs(value):
                break
        coefficients, margins, value = candidate, new_margins, new_value
        if np.abs(step).max() < MAX_STEP:
            return coefficients
    raise ValueError(f"the regression of part {part} did not converge in {MAX_ITERATIONS} steps")
