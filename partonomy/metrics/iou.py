"""Mask IoU and its three averages: micro-gIoU, macro-gIoU and cIoU (Partonomy/PLUM paper, section 3.3).

Statistics are additive, and pixel counts stay int64 sums until the last division, so shards of an evaluation merge
exactly if each image lies in a single shard.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from partonomy.masks import intersection_areas, mask_areas, union_masks
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


@dataclass(frozen=True)
class IoUStatistics:
    """Additive sums over part masks; `a + b` are the sums over two disjoint sets of images.

    Attributes:
        num_masks: Number of part masks.
        sum_iou: Sum of their IoUs.
        num_images: Number of images.
        sum_image_iou: Sum over images of the image's mean IoU.
        intersection: Sum of intersections in pixels.
        union: Sum of unions in pixels.
    """

    num_masks: int = 0
    sum_iou: float = 0.0
    num_images: int = 0
    sum_image_iou: float = 0.0
    intersection: int = 0
    union: int = 0

    def __add__(self, other: "IoUStatistics") -> "IoUStatistics":
        return IoUStatistics(
            num_masks=self.num_masks + other.num_masks,
            sum_iou=self.sum_iou + other.sum_iou,
            num_images=self.num_images + other.num_images,
            sum_image_iou=self.sum_image_iou + other.sum_image_iou,
            intersection=self.intersection + other.intersection,
            union=self.union + other.union,
        )

    @property
    def giou_micro(self) -> float | None:
        """Mean IoU over all part masks; None if there are none."""
        return self.sum_iou / self.num_masks if self.num_masks else None

    @property
    def giou_macro(self) -> float | None:
        """Mean over images of the image's mean IoU; None if there are no images."""
        return self.sum_image_iou / self.num_images if self.num_images else None

    @property
    def ciou(self) -> float | None:
        """Sum of intersections over sum of unions (1 if all masks are empty); None if there are no masks."""
        if not self.num_masks:
            return None
        return 1.0 if self.union == 0 else self.intersection / self.union


def missing_prediction(true_area: int) -> PairStatistics:
    """Return the statistics of a true mask without prediction: it scores 0, and its pixels count in cIoU's union."""
    return PairStatistics(intersection=0, union=true_area, is_predicted=False)


def image_statistics(pairs: Iterable[PairStatistics]) -> IoUStatistics:
    """Sum the pairs of ONE image. An image without pairs gives all zeros and is not counted."""
    pairs = tuple(pairs)
    if not pairs:
        return IoUStatistics()
    sum_iou = sum(pair.iou for pair in pairs)
    return IoUStatistics(
        num_masks=len(pairs),
        sum_iou=sum_iou,
        num_images=1,
        sum_image_iou=sum_iou / len(pairs),
        intersection=sum(pair.intersection for pair in pairs),
        union=sum(pair.union for pair in pairs),
    )


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
