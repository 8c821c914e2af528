"""Activations of a stock model's decoder, measured on its own layers without memory (torch's meta device).

LLaVA's are formulas (`activations`). Stock decoders differ in norms, positions and widths, so their own code runs on
shapes alone, over one layer and over two; the others are like the second. Whatever a further family does is counted.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from plum.doctor.activations import FLOAT
from plum.doctor.kept import CudaKernels, saved_bytes
from plum.doctor.workload import Workload
from plum.inputs.encoding import AXES_OF_RECTANGLES
from plum.models.backbones.backbone import Backbone
from plum.models.backbones.shared_beginnings import SequenceLayout, SequencePass
from plum.models.grounded_lmm import GroundedLMM
from plum.models.parameter_counts import BACKBONE, component_of
from plum.structures import ConversationImages, ImageTokens

BOOLEAN = 1
"""Bytes of an element of a dropout mask on CUDA."""
TOWER = "llava.vision_tower"
"""The component that encodes an image, but for its projector."""


@dataclass(frozen=True)
class DecoderBytes:
    """Bytes that autograd keeps of the decoder.

    Attributes:
        kept: all layers; with gradient checkpointing, only each layer's input.
        layer: one layer without gradient checkpointing, which its recomputation holds.
        norm: the norm after the last layer and the gathering of states; 0 if `kept` has it.
        encoder: upper bound of what the frozen image encoder holds at once, without a graph; 0: not seen (LLaVA's).
    """

    kept: int
    layer: int
    norm: int = 0
    encoder: int = 0


def decoder_bytes(model: GroundedLMM, work: Workload, dtype: torch.dtype, *, is_checkpointed: bool) -> DecoderBytes:
    """Measure what autograd keeps of the decoder for one micro-batch.

    Args:
        model: on the meta device, its trained parameters set; only its dtype and mode change.
        work: sizes of the micro-batch.
        dtype: of weights and activations.
        is_checkpointed: gradient checkpointing.

    Raises:
        ValueError: the decoder's layers are of several kinds, so that one does not stand for the others.
    """
    backbone = model.to(dtype).train().backbone
    decoder = backbone.decoder
    layers, number = decoder.layers, decoder.config.num_hidden_layers
    kinds = sorted(set(getattr(decoder.config, "layer_types", None) or ()))
    if len(kinds) > 1:
        raise ValueError(f"the decoder has layers of several kinds ({', '.join(kinds)}), which are not measured yet")
    try:
        plain = _saved_by_two(backbone, work, dtype)
        kept = plain
        if is_checkpointed:
            backbone.enable_gradient_checkpointing()
            kept = _saved_by_two(backbone, work, dtype)
    finally:
        backbone.stock.activation_checkpointing_disable()
        decoder.layers, decoder.config.num_hidden_layers = layers, number
    return DecoderBytes(
        kept=kept[0] + (number - 1) * (kept[1] - kept[0]),
        layer=plain[1] - plain[0],
        encoder=_encoder_bytes(model, work),
    )


def _saved_by_two(backbone: Backbone, work: Workload, dtype: torch.dtype) -> tuple[int, int]:
    """Return the bytes that autograd keeps of a decoder of one layer, and of two."""
    decoder = backbone.decoder
    assert isinstance(decoder.layers, nn.ModuleList)
    first, second = decoder.layers[0], decoder.layers[min(1, len(decoder.layers) - 1)]
    saved = []
    for layers in ([first], [first, second]):
        decoder.layers, decoder.config.num_hidden_layers = nn.ModuleList(layers), len(layers)
        with torch.device("meta"):
            run, inputs = _pass(backbone, work, dtype)
        with CudaKernels(has_boolean_masks=work.dropout_mask_bytes == BOOLEAN):
            saved.append(saved_bytes(run, [*backbone.parameters(), *backbone.buffers(), *inputs]))
    return saved[0], saved[1]


def _encoder_bytes(model: GroundedLMM, work: Workload) -> int:
    """Return an upper bound of the transient bytes of a frozen image encoder, which reads one image at a time.

    Its widest layer holds its input and its output, a residual and a copy; the pixels are cast to the model's dtype.
    """
    image = work.stock_image
    assert image is not None, "only a stock model's encoder is seen so"
    widths = [
        module.in_features + module.out_features
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and name.startswith(BACKBONE) and component_of(f"{name}.") == TOWER
    ]
    return (2 * image.patches * max(widths) + image.pixel_bytes // FLOAT) * work.element_bytes


def _pass(backbone: Backbone, work: Workload, dtype: torch.dtype) -> tuple[Callable[[], Tensor], list[Tensor]]:
    """Return a pass over the micro-batch as the training lays it out, and the tensors of the batch."""
    image = work.stock_image
    assert image is not None, "LLaVA's activations are formulas"
    num_rows = work.samples if work.is_shared else work.conversations
    shape = (num_rows, work.sequence)
    shown = num_rows * work.images_per_conversation
    ids = torch.zeros(shape, dtype=torch.long)
    rows = torch.zeros(num_rows, work.images_per_conversation, dtype=torch.long)
    passed = SequencePass(
        input_ids=ids,
        positions=torch.zeros((AXES_OF_RECTANGLES, *shape) if image.has_rectangles else shape, dtype=torch.long),
        branches=torch.zeros(shape, dtype=torch.long),
        shown=ConversationImages(rows, (image.num_tokens,) * work.images),
        is_branched=work.is_shared,
        patches=torch.zeros(3, shown * image.num_tokens, dtype=torch.long),
    )
    places = torch.zeros(work.conversations, work.tokens, dtype=torch.long)
    tokens = ImageTokens(torch.zeros(work.images, image.num_tokens, backbone.hidden_size, dtype=dtype))
    run = partial(backbone.shared_hidden_states, ids, ids, passed.shown, tokens, SequenceLayout((passed,), places))
    return run, [ids, rows, passed.positions, passed.branches, passed.patches, places, tokens.values]
