"""The mask branch as LISA and its forks run it, one image and one span at a time: what the batched one is compared to.

The spans' tokens are projected to queries at once, as LISA projects all tokens. Then for every image, for every span of
its answer: encode the mask before it and pool the earlier ones, call segment-anything's own mask decoder, of its own
layers, for this one image and prompt (positional encoding computed again, all four masks and the IoU head computed, one
mask kept), resize that mask to the padded square, cut it and resize it to the image, compute its losses as their
formulas read.
The modules and weights are the batched branch's own. Kinder to the loop than public code: an earlier mask is encoded
once, not again for every later span.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, interpolate

from plum.config import ModelConfig
from plum.inputs.image_transforms import resized_size
from plum.losses.mask_losses import EPSILON, mask_losses
from plum.models.grounded_lmm import GroundedLMM
from plum.models.heads.mask_feedback import EncodedMasks
from plum.models.segmenters.sam import SegmentAnything, stock_layers
from plum.structures import Batch, ConversationImages, ImageEmbeddings, ImageFrame, SpanBounds
from plum.train_config import LossConfig

TOKENS_OF_SPAN = 2


@dataclass(frozen=True)
class MaskInputs:
    """What reaches the mask branch: states [N, T, D], SAM's embeddings [N, C, h, w], and the batch with its masks."""

    hidden_states: Tensor
    embeddings: Tensor
    batch: Batch

    @property
    def leaves(self) -> tuple[Tensor, Tensor]:
        """Tensors that receive gradients."""
        return self.hidden_states, self.embeddings


def make_inputs(
    config: ModelConfig,
    image_sizes: list[tuple[int, int]],
    spans: list[int],
    generator: torch.Generator,
    device: torch.device,
) -> MaskInputs:
    """Return random states, embeddings and true masks: one conversation per image, `spans[n]` spans in the n-th."""
    length = 8 + (TOKENS_OF_SPAN + 1) * max(spans)
    side = config.sam.image_size // config.sam.patch_size
    places = [(n, 8 + (TOKENS_OF_SPAN + 1) * k) for n, count in enumerate(spans) for k in range(count)]
    conversation, start = torch.tensor(places).T.contiguous()
    count, padded = len(spans), config.sam.image_size
    states = torch.randn(count, length, config.language.hidden_size, generator=generator)
    embeddings = torch.randn(count, config.sam.prompt_dim, side, side, generator=generator)
    ids = torch.zeros(count, length, dtype=torch.long)
    batch = Batch(
        sample_ids=tuple(f"image {n}" for n in range(count)),
        input_ids=ids,
        attention_mask=ids + 1,
        labels=ids,
        tags=ids,
        spans=SpanBounds(conversation, start, start + TOKENS_OF_SPAN, conversation),
        clip_pixels=torch.zeros(()),
        sam_pixels=torch.zeros(()).expand(count, 3, padded, padded),
        frames=tuple(ImageFrame(size, resized_size(*size, padded)) for size in image_sizes),
        shown=ConversationImages(torch.arange(count)[:, None], (0,) * count),
        masks=tuple(torch.rand(image_sizes[n], generator=generator) > 0.5 for n, _ in places),
        ignore_masks=(None,) * count,
        part_maps=ids,
    ).to(device)
    return MaskInputs(states.to(device).requires_grad_(), embeddings.to(device).requires_grad_(), batch)


def batched_loss(model: GroundedLMM, inputs: MaskInputs, config: LossConfig) -> Tensor:
    """Return the weighted mask losses as a training step computes them."""
    batch = inputs.batch
    logits = model.decode_masks(inputs.hidden_states, batch.spans, ImageEmbeddings(inputs.embeddings))
    overlap, bce = mask_losses(logits, batch, config)
    return config.mask_overlap * overlap + config.mask_bce * bce


def loop_loss(model: GroundedLMM, inputs: MaskInputs, config: LossConfig) -> Tensor:
    """Return the same number, image by image and span by span."""
    batch, total = inputs.batch, inputs.hidden_states.new_zeros(())
    queries = model.query_projection(inputs.hidden_states, batch.spans).split(1)  # M times [1, C]
    for image, frame in enumerate(batch.frames):
        rows = (batch.spans.conversation == image).nonzero()[:, 0].tolist()
        with stock_layers(model.sam):
            decoded = _decode_image(model, inputs.embeddings[image : image + 1], [queries[row] for row in rows])
        for row, logits in zip(rows, decoded, strict=True):
            resized = _resize_twice(logits, frame, batch.sam_pixels.shape[-1])
            total = total + _loss_of_mask(resized, batch.masks[row][None].float(), config)
    return total / len(batch.masks)


def _loss_of_mask(logits: Tensor, target: Tensor, config: LossConfig) -> Tensor:
    """Return the weighted losses of one mask [1, H, W] at original resolution."""
    probs = logits.sigmoid()
    true_positives = (probs * target).sum()
    if config.overlap == "dice":
        both, total = true_positives / config.dice_scale, (probs.sum() + target.sum()) / config.dice_scale
        overlap = 1 - (2 * both + EPSILON) / (total + EPSILON)
    else:
        false_negatives, false_positives = ((1 - probs) * target).sum(), (probs * (1 - target)).sum()
        wrong = config.tversky_alpha * false_negatives + config.tversky_beta * false_positives
        index = (true_positives + EPSILON) / (true_positives + wrong + EPSILON)
        overlap = (1 - index).clamp(min=EPSILON) ** config.tversky_gamma
    return config.mask_overlap * overlap + config.mask_bce * binary_cross_entropy_with_logits(logits, target)


def _resize_twice(logits: Tensor, frame: ImageFrame, padded: int) -> Tensor:
    """Resize [1, 4h, 4w] to the image's (H, W) as segment-anything's `postprocess_masks` does."""
    square = interpolate(logits[:, None], (padded, padded), mode="bilinear", align_corners=False)
    inner = square[..., : frame.resized[0], : frame.resized[1]]
    return interpolate(inner, frame.original, mode="bilinear", align_corners=False)[:, 0]


def _decode_image(model: GroundedLMM, embedding: Tensor, queries: Sequence[Tensor]) -> list[Tensor]:
    """Decode the masks [1, 4h, 4w] of one image's spans, in order; `embedding` [1, C, h, w], `queries` [1, C] each."""
    assert isinstance(model.sam, SegmentAnything)
    prompt_encoder = model.sam.prompt_encoder
    context = model.prepare_feedback()
    earlier: list[EncodedMasks] = []
    decoded: list[Tensor] = []
    for order, query in enumerate(queries):
        dense = prompt_encoder.no_mask_embed.weight[..., None, None].expand_as(embedding)
        if model.feedback is not None and earlier:
            dense = model.feedback.pool(earlier)
        logits, _ = model.sam.mask_decoder(
            image_embeddings=embedding,
            image_pe=prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=query[:, None],
            dense_prompt_embeddings=dense,
            multimask_output=False,
        )
        decoded.append(logits[:, 0].float())
        if order + 1 < len(queries):
            earlier.append(model.encode_masks(decoded[-1], query, order, context))
    return decoded


def gradients(model: GroundedLMM, inputs: MaskInputs, loss: Tensor) -> list[Tensor]:
    """Return the gradients of every parameter and input; zeros where the loss does not reach."""
    tensors = [*(p for p in model.parameters() if p.requires_grad), *inputs.leaves]
    found = torch.autograd.grad(loss, tensors, allow_unused=True)
    return [torch.zeros_like(t) if g is None else g for t, g in zip(tensors, found, strict=True)]
