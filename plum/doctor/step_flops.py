"""Floating-point operations that one training step needs, however the code computes it.

A weight costs 2 FLOPs a token forward; in the backward pass 2 where it is frozen (the gradient passes through it) and 4
where it is trained; nothing where no gradient comes by (frozen towers, the teacher's pass). An attention of n tokens on
m of width d costs 4 n m d forward and twice that backward; the language model's is causal and needs the lower triangle
alone. Tokens are the real ones, and what conversations about one image have in common from the start on counts once:
padding, recomputation by gradient checkpointing and dropout are no use and not counted, nor is what is linear in pixels
(norms, activations, resizing, losses). The first layer's projections pass no gradient down to frozen embeddings; they
are counted as if they did (0.5% of the language model at 7B).

The backbone's costs are counted on its own modules (`counted_flops`), for every family; those of the heads and of SAM
are formulas.
"""

from dataclasses import dataclass, fields

from torch import Tensor

from plum.config import Sam2Config, SamConfig, SegmenterConfig, SpecialTokensConfig
from plum.doctor import sam2_costs
from plum.doctor.counted_flops import BackboneFlops
from plum.models.backbones.shared_beginnings import PADDING, lay_out
from plum.models.batch_plan import find_constrained
from plum.structures import TEXT_ONLY, Batch, ConversationImages
from plum.train_config import TrainConfig

NO_GRADIENT, PASSING, TRAINED = 2, 4, 6
"""FLOPs per weight and token, forward and backward together."""
DECODER_TOKENS = 6
"""IoU token, four mask tokens, one query."""


@dataclass(frozen=True)
class StepFlops:
    """FLOPs of one micro-batch by part; `towers` encode images for the language model."""

    towers: float
    sam_encoder: float
    language: float
    teacher: float
    heads: float
    masks: float

    @property
    def total(self) -> float:
        """Sum of all parts, FLOPs."""
        return float(sum(getattr(self, field.name) for field in fields(self)))


@dataclass(frozen=True)
class TokenCounts:
    """What the language model processes of a micro-batch, common prefixes once.

    Attributes:
        tokens: number of tokens.
        pairs: number of pairs of a token and one that it attends to.
        readings: number of images that layers read again, one for each sequence that shows one (CALICO).
    """

    tokens: int
    pairs: int
    readings: int


class StepCounter:
    """Counts the FLOPs of micro-batches of a run: forward, backward, and the teacher's forward if it has one.

    Args:
        config: the run.
        special_tokens: ids of `<image>` and padding in its batches.

    Raises:
        ValueError: the model's sizes are refused, or its decoder's attention is none that is counted.
    """

    def __init__(self, config: TrainConfig, special_tokens: SpecialTokensConfig) -> None:
        self.config, self.special_tokens = config, special_tokens
        self.backbone = BackboneFlops(config.model, special_tokens, config.trainable)

    def count(self, batch: Batch) -> StepFlops:
        """Count the FLOPs of a micro-batch."""
        model, trainable, spans = self.config.model, self.config.trainable, batch.spans
        width = self.backbone.backbone.hidden_size
        supervised = int((batch.labels[:, 1:] >= 0).sum())
        span_tokens = int((spans.end - spans.start).sum())
        query = TRAINED * span_tokens * width * (width + model.sam.prompt_dim)
        num_first = len(set(zip(spans.conversation.tolist(), spans.image.tolist(), strict=True)))
        fed_back = len(spans) - num_first if model.feedback.is_enabled else 0
        encoder = sam_encoder_flops(model.sam, TRAINED if trainable.sam_image_encoder else NO_GRADIENT)
        if model.system == "m2sa":
            encoder += fusion_flops(model.sam, is_encoder_trained=trainable.sam_image_encoder)
        return StepFlops(
            towers=self.backbone.of_images(batch.clip_pixels),
            sam_encoder=len(batch.sam_pixels) * encoder,
            language=self.student(batch),
            teacher=self.teacher(batch),
            heads=supervised * self.backbone.of_prediction + self.tagger(batch),
            masks=query + len(spans) * decoder_flops(model.sam) + fed_back * feedback_flops(model.sam),
        )

    def student(self, batch: Batch) -> float:
        """Return the FLOPs of the language model over all conversations, forward and backward, for one micro-batch."""
        counts = self.count_tokens(batch.input_ids, batch.attention_mask, batch.shown)
        again = counts.readings * self.backbone.of_reading
        return self.backbone.of_tokens(counts.tokens, counts.pairs) + again

    def teacher(self, batch: Batch) -> float:
        """Return the FLOPs of the teacher's forward pass for one micro-batch; 0 without a KL loss or without spans.

        The teacher is the language model without adapters, over conversations with spans, up to their last span.
        """
        if not self.config.losses.kl or not len(batch.spans):
            return 0.0
        rows, is_needed = find_constrained(batch.spans)
        ids = batch.input_ids[rows, : is_needed.shape[1]]
        counts = self.count_tokens(ids, is_needed.long(), batch.shown[rows])
        again = counts.readings * self.backbone.of_teacher_reading
        return self.backbone.of_teacher_tokens(counts.tokens, counts.pairs) + again

    def tagger(self, batch: Batch) -> float:
        """Return the FLOPs of the bidirectional tagger, forward and backward, for one micro-batch; 0 without a tagger.

        MLP, keys and values are computed for all tokens, everything else for tagged tokens. Cross-attention has the
        queries and outputs of tagged tokens, and the keys and values of each conversation's images.
        """
        config = self.config.model.tagger
        if config is None:
            return 0.0
        width, feedforward = self.backbone.backbone.hidden_size, config.feedforward_dim
        tokens = self.count_tokens(batch.input_ids, batch.attention_mask, batch.shown).tokens
        num_tagged = (batch.tags >= 0).sum(1)  # [N]
        weights = 4 * width**2 * tokens + (2 * width**2 + 2 * width * feedforward + 3 * width) * int(num_tagged.sum())
        pairs = int((num_tagged * batch.attention_mask.sum(1)).sum())
        if config.use_cross_attention:
            num_patches = batch.shown.num_tokens()  # [N]
            weights += 2 * width**2 * int(num_tagged[num_patches > 0].sum() + num_patches.sum())
            pairs += int((num_tagged * num_patches).sum())
        return float(TRAINED * weights + 3 * 4 * pairs * width)

    def count_tokens(self, input_ids: Tensor, attention_mask: Tensor, shown: ConversationImages) -> TokenCounts:
        """Count what the language model processes.

        Args:
            input_ids: [N, T], `<image>` expanded.
            attention_mask: [N, T], 1 on real tokens.
            shown: the images of the N conversations.
        """
        tokens, is_guided = self.special_tokens, self.backbone.backbone.is_guided
        layout = lay_out(input_ids, attention_mask, shown, tokens.image, tokens.pad, by_prompt=is_guided)
        num_tokens = pairs = readings = 0
        for one in layout.passes:
            is_token = one.branches != PADDING
            num_tokens += int(is_token.sum())
            pairs += int((one.is_visible() & is_token[..., None]).sum())
            readings += int((one.shown.rows != TEXT_ONLY).sum())
        return TokenCounts(num_tokens, pairs, readings)


