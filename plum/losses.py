"""Losses of every system, named, unweighted; weighting happens once, in `weighted_sum` (paper, section 4 and Table 6).

All are computed in float32, whatever the model's precision.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, softplus

from plum.data.bio_labels import Tag
from plum.models.mask_resize import group_by_frame, resize_to_original
from plum.models.span_states import gather_span_tokens, mean_over_tokens
from plum.structures import IGNORE_INDEX, Batch, GroundedOutput, ImageFrame, LossTerms, SpanBounds
from plum.train_config import LossConfig

EPSILON = 1e-6


def compute_losses(output: GroundedOutput, batch: Batch, config: LossConfig) -> LossTerms:
    """Compute every loss of a batch; a term without anything to supervise is 0.

    Args:
        output: the model's forward of `batch`.
        batch: M masks in original-image pixels, labels, tags, spans.
        config: forms of the losses (its weights are not applied).
    """
    overlap, bce = mask_losses(output, batch, config)
    bio, kl = None, None
    if output.tag_logits is not None:
        bio = bio_loss(output.tag_logits, batch.tags, config.bio_class_weights)
    if output.teacher_states is not None:
        kl = span_kl_loss(
            output.hidden_states, output.teacher_states, batch.spans, config.kl_sigma, config.kl_reduction == "mean"
        )
    return LossTerms(
        language=language_loss(output.token_logits, output.token_labels),
        bio=bio,
        mask_overlap=overlap,
        mask_bce=bce,
        kl=kl,
    )


def weighted_sum(terms: LossTerms, config: LossConfig) -> Tensor:
    """Weight and add: L = 1 LM + 2 BIO + 0.1 KL + 8 overlap + 2 BCE with the paper's weights (Table 6)."""
    total = config.language * terms.language
    if terms.bio is not None:
        total = total + config.bio * terms.bio
    total = total + config.mask_overlap * terms.mask_overlap + config.mask_bce * terms.mask_bce
    return total if terms.kl is None else total + config.kl * terms.kl


def language_loss(token_logits: Tensor, token_labels: Tensor) -> Tensor:
    """Mean next-token cross-entropy in nats of logits [K, V] at K supervised positions; 0 when there are none."""
    if token_labels.numel() == 0:
        return _nothing(token_logits)
    return cross_entropy(token_logits.float(), token_labels)


def bio_loss(tag_logits: Tensor, tags: Tensor, class_weights: tuple[float, float, float]) -> Tensor:
    """Class-weighted cross-entropy over supervised (answer) tokens; 0 when there are none.

    Paper: cross-entropy over the answer; authors' code: over every token, prompt, image patches and padding as O.

    Args:
        tag_logits: [N, T, 3], order O, B, I.
        tags: [N, T], IGNORE_INDEX where unsupervised.
        class_weights: of O, B, I; the mean is weighted too (sum of w * loss / sum of w).
    """
    weights = torch.tensor(class_weights, device=tag_logits.device)
    total = cross_entropy(
        tag_logits.flatten(0, 1).float(), tags.flatten(), weights, ignore_index=IGNORE_INDEX, reduction="sum"
    )
    weight_sum = torch.where(tags == IGNORE_INDEX, 0.0, weights[tags.clamp(min=0)]).sum()
    return total / weight_sum.clamp(min=EPSILON)


def bio_accuracy(tag_logits: Tensor, tags: Tensor) -> tuple[Tensor, Tensor]:
    """Count right tags per true class over supervised tokens.

    Args:
        tag_logits: [N, T, 3].
        tags: [N, T], IGNORE_INDEX where unsupervised.

    Returns:
        Hits and totals, LongTensor [3] each, in the order O, B, I.
    """
    is_right = tag_logits.detach().argmax(-1) == tags
    is_class = tags[..., None] == torch.arange(len(Tag), device=tags.device)  # [N, T, 3]
    return (is_class & is_right[..., None]).sum((0, 1)), is_class.sum((0, 1))


def span_kl_loss(
    hidden_states: Tensor, teacher_states: Tensor, spans: SpanBounds, sigma: float, divide_by_width: bool
) -> Tensor:
    """KL of two Gaussians of width sigma around student's and teacher's span states; 0 without spans.

    Mean over spans of ||h_bar - t_bar||^2 / (2 sigma^2), states averaged over a span's tokens first (paper, section 4).
    Paper: the plain sum over D; authors' code: no averaging over tokens, mean over D, sigma unused; here
    `divide_by_width` divides by D (at D = 5120 the plain sum with weight 0.1 would dwarf every other loss).

    Args:
        hidden_states: [N, T, D], gradients flow.
        teacher_states: [N, T, D].
        spans: M token ranges.
        sigma: width of both Gaussians.
        divide_by_width: divide by D.
    """
    if len(spans) == 0:
        return _nothing(hidden_states)
    student_tokens, is_token = gather_span_tokens(hidden_states, spans)
    teacher_tokens, _ = gather_span_tokens(teacher_states, spans)
    difference = mean_over_tokens((student_tokens.float() - teacher_tokens.float()), is_token)  # [M, D]
    squared = difference.square().sum(-1) / (2 * sigma**2)
    return (squared / hidden_states.shape[-1] if divide_by_width else squared).mean()


