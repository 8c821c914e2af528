"""CIDEr-D of captions (Vedantam et al., CVPR 2015), as pycocoevalcap computes it.

A caption is a vector of n-grams, n = 1 to 4, weighted by their frequency in the caption and their rarity in the
references of all images. The score is ten times the mean over n of the cosine of the two vectors, in which a caption's
weights are clipped at the reference's, times a penalty on the difference in length, for which the number of bigrams
counts. pycocoevalcap tokenises with Stanford's PTBTokenizer, which needs Java; here words are runs of letters, digits
and apostrophes in lower case, so that scores may differ in the last digits where captions hold hyphens or numbers.
"""

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

MAX_N = 4
SIGMA = 6.0
"""Width of the penalty on the difference in length."""
SCALE = 10.0
_WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)*")

Grams = Mapping[tuple[str, ...], int]


class CiderScorer:
    """Scores captions against one reference each.

    Args:
        references: The references of all images.
    """

    def __init__(self, references: Iterable[str]) -> None:
        self._num_images, self._frequencies = 0, Counter[tuple[str, ...]]()
        for reference in references:
            self._num_images += 1
            self._frequencies.update(count_grams(reference).keys())

    def score(self, caption: str, reference: str) -> float:
        """Return the score of a caption, from 0 to 10."""
        given, wanted = count_grams(caption), count_grams(reference)
        difference = _num_bigrams(given) - _num_bigrams(wanted)
        total = 0.0
        for size in range(1, MAX_N + 1):
            first, second = self._weigh(given, size), self._weigh(wanted, size)
            norm = math.sqrt(sum(value**2 for value in first.values()) * sum(value**2 for value in second.values()))
            product = sum(min(value, second[gram]) * second[gram] for gram, value in first.items() if gram in second)
            total += product / norm if norm else product
        return SCALE * total / MAX_N * math.exp(-(difference**2) / (2 * SIGMA**2))

    def _weigh(self, grams: Grams, size: int) -> dict[tuple[str, ...], float]:
        """Return the weights of a caption's n-grams of one size."""
        return {
            gram: count * (math.log(max(self._num_images, 1)) - math.log(max(self._frequencies[gram], 1)))
            for gram, count in grams.items()
            if len(gram) == size
        }


def words_of(caption: str) -> Sequence[str]:
    """Return the words of a caption, in lower case."""
    return _WORD.findall(caption.lower())


def count_grams(caption: str) -> Grams:
    """Count the n-grams of a caption, n = 1 to 4."""
    words = words_of(caption)
    return Counter(
        tuple(words[start : start + size]) for size in range(1, MAX_N + 1) for start in range(len(words) - size + 1)
    )


def _num_bigrams(grams: Grams) -> int:
    return sum(count for gram, count in grams.items() if len(gram) == 2)
