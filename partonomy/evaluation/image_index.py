"""Sums over the questions of each image: the units that the bootstrap draws."""

from collections.abc import Iterable, Sequence

import numpy as np

from partonomy.metrics.bootstrap import ImageRatio


class Terms:
    """Contributions of questions, masks or images to a ratio, each with the image that it belongs to."""

    def __init__(self) -> None:
        self.image_ids: list[int] = []
        self.numerators: list[float] = []
        self.denominators: list[float] = []

    def add(self, image_id: int, numerator: float, denominator: float = 1) -> None:
        """Append one contribution."""
        self.image_ids.append(image_id)
        self.numerators.append(numerator)
        self.denominators.append(denominator)


class ImageIndex:
    """The images of a set of records, sorted by id."""

    def __init__(self, image_ids: Iterable[int]) -> None:
        self.image_ids: Sequence[int] = sorted(set(image_ids))
        self._row_of = {image_id: row for row, image_id in enumerate(self.image_ids)}

    def ratio(self, terms: Terms, value_if_empty: float = 0.0) -> ImageRatio:
        """Sum the terms by image, in their order; images without a term contribute 0 to both sums.

        Args:
            terms: The contributions; each counts as one mask, image or question.
            value_if_empty: The metric where the denominators sum to 0.
        """
        rows = [self._row_of[image_id] for image_id in terms.image_ids]
        numerators, denominators = (
            np.bincount(rows, weights=values, minlength=len(self.image_ids)) if rows else np.zeros(len(self.image_ids))
            for values in (terms.numerators, terms.denominators)
        )
        return ImageRatio(numerators, denominators, len(rows), value_if_empty)
