"""Micro precision, recall and F1 of part names (Partonomy/PLUM paper, section 3.3, "Text Evaluation").

Names are compared as sets of exact strings after stripping whitespace and converting to lower case. The authors' code
counts the entries of the lists instead (`listed_part_statistics`).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class PartTextStatistics:
    """Additive counts of part names: in both sets, in the predicted set and in the true set.

    They are whole numbers for one answer, and expectations for an answer drawn from several (`mean_statistics`).
    """

    num_matched: float = 0
    num_predicted: float = 0
    num_true: float = 0

    def __add__(self, other: "PartTextStatistics") -> "PartTextStatistics":
        return PartTextStatistics(
            self.num_matched + other.num_matched,
            self.num_predicted + other.num_predicted,
            self.num_true + other.num_true,
        )

    @property
    def precision(self) -> float:
        """Matched / predicted; 0 if nothing was predicted."""
        return self.num_matched / self.num_predicted if self.num_predicted else 0.0

    @property
    def recall(self) -> float:
        """Matched / true; 0 if nothing is true."""
        return self.num_matched / self.num_true if self.num_true else 0.0

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall = 2 matched / (predicted + true)."""
        total = self.num_predicted + self.num_true
        return 2 * self.num_matched / total if total else 0.0


def normalize_part(name: str) -> str:
    """Return the form of a part name that is compared."""
    return name.strip().lower()


def normalize_parts(names: Iterable[str]) -> frozenset[str]:
    """Return the set of normalised names."""
    return frozenset(normalize_part(name) for name in names)


def part_text_statistics(predicted: Iterable[str], true: Iterable[str]) -> PartTextStatistics:
    """Count one answer's part names against the true ones; repeated names count once."""
    predicted_set, true_set = normalize_parts(predicted), normalize_parts(true)
    return PartTextStatistics(len(predicted_set & true_set), len(predicted_set), len(true_set))


def listed_part_statistics(predicted: Sequence[str], true: Sequence[str]) -> PartTextStatistics:
    """Count one answer's part names as the Partonomy authors' code does: every entry of a list, also a repeated one.

    A predicted entry matches if its name is among the true ones, so that recall can exceed 1.
    """
    true_set = normalize_parts(true)
    num_matched = sum(normalize_part(name) in true_set for name in predicted)
    return PartTextStatistics(num_matched, len(predicted), len(true))


def mean_statistics(statistics: Sequence[PartTextStatistics]) -> PartTextStatistics:
    """Return the expected counts of an answer that is drawn uniformly from several, such as tied choices."""
    if len(statistics) == 1:
        return statistics[0]
    total = sum(statistics, start=PartTextStatistics())
    return PartTextStatistics(
        total.num_matched / len(statistics),
        total.num_predicted / len(statistics),
        total.num_true / len(statistics),
    )


def failed_statistics(true: Iterable[str]) -> PartTextStatistics:
    """Return the statistics of a question without an answer.

    As many wrong names as there are true ones are counted, so that a failure lowers precision as well as recall.
    """
    num_true = len(normalize_parts(true))
    return PartTextStatistics(0, num_true, num_true)
