"""Mask IoU and its three averages: micro-gIoU, macro-gIoU and cIoU (Partonomy/PLUM paper, section 3.3).

Each average is a ratio of two sums over images, from which `partonomy.metrics.bootstrap` computes its interval.
"""

from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from partonomy.masks import intersection_areas, mask_areas, union_masks
from partonomy.metrics.bootstrap import ImageIndex, ImageRatio, Terms
from partonomy.structures import RLE


def check_pixel_counts(intersection: int, union: int) -> None:
    """Check that two masks can have these counts.

    Raises:
        ValueError: They cannot.
    """
    if not 0 <= intersection <= union:
        raise ValueError(f"intersection {intersection} and union {union} cannot belong to two masks")


@dataclass(frozen=True)
class PairStatistics:
    """Pixel counts of one true mask and the prediction paired with it.

    If `is_predicted` is False, nothing was predicted for the true mask, and its IoU is 0 whatever the counts.
    """

    intersection: int
    union: int
    is_predicted: bool = True

    def __post_init__(self) -> None:
        check_pixel_counts(self.intersection, self.union)

    @property
    def iou(self) -> float:
        """|P and M| / |P or M|; 1 if both masks are empty, 0 if the prediction is missing."""
        if not self.is_predicted:
            return 0.0
        return 1.0 if self.union == 0 else self.intersection / self.union


def missing_prediction(true_area: int) -> PairStatistics:
    """Return the statistics of a true mask without prediction: it scores 0, and its pixels count in cIoU's union."""
    return PairStatistics(intersection=0, union=true_area, is_predicted=False)


@dataclass(frozen=True)
class PairRatios:
    """The three averages as ratios of sums over images: micro-gIoU, macro-gIoU and cIoU."""

    micro: ImageRatio
    macro: ImageRatio
    cumulative: ImageRatio


class PairAverages:
    """Averages the masks of questions that are added one after another; only their numbers are kept."""

    def __init__(self) -> None:
        self._micro = Terms()
        self._cumulative = Terms()
        self._by_image: dict[int | str, array[float]] = {}
        self._is_any_missing = False

    def add(self, image_id: int | str, pairs: Iterable[PairStatistics]) -> None:
        """Add the pixel counts of one question's masks.

        Args:
            image_id: The image that they belong to.
            pairs: One entry per mask; none if the question has no true mask.
        """
        ious = self._by_image.setdefault(image_id, array("d"))
        for pair in pairs:
            ious.append(pair.iou)
            self._micro.add(image_id, ious[-1])
            self._cumulative.add(image_id, pair.intersection, pair.union)
            self._is_any_missing = self._is_any_missing or not pair.is_predicted

    def ratios(self, index: ImageIndex) -> PairRatios:
        """Compute the averages.

        Micro-gIoU is the mean IoU over all part masks. Macro-gIoU is the mean over images of the image's mean IoU;
        images without part masks do not count. cIoU is the sum of intersections over the sum of unions; if all masks
        are empty, it is 1, or 0 if a prediction is missing.

        Args:
            index: The images of the run or group.
        """
        macro = Terms()
        for image_id, ious in self._by_image.items():
            if ious:
                macro.add(image_id, sum(ious) / len(ious))
        value_if_empty = 0.0 if self._is_any_missing else 1.0
        return PairRatios(index.ratio(self._micro), index.ratio(macro), index.ratio(self._cumulative, value_if_empty))


@dataclass(frozen=True, eq=False)
class PixelCounts:
    """The pixel counts of one question's masks that every pairing strategy needs, counted once.

    Attributes:
        predicted_areas: int64 (P,), pixels of each prediction.
        true_areas: int64 (M,), pixels of each true mask.
        intersections: int64 (P, M), pixels that a prediction shares with a true mask.
        predicted_union_area: Pixels of the union of all predictions.
        true_union_area: Pixels of the union of all true masks.
        union_intersection: Pixels that the two unions share.
    """

    predicted_areas: np.ndarray
    true_areas: np.ndarray
    intersections: np.ndarray
    predicted_union_area: int
    true_union_area: int
    union_intersection: int

    @property
    def ious(self) -> np.ndarray:
        """Return the IoU of every prediction with every true mask, float64 (P, M); 1 if both are empty."""
        unions = self.predicted_areas[:, None] + self.true_areas[None, :] - self.intersections
        return np.where(unions == 0, 1.0, self.intersections / np.maximum(unions, 1))

    def pair(self, predicted_index: int, true_index: int) -> PairStatistics:
        """Return the statistics of a prediction and the true mask that it is paired with."""
        intersection = int(self.intersections[predicted_index, true_index])
        areas = int(self.predicted_areas[predicted_index]) + int(self.true_areas[true_index])
        return PairStatistics(intersection, areas - intersection)

    def union_pair(self) -> PairStatistics:
        """Return the statistics of the union of all predictions and the union of all true masks."""
        areas = self.predicted_union_area + self.true_union_area
        return PairStatistics(self.union_intersection, areas - self.union_intersection)


def count_pixels(predicted: Sequence[RLE], true: Sequence[RLE]) -> PixelCounts:
    """Count pixels directly on the run-length codes; the result equals counting on arrays.

    Args:
        predicted: P canonical codes (see `encode_masks` and `canonical_rle`) in original-image pixels.
        true: M canonical codes in the same frame.

    Raises:
        ValueError: The masks differ in size.
    """
    sizes = {(rle.height, rle.width) for rle in (*predicted, *true)}
    if len(sizes) > 1:
        raise ValueError(
            f"predicted and true masks have the sizes (height, width) {sorted(sizes)}; predictions must be in "
            "original-image pixels"
        )
    predicted_union = [union_masks(predicted)] if predicted else []
    true_union = [union_masks(true)] if true else []
    return PixelCounts(
        predicted_areas=mask_areas(predicted),
        true_areas=mask_areas(true),
        intersections=intersection_areas(predicted, true),
        predicted_union_area=int(mask_areas(predicted_union).sum()),
        true_union_area=int(mask_areas(true_union).sum()),
        union_intersection=int(intersection_areas(predicted_union, true_union).sum()),
    )
