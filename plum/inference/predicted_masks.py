"""Masks in original-image pixels from low-resolution logits, with bounded memory.

Logits of all masks at the size of a large photograph take 17 bytes per pixel and mask, beside one byte of the mask. A
few million pixels at a time are enlarged and thresholded instead.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from plum.models.segmenters.mask_resize import resize_matrices, resize_to_original
from plum.structures import ImageFrame

MAX_PIXELS_AT_ONCE = 2**24
"""Pixels, over all masks, that are enlarged at a time: 0.3 GB. Up to 50 masks of 480 x 640 pixels stay together."""


@dataclass(frozen=True)
class PredictedMasks:
    """Masks bool (S, H, W) in original-image pixels, and the mean probability inside each (0 for an empty mask)."""

    masks: np.ndarray
    confidences: tuple[float, ...]

    def take(self, places: np.ndarray) -> "PredictedMasks":
        """Return the masks at some places, in that order; masks that are in this order already are not copied."""
        return PredictedMasks(take_masks(self.masks, places), tuple(self.confidences[place] for place in places))


def take_masks(masks: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Return masks [places]; not a copy if that changes nothing."""
    return masks if np.array_equal(places, np.arange(len(masks))) else masks[places]


def predict_masks(low_logits: Tensor, frame: ImageFrame, padded_size: int) -> PredictedMasks:
    """Enlarge and threshold mask logits, and compute the masks' confidences.

    Args:
        low_logits: [S, 4h, 4w] in the frame of SAM's padded input.
        frame: sizes of the image before and after SAM's resizing.
        padded_size: side of SAM's padded input in pixels.
    """
    masks = np.empty((len(low_logits), *frame.original), dtype=bool)
    inside, num_pixels = torch.zeros(len(low_logits)), torch.zeros(len(low_logits), dtype=torch.long)
    for spans, rows, logits in _blocks(low_logits, frame, padded_size):
        positive = logits > 0
        inside[spans] += (logits.sigmoid() * positive).sum((1, 2)).cpu()
        num_pixels[spans] += positive.sum((1, 2)).cpu()
        masks[spans, rows] = positive.cpu().numpy()
    return PredictedMasks(masks, tuple((inside / num_pixels.clamp(min=1)).tolist()))


def threshold_masks(low_logits: Tensor, frame: ImageFrame, padded_size: int) -> np.ndarray:
    """Enlarge and threshold mask logits; see `predict_masks`. Returns bool (S, H, W)."""
    masks = np.empty((len(low_logits), *frame.original), dtype=bool)
    for spans, rows, logits in _blocks(low_logits, frame, padded_size):
        masks[spans, rows] = (logits > 0).cpu().numpy()
    return masks


def _blocks(low_logits: Tensor, frame: ImageFrame, padded_size: int) -> Iterator[tuple[slice, slice, Tensor]]:
    """Yield the masks and rows of each block, and its logits [masks, rows, W]."""
    height, width = frame.original
    if len(low_logits) * height * width <= MAX_PIXELS_AT_ONCE:
        yield slice(None), slice(None), resize_to_original(low_logits, frame, padded_size)
        return
    enlarge_rows, enlarge_columns = resize_matrices(low_logits.shape[-1], frame, padded_size, low_logits.device)
    num_rows = max(1, MAX_PIXELS_AT_ONCE // width)
    for number, low in enumerate(low_logits):
        wide = low.float() @ enlarge_columns.T  # [4h, W]
        for first in range(0, height, num_rows):
            rows = slice(first, first + num_rows)
            yield slice(number, number + 1), rows, (enlarge_rows[rows] @ wide)[None]
