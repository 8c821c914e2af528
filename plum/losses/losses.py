"""Named, unweighted losses of every system; `weighted_sum` applies the weights (paper, section 4 and Table 6).

All losses are computed in float32, whatever the model's precision.
"""

from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, multi_margin_loss
from torch.utils.checkpoint import checkpoint

from plum.constants import constant
from plum.inputs.bio_labels import Tag, classes_of_tags
from plum.losses.mask_losses import EPSILON, mask_losses
from plum.models.heads.crf import log_likelihoods
from plum.models.heads.query_projection import gather_span_tokens, mean_over_tokens
from plum.models.heads.span_tagger import predict_classes
from plum.structures import IGNORE_INDEX, Batch, GroundedOutput, LossTerms, SpanBounds, TagChain
from plum.train_config import LossConfig

MAX_WHOLE_LOGITS = 2**29
"""Logits whose loss is computed in one piece, 2.1 GB in float32. Those of LLaMA's vocabulary are fewer, those of Qwen's
are more (9,216 supervised tokens x 151,936: 5.6 GB)."""
LOGITS_OF_A_PIECE = 2**26
"""Logits of a piece beyond that, .27 GB in float32."""


def compute_losses(output: GroundedOutput, batch: Batch, config: LossConfig) -> LossTerms:
    """Compute every loss of a batch; a term with nothing to supervise is 0.

    Args:
        output: the model's output for `batch`.
        batch: M masks in original-image pixels, labels, tags, spans.
        config: settings of the losses; its weights are not applied.
    """
    overlap, bce = mask_losses(output.mask_logits, batch, config)
    bio, kl = None, None
    if output.tag_logits is not None and output.tag_chain is not None:
        bio = crf_loss(output.tag_logits, output.tag_labels, output.tag_chain)
    elif output.tag_logits is not None:
        form = config.bio_form
        bio = bio_loss(output.tag_logits, output.tag_labels, config.bio_class_weights, form, config.bio_margin)
    if output.teacher_states is not None:
        kl = span_kl_loss(
            output.hidden_states, output.teacher_states, batch.spans, config.kl_sigma, config.kl_reduction
        )
    return LossTerms(
        language=language_loss(output.token_logits, output.token_labels),
        bio=bio,
        mask_overlap=overlap,
        mask_bce=bce,
        kl=kl,
    )


def weighted_sum(terms: LossTerms, config: LossConfig) -> Tensor:
    """Return the weighted sum: L = 1 LM + 2 BIO + 0.1 KL + 8 overlap + 2 BCE with the paper's weights (Table 6)."""
    total = config.language * terms.language
    if terms.bio is not None:
        total = total + config.bio * terms.bio
    total = total + config.mask_overlap * terms.mask_overlap + config.mask_bce * terms.mask_bce
    return total if terms.kl is None else total + config.kl * terms.kl


