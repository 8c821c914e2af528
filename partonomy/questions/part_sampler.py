"""Which part to add to a wrong answer: related parts, and parts that co-occur with those already listed.

Paper, appendix B: one logistic regression per part predicts it from the other parts of an image; the logits are
softmaxed at temperature 1.5 and mixed with the uniform distribution over related parts, .1 to .9.
"""

from collections.abc import Iterable, Sequence

import numpy as np
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits

TEMPERATURE = 1.5
PREDICTED_WEIGHT = 0.1
INVERSE_REGULARIZATION = 1.0
TOLERANCE = 1e-8
MAX_ITERATIONS = 10_000
NUM_DECIMALS = 6


class PartSampler:
    """Draws parts by index into a sorted vocabulary.

    Args:
        weights: (P, P); column p holds the regression of part p on the others, its diagonal is 0.
        biases: (P,).
    """

    def __init__(self, weights: np.ndarray, biases: np.ndarray) -> None:
        self.weights = weights
        self.biases = biases

    def logits(self, present: Sequence[int]) -> np.ndarray:
        """Logit of every part (P,) given the parts that are present.

        The product of the 0/1 vector with the weight matrix, taken as a sum of its rows: the order of summation, and
        so the last bit, then depends on no BLAS.
        """
        return self.weights[list(present)].sum(axis=0) + self.biases

    def sample(
        self,
        present: Sequence[int],
        related: Sequence[int],
        allowed: Sequence[int],
        generator: np.random.Generator,
    ) -> int:
        """Draw one part: 0.9 uniform over `related` + 0.1 predicted over `allowed`.

        Args:
            present: parts of the answer so far, the regressions' input.
            related: candidates of the uniform share; when empty, the predicted distribution is used alone.
            allowed: candidates of the predicted share, at least one. Both sorted.
            generator: source of randomness.
        """
        is_predicted = not related or generator.random() < PREDICTED_WEIGHT
        if not is_predicted:
            return related[int(generator.integers(len(related)))]
        logits = self.logits(present)[list(allowed)] / TEMPERATURE
        cumulative = np.cumsum(np.exp(logits - logits.max()))
        return allowed[int(np.searchsorted(cumulative, generator.random() * cumulative[-1], side="right"))]


def fit_part_sampler(part_sets: Iterable[frozenset[int]], num_parts: int) -> PartSampler:
    """Fit one L2 logistic regression (C = 1) per part on the other parts of the same object instance.

    Equal part sets are fitted once with their count as sample weight: the optimum is the same, and few sets differ. A
    part that all or no instances show has the constant logit 0. Weights are rounded to six decimals, coarser than the
    solver's error, so that the same data gives the same numbers everywhere.

    Args:
        part_sets: the part indices of every annotated instance.
        num_parts: size P of the vocabulary.
    """
    counts: dict[tuple[int, ...], int] = {}
    for part_set in part_sets:
        key = tuple(sorted(part_set))
        counts[key] = counts.get(key, 0) + 1
    keys = sorted(counts)
    rows = np.zeros((len(keys), num_parts))
    for row, key in zip(rows, keys, strict=True):
        row[list(key)] = 1.0
    sample_weights = np.array([counts[key] for key in keys], dtype=np.float64)
    weights, biases = np.zeros((num_parts, num_parts)), np.zeros(num_parts)
    for part in range(num_parts):
        is_present = rows[:, part] == 1.0
        if is_present.all() or not is_present.any():
            continue
        others = np.delete(rows, part, axis=1)
        regression = LogisticRegression(
            C=INVERSE_REGULARIZATION, solver="lbfgs", tol=TOLERANCE, max_iter=MAX_ITERATIONS
        )
        with threadpool_limits(limits=1):  # the matrices are small: threads cost ten times what they save
            regression.fit(others, is_present, sample_weight=sample_weights)
        weights[:, part] = np.insert(np.round(regression.coef_[0], NUM_DECIMALS), part, 0.0)
        biases[part] = np.round(regression.intercept_[0], NUM_DECIMALS)
    return PartSampler(weights, biases)
