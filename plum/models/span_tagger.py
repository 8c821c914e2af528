"""Span extractor: tags every token B, I or O from the language model's states (paper, section 4).

Paper's order: token-wise MLP, one bidirectional Transformer encoder block, linear layer. (The authors' code puts the
block first and ignores the configured feed-forward width and dropout.)
"""

from typing import Literal

import torch
from torch import Tensor, nn

from plum.data.bio_labels import Tag


class SpanTagger(nn.Module):
    """MLP (D -> D, ReLU, D -> D), encoder block, linear D -> 3.

    `context`: "bidirectional" is the paper's; "causal" keeps the block's capacity without look-ahead and "none" removes
    it (Table 12's ablation).
    """

    def __init__(
        self,
        hidden_size: int,
        context: Literal["bidirectional", "causal", "none"],
        num_heads: int,
        feedforward_dim: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.context = context
        self.mlp = nn.Sequential(nn.Linear(hidden_size, hidden_size), nn.ReLU(), nn.Linear(hidden_size, hidden_size))
        self.block = (
            nn.TransformerEncoderLayer(hidden_size, num_heads, feedforward_dim, dropout, batch_first=True)
            if context != "none"
            else None
        )
        self.classifier = nn.Linear(hidden_size, len(Tag))

    def forward(self, hidden_states: Tensor, attention_mask: Tensor) -> Tensor:
        """Return tag logits.

        Args:
            hidden_states: [N, T, D].
            attention_mask: [N, T], 1 on real tokens; sequences are right-padded.

        Returns:
            Logits [N, T, 3] in the order of Tag.
        """
        states = self.mlp(hidden_states)
        if self.block is not None:
            states = self._attend(states, attention_mask)
        return self.classifier(states)

    def _attend(self, states: Tensor, attention_mask: Tensor) -> Tensor:
        """Run the encoder block."""
        assert self.block is not None
        if self.context == "causal":
            # With right padding the causal mask already keeps padding out of every real token's sight.
            length = states.shape[1]
            future = torch.ones(length, length, dtype=torch.bool, device=states.device).triu(1)
            return self.block(states, src_mask=future, is_causal=True)
        return self.block(states, src_key_padding_mask=attention_mask == 0)
