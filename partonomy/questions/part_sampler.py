"""Which part to add to a wrong answer: related parts, and parts that co-occur with those already listed.

Paper, appendix B: one logistic regression per part predicts it from the other parts of an image; the logits are
softmaxed at temperature 1.5 and mixed with the uniform distribution over related parts, .1 to .9.
"""

import hashlib
from bisect import bisect_right
from collections.abc import Collection, Iterable, Sequence
from itertools import accumulate

import numpy as np

from partonomy.questions.draws import Draws

TEMPERATURE = 1.5
PREDICTED_WEIGHT = 0.1
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

    def content_hash(self) -> str:
        """Changes with anything that changes the draws."""
        return hashlib.sha256(self.weights.tobytes() + self.biases.tobytes()).hexdigest()

    def logits(self, present: Sequence[int]) -> np.ndarray:
        """Logit of every part (P,) given the parts that are present.

        The product of the 0/1 vector with the weight matrix, taken as a sum of its rows: the order of summation, and
        so the last bit, then depends on no BLAS.
        """
        return self.weights[list(present)].sum(axis=0) + self.biases

    def predicted_chances(self, present: Collection[int], allowed: Sequence[int]) -> np.ndarray:
        """Chance of every allowed part under the regressions: the softmax of their logits at temperature 1.5."""
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
            related: candidates of the uniform share; when empty, the predicted distribution is used alone.
            allowed: candidates of the predicted share, at least one. Both sorted.
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
    # Imported where it is needed: workers that only draw questions start faster and smaller without SciPy.
    from partonomy.questions.part_regressions import fit_part_regressions  # noqa: PLC0415

    fitted = fit_part_regressions(part_sets, num_parts)
    return PartSampler(np.round(fitted.weights, NUM_DECIMALS), np.round(fitted.biases, NUM_DECIMALS))
