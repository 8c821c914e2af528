"""Metrics of answers that name things and segment them: lists of (label, mask) against lists of (label, mask).

All of them work on the IoU matrix of one image, predictions by true masks, and on the labels.

- AP50: COCO's average precision at IoU 0.5 with one category and the same score for every prediction. The order of the
  predictions then decides, and it is fixed: images in the order of their records, predictions as emitted; of one image,
  the first 100 count.
- mIoU: as GLaMM's code computes it. Predictions and true masks are paired greedily by IoU, and an image scores the mean
  IoU of its pairs, 0 without any. Neither missed masks nor further predictions cost anything. `miou_all` is the sum of
  the paired IoUs over the number of true masks.
- Recall: a true mask is found if a prediction has IoU and label similarity of at least 0.5 with it; one to one,
  greedily by IoU among such pairs (CALICO, appendix C.2). GLaMM's code stops at the first pair, by IoU, that fails
  either threshold (`recall_glamm`).
- SS, S-IoU: similarity of labels by sentence embeddings (SBERT), and the IoU of their sets of words. The papers do not
  say which prediction a true label is compared with. Here: the labels of an image are paired one to one so that the sum
  is largest, and an unpaired true label counts 0; `ss_best` and `siou_best` take the best prediction for each.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from partonomy.metrics.matching import hungarian_assignment
from partonomy.metrics.part_embedding import NUM_DECIMALS, build_matcher

THRESHOLD = 0.5
"""Smallest IoU and smallest label similarity of a match."""
MAX_RANKED = 100
"""Predictions of an image that AP counts (COCO's maxDets)."""
WORD_BREAKS = str.maketrans(dict.fromkeys(".:,;-_/()'\"", " "))


@dataclass(frozen=True)
class LabelSimilarity:
    """Cosine similarity of labels, at least 0; an empty label is similar to nothing.

    Attributes:
        model_name: The embedding model.
        vectors: Label -> unit vector (D,).
    """

    model_name: str
    vectors: Mapping[str, np.ndarray]

    def matrix(self, predicted: Sequence[str], true: Sequence[str]) -> np.ndarray:
        """Return the similarities, float64 (P, M), of P and M labels."""
        if not predicted or not true:
            return np.zeros((len(predicted), len(true)))
        first, second = (np.stack([self.vectors[label] for label in labels]) for labels in (predicted, true))
        similarities = np.clip(np.round(first @ second.T, NUM_DECIMALS), 0.0, 1.0)
        similarities[[not label for label in predicted]] = 0.0
        return similarities


def embed_labels(labels: Iterable[str], model_name: str) -> LabelSimilarity:
    """Embed all labels of a run.

    Args:
        labels: The labels.
        model_name: An embedding model of `partonomy.metrics.part_embedding`.

    Raises:
        ValueError: The model cannot be loaded.
    """
    return LabelSimilarity(model_name, build_matcher(sorted(set(labels)), model_name, THRESHOLD).vectors)


def find_hits(ious: np.ndarray) -> list[bool]:
    """Return whether each prediction is a hit in COCO's evaluation at IoU 0.5.

    In order, each prediction takes the free true mask with the highest IoU, the last one on a tie.

    Args:
        ious: float (P, M).

    Returns:
        One entry per prediction among the first `MAX_RANKED`.
    """
    free = np.ones(ious.shape[1], dtype=bool)
    hits = []
    for row in ious[:MAX_RANKED]:
        candidates = np.where(free, row, -1.0)
        best = len(candidates) - 1 - int(np.argmax(candidates[::-1])) if len(candidates) else -1
        is_hit = best >= 0 and candidates[best] >= THRESHOLD
        if is_hit:
            free[best] = False
        hits.append(bool(is_hit))
    return hits


def greedy_ious(ious: np.ndarray) -> list[float]:
    """Pair predictions and true masks by the highest IoU above 0, again and again; return the IoUs of the pairs."""
    return [float(ious[pair]) for pair in _greedy_pairs(ious, lambda value: value > 0)]


def count_found(ious: np.ndarray, similarities: np.ndarray) -> int:
    """Count the true masks that are found; both arguments are float (P, M)."""
    both = np.where((ious >= THRESHOLD) & (similarities >= THRESHOLD), ious, 0.0)
    return len(_greedy_pairs(both, lambda value: value > 0))


def count_found_glamm(ious: np.ndarray, similarities: np.ndarray) -> int:
    """Count the true masks that GLaMM's code finds: it stops at the first pair that fails a threshold."""
    count = 0
    for pair in _greedy_pairs(ious, lambda value: value >= THRESHOLD):
        if similarities[pair] < THRESHOLD:
            break
        count += 1
    return count


def assigned_sum(scores: np.ndarray) -> float:
    """Return the largest sum of scores over one-to-one pairs; float (P, M)."""
    return float(sum(scores[row, column] for row, column in hungarian_assignment(scores))) if scores.size else 0.0


def best_sum(scores: np.ndarray) -> float:
    """Return the sum over true labels of the best score of any prediction; float (P, M)."""
    return float(scores.max(axis=0).sum()) if scores.size else 0.0


def word_overlaps(predicted: Sequence[str], true: Sequence[str]) -> np.ndarray:
    """Return the IoU of the sets of words of P and M labels, float64 (P, M); 0 if both are empty."""
    firsts, seconds = ([words_of(label) for label in labels] for labels in (predicted, true))
    rows = [[len(first & second) / max(1, len(first | second)) for second in seconds] for first in firsts]
    return np.array(rows, dtype=np.float64).reshape(len(predicted), len(true))


def words_of(label: str) -> frozenset[str]:
    """Return the words of a label, without punctuation."""
    return frozenset(label.lower().translate(WORD_BREAKS).split())


def _greedy_pairs(values: np.ndarray, is_taken: Callable[[float], bool]) -> list[tuple[int, int]]:
    """Take the largest value, the first on a tie, then the largest in other rows and columns, as long as it counts."""
    left = values.astype(np.float64)
    pairs: list[tuple[int, int]] = []
    while left.size and len(pairs) < min(left.shape):
        row, column = divmod(int(np.argmax(left)), left.shape[1])
        if not is_taken(float(left[row, column])):
            break
        pairs.append((row, column))
        left[row, :], left[:, column] = -1.0, -1.0
    return pairs
