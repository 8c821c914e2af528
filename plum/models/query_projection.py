"""Query projection g: a span's token states to one prompt token of SAM's decoder (paper, section 4)."""

from torch import Tensor, nn

from plum.models.span_states import gather_span_tokens, mean_over_tokens
from plum.structures import SpanBounds


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
