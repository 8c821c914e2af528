"""Draws parts to add to a wrong answer: related parts, and parts that co-occur with those already listed.

Co-occurrence comes from one logistic regression per part on the other parts (paper, section 3.2). The L2 penalty, the
temperature of 1.5 and the shares of .9 and .1 are those of the authors' public code; the paper does not name them.
"""

import hashlib
from bisect import bisect_right
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate, combinations_with_replacement

import numpy as np
from scipy.linalg.lapack import dposv
from scipy.sparse import csr_array
from scipy.special import expit
from threadpoolctl import threadpool_limits

from partonomy.questions.draws import Draws

L2_PENALTY = 1.0  # scikit-learn's C = 1
MAX_STEP = 1e-6
"""Step size at which Newton's method stops; the remaining error is of the order of the last step squared."""
MAX_ITERATIONS = 100
MAX_HALVINGS = 40
SUFFICIENT_DECREASE = 1e-4
ROUNDING = 1e-13
TEMPERATURE = 1.5
PREDICTED_WEIGHT = 0.1
NUM_DECIMALS = 6


@dataclass(frozen=True)
class PartRegressions:
    """Weights (P, P) and biases (P,); column p of the weights is the regression of part p (0 on the diagonal)."""

    weights: np.ndarray
    biases: np.ndarray


def fit_part_regressions(part_sets: Iterable[frozenset[int]], num_parts: int) -> PartRegressions:
    """Fit every part's regression; a part that all or no sets contain gets the constant logit 0.

    Args:
        part_sets: the part indices of every annotated instance.
        num_parts: size P of the vocabulary.
    """
    design = _make_design(part_sets, num_parts)
    weights, biases = np.zeros((num_parts, num_parts)), np.zeros(num_parts)
    with threadpool_limits(limits=1):  # the matrices are small, so threads would cost ten times what they save
        for part in range(num_parts):
            is_present = design.rows[:, [part]].toarray()[:, 0] == 1.0
            if not is_present.all() and is_present.any():
                coefficients = _fit_one(design, part, is_present)
                weights[:, part], biases[part] = coefficients[:-1], coefficients[-1]
    return PartRegressions(weights, biases)


@dataclass(frozen=True)
class _Design:
    """Distinct part sets in the form that Newton's method needs. A last column of ones is the bias.

    Attributes:
        rows: (N, P + 1), 0 or 1.
        columns: the transpose of `rows`.
        counts: (N,), the number of instances with each set.
        pair_sums: (Q, N), 0 or 1: the sets that contain each pair of columns that co-occurs at all.
        pair_places: (Q,), the position of each pair's curvature in the upper triangle, stored column by column.
        penalties: (P + 1,), the weight of half of each squared coefficient in the loss; 0 for the bias.
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
    """Run Newton's method with step halving; return the weights of all parts, 0 for `part` itself, then the bias."""
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
        curvature = np.diag(penalties).ravel()  # upper triangle, stored column by column as in LAPACK
        curvature[design.pair_places] += design.pair_sums @ (design.counts * misses * (1.0 - misses))
        upper = curvature.reshape(size, size).T
        # The part itself is not an input: its weight is held at 0.
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


class PartSampler:
    """Draws parts by index into a sorted vocabulary.

    Args:
        weights: (P, P); column p is the regression of part p on the others, 0 on the diagonal.
        biases: (P,), the regressions' biases.
    """

    def __init__(self, weights: np.ndarray, biases: np.ndarray) -> None:
        self.weights = weights
        self.biases = biases

    def content_hash(self) -> str:
        """Return a hash that changes with anything that changes the draws."""
        return hashlib.sha256(self.weights.tobytes() + self.biases.tobytes()).hexdigest()

    def logits(self, present: Sequence[int]) -> np.ndarray:
        """Return the logits (P,) of all parts given the parts that are present.

        The product of the 0/1 vector with the weight matrix is computed as a sum of rows, so that the order of
        summation, and with it the last bit, does not depend on the BLAS library.
        """
        return self.weights[list(present)].sum(axis=0) + self.biases

    def predicted_chances(self, present: Collection[int], allowed: Sequence[int]) -> np.ndarray:
        """Return every allowed part's probability under the regressions: softmax of the logits at temperature 1.5."""
        odds = self._odds(present, allowed)
        return odds / odds.sum()

    def _odds(self, present: Collection[int], allowed: Sequence[int]) -> np.ndarray:
        logits = self.logits(sorted(present))[list(allowed)] / TEMPERATURE
        return np.exp(logits - logits.max())

    def sample(
        self,
        present: Collection[int],
        related: Sequence[int],
        allowed: Sequence[int],
        generator: Draws,
    ) -> int:
        """Draw one part: 0.9 uniform over `related` + 0.1 predicted over `allowed`.

        Args:
            present: parts of the answer so far, the regressions' input.
            related: candidates of the uniform share, sorted; if empty, only the predicted distribution is used.
            allowed: candidates of the predicted share, sorted; at least one.
            generator: source of randomness.
        """
        is_predicted = not related or generator.random() < PREDICTED_WEIGHT
        if not is_predicted:
            return related[generator.below(len(related))]
        cumulative = list(accumulate(self._odds(present, allowed).tolist()))
        return allowed[bisect_right(cumulative, generator.random() * cumulative[-1])]


def fit_part_sampler(part_sets: Iterable[frozenset[int]], num_parts: int) -> PartSampler:
    """Fit the regressions of all parts.

    Weights are rounded to six decimals, coarser than the solver's error, so that the same data gives the same numbers
    everywhere.

    Args:
        part_sets: the part indices of every annotated instance.
        num_parts: size P of the vocabulary.
    """
    fitted = fit_part_regressions(part_sets, num_parts)
    return PartSampler(np.round(fitted.weights, NUM_DECIMALS), np.round(fitted.biases, NUM_DECIMALS))
