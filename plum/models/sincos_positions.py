"""Sine-cosine position embeddings: where towers start that nobody pre-trained (the embedded default, not the paper)."""

import torch
from torch import Tensor

SCALE = 0.5
"""Of the embeddings: about as large as the patches they are added to."""


def sincos_positions(height: int, width: int, dim: int) -> Tensor:
    """Return 0.5 x the 2-D sine-cosine encoding of a grid's cells, float32 [height, width, dim].

    A quarter of the channels each: sin y, cos y, sin x, cos x.

    Raises:
        ValueError: `dim` is no multiple of 4.
    """
    if dim % 4:
        raise ValueError(
            f"sincos positions need a multiple of 4 as sam.encoder_dim and llava.vision.hidden_size, not {dim}"
        )
    frequencies = 1.0 / 10000 ** (torch.arange(dim // 4, dtype=torch.float32) / (dim // 4))
    rows = torch.arange(height, dtype=torch.float32)[:, None, None] * frequencies  # [h, 1, d / 4]
    columns = torch.arange(width, dtype=torch.float32)[None, :, None] * frequencies  # [1, w, d / 4]
    parts = [rows.sin(), rows.cos(), columns.sin(), columns.cos()]
    return SCALE * torch.cat([part.expand(height, width, -1) for part in parts], dim=-1)
