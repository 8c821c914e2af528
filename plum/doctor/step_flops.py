"""Floating-point operations that one training step needs, however the code computes it.

A weight costs 2 FLOPs a token forward; in the backward pass 2 where it is frozen (the gradient passes through it) and 4
where it is trained; nothing where no gradient comes by (frozen towers, the teacher's pass). An attention of n tokens on
m of width d costs 4 n m d forward and twice that backward; the language model's is causal and needs the lower triangle
alone. Tokens are the real ones, and what conversations about one image have in common from the start on counts once:
padding, recomputation by gradient checkpointing and dropout are no use and not counted, nor is what is linear in pixels
(norms, activations, resizing, losses). The first layer's projections pass no gradient down to frozen embeddings; they
are counted as if they did (0.5% of the language model at 7B).
"""

from dataclasses import dataclass, fields

from torch import Tensor

from plum.config import (
    LanguageConfig,
    LoraConfig,
    Sam2Config,
    SegmenterConfig,
    SpecialTokensConfig,
    VisionConfig,
)
from plum.doctor import sam2_costs
from plum.models.backbones.shared_beginnings import PADDING, lay_out
from plum.models.batch_plan import find_constrained
from plum.structures import Batch, ConversationImages
from plum.train_config import TrainConfig

NO_GRADIENT, PASSING, TRAINED = 2, 4, 6
"""FLOPs per weight and token, forward and backward together."""
DECODER_TOKENS = 6
"""IoU token, four mask tokens, one query."""


@dataclass(frozen=True)
class StepFlops:
    """FLOPs of one micro-batch by part."""

    clip: float
    sam_encoder: float
    language: float
    teacher: float
    heads: float
    masks: float

    @property
    def total(self) -> float:
        """Sum of all parts, FLOPs."""
        return float(sum(getattr(self, field.name) for field in fields(self)))


def count_step(config: TrainConfig, batch: Batch, special_tokens: SpecialTokensConfig) -> StepFlops:
    """Count the FLOPs of a micro-batch: forward, backward, and the teacher's forward if it has one.

    Args:
        config: the run.
        batch: the micro-batch.
        special_tokens: ids of `<image>` and padding in the batch.

    Raises:
        ValueError: the system is CALICO, whose modules no formula here covers.
    """
    if config.model.calico is not None:
        raise ValueError("no formula covers the FLOPs of CALICO's Q-Former, DINOv2 and adaptation modules")
    model, trainable = config.model, config.trainable
    images, spans = len(batch.frames), batch.spans
    language, vision = model.language, model.of_llava.vision
    width = language.hidden_size
    supervised = int((batch.labels[:, 1:] >= 0).sum())
    projector = vision.hidden_size * width + (width * width if model.of_llava.projector != "linear" else 0)
    clip = clip_flops(vision, TRAINED if trainable.vision_tower else NO_GRADIENT)
    clip += (TRAINED if trainable.projector else NO_GRADIENT) * projector * vision.num_image_tokens
    are_embeddings_trained = trainable.language_model == "full" or trainable.embeddings
    head = (TRAINED if are_embeddings_trained else PASSING) * width * language.vocab_size * supervised
    span_tokens = int((spans.end - spans.start).sum())
    query = TRAINED * span_tokens * width * (width + model.sam.prompt_dim)
    num_first = len(set(zip(spans.conversation.tolist(), spans.image.tolist(), strict=True)))
    fed_back = len(spans) - num_first if model.feedback.is_enabled else 0
    tagger = 0.0 if model.tagger is None else tagger_flops(config, batch, special_tokens)
    return StepFlops(
        clip=images * clip,
        sam_encoder=len(batch.sam_pixels)
        * sam_encoder_flops(model.sam, TRAINED if trainable.sam_image_encoder else NO_GRADIENT),
        language=student_flops(config, batch, special_tokens),
        teacher=teacher_flops(config, batch, special_tokens),
        heads=head + tagger,
        masks=query + len(spans) * decoder_flops(model.sam) + fed_back * feedback_flops(model.sam),
    )


def student_flops(config: TrainConfig, batch: Batch, special_tokens: SpecialTokensConfig) -> float:
    """Return the FLOPs of the language model over all conversations, forward and backward, for one micro-batch.

    Args:
        config: the run.
        batch: the micro-batch.
        special_tokens: ids of `<image>` and padding in the batch.
    """
    counts = count_tokens(batch.input_ids, batch.attention_mask, batch.shown, special_tokens)
    weight_cost = TRAINED if config.trainable.language_model == "full" else PASSING
    return language_flops(config.model.language, config.model.lora, *counts, weight_cost)


