"""Token states of spans: gathered once, averaged per span (paper, section 4: mean over a span's tokens)."""

import torch
from torch import Tensor

from plum.structures import SpanBounds


def gather_span_tokens(states: Tensor, spans: SpanBounds) -> tuple[Tensor, Tensor]:
    """Gather every span's token states, padded to the longest span.

    Args:
        states: [N, T, D].
        spans: M token ranges, M > 0.

    Returns:
        States [M, L, D] (padding repeats a span's last token) and a bool mask [M, L], True on real tokens.

    Raises:
        ValueError: a span is empty.
    """
    lengths = spans.end - spans.start  # [M]
    longest = int(lengths.max())
    if int(lengths.min()) < 1:
        row = int(lengths.argmin())
        raise ValueError(f"span {row} of the batch is empty: [{int(spans.start[row])}, {int(spans.end[row])})")
    offsets = torch.arange(longest, device=states.device)  # [L]
    positions = torch.minimum(spans.start[:, None] + offsets, spans.end[:, None] - 1)  # [M, L]
    return states[spans.conversation[:, None], positions], offsets < lengths[:, None]


def mean_over_tokens(values: Tensor, is_token: Tensor) -> Tensor:
    """Average [M, L, X] over the real tokens [M, L] of each span: [M, X]."""
    weights = is_token.to(values.dtype)[..., None]
    return (values * weights).sum(1) / weights.sum(1)
