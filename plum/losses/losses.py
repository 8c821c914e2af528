"""Losses of every system, named, unweighted; weighting happens once, in `weighted_sum` (paper, section 4 and Table 6).

All are computed in float32, whatever the model's precision.
"""

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from plum.inputs.bio_labels import Tag
from plum.losses.mask_losses import EPSILON, mask_losses
from plum.models.heads.query_projection import gather_span_tokens, mean_over_tokens
from plum.structures import Batch, GroundedOutput, LossTerms, SpanBounds
from plum.train_config import LossConfig


def compute_losses(output: GroundedOutput, batch: Batch, config: LossConfig) -> LossTerms:
    """Compute every loss of a batch; a term without anything to supervise is 0.

    Args:
        output: the model's forward of `batch`.
        batch: M masks in original-image pixels, labels, tags, spans.
        config: forms of the losses (its weights are not applied).
    """
    overlap, bce = mask_losses(output.mask_logits, batch, config)
    bio, kl = None, None
    if output.tag_logits is not None:
        bio = bio_loss(output.tag_logits, output.tag_labels, config.bio_class_weights)
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
    """Class-weighted cross-entropy over tagged (answer) tokens; 0 when there are none.

    Paper: cross-entropy over the answer; authors' code: over every token, prompt, image patches and padding as O.

    Args:
        tag_logits: [A, 3], order O, B, I.
        tags: [A].
        class_weights: of O, B, I; the mean is weighted too (sum of w * loss / sum of w).
    """
    weights = torch.tensor(class_weights, device=tag_logits.device)
    total = cross_entropy(tag_logits.float(), tags, weights, reduction="sum")
    return total / weights[tags].sum().clamp(min=EPSILON)


def bio_accuracy(tag_logits: Tensor, tags: Tensor) -> tuple[Tensor, Tensor]:
    """Count right tags per true class.

    Args:
        tag_logits: [A, 3].
        tags: [A].

    Returns:
        Hits and totals, LongTensor [3] each, in the order O, B, I.
    """
    is_right = tag_logits.detach().argmax(-1) == tags
    is_class = tags[..., None] == torch.arange(len(Tag), device=tags.device)  # [A, 3]
    return (is_class & is_right[..., None]).sum(0), is_class.sum(0)


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


def _nothing(like: Tensor) -> Tensor:
    """Return a float32 scalar 0 on `like`'s device."""
    return torch.zeros((), dtype=torch.float32, device=like.device)