def teacher_flops(config: TrainConfig, batch: Batch, special_tokens: SpecialTokensConfig) -> float:
    """Return the FLOPs of the teacher's forward pass for one micro-batch; 0 without a KL loss or without spans.

    The teacher is the language model without adapters, over conversations with spans, up to their last span.

    Args:
        config: the run.
        batch: the micro-batch.
        special_tokens: ids of `<image>` and padding in the batch.
    """
    if not config.losses.kl or not len(batch.spans):
        return 0.0
    rows, is_needed = find_constrained(batch.spans)
    ids = batch.input_ids[rows, : is_needed.shape[1]]
    counts = count_tokens(ids, is_needed.long(), batch.shown[rows], special_tokens)
    return language_flops(config.model.language, None, *counts, NO_GRADIENT)


def count_tokens(
    input_ids: Tensor, attention_mask: Tensor, shown: ConversationImages, special_tokens: SpecialTokensConfig
) -> tuple[int, int]:
    """Return the number of tokens, common prefixes once, and of pairs of a token and one that it attends to.

    Args:
        input_ids: [N, T], `<image>` expanded.
        attention_mask: [N, T], 1 on real tokens.
        shown: the images of the N conversations.
        special_tokens: ids of `<image>` and padding.
    """
    layout = lay_out(input_ids, attention_mask, shown, special_tokens.image, special_tokens.pad)
    tokens = pairs = 0
    for one in layout.passes:
        is_token = one.branches != PADDING
        tokens += int(is_token.sum())
        pairs += int((one.is_visible() & is_token[..., None]).sum())
    return tokens, pairs


def clip_flops(vision: VisionConfig, per_weight: int) -> float:
    """Return the FLOPs of one image through the layers of CLIP that are read, forward and backward.

    Args:
        vision: sizes of the tower.
        per_weight: FLOPs per weight and token: NO_GRADIENT, PASSING or TRAINED.
    """
    tokens, width = vision.num_image_tokens + 1, vision.hidden_size
    layers = vision.select_layer if vision.select_layer >= 0 else vision.num_layers + 1 + vision.select_layer
    weights = 4 * width**2 + 2 * width * vision.intermediate_size
    patches = 3 * vision.patch_size**2 * width * (tokens - 1)
    return per_weight * (layers * weights * tokens + patches) + layers * per_weight // 2 * 4 * tokens**2 * width


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


def language_flops(
    language: LanguageConfig, lora: LoraConfig | None, tokens: int, pairs: int, per_weight: int
) -> float:
    """Return the FLOPs of the decoder layers, forward and backward, for one micro-batch.

    Args:
        language: sizes of the language model.
        lora: adapters; None: none.
        tokens: number of tokens (`count_tokens`).
        pairs: number of pairs of a token and one that it attends to.
        per_weight: FLOPs per weight of the base and token: NO_GRADIENT, PASSING or TRAINED; adapters are trained.
    """
    width = language.hidden_size
    key_width = width * language.num_key_value_heads // language.num_heads
    outputs = {"q_proj": width, "k_proj": key_width, "v_proj": key_width, "o_proj": width}
    weights = width * sum(outputs.values()) + 3 * width * language.intermediate_size
    adapters = 0 if lora is None else sum(lora.rank * (width + outputs[name]) for name in lora.target_modules)
    attention = 4 * pairs * width
    backward = 1 if per_weight == NO_GRADIENT else 3
    return language.num_layers * (per_weight * weights * tokens + TRAINED * adapters * tokens + backward * attention)


def tagger_flops(config: TrainConfig, batch: Batch, special_tokens: SpecialTokensConfig) -> float:
    """Return the FLOPs of the bidirectional tagger, forward and backward, for one micro-batch.

    MLP, keys and values are computed for all tokens, everything else for tagged tokens. Cross-attention has the queries
    and outputs of tagged tokens, and the keys and values of each conversation's images.

    Args:
        config: the run; it must have a tagger.
        batch: the micro-batch.
        special_tokens: ids of `<image>` and padding in the batch.
    """
    assert config.model.tagger is not None
    width, feedforward = config.model.language.hidden_size, config.model.tagger.feedforward_dim
    tokens, _ = count_tokens(batch.input_ids, batch.attention_mask, batch.shown, special_tokens)
    num_tagged = (batch.tags >= 0).sum(1)  # [N]
    weights = 4 * width**2 * tokens + (2 * width**2 + 2 * width * feedforward + 3 * width) * int(num_tagged.sum())
    pairs = int((num_tagged * batch.attention_mask.sum(1)).sum())
    if config.model.tagger.use_cross_attention:
        num_patches = batch.shown.num_tokens()  # [N]
        weights += 2 * width**2 * int(num_tagged[num_patches > 0].sum() + num_patches.sum())
        pairs += int((num_tagged * num_patches).sum())
    return TRAINED * weights + 3 * 4 * pairs * width


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