def sam_encoder_flops(sam: SegmenterConfig, per_weight: int) -> float:
    """Return the FLOPs of one image through the segmenter's image encoder, forward and backward.

    Windows that extend beyond SAM's grid count as if they did not.

    Args:
        sam: sizes of the segmenter.
        per_weight: FLOPs per weight and token: NO_GRADIENT, PASSING or TRAINED.
    """
    if isinstance(sam, Sam2Config):
        return per_weight / NO_GRADIENT * sam2_costs.encoder_flops(sam)
    side, width = sam.image_size // sam.patch_size, sam.encoder_dim
    tokens, num_global = side**2, len(sam.encoder_global_blocks)
    weights = 12 * width**2 * tokens * sam.encoder_depth
    weights += 3 * sam.patch_size**2 * width * tokens
    weights += tokens * (width * sam.prompt_dim + 9 * sam.prompt_dim**2)
    attention = 0.0
    for reach, blocks in ((side, num_global), (sam.encoder_window_size, sam.encoder_depth - num_global)):
        attention += blocks * tokens * width * (4 * reach**2 + 4 * reach)  # products, relative rows and columns
    return per_weight * weights + per_weight // 2 * attention


def fusion_flops(sam: SegmenterConfig, *, is_encoder_trained: bool) -> float:
    """Return the FLOPs of one image through M2SA's early fusion, forward and backward.

    Args:
        sam: sizes of SAM.
        is_encoder_trained: whether a gradient passes on to SAM's encoder.
    """
    assert isinstance(sam, SamConfig), "M2SA reads a block of SAM's encoder"
    cells, width = (sam.image_size // sam.patch_size) ** 2, sam.prompt_dim
    first = (TRAINED if is_encoder_trained else PASSING) * sam.encoder_dim
    return 9 * cells * width * (first + TRAINED * width)


def decoder_flops(sam: SegmenterConfig) -> float:
    """Return the FLOPs of one mask through the mask decoder, with gradients for its weights and its inputs."""
    if isinstance(sam, Sam2Config):
        return TRAINED / NO_GRADIENT * sam2_costs.decoder_flops(sam)
    cells, width, tokens = (sam.image_size // sam.patch_size) ** 2, sam.prompt_dim, DECODER_TOKENS
    # One cross attention, of half the width: either the image is projected twice and multiplied with the tokens, or the
    # tokens' vectors of every head take over its projections.
    projected = cells * width**2 + 2 * tokens * cells * width / 2
    taken_over = 2 * sam.decoder_heads * tokens * cells * width + tokens * width**2
    cross = tokens * width**2 + min(projected, taken_over)
    layer = 2 * cross + 4 * tokens * width**2 + 2 * tokens * width * sam.decoder_mlp_dim
    upscaling = cells * width**2 * 1.5 + 16 * cells * width / 8
    multiplications = sam.decoder_depth * layer + cross + upscaling
    return TRAINED * multiplications


def feedback_flops(sam: SegmenterConfig) -> float:
    """Return the FLOPs of feeding back one earlier mask, forward and backward.

    They cover the mask encoder, the mask's key and value, and one pooled map.
    """
    cells, width, channels = (sam.image_size // sam.patch_size) ** 2, sam.prompt_dim, sam.mask_in_channels
    encoder = cells * (4 * channels + channels**2 + channels * width)
    return TRAINED * (encoder + 3 * cells * width**2)
