"""Mask feedback loop: earlier masks, conditioned on their spans, guide the next one (paper, section 4, figure 3).

FiLM layers inside SAM's mask encoder turn each earlier mask into a feature map conditioned on its span. Attention over
the stack of maps, with one learned query per location, pools them into the next mask's dense prompt.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from plum.config import ModelConfig


@dataclass(frozen=True)
class EncodedMasks:
    """One earlier mask per row, encoded once and reused by every later mask of its conversation.

    scores [R, h * w, heads]: attention logits (the learned queries do not depend on the row, so they never change)
    values [R, h * w, C]
    """

    scores: Tensor
    values: Tensor

    def take_first(self, num_rows: int) -> "EncodedMasks":
        """Keep the first rows."""
        return EncodedMasks(self.scores[:num_rows], self.values[:num_rows])


@dataclass(frozen=True)
class FeedbackContext:
    """Values that all steps of a decode loop share.

    position [1, C, h, w]: SAM's dense positional encoding; projected_queries [h * w, heads, C / heads]: the pooler's
    """

    position: Tensor
    projected_queries: Tensor


class FilmMaskEncoder(nn.Module):
    """SAM's `mask_downscaling` with FiLM after each convolution and norm: x * (1 + scale) + shift.

    Scale and shift are linear in the query of the mask's span. Here they are initialised to zero, so the encoder starts
    as SAM's own; the authors' code initialises them randomly and creates an unused third layer; the paper does not say.
    """

    def __init__(self, prompt_dim: int, mask_in_channels: int) -> None:
        super().__init__()
        widths = (mask_in_channels // 4, mask_in_channels)
        layers = [nn.Linear(prompt_dim, 2 * width) for width in widths]
        for layer in layers:
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        self.modulations = nn.ModuleList(layers)

    def forward(self, mask_logits: Tensor, queries: Tensor, mask_downscaling: nn.Sequential) -> Tensor:
        """Encode masks.

        Args:
            mask_logits: [R, 4h, 4w].
            queries: [R, C], the query each mask was decoded from.
            mask_downscaling: SAM's own (conv, norm, GELU, conv, norm, GELU, 1 x 1 conv).

        Returns:
            Maps [R, C, h, w].
        """
        conv_1, norm_1, activation_1, conv_2, norm_2, activation_2, project = mask_downscaling
        features = mask_logits.to(queries.dtype)[:, None]
        features = activation_1(self._modulate(0, norm_1(conv_1(features)), queries))  # [R, c / 4, 2h, 2w]
        features = activation_2(self._modulate(1, norm_2(conv_2(features)), queries))  # [R, c, h, w]
        return project(features)

    def _modulate(self, layer: int, features: Tensor, queries: Tensor) -> Tensor:
        scale, shift = self.modulations[layer](queries)[..., None, None].chunk(2, dim=1)
        # Not features * (1 + scale) + shift: in bfloat16 a scale below 1/256 would be rounded away.
        return torch.addcmul(shift + features, features, scale)


class TemporalMaskPooler(nn.Module):
    """Attention over the stack of earlier masks, separately at each location, with one learned query per location.

    Value and output projections are initialised to the identity, so that SAM's own mask encoding passes unchanged: with
    one earlier mask, the pooled map is that mask's map. The parameters are those of an nn.MultiheadAttention of width
    C.
    Paper: no positional encoding is mentioned. Authors' code: SAM's is added to the maps, hence to keys and values
    (`keys_and_values`); its projections start as torch's and its queries with deviation 1. Here, by default: it is
    added to the keys only (as in DETR), because SAM's decoder adds it itself and SAM has never seen a mask prompt that
    already contains it. The keys of one location share it, so it never changes their weights: the two differ by the
    value and output projections of the encoding, one constant map.
    """

    def __init__(
        self,
        prompt_dim: int,
        grid: tuple[int, int],
        num_heads: int,
        use_order_embedding: bool,
        max_order: int,
        *,
        position_in: Literal["keys", "keys_and_values"] = "keys",
    ) -> None:
        super().__init__()
        if prompt_dim % num_heads:
            raise ValueError(f"feedback.num_heads: {num_heads} does not divide the prompt width {prompt_dim}")
        self.grid, self.num_heads = grid, num_heads
        self.is_position_in_values = position_in == "keys_and_values"
        self.location_queries = nn.Parameter(torch.empty(grid[0] * grid[1], 1, prompt_dim))
        self.query_projection = nn.Linear(prompt_dim, prompt_dim)
        self.key_projection = nn.Linear(prompt_dim, prompt_dim)
        self.value_projection = nn.Linear(prompt_dim, prompt_dim)
        self.output_projection = nn.Linear(prompt_dim, prompt_dim)
        self.order_embedding = nn.Embedding(max_order, prompt_dim) if use_order_embedding else None
        self._init_weights()

    def _init_weights(self) -> None:
        nn.init.normal_(self.location_queries, std=0.02)
        for layer in (self.query_projection, self.key_projection):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
        for layer in (self.value_projection, self.output_projection):
            nn.init.eye_(layer.weight)
            nn.init.zeros_(layer.bias)
        if self.order_embedding is not None:
            nn.init.normal_(self.order_embedding.weight, std=0.02)

    def project_queries(self) -> Tensor:
        """Project the learned queries once per batch: [h * w, heads, C / heads], scaled."""
        queries = self.query_projection(self.location_queries[:, 0]).unflatten(-1, (self.num_heads, -1))
        return queries * queries.shape[-1] ** -0.5

    def encode(self, maps: Tensor, order: int, context: FeedbackContext) -> EncodedMasks:
        """Compute the scores and values of masks that later steps attend to.

        Args:
            maps: [R, C, h, w] from the FiLM mask encoder.
            order: 0-based position of these masks in their conversations.
            context: what the decode loop shares.
        """
        tokens = maps.flatten(2).transpose(1, 2)  # [R, h * w, C]
        key_input = tokens + context.position.flatten(2).transpose(1, 2)
        value_input = key_input if self.is_position_in_values else tokens
        if self.order_embedding is not None:
            key_input = key_input + self.order_embedding.weight[min(order, self.order_embedding.num_embeddings - 1)]
        keys = self.key_projection(key_input).unflatten(-1, (self.num_heads, -1))
        return EncodedMasks((keys * context.projected_queries).sum(-1), self.value_projection(value_input))

    def pool(self, earlier: Sequence[EncodedMasks]) -> Tensor:
        """Pool a non-empty stack of earlier masks (the same rows in each) to one map per row, [R, C, h, w]."""
        weights = torch.stack([masks.scores for masks in earlier]).softmax(0)[..., None]  # [s, R, h * w, heads, 1]
        values = [masks.values.unflatten(-1, (self.num_heads, -1)) for masks in earlier]
        pooled = weights[0] * values[0]
        for weight, value in zip(weights[1:], values[1:], strict=True):
            pooled = torch.addcmul(pooled, weight, value)
        output = self.output_projection(pooled.flatten(-2))  # [R, h * w, C]
        return output.transpose(1, 2).unflatten(2, self.grid)


class MaskFeedback(nn.Module):
    """FiLM mask encoder and temporal mask pooler. Training and inference call the same two methods."""

    def __init__(self, encoder: FilmMaskEncoder, pooler: TemporalMaskPooler, detach_feedback: bool) -> None:
        super().__init__()
        self.encoder = encoder
        self.pooler = pooler
        self.detach_feedback = detach_feedback

    def prepare(self, position: Tensor) -> FeedbackContext:
        """Project the learned queries once for a whole decode loop; `position` is SAM's dense encoding [1, C, h, w]."""
        return FeedbackContext(position, self.pooler.project_queries())

    def encode(
        self,
        mask_logits: Tensor,
        queries: Tensor,
        order: int,
        mask_downscaling: nn.Sequential,
        context: FeedbackContext,
    ) -> EncodedMasks:
        """Encode masks that were just decoded (or that a caller supplies) as feedback for later masks.

        Args:
            mask_logits: [R, 4h, 4w], frame of SAM's padded input.
            queries: [R, C].
            order: 0-based position of the masks in their conversations.
            mask_downscaling: SAM's mask encoder.
            context: from `prepare`.
        """
        if self.detach_feedback:
            mask_logits = mask_logits.detach()
        maps = self.encoder(mask_logits, queries, mask_downscaling)
        return self.pooler.encode(maps, order, context)

    def pool(self, earlier: Sequence[EncodedMasks]) -> Tensor:
        """Return the next masks' dense prompts [R, C, h, w] from a non-empty stack of earlier ones."""
        return self.pooler.pool(earlier)


def build_feedback(config: ModelConfig) -> MaskFeedback | None:
    """Build the mask feedback loop for SAM's sizes; None if it is off."""
    sam, feedback = config.sam, config.feedback
    if not feedback.is_enabled:
        return None
    side = sam.image_size // sam.patch_size
    return MaskFeedback(
        encoder=FilmMaskEncoder(sam.prompt_dim, sam.mask_in_channels),
        pooler=TemporalMaskPooler(
            sam.prompt_dim,
            (side, side),
            feedback.num_heads,
            feedback.use_order_embedding,
            feedback.max_order,
            position_in=feedback.position_in,
        ),
        detach_feedback=feedback.detach_feedback,
    )