def language_loss(token_logits: Tensor, token_labels: Tensor) -> Tensor:
    """Mean next-token cross-entropy in nats of logits [K, V] at K supervised positions; 0 when there are none.

    More than `MAX_WHOLE_LOGITS` logits are taken in pieces whose float32 copy and probabilities exist only while the
    piece is computed, forward and backward. Vocabularies of 152,000 tokens would otherwise need three float32 copies.
    """
    if token_labels.numel() == 0:
        return _nothing(token_logits)
    if token_logits.numel() <= MAX_WHOLE_LOGITS:
        return cross_entropy(token_logits.float(), token_labels)
    rows = max(1, LOGITS_OF_A_PIECE // token_logits.shape[1])
    pieces = zip(token_logits.split(rows), token_labels.split(rows), strict=True)
    sums = [checkpoint(_summed_cross_entropy, *piece, use_reentrant=False) for piece in pieces]
    return torch.stack(sums).sum() / len(token_labels)


def _summed_cross_entropy(token_logits: Tensor, token_labels: Tensor) -> Tensor:
    return cross_entropy(token_logits.float(), token_labels, reduction="sum")


def with_tags_in_scope(batch: Batch, scope: Literal["answer", "all"]) -> Batch:
    """Return a batch whose tags cover the tokens of the BIO loss.

    Paper, section 4: the tokens "of the output sequence" (`answer`). Authors' code: in conversations with phrases,
    every token, with prompt, image patches and padding as O; in conversations without, none (`all`). (The states of
    padding are the language model's own there, and those of the last token here.)

    Args:
        batch: tags of the answers, IGNORE_INDEX elsewhere; they stay as they are under `answer`.
        scope: `LossConfig.bio_scope`.
    """
    if scope == "answer":
        return batch
    has_phrases = (batch.tags == Tag.B).any(1, keepdim=True)  # [N, 1]
    everywhere = batch.tags.masked_fill(batch.tags == IGNORE_INDEX, int(Tag.O))
    return replace(batch, tags=everywhere.masked_fill(~has_phrases, IGNORE_INDEX))


def bio_loss(
    tag_logits: Tensor,
    tags: Tensor,
    class_weights: tuple[float, float, float],
    form: Literal["cross_entropy", "hinge"] = "cross_entropy",
    margin: float = 1.0,
) -> Tensor:
    """Class-weighted loss of tagged tokens one by one (see `with_tags_in_scope`); 0 when there are none.

    Paper, section 4: cross-entropy, without class weights; 0.1, 1, 1 are the authors' code's. Hinge: not described in
    the paper. Authors' code: its switch `use_hinge_loss` changes the language loss's reduction, and its hinge function,
    over the likelihoods of answers, is not called. Here: the multi-class hinge loss of tags as torch's MultiMarginLoss,
    mean over the C classes of max(0, margin - x_true + x_other).

    Args:
        tag_logits: [A, C], order O, B, I; or [A, 2], outside and in a phrase, whose weights are those of O and B.
        tags: [A], BIO tags.
        class_weights: weights of O, B, I; the mean is weighted too (sum of w * loss / sum of w).
        form: `LossConfig.bio_form`.
        margin: of the hinge loss.
    """
    num_classes = tag_logits.shape[-1]
    classes = classes_of_tags(tags, num_classes)
    weights = constant(class_weights[:num_classes], torch.float32, tag_logits.device)
    if form == "hinge":
        # torch's refuses a batch of none.
        total = multi_margin_loss(tag_logits.float(), classes, margin=margin, weight=weights, reduction="sum")
    else:
        total = cross_entropy(tag_logits.float(), classes, weights, reduction="sum")
    return total / weights[classes].sum().clamp(min=EPSILON)


def crf_loss(tag_logits: Tensor, tags: Tensor, chain: TagChain) -> Tensor:
    """Negative log-likelihood of the tags of whole answers under the CRF, in nats per token; 0 when there are none.

    Paper: not described. Authors' code: the mean over conversations, of a CRF that is commented out. Here: the mean
    over tokens, so that the weight of the BIO loss means the same as with cross-entropy; with all scores of the CRF at
    zero it is the unweighted cross-entropy.

    Args:
        tag_logits: [A, C].
        tags: [A], BIO tags.
        chain: of the same tokens.
    """
    classes = classes_of_tags(tags, tag_logits.shape[-1])
    return -log_likelihoods(tag_logits, classes, chain).sum() / max(1, len(tags))


def bio_accuracy(
    tag_logits: Tensor, tags: Tensor, chain: TagChain | None = None, is_counted: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Count correct tags per true tag; in the binary scheme, a B or I is right if it is tagged as in a phrase.

    Args:
        tag_logits: [A, C].
        tags: [A], BIO tags.
        chain: None without a CRF.
        is_counted: bool [A]; None: all tokens.

    Returns:
        Hits and totals, LongTensor [3] each, in the order O, B, I.
    """
    is_right = predict_classes(tag_logits.detach(), chain).classes == classes_of_tags(tags, tag_logits.shape[-1])
    is_class = tags[..., None] == torch.arange(len(Tag), device=tags.device)  # [A, 3]
    if is_counted is not None:
        is_class = is_class & is_counted[..., None]
    return (is_class & is_right[..., None]).sum(0), is_class.sum(0)


def span_kl_loss(
    hidden_states: Tensor,
    teacher_states: Tensor,
    spans: SpanBounds,
    sigma: float,
    reduction: Literal["mean", "sum", "authors"],
) -> Tensor:
    """KL divergence of Gaussians of width sigma around the student's and teacher's span states; 0 without spans.

    Mean over spans of a squared distance / (2 sigma^2). Paper, section 4 (`sum`): ||h_bar - t_bar||^2 of states that
    are first averaged over the span's tokens; its sigma is not given. Authors' code (`authors`): the mean of (h - t)^2
    over the span's tokens and D, with sigma 1. Here, by default (`mean`): the paper's distance divided by D, because at
    D = 5120 the sum with weight 0.1 would dwarf every other loss.

    Args:
        hidden_states: [N, T, D], gradients flow.
        teacher_states: [N, T, D].
        spans: M token ranges.
        sigma: width of both Gaussians.
        reduction: `LossConfig.kl_reduction`.
    """
    if len(spans) == 0:
        return _nothing(hidden_states)
    student_tokens, is_token = gather_span_tokens(hidden_states, spans)
    teacher_tokens, _ = gather_span_tokens(teacher_states, spans)
    difference = student_tokens.float() - teacher_tokens.float()  # [M, L, D]
    if reduction == "authors":
        squared = mean_over_tokens(difference.square(), is_token).mean(-1)  # [M]
    else:
        squared = mean_over_tokens(difference, is_token).square().sum(-1)
        squared = squared / hidden_states.shape[-1] if reduction == "mean" else squared
    return squared.mean() / (2 * sigma**2)


def _nothing(like: Tensor) -> Tensor:
    """Return a float32 scalar 0 on `like`'s device."""
    return torch.zeros((), dtype=torch.float32, device=like.device)
