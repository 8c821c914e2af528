"""Span extractor: tags every token B, I or O from the language model's states (paper, section 4).

Paper: token-wise MLP of two layers, one bidirectional Transformer encoder block, linear layer (`mlp_first`, the
default). Authors' code: the block, then an MLP of two layers that ends in the three logits (`block_first`); it ignores
the configured feed-forward width and dropout and always has torch's 2048 and 0.1.
"""

from typing import Literal

import torch
from torch import Tensor, nn

from plum.inputs.bio_labels import Tag


class SpanTagger(nn.Module):
    """MLP, encoder block and classifier, in one of two orders.

    `order`: "mlp_first" is MLP (D -> D, ReLU, D -> D), block, linear D -> 3; "block_first" is block, MLP (D -> D,
    ReLU), linear D -> 3.
    `context`: "bidirectional" is the paper's; "causal" keeps the block's capacity without look-ahead, and "none"
    removes the block (ablation in Table 12).
    """

    def __init__(
        self,
        hidden_size: int,
        context: Literal["bidirectional", "causal", "none"],
        num_heads: int,
        feedforward_dim: int,
        dropout: float,
        *,
        order: Literal["mlp_first", "block_first"] = "mlp_first",
    ) -> None:
        super().__init__()
        self.context = context
        self.is_block_first = order == "block_first"
        self.mlp = nn.Sequential(nn.Linear(hidden_size, hidden_size), nn.ReLU())
        if not self.is_block_first:
            self.mlp.append(nn.Linear(hidden_size, hidden_size))
        self.block = (
            nn.TransformerEncoderLayer(hidden_size, num_heads, feedforward_dim, dropout, batch_first=True)
            if context != "none"
            else None
        )
        self.classifier = nn.Linear(hidden_size, len(Tag))

    def forward(self, hidden_states: Tensor, attention_mask: Tensor, is_read: Tensor | None = None) -> Tensor:
        """Return tag logits in the order of Tag.

        Args:
            hidden_states: [N, T, D].
            attention_mask: [N, T], 1 on real tokens; sequences are right-padded.
            is_read: bool [N, T], tokens to tag (the loss needs only answers, a tenth of a conversation); None: all.

        Returns:
            Logits [A, 3] of the A tokens in `is_read`, sorted by conversation, then position; [N, T, 3] for all tokens.
        """
        states = hidden_states if self.is_block_first else self.mlp(hidden_states)
        if is_read is None:
            states = states if self.block is None else self._attend_everywhere(states, attention_mask)
        else:
            states = states[is_read] if self.block is None else self._attend(states, attention_mask, is_read)
        return self.classifier(self.mlp(states) if self.is_block_first else states)

    def _attend_everywhere(self, states: Tensor, attention_mask: Tensor) -> Tensor:
        """Run the encoder block; returns states [N, T, D]."""
        assert self.block is not None
        if self.context == "causal":
            # With right padding, the causal mask already hides padding from every real token.
            length = states.shape[1]
            future = torch.ones(length, length, dtype=torch.bool, device=states.device).triu(1)
            return self.block(states, src_mask=future, is_causal=True)
        return self.block(states, src_key_padding_mask=attention_mask == 0)

    def _attend(self, states: Tensor, attention_mask: Tensor, is_read: Tensor) -> Tensor:
        """Run the encoder block for some tokens, with the same context as in the whole block; returns states [A, D]."""
        block = self.block
        assert block is not None
        assert not block.norm_first, "the block normalises after each of its two parts"
        if not bool(is_read.any()):
            return states[is_read]
        counts = is_read.sum(1)  # [N]
        longest = int(counts.max())
        # Tokens to tag come first, in order; Q is the largest number of them in a conversation.
        places = is_read.int().argsort(dim=1, descending=True, stable=True)[:, :longest]  # [N, Q]
        queries = states.gather(1, places[..., None].expand(-1, -1, states.shape[-1]))
        order = torch.arange(states.shape[1], device=states.device)
        masks: dict[str, Tensor] = {"key_padding_mask": attention_mask == 0}
        if self.context == "causal":
            is_later = order > places[..., None]  # [N, Q, T]
            masks = {"attn_mask": is_later.repeat_interleave(block.self_attn.num_heads, 0)}
        attended = block.self_attn(queries, states, states, need_weights=False, **masks)[0]
        is_query = order[:longest] < counts[:, None]
        read = block.norm1(queries[is_query] + block.dropout1(attended[is_query]))
        return block.norm2(read + block._ff_block(read))
