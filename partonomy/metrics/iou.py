"""Mask IoU and its three averages: micro-gIoU, macro-gIoU and cIoU (Partonomy/PLUM paper, section 3.3).

Statistics are integers (int64 sums) until the last division and add up, so that shards of an evaluation merge exactly
as long as an image lies in one shard.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from partonomy.masks import intersection_areas, mask_areas, union_masks
from partonomy.structures import RLE


@dataclass(frozen=True)
class PairStatistics:
    """Pixel counts of one true mask and the prediction paired with it.

    `is_predicted` False means that nothing was predicted for the true mask: its IoU is 0, whatever the counts say.
    """

    intersection: int
    union: int
    is_predicted: bool = True

    def __post_init__(self) -> None:
        if not 0 <= self.intersection <= self.union:
            raise ValueError(f"intersection {self.intersection} and union {self.union} cannot belong to two masks")

    @property
    def iou(self) -> float:
        """|P and M| / |P or M|; 1 where both masks are empty, 0 where the prediction is missing."""
        if not self.is_predicted:
            return 0.0
        return 1.0 if self.union == 0 else self.intersection / self.union


@dataclass(frozen=True)
class IoUStatistics:
    """Additive sums over part masks; `a + b` are the sums of two disjoint sets of images.

    Attributes:
        num_masks: Part masks counted.
        sum_iou: Sum of their IoUs.
        num_images: Images counted.
        sum_image_iou: Sum over images of the image's mean IoU.
        intersection: Sum of intersections, pixels.
        union: Sum of unions, pixels.
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
        """Mean IoU over all part masks; None without any."""
        return self.sum_iou / self.num_masks if self.num_masks else None

    @property
    def giou_macro(self) -> float | None:
        """Mean over images of the image's mean IoU; None without any image."""
        return self.sum_image_iou / self.num_images if self.num_images else None

    @property
    def ciou(self) -> float | None:
        """Sum of intersections over sum of unions (1 where every mask is empty); None without any mask."""
        if not self.num_masks:
            return None
        return 1.0 if self.union == 0 else self.intersection / self.union


def missing_prediction(true_area: int) -> PairStatistics:
    """Statistics of a true mask for which nothing was predicted: it scores 0 and its pixels enter cIoU's union."""
    return PairStatistics(intersection=0, union=true_area, is_predicted=False)


def image_statistics(pairs: Iterable[PairStatistics]) -> IoUStatistics:
    """Sum the pairs of ONE image (no pair: all zeros, the image is not counted)."""
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
    """Everything that any pairing needs to know of one question's masks, counted once.

    Attributes:
        predicted_areas: int64 (P,), pixels.
        true_areas: int64 (M,), pixels.
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
        """IoU of every prediction with every true mask, float64 (P, M); 1 where both are empty."""
        unions = self.predicted_areas[:, None] + self.true_areas[None, :] - self.intersections
        return np.where(unions == 0, 1.0, self.intersections / np.maximum(unions, 1))

    def pair(self, predicted_index: int, true_index: int) -> PairStatistics:
        """Statistics of one prediction and the true mask that it is paired with."""
        intersection = int(self.intersections[predicted_index, true_index])
        areas = int(self.predicted_areas[predicted_index]) + int(self.true_areas[true_index])
        return PairStatistics(intersection, areas - intersection)

    def union_pair(self) -> PairStatistics:
        """Statistics of the union of all predictions and the union of all true masks."""
        areas = self.predicted_union_area + self.true_union_area
        return PairStatistics(self.union_intersection, areas - self.union_intersection)


def count_pixels(predicted: Sequence[RLE], true: Sequence[RLE]) -> PixelCounts:
    """Count pixels straight on the run-length codes; equal to counting on arrays, without making any.

    Args:
        predicted: P canonical codes (`encode_masks` makes such, `canonical_rle` makes any so), original-image pixels.
        true: M canonical codes in the same frame.

    Raises:
        ValueError: The masks have several sizes.
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
