"""Mask losses at original resolution: Focal-Tversky or Dice, and binary cross-entropy (paper, section 4, Table 6), or
the focal loss in its place (CALICO, section 3.5).

Every mask loss is a function of sums over pixels. The sums are computed a few masks at a time, so that no map at
original resolution is kept for the backward pass.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from plum.models.batch_plan import span_plan
from plum.models.segmenters.mask_resize import group_by_frame, resize_matrices
from plum.structures import Batch, ImageFrame
from plum.train_config import LossConfig

Resize = tuple[Tensor, Tensor]
"""Matrices [H, h] and [W, w]."""
PIXELS_AT_ONCE = {"cpu": 2**17, "cuda": 2**24}
"""Pixels of one map. Three or four maps of 512 KB fit the cache of a CPU core; maps of 64 MB keep a GPU busy."""
EPSILON = 1e-6
NUM_MAPS = 4
"""Maps held at a time: logits, targets, the summed quantity and, if pixels are ignored, the counted pixels."""


@dataclass(frozen=True)
class PixelSums:
    """Sums over the counted pixels of each mask, [m], float32.

    both: probability times target; predicted: probability; true: target; cross_entropy: in nats, or the focal loss in
        its place; counted: number of pixels
    """

    both: Tensor
    predicted: Tensor
    true: Tensor
    cross_entropy: Tensor
    counted: Tensor


@dataclass(frozen=True)
class Focal:
    """Settings of the focal loss: weight of true pixels (others: 1 - alpha), and the exponent."""

    alpha: float
    gamma: float


def focal_of(config: LossConfig) -> Focal | None:
    """Return the settings of the focal loss; None if the pixel loss is the cross-entropy."""
    return Focal(config.focal_alpha, config.focal_gamma) if config.pixel_loss == "focal" else None


def sum_pixels(
    mask_logits: Tensor,
    targets: Tensor,
    is_counted: Tensor | None,
    resize: Resize | None = None,
    focal: Focal | None = None,
) -> PixelSums:
    """Compute the pixel sums that the losses need, in float32.

    Args:
        mask_logits: [m, h, w]; only these receive gradients, once differentiable.
        targets: [m, H, W], bool.
        is_counted: [m, H, W], bool, false on ignored pixels; None: every pixel counts.
        resize: matrices that resize the logits to the targets' size; None: the sizes are equal.
        focal: sum the focal loss in place of the cross-entropy.

    Raises:
        ValueError: there is no mask, or the shapes do not match.
    """
    size = mask_logits.shape[1:] if resize is None else (len(resize[0]), len(resize[1]))
    if len(targets) == 0 or targets.shape != (len(mask_logits), *size):
        raise ValueError(f"masks {tuple(targets.shape)} for logits {tuple(mask_logits.shape)} resized to {tuple(size)}")
    if is_counted is not None and is_counted.shape != targets.shape:
        raise ValueError(f"counted pixels {tuple(is_counted.shape)} for masks {tuple(targets.shape)}")
    return PixelSums(*_SumPixels.apply(mask_logits.float(), targets, is_counted, _How(resize, focal)).unbind())


def masks_at_once(num_masks: int, num_pixels: int, device_type: str) -> int:
    """Return how many of `num_masks` masks are enlarged at a time: at least one, unless there are none."""
    return min(num_masks, max(1, PIXELS_AT_ONCE.get(device_type, PIXELS_AT_ONCE["cuda"]) // num_pixels))


class _How(NamedTuple):
    """How sums are taken; see `sum_pixels`."""

    resize: Resize | None
    focal: Focal | None


class _SumPixels(Function):
    """The five sums of `PixelSums`, [5, m]."""

    @staticmethod
    def forward(ctx: Any, mask_logits: Tensor, targets: Tensor, is_counted: Tensor | None, how: "_How") -> Tensor:
        ctx.save_for_backward(mask_logits, targets, is_counted)
        ctx.how = how
        work, sums = _Workspace(targets, is_counted), []
        for some in work.slices:
            logits = work.enlarge(mask_logits[some], how.resize)
            true, counted = work.as_numbers(targets, is_counted, some)
            pixels = work.pixels[: len(true)]
            torch.addcmul(logits, true, logits, value=-2, out=pixels)  # x (1 - 2 t)
            focus = None if how.focal is None else _focus(pixels, true, how.focal)
            torch.ops.aten.softplus.out(pixels, out=pixels)  # -log sigmoid(x) or -log sigmoid(-x)
            if focus is not None:
                pixels.mul_(focus)
            cross_entropy = _keep(counted, pixels).sum((-2, -1))
            torch.sigmoid(logits, out=pixels)
            predicted = _keep(counted, pixels).sum((-2, -1))
            both = pixels.mul_(true).sum((-2, -1))
            all_true = _keep(counted, true).sum((-2, -1))
            num_counted = both.new_full(both.shape, true[0].numel()) if counted is None else counted.sum((-2, -1))
            sums.append(torch.stack([both, predicted, all_true, cross_entropy, num_counted]))
        return torch.cat(sums, dim=1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_sums: Tensor) -> tuple[Tensor, None, None, None]:
        mask_logits, targets, is_counted = ctx.saved_tensors
        work, gradient = _Workspace(targets, is_counted), torch.empty_like(mask_logits)
        for some in work.slices:
            of_both, of_predicted, _, of_entropy, _ = of_sums[:, some, None, None]
            logits = work.enlarge(mask_logits[some], ctx.how.resize)
            true, counted = work.as_numbers(targets, is_counted, some)
            pixels = work.pixels[: len(true)]
            slope = None if ctx.how.focal is None else _focal_slope(logits, true, ctx.how.focal)
            torch.sigmoid(logits, out=pixels)
            of_logits = torch.addcmul(of_predicted, of_both, true, out=work.logits[: len(true)])
            torch.ops.aten.sigmoid_backward.grad_input(of_logits, pixels, grad_input=of_logits)
            of_logits.addcmul_(pixels.sub_(true) if slope is None else slope, of_entropy)
            gradient[some] = _shrink(_keep(counted, of_logits), ctx.how.resize)
        return gradient, None, None, None


class _Workspace:
    """Buffers reused by successive groups of masks: on a CPU, fresh memory costs more than the computation in it."""

    def __init__(self, targets: Tensor, is_counted: Tensor | None) -> None:
        num_masks, height, width = targets.shape
        step = masks_at_once(num_masks, height * width, targets.device.type)
        self.slices = [slice(start, start + step) for start in range(0, num_masks, step)]
        num_maps = NUM_MAPS - (is_counted is None)
        maps = torch.empty(num_maps, step, height, width, dtype=torch.float32, device=targets.device)
        self.logits, self.true, self.pixels, *self.counted = maps

    def enlarge(self, maps: Tensor, resize: Resize | None) -> Tensor:
        """Resize [k, h, w] to [k, H, W]."""
        if resize is None:
            return maps
        rows, columns = resize
        return torch.bmm(rows.expand(len(maps), -1, -1), maps @ columns.T, out=self.logits[: len(maps)])

    def as_numbers(self, targets: Tensor, is_counted: Tensor | None, some: slice) -> tuple[Tensor, Tensor | None]:
        """Return targets and counted pixels as float32 0 and 1, which a CPU multiplies much faster than bools."""
        true = targets[some]
        counted = None if is_counted is None else self.counted[0][: len(true)].copy_(is_counted[some])
        return self.true[: len(true)].copy_(true), counted


def _focus(against: Tensor, true: Tensor, focal: Focal) -> Tensor:
    """Return what the focal loss multiplies the cross-entropy of each pixel by.

    Args:
        against: logits of the wrong class, x (1 - 2 t).
        true: targets t, 0 or 1.
        focal: settings.
    """
    weight = true * (2 * focal.alpha - 1) + (1 - focal.alpha)
    return weight * torch.sigmoid(against) ** focal.gamma


def _focal_slope(logits: Tensor, true: Tensor, focal: Focal) -> Tensor:
    """Return the derivative of each pixel's focal loss by its logit."""
    against = logits * (1 - 2 * true)
    wrong = torch.sigmoid(against)
    entropy = torch.nn.functional.softplus(against)
    return (1 - 2 * true) * _focus(against, true, focal) * (wrong + focal.gamma * (1 - wrong) * entropy)


