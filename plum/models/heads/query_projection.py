"""Query projection g: maps a span's token states to one prompt token of SAM's decoder (paper, section 4).

The states of a span's tokens are gathered, projected one by one and averaged.
"""

import torch
from torch import Tensor, nn

from plum.models.batch_plan import span_plan
from plum.structures import SpanBounds


def gather_span_tokens(states: Tensor, spans: SpanBounds, longest: int | None = None) -> tuple[Tensor, Tensor]:
    """Gather every span's token states, padded to the longest span.

    Args:
        states: [N, T, D].
        spans: M token ranges, M > 0.
        longest: L, tokens of the longest span; None: as their plan says.

    Returns:
        States [M, L, D] (padding repeats a span's last token) and a bool mask [M, L], True on real tokens.

    Raises:
        ValueError: a span is empty.
    """
    lengths = spans.end - spans.start  # [M]
    offsets = torch.arange(longest or span_plan(spans).longest, device=states.device)  # [L]
    positions = torch.minimum(spans.start[:, None] + offsets, spans.end[:, None] - 1)  # [M, L]
    return states[spans.conversation[:, None], positions], offsets < lengths[:, None]


def mean_over_tokens(values: Tensor, is_token: Tensor) -> Tensor:
    """Average [M, L, X] over the real tokens [M, L] of each span; returns [M, X]."""
    weights = is_token.to(values.dtype)[..., None]
    return (values * weights).sum(1) / weights.sum(1)


class QueryProjection(nn.Module):
    """Linear(D, D), ReLU, Linear(D, C) on every span token, then the mean over the span's tokens."""

    def __init__(self, hidden_size: int, prompt_dim: int) -> None:
        super().__init__()
        self.hidden_size, self.prompt_dim = hidden_size, prompt_dim
        self.layers = nn.Sequential(nn.Linear(hidden_size, hidden_size), nn.ReLU(), nn.Linear(hidden_size, prompt_dim))

    def forward(self, hidden_states: Tensor, spans: SpanBounds) -> Tensor:
        """Project M spans of the states [N, T, D] to queries [M, C]."""
        if len(spans) == 0:
            return hidden_states.new_zeros(0, self.prompt_dim)
        tokens, is_token = gather_span_tokens(hidden_states, spans)
        return mean_over_tokens(self.layers(tokens), is_token)