def mask_losses(output: GroundedOutput, batch: Batch, config: LossConfig) -> tuple[Tensor, Tensor]:
    """Overlap loss and BCE, each the mean over the batch's M masks, at original resolution.

    Images of one size share one resize; ignored pixels enter neither loss.

    Raises:
        ValueError: a mask has not its image's size.
    """
    if len(batch.masks) == 0:
        return _nothing(output.mask_logits), _nothing(output.mask_logits)
    padded_size = batch.sam_pixels.shape[-1]
    image_rows = batch.image_index[batch.spans.conversation].tolist()  # [M]
    overlaps, bces = [], []
    for frame, rows in group_by_frame([batch.frames[row] for row in image_rows]).items():
        targets = _stack_targets(batch, rows, image_rows, frame)
        logits = resize_to_original(output.mask_logits[rows], frame, padded_size)
        is_counted = _stack_counted([batch.ignore_masks[image_rows[row]] for row in rows], targets)
        overlaps.append(overlap_loss(logits, targets, is_counted, config))
        bces.append(mask_bce_loss(logits, targets, is_counted))
    return torch.cat(overlaps).mean(), torch.cat(bces).mean()


def overlap_loss(logits: Tensor, targets: Tensor, is_counted: Tensor | None, config: LossConfig) -> Tensor:
    """Return the configured overlap loss per mask, [m]; arguments as `focal_tversky_loss`."""
    if config.overlap == "dice":
        return dice_loss(logits, targets, is_counted, config.dice_scale)
    return focal_tversky_loss(
        logits,
        targets,
        is_counted,
        alpha=config.tversky_alpha,
        beta=config.tversky_beta,
        gamma=config.tversky_gamma,
    )


def focal_tversky_loss(
    logits: Tensor, targets: Tensor, is_counted: Tensor | None, *, alpha: float, beta: float, gamma: float
) -> Tensor:
    """Focal-Tversky loss of each mask: TI = (TP + e) / (TP + alpha FN + beta FP + e), loss = (1 - TI)^gamma.

    1 - TI is clamped at 1e-6 from below: the power's slope is infinite at a perfect mask, where the authors' form gives
    NaN gradients.

    Args:
        logits: [m, H, W].
        targets: [m, H, W], 0 or 1, float32.
        is_counted: [m, H, W], 0 on ignored pixels; None: every pixel counts.
        alpha: weight of false negatives.
        beta: weight of false positives.
        gamma: focal exponent.

    Returns:
        Losses [m], float32.
    """
    sums = _overlap_sums(logits, targets, is_counted)
    true_positives = sums.both
    false_negatives = sums.true - true_positives
    false_positives = sums.predicted - true_positives
    index = (true_positives + EPSILON) / (true_positives + alpha * false_negatives + beta * false_positives + EPSILON)
    return (1 - index).clamp(min=EPSILON) ** gamma


def dice_loss(logits: Tensor, targets: Tensor, is_counted: Tensor | None, scale: float) -> Tensor:
    """Dice loss of each mask as LISA computes it: 1 - (2 I / s + e) / ((P + G) / s + e); arguments as Focal-Tversky.

    Args:
        logits: [m, H, W].
        targets: [m, H, W], 0 or 1, float32.
        is_counted: [m, H, W], 0 on ignored pixels; None: every pixel counts.
        scale: s, which sets what the e of 1e-6 weighs.

    Returns:
        Losses [m], float32.
    """
    sums = _overlap_sums(logits, targets, is_counted)
    intersection = sums.both / scale
    total = (sums.predicted + sums.true) / scale
    return 1 - (2 * intersection + EPSILON) / (total + EPSILON)


def mask_bce_loss(logits: Tensor, targets: Tensor, is_counted: Tensor | None) -> Tensor:
    """Pixel-mean binary cross-entropy of each mask [m] over counted pixels; arguments as `focal_tversky_loss`."""
    losses = softplus(logits.float() * (1 - 2 * targets))  # targets are 0 or 1: -log sigmoid(x) or -log sigmoid(-x)
    if is_counted is None:
        return losses.mean((-2, -1))
    return (losses * is_counted).sum((-2, -1)) / is_counted.sum((-2, -1)).clamp(min=1)


@dataclass(frozen=True)
class _OverlapSums:
    """Sums [m] over counted pixels: probability times truth, probability, truth."""

    both: Tensor
    predicted: Tensor
    true: Tensor


def _overlap_sums(logits: Tensor, targets: Tensor, is_counted: Tensor | None) -> _OverlapSums:
    """Sum over pixels by inner products, which leave no product maps for the backward pass."""
    probs, true = logits.float().sigmoid().flatten(1), targets.flatten(1)
    if is_counted is None:
        return _OverlapSums(torch.linalg.vecdot(probs, true), probs.sum(1), true.sum(1))
    counted = is_counted.flatten(1)
    true = true * counted
    return _OverlapSums(torch.linalg.vecdot(probs, true), torch.linalg.vecdot(probs, counted), true.sum(1))


def _stack_targets(batch: Batch, rows: list[int], image_rows: list[int], frame: ImageFrame) -> Tensor:
    """Stack the true masks of some spans, [m, H, W] float32."""
    for row in rows:
        if tuple(batch.masks[row].shape) != frame.original:
            raise ValueError(
                f"mask {row} of the batch (samples {', '.join(batch.sample_ids)}) is {tuple(batch.masks[row].shape)} "
                f"but its image {image_rows[row]} is {frame.original}: masks are in original-image pixels"
            )
    return torch.stack([batch.masks[row] for row in rows]).float()


def _stack_counted(ignored: list[Tensor | None], targets: Tensor) -> Tensor | None:
    """Return 1 where a pixel counts, [m, H, W]; None when no image ignores any."""
    if all(mask is None for mask in ignored):
        return None
    everywhere = torch.zeros_like(targets[0], dtype=torch.bool)
    return 1.0 - torch.stack([everywhere if mask is None else mask.bool() for mask in ignored]).float()


def _nothing(like: Tensor) -> Tensor:
    """Return a float32 scalar 0 on `like`'s device."""
    return torch.zeros((), dtype=torch.float32, device=like.device)