def _shrink(gradient: Tensor, resize: Resize | None) -> Tensor:
    """Bring the gradient [k, H, W] of enlarged maps back to [k, h, w]."""
    return gradient if resize is None else resize[0].T @ gradient @ resize[1]


def _keep(counted: Tensor | None, maps: Tensor) -> Tensor:
    """Zero the ignored pixels in place."""
    return maps if counted is None else maps.mul_(counted)


def mask_losses(mask_logits: Tensor, batch: Batch, config: LossConfig) -> tuple[Tensor, Tensor]:
    """Overlap loss and pixel loss (BCE or focal), each the mean over the batch's M masks, at original resolution.

    Images of the same size share one resize; ignored pixels count in neither loss.

    Args:
        mask_logits: [M, 4h, 4w] in the frame of SAM's padded input.
        batch: M masks in original-image pixels, spans, frames.
        config: type and settings of the overlap loss.

    Raises:
        ValueError: a mask does not have its image's size.
    """
    if len(batch.masks) == 0:
        nothing = torch.zeros((), dtype=torch.float32, device=mask_logits.device)
        return nothing, nothing
    padded_size = batch.sam_pixels.shape[-1]
    image_rows, by_mask = span_plan(batch.spans).images, mask_logits.unbind()
    overlaps, bces = [], []
    for frame, rows in group_by_frame([batch.frames[row] for row in image_rows]).items():
        targets = _stack_targets(batch, rows, image_rows, frame)
        is_counted = _stack_counted([batch.ignore_masks[image_rows[row]] for row in rows], targets)
        resize = resize_matrices(mask_logits.shape[-1], frame, padded_size, mask_logits.device)
        sums = sum_pixels(_take_rows(mask_logits, by_mask, rows), targets, is_counted, resize, focal_of(config))
        overlap, bce = losses_by_mask(sums, config)
        overlaps.append(overlap)
        bces.append(bce)
    return torch.cat(overlaps).mean(), torch.cat(bces).mean()


