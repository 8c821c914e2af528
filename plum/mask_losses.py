"""Mask losses at original resolution: Focal-Tversky or Dice, and binary cross-entropy (paper, section 4 and Table 6).

All of them follow from the sums over pixels that plum/mask_sums.py takes.
"""

import torch
from torch import Tensor

from plum.mask_sums import PixelSums, sum_pixels
from plum.models.mask_resize import group_by_frame, resize_matrices
from plum.structures import Batch, ImageFrame
from plum.train_config import LossConfig

EPSILON = 1e-6


def mask_losses(mask_logits: Tensor, batch: Batch, config: LossConfig) -> tuple[Tensor, Tensor]:
    """Overlap loss and BCE, each the mean over the batch's M masks, at original resolution.

    Images of one size share one resize; ignored pixels enter neither loss.

    Args:
        mask_logits: [M, 4h, 4w] in the frame of SAM's padded input.
        batch: M masks in original-image pixels, spans, frames.
        config: form of the overlap loss.

    Raises:
        ValueError: a mask has not its image's size.
    """
    if len(batch.masks) == 0:
        nothing = torch.zeros((), dtype=torch.float32, device=mask_logits.device)
        return nothing, nothing
    padded_size = batch.sam_pixels.shape[-1]
    image_rows = batch.image_index[batch.spans.conversation].tolist()  # [M]
    overlaps, bces = [], []
    for frame, rows in group_by_frame([batch.frames[row] for row in image_rows]).items():
        targets = _stack_targets(batch, rows, image_rows, frame)
        is_counted = _stack_counted([batch.ignore_masks[image_rows[row]] for row in rows], targets)
        resize = resize_matrices(mask_logits.shape[-1], frame, padded_size, mask_logits.device)
        overlap, bce = losses_by_mask(sum_pixels(mask_logits[rows], targets, is_counted, resize), config)
        overlaps.append(overlap)
        bces.append(bce)
    return torch.cat(overlaps).mean(), torch.cat(bces).mean()


def losses_by_mask(sums: PixelSums, config: LossConfig) -> tuple[Tensor, Tensor]:
    """Return the configured overlap loss and the BCE of each mask, both [m]."""
    if config.overlap == "dice":
        return dice_loss(sums, config.dice_scale), bce_loss(sums)
    alpha, beta, gamma = config.tversky_alpha, config.tversky_beta, config.tversky_gamma
    return focal_tversky_loss(sums, alpha=alpha, beta=beta, gamma=gamma), bce_loss(sums)


def focal_tversky_loss(sums: PixelSums, *, alpha: float, beta: float, gamma: float) -> Tensor:
    """Focal-Tversky loss of each mask: TI = (TP + e) / (TP + alpha FN + beta FP + e), loss = (1 - TI)^gamma.

    1 - TI is clamped at 1e-6 from below: the power's slope is infinite at a perfect mask, where the authors' form gives
    NaN gradients.

    Args:
        sums: over the pixels of m masks.
        alpha: weight of false negatives.
        beta: weight of false positives.
        gamma: focal exponent.

    Returns:
        Losses [m], float32.
    """
    true_positives = sums.both
    false_negatives = sums.true - true_positives
    false_positives = sums.predicted - true_positives
    index = (true_positives + EPSILON) / (true_positives + alpha * false_negatives + beta * false_positives + EPSILON)
    return (1 - index).clamp(min=EPSILON) ** gamma


def dice_loss(sums: PixelSums, scale: float) -> Tensor:
    """Dice loss of each mask as LISA computes it: 1 - (2 I / s + e) / ((P + G) / s + e).

    Args:
        sums: over the pixels of m masks.
        scale: s, which sets what the e of 1e-6 weighs.

    Returns:
        Losses [m], float32.
    """
    intersection = sums.both / scale
    total = (sums.predicted + sums.true) / scale
    return 1 - (2 * intersection + EPSILON) / (total + EPSILON)


def bce_loss(sums: PixelSums) -> Tensor:
    """Pixel-mean binary cross-entropy of each mask over its counted pixels, [m]; 0 where none counts."""
    return sums.cross_entropy / sums.counted.clamp(min=1)


def _stack_targets(batch: Batch, rows: list[int], image_rows: list[int], frame: ImageFrame) -> Tensor:
    """Stack the true masks of some spans, [m, H, W] bool."""
    for row in rows:
        if tuple(batch.masks[row].shape) != frame.original:
            raise ValueError(
                f"mask {row} of the batch (samples {', '.join(batch.sample_ids)}) is {tuple(batch.masks[row].shape)} "
                f"but its image {image_rows[row]} is {frame.original}: masks are in original-image pixels"
            )
    return torch.stack([batch.masks[row] for row in rows]).bool()


def _stack_counted(ignored: list[Tensor | None], targets: Tensor) -> Tensor | None:
    """Return where a pixel counts, [m, H, W] bool; None when no image ignores any."""
    if all(mask is None for mask in ignored):
        return None
    nowhere = torch.zeros_like(targets[0])
    return torch.stack([nowhere if mask is None else mask.bool() for mask in ignored]).logical_not_()
