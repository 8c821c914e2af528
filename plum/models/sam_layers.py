"""Layers of SAM's prompt encoder and mask decoder in fewer, larger operations; parameters and numbers are SAM's own.

Source: facebookresearch/segment-anything (`modeling/transformer.py`, `modeling/common.py`).
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional

from plum.models.sam_modules import LayerNorm2d, TwoWayAttention, TwoWayAttentionBlock


class FusedTwoWayAttention(TwoWayAttention):
    """The decoder's attention through scaled_dot_product_attention."""

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attend from q [R, Q, C] to k and v [R, K, C]: [R, Q, C]."""
        queries, keys, values = (
            project(given).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for project, given in ((self.q_proj, q), (self.k_proj, k), (self.v_proj, v))
        )
        if q.device.type == "cpu" and q.shape[1] > k.shape[1]:
            attended = attend_to_few(queries, keys, values)
        else:
            attended = functional.scaled_dot_product_attention(queries, keys, values)
        return self.out_proj(attended.transpose(1, 2).flatten(2))


def attend_to_few(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Attend from many queries [R, heads, Q, d] to a few keys and values [R, heads, K, d]: [R, heads, Q, d].

    Scores are laid out [K, Q], so that the softmax runs over whole rows: on a CPU up to three times as fast as
    scaled_dot_product_attention where an image attends to the decoder's six tokens.
    """
    scores = keys @ (queries * queries.shape[-1] ** -0.5).transpose(2, 3)
    return scores.softmax(2, dtype=torch.float32).to(values.dtype).transpose(2, 3) @ values


class FusedTwoWayBlock(TwoWayAttentionBlock):
    """The decoder's block, which adds the position to the image once instead of twice."""

    def forward(self, queries: Tensor, keys: Tensor, query_pe: Tensor, key_pe: Tensor) -> tuple[Tensor, Tensor]:
        """Let tokens [R, Q, C] and image [R, K, C] attend to each other; positions of the same shapes."""
        if self.skip_first_layer_pe:
            queries = self.self_attn(q=queries, k=queries, v=queries)
        else:
            placed = queries + query_pe
            queries = queries + self.self_attn(q=placed, k=placed, v=queries)
        queries = self.norm1(queries)
        placed_keys = keys + key_pe
        queries = self.norm2(queries + self.cross_attn_token_to_image(q=queries + query_pe, k=placed_keys, v=keys))
        queries = self.norm3(queries + self.mlp(queries))
        keys = keys + self.cross_attn_image_to_token(q=placed_keys, k=queries + query_pe, v=queries)
        return queries, self.norm4(keys)


class FusedLayerNorm2d(LayerNorm2d):
    """The norm over channels as torch's layer norm, one operation instead of ten small ones."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalise each pixel of [R, C, h, w]."""
        by_pixel = x.permute(0, 2, 3, 1)
        normed = functional.layer_norm(by_pixel, by_pixel.shape[-1:], self.weight, self.bias, self.eps)
        return normed.permute(0, 3, 1, 2)


class PatchConv2d(nn.Conv2d):
    """A convolution whose stride is its kernel size: a linear layer on patches."""

    def forward(self, input: Tensor) -> Tensor:
        """Narrow [R, C, k h, k w] to [R, D, h, w]."""
        rows, columns = self.kernel_size
        patches = input.unflatten(3, (-1, columns)).unflatten(2, (-1, rows))  # [R, C, h, k, w, k]
        patches = patches.permute(0, 2, 4, 1, 3, 5).flatten(3)  # [R, h, w, C k k]
        return functional.linear(patches, self.weight.flatten(1), self.bias).permute(0, 3, 1, 2)


class PatchConvTranspose2d(nn.ConvTranspose2d):
    """A transposed convolution whose stride is its kernel size: a linear layer that makes a patch of every pixel."""

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        """Enlarge [R, C, h, w] to [R, D, k h, k w]."""
        rows, columns = self.kernel_size
        weight = self.weight.permute(2, 3, 1, 0).flatten(0, 2)  # [k k D, C]
        bias = None if self.bias is None else self.bias.repeat(rows * columns)
        patches = functional.linear(input.permute(0, 2, 3, 1), weight, bias)
        patches = patches.unflatten(3, (rows, columns, -1))  # [R, h, w, k, k, D]
        return patches.permute(0, 1, 3, 2, 4, 5).flatten(3, 4).flatten(1, 2).permute(0, 3, 1, 2)


FUSED: dict[type[nn.Module], type[nn.Module]] = {
    TwoWayAttention: FusedTwoWayAttention,
    TwoWayAttentionBlock: FusedTwoWayBlock,
    LayerNorm2d: FusedLayerNorm2d,
    nn.ConvTranspose2d: PatchConvTranspose2d,
}
FUSED_IN_PROMPT_ENCODER: dict[type[nn.Module], type[nn.Module]] = {nn.Conv2d: PatchConv2d}
"""The image encoder's convolutions overlap, or cover patches of 16 pixels, which torch's own serve well."""


def fuse_layers(sam: nn.Module) -> None:
    """Let SAM's layers compute as above, in place: the same modules and parameters, another forward."""
    for part, ways in ((sam, FUSED), (sam.get_submodule("prompt_encoder"), FUSED_IN_PROMPT_ENCODER)):
        for module in part.modules():
            module.__class__ = ways.get(type(module), type(module))


@contextmanager
def stock_layers(sam: nn.Module) -> Iterator[None]:
    """Let them compute segment_anything's own way for a while."""
    fused = [module for module in sam.modules() if type(module) in (*FUSED.values(), *FUSED_IN_PROMPT_ENCODER.values())]
    ways = [type(module) for module in fused]
    try:
        for module in fused:
            module.__class__ = type(module).__bases__[0]
        yield
    finally:
        for module, way in zip(fused, ways, strict=True):
            module.__class__ = way
