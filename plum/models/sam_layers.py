"""Layers of SAM's prompt encoder and mask decoder in fewer, larger operations; parameters and numbers are SAM's own.

Source: facebookresearch/segment-anything (`modeling/transformer.py`, `modeling/common.py`).
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional

from plum.models.sam_modules import LayerNorm2d, TwoWayAttention, TwoWayAttentionBlock


def takes_over_from_image(num_vectors: int, internal_dim: int) -> bool:
    """Whether heads x tokens vectors are fewer than the channels in which an image would attend to the tokens."""
    return num_vectors < internal_dim


def takes_over_to_image(num_vectors: int, internal_dim: int) -> bool:
    """Whether they are few enough where the tokens attend to the image, for which torch's attention is quicker."""
    return 2 * num_vectors <= internal_dim


class FusedTwoWayAttention(TwoWayAttention):
    """The decoder's attention between an image and a few tokens, where the image's tokens need no projection.

    A projection of one side can go over to the other: (W x + b) y = x (W^T y) + b y. A pixel then meets heads x tokens
    vectors instead of two projections: 48 where SAM has 128 internal channels. Where the gain is less (docs/LOG.md),
    tokens attend to the image by scaled_dot_product_attention.
    """

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attend from q [R, Q, C] to k and v [R, K, C]: [R, Q, C]."""
        if q.shape[1] > k.shape[1] and takes_over_from_image(self.num_heads * k.shape[1], self.internal_dim):
            return self._from_image(q, k, v)
        if q.shape[1] < k.shape[1] and takes_over_to_image(self.num_heads * q.shape[1], self.internal_dim):
            return self._to_image(q, k, v)
        queries, keys, values = self._split(self.q_proj, q), self._split(self.k_proj, k), self._split(self.v_proj, v)
        attended = functional.scaled_dot_product_attention(queries, keys, values)
        return self.out_proj(attended.transpose(1, 2).flatten(2))

    def _from_image(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Let the keys take over q_proj, and the values out_proj."""
        keys, values = self._split(self.k_proj, k), self._split(self.v_proj, v)
        scores = self._scores(keys, self.q_proj, q)
        weights = scores.unflatten(1, (self.num_heads, -1)).softmax(2).flatten(1, 2)
        from_values = self.out_proj.weight.T.unflatten(0, (self.num_heads, -1))  # [heads, d, C]
        return torch.baddbmm(self.out_proj.bias, weights.transpose(1, 2), (values @ from_values).flatten(1, 2))

    def _to_image(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Let the queries take over k_proj, and what they found v_proj: weights sum to 1."""
        found = self._scores(self._split(self.q_proj, q), self.k_proj, k).softmax(2) @ v  # [R, heads Q, C]
        heads = (self.num_heads, -1)
        to_values, bias = self.v_proj.weight.unflatten(0, heads), self.v_proj.bias.unflatten(0, heads)
        attended = found.unflatten(1, heads) @ to_values.transpose(1, 2) + bias[:, None]  # [R, heads, Q, d]
        return self.out_proj(attended.transpose(1, 2).flatten(2))

    def _split(self, project: nn.Module, given: Tensor) -> Tensor:
        """Project [R, n, C] to [R, heads, n, d]."""
        projected: Tensor = project(given)
        return projected.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)

    def _scores(self, few: Tensor, project: nn.Linear, image: Tensor) -> Tensor:
        """Return scores [R, heads n, p] of projected tokens [R, heads, n, d] and an unprojected image [R, p, C]."""
        few = few * few.shape[-1] ** -0.5
        weight, bias = (part.unflatten(0, (self.num_heads, -1)) for part in (project.weight, project.bias))
        of_bias = few @ bias[..., None]  # [R, heads, n, 1]
        return torch.baddbmm(of_bias.flatten(1, 2), (few @ weight).flatten(1, 2), image.transpose(1, 2))


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
            if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)) and module.stride != module.kernel_size:
                continue
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
