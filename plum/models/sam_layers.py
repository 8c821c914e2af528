"""Layers of SAM's prompt encoder and mask decoder in fewer, larger operations; parameters and numbers are SAM's own.

Source: facebookresearch/segment-anything (`modeling/transformer.py`, `modeling/common.py`).
"""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn
from torch.nn import functional

from plum.models.sam_modules import LayerNorm2d, TwoWayAttention


class FusedTwoWayAttention(TwoWayAttention):
    """The decoder's attention through scaled_dot_product_attention."""

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attend from q [R, Q, C] to k and v [R, K, C]: [R, Q, C]."""
        queries, keys, values = (
            project(given).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for project, given in ((self.q_proj, q), (self.k_proj, k), (self.v_proj, v))
        )
        attended = functional.scaled_dot_product_attention(queries, keys, values)
        return self.out_proj(attended.transpose(1, 2).flatten(2))


class FusedLayerNorm2d(LayerNorm2d):
    """The norm over channels as torch's layer norm, one operation instead of ten small ones."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalise each pixel of [R, C, h, w]."""
        by_pixel = x.permute(0, 2, 3, 1)
        normed = functional.layer_norm(by_pixel, by_pixel.shape[-1:], self.weight, self.bias, self.eps)
        return normed.permute(0, 3, 1, 2)


FUSED: dict[type[nn.Module], type[nn.Module]] = {TwoWayAttention: FusedTwoWayAttention, LayerNorm2d: FusedLayerNorm2d}


def fuse_layers(sam: nn.Module) -> None:
    """Let SAM's layers compute as above, in place: the same modules and parameters, another forward."""
    for module in sam.modules():
        module.__class__ = FUSED.get(type(module), type(module))


@contextmanager
def stock_layers(sam: nn.Module) -> Iterator[None]:
    """Let them compute segment_anything's own way for a while."""
    fused = [module for module in sam.modules() if type(module) in FUSED.values()]
    ways = [type(module) for module in fused]
    try:
        for module in fused:
            module.__class__ = type(module).__bases__[0]
        yield
    finally:
        for module, way in zip(fused, ways, strict=True):
            module.__class__ = way