class MaskPixels(NamedTuple):
    """Pixels of predicted and true masks, each LongTensor [M], outside ignored pixels."""

    intersection: Tensor
    union: Tensor


@torch.no_grad()
def count_mask_pixels(mask_logits: Tensor, batch: Batch) -> MaskPixels:
    """Count the pixels at original resolution in which predicted masks (logits above 0) and true ones meet and unite.

    Args:
        mask_logits: [M, 4h, 4w] in the frame of SAM's padded input.
        batch: M masks in original-image pixels, spans, frames.

    Raises:
        ValueError: a mask does not have its image's size.
    """
    counts = torch.zeros(2, len(batch.masks), dtype=torch.long)
    image_rows = span_plan(batch.spans).images if len(batch.spans) else ()
    for frame, rows in group_by_frame([batch.frames[row] for row in image_rows]).items():
        targets = _stack_targets(batch, rows, image_rows, frame)
        is_counted = _stack_counted([batch.ignore_masks[image_rows[row]] for row in rows], targets)
        resize = resize_matrices(mask_logits.shape[-1], frame, batch.sam_pixels.shape[-1], mask_logits.device)
        step = masks_at_once(len(rows), targets[0].numel(), targets.device.type)
        for first in range(0, len(rows), step):
            some = slice(first, first + step)
            predicted = resize[0] @ mask_logits[rows[some]].float() @ resize[1].T > 0
            both, either = predicted & targets[some], predicted | targets[some]
            if is_counted is not None:
                both, either = both & is_counted[some], either & is_counted[some]
            counts[:, rows[some]] = torch.stack([both.sum((-2, -1)), either.sum((-2, -1))]).cpu()
    return MaskPixels(counts[0], counts[1])


def losses_by_mask(sums: PixelSums, config: LossConfig) -> tuple[Tensor, Tensor]:
    """Return the configured overlap loss and the pixel loss of each mask, both [m]."""
    if config.overlap == "dice":
        return dice_loss(sums, config.dice_scale), bce_loss(sums)
    alpha, beta, gamma = config.tversky_alpha, config.tversky_beta, config.tversky_gamma
    return focal_tversky_loss(sums, alpha=alpha, beta=beta, gamma=gamma), bce_loss(sums)


def focal_tversky_loss(sums: PixelSums, *, alpha: float, beta: float, gamma: float) -> Tensor:
    """Focal-Tversky loss of each mask: TI = (TP + e) / (TP + alpha FN + beta FP + e), loss = (1 - TI)^gamma.

    1 - TI is clamped to at least 1e-6. The power has an infinite slope at a perfect mask, where the authors' unclamped
    form gives NaN gradients.

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
        scale: s, which sets the relative weight of e = 1e-6.

    Returns:
        Losses [m], float32.
    """
    intersection = sums.both / scale
    total = (sums.predicted + sums.true) / scale
    return 1 - (2 * intersection + EPSILON) / (total + EPSILON)


def bce_loss(sums: PixelSums) -> Tensor:
    """Pixel-mean cross-entropy (or focal loss) of each mask over its counted pixels, [m]; 0 if no pixel counts."""
    return sums.cross_entropy / sums.counted.clamp(min=1)


def _take_rows(mask_logits: Tensor, by_mask: Sequence[Tensor], rows: list[int]) -> Tensor:
    """Return the logits of some spans, stacked from their own tensors: an index would be copied to the device."""
    return mask_logits if rows == [*range(len(mask_logits))] else torch.stack([by_mask[row] for row in rows])


def _stack_targets(batch: Batch, rows: list[int], image_rows: Sequence[int], frame: ImageFrame) -> Tensor:
    """Stack the true masks of some spans, [m, H, W] bool."""
    for row in rows:
        if tuple(batch.masks[row].shape) != frame.original:
            raise ValueError(
                f"mask {row} of the batch (samples {', '.join(batch.sample_ids)}) is {tuple(batch.masks[row].shape)} "
                f"but its image {image_rows[row]} is {frame.original}: masks are in original-image pixels"
            )
    return torch.stack([batch.masks[row] for row in rows]).bool()


def _stack_counted(ignored: list[Tensor | None], targets: Tensor) -> Tensor | None:
    """Return which pixels count, [m, H, W] bool; None if no image ignores any."""
    if all(mask is None for mask in ignored):
        return None
    nowhere = torch.zeros_like(targets[0])
    return torch.stack([nowhere if mask is None else mask.bool() for mask in ignored]).logical_not_()
