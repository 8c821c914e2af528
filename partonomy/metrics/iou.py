"""Mask IoU and its three averages: micro-gIoU, macro-gIoU and cIoU (Partonomy/PLUM paper, section 3.3).

Statistics are integers (int64 sums) until the last division and add up, so that shards of an evaluation merge exactly
as long as an image lies in one shard.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np


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


def pair_statistics(predicted: np.ndarray, true: np.ndarray) -> PairStatistics:
    """Count the pixels of one pair.

    Args:
        predicted: bool (H, W).
        true: bool (H, W), same frame.

    Raises:
        ValueError: The shapes differ or an array is not boolean.
    """
    check_mask_pair(predicted, true)
    intersection = int(np.count_nonzero(predicted & true))
    union = int(np.count_nonzero(predicted)) + int(np.count_nonzero(true)) - intersection
    return PairStatistics(intersection, union)


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


def pairwise_statistics(predicted: np.ndarray, true: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Intersections and unions of every prediction with every true mask.

    Args:
        predicted: bool (P, H, W).
        true: bool (M, H, W).

    Returns:
        Two int64 arrays (P, M), in pixels.
    """
    intersections = np.zeros((len(predicted), len(true)), dtype=np.int64)
    unions = np.zeros_like(intersections)
    for row, predicted_mask in enumerate(predicted):
        for column, true_mask in enumerate(true):
            pair = pair_statistics(predicted_mask, true_mask)
            intersections[row, column] = pair.intersection
            unions[row, column] = pair.union
    return intersections, unions


def check_mask_pair(predicted: np.ndarray, true: np.ndarray) -> None:
    """Raise ValueError unless both are boolean and of the same shape."""
    if predicted.dtype != np.bool_ or true.dtype != np.bool_:
        raise ValueError(f"masks must be bool, got {predicted.dtype} (predicted) and {true.dtype} (true)")
    if predicted.shape != true.shape:
        raise ValueError(
            f"predicted mask has shape {predicted.shape}, true mask {true.shape}; "
            "predictions must be in original-image pixels"
        )
