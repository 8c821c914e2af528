"""Costs of SAM 2 and its relatives, measured on their own modules without memory (torch's meta device).

SAM's costs are formulas (`activations`, `step_flops`). Here image encoders differ and every size is transformers', so
the modules run on shapes alone; the decoder of the largest takes a tenth of a second.
"""

from math import prod

import torch
from torch import Tensor

from plum.config import Sam2Config
from plum.doctor.counted_flops import count_flops
from plum.doctor.kept import CudaKernels, saved_bytes
from plum.models.segmenters.sam2 import Sam2, build_sam2
from plum.structures import ImageEmbeddings


def decoder_bytes(config: Sam2Config, dtype: torch.dtype) -> int:
    """Return the bytes that autograd keeps of decoding one mask with a trained decoder, with fused attention."""
    with torch.device("meta"), CudaKernels():
        sam = build_sam2(config).to(dtype)
        one = saved_bytes(lambda: _decode(sam, 1, dtype), sam.parameters())
        two = saved_bytes(lambda: _decode(sam, 2, dtype), sam.parameters())
    return two - one


def embedding_elements(config: Sam2Config, *, is_decoder_trained: bool) -> int:
    """Return the numbers that stay of one image: its prepared maps, and what the trained convolutions read."""
    with torch.device("meta"):
        sam = build_sam2(config)
    kept = sum(prod(shape) for shape in sam.map_shapes())
    unprepared = sum(prod(shape) for shape in sam.map_shapes(is_prepared=False)[1:])
    return kept + (unprepared if is_decoder_trained else 0)


def encoder_elements(config: Sam2Config) -> int:
    """Return the numbers that the frozen image encoder holds at once for one image: its largest layer with its input.

    The layer is found by running the encoder; its output is held with its input, a residual and a copy.
    """
    largest = 0

    def see(_module: torch.nn.Module, given: tuple[object, ...], found: object) -> None:
        nonlocal largest
        tensors = [one for one in (*given, found) if isinstance(one, Tensor)]
        largest = max(largest, sum(one.numel() for one in tensors))

    with torch.device("meta"), torch.no_grad():
        sam = build_sam2(config)
        for module in sam.vision_encoder.modules():
            if isinstance(module, torch.nn.Linear | torch.nn.Conv2d | torch.nn.ConvTranspose2d):
                module.register_forward_hook(see)
        sam.encode_images(torch.zeros(1, 3, config.image_size, config.image_size))
    return 2 * largest


def encoder_flops(config: Sam2Config) -> float:
    """Return the FLOPs of one image's forward pass through the image encoder."""
    with torch.device("meta"), torch.no_grad():
        sam = build_sam2(config)
        pixels = torch.zeros(1, 3, config.image_size, config.image_size)
        return count_flops(lambda: sam.encode_images(pixels))


def decoder_flops(config: Sam2Config) -> float:
    """Return the FLOPs of one mask's forward pass through the mask decoder."""
    with torch.device("meta"), torch.no_grad():
        sam = build_sam2(config)
        return count_flops(lambda: _decode(sam, 1, torch.float32))


def _decode(sam: Sam2, rows: int, dtype: torch.dtype) -> Tensor:
    maps = [torch.zeros(rows, *shape, dtype=dtype) for shape in sam.map_shapes()]
    queries, dense = torch.zeros(rows, maps[0].shape[1], dtype=dtype), torch.zeros_like(maps[0])
    if torch.is_grad_enabled():
        queries.requires_grad_()
        dense.requires_grad_()
    return sam.decode_masks(ImageEmbeddings.of_maps(maps), queries, dense, sam.dense_position())
