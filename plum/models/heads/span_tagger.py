"""Span extractor: tags every token B, I or O from the language model's states (paper, section 4).

Paper: token-wise MLP of two layers, one bidirectional Transformer encoder block, linear layer (`mlp_first`, the
default). Authors' code: the block, then an MLP of two layers that ends in the three logits (`block_first`); it ignores
the configured feed-forward width and dropout and always has torch's 2048 and 0.1.

Ablations, each a switch of `TaggerConfig`: two classes instead of three, a CRF over the tags, and cross-attention.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from plum.config import TagScheme
from plum.inputs.bio_labels import number_of_classes
from plum.models.batch_plan import find_places, take_places
from plum.models.heads.crf import LinearChainCrf, best_classes, log_marginals
from plum.structures import TEXT_ONLY, ConversationImages, TagChain, TokenPlaces


class ImageCrossAttention(nn.Module):
    """Attention of text tokens to their image's tokens, with a residual connection and a norm after it.

    Paper, Table 6, double dagger: cross-attention is enabled in ablations only; the paper does not say between what.
    Authors' code (`use_cross_attn_bio`): the tokens of a phrase attend to the projector's image tokens, and the result,
    after a feed-forward layer, goes to the query projection; the tagger has none. Here: the tagger's tokens attend to
    the tokens of the conversation's images, as in a Transformer decoder's block; queries stay as they are. Without an
    image the attention adds nothing.
    """

    def __init__(self, hidden_size: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(hidden_size, num_heads, dropout, batch_first=True)
        self.dropout = nn.Dropout(dropout)
        self.norm = nn.LayerNorm(hidden_size)

    def forward(self, states: Tensor, shown: ConversationImages, image_tokens: Tensor) -> Tensor:
        """Return states [N, Q, D].

        Args:
            states: [N, Q, D].
            shown: the images of the N conversations.
            image_tokens: [B, image tokens, D].
        """
        rows = (shown.rows[:, 0] != TEXT_ONLY).nonzero()[:, 0]
        if len(rows) == 0:
            return self.norm(states)
        features, is_padding = shown[rows].pad_tokens(image_tokens.to(states.dtype))
        attended = self.attention(states[rows], features, features, key_padding_mask=is_padding, need_weights=False)[0]
        return self.norm(states.index_add(0, rows, self.dropout(attended)))


class SpanTagger(nn.Module):
    """MLP, encoder block and classifier, in one of two orders.

    `order`: "mlp_first" is MLP (D -> D, ReLU, D -> D), block, linear D -> 3; "block_first" is block, MLP (D -> D,
    ReLU), linear D -> 3.
    `context`: "bidirectional" is the paper's; "causal" keeps the block's capacity without look-ahead, and "none"
    removes the block (ablation in Table 12).
    `scheme`: three classes ("bio") or two ("binary"); see `TaggerConfig.scheme`.
    `use_crf`: the logits are those of a CRF, whose scores are in `crf`.
    `use_cross_attention`: ImageCrossAttention after the block (or in its place, without one), with the block's number
    of heads and dropout.
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
        scheme: TagScheme = "bio",
        use_crf: bool = False,
        use_cross_attention: bool = False,
    ) -> None:
        super().__init__()
        self.context = context
        self.scheme = scheme
        self.is_block_first = order == "block_first"
        self.mlp = nn.Sequential(nn.Linear(hidden_size, hidden_size), nn.ReLU())
        if not self.is_block_first:
            self.mlp.append(nn.Linear(hidden_size, hidden_size))
        self.block = (
            nn.TransformerEncoderLayer(hidden_size, num_heads, feedforward_dim, dropout, batch_first=True)
            if context != "none"
            else None
        )
        self.cross_attention = ImageCrossAttention(hidden_size, num_heads, dropout) if use_cross_attention else None
        self.classifier = nn.Linear(hidden_size, number_of_classes(scheme))
        self.crf = LinearChainCrf(number_of_classes(scheme)) if use_crf else None

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor,
        is_read: Tensor | TokenPlaces | None = None,
        shown: ConversationImages | None = None,
        image_tokens: Tensor | None = None,
    ) -> Tensor:
        """Return the logits of the C classes, in the order of Tag; or outside, in a phrase.

        Args:
            hidden_states: [N, T, D].
            attention_mask: [N, T], 1 on real tokens; sequences are right-padded.
            is_read: tokens to tag (the loss needs only answers, a tenth of a conversation), bool [N, T] or their
                places; None: all.
            shown: the images of the N conversations; required by cross-attention.
            image_tokens: [B, image tokens, D]; required by cross-attention.

        Returns:
            Logits [A, C] of the A tokens in `is_read`, sorted by conversation, then position; [N, T, C] for all tokens.
        """
        states = hidden_states if self.is_block_first else self.mlp(hidden_states)
        places = find_places(is_read) if isinstance(is_read, Tensor) else is_read
        if places is None:
            states = states if self.block is None else self._attend_everywhere(states, attention_mask)
        elif self.block is None:
            states = take_places(states, places.index)
        else:
            states = self._attend(states, attention_mask, places)
        if self.cross_attention is not None:
            assert shown is not None, "cross-attention needs the images of each conversation"
            assert image_tokens is not None, "cross-attention needs image tokens"
            states = self._attend_to_images(states, places, shown, image_tokens)
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

    def _attend(self, states: Tensor, attention_mask: Tensor, read: TokenPlaces) -> Tensor:
        """Run the encoder block for some tokens, with the same context as in the whole block; returns states [A, D]."""
        block = self.block
        assert block is not None
        assert not block.norm_first, "the block normalises after each of its two parts"
        if len(read.index) == 0:
            return take_places(states, read.index)
        queries = states.gather(1, read.queries[..., None].expand(-1, -1, states.shape[-1]))
        order = torch.arange(states.shape[1], device=states.device)
        masks: dict[str, Tensor] = {"key_padding_mask": attention_mask == 0}
        if self.context == "causal":
            is_later = order > read.queries[..., None]  # [N, Q, T]
            masks = {"attn_mask": is_later.repeat_interleave(block.self_attn.num_heads, 0)}
        attended = block.self_attn(queries, states, states, need_weights=False, **masks)[0]
        own, found = (take_places(each, read.query_index) for each in (queries, attended))
        tokens = block.norm1(own + block.dropout1(found))
        return block.norm2(tokens + block._ff_block(tokens))

    def _attend_to_images(
        self, states: Tensor, read: TokenPlaces | None, shown: ConversationImages, image_tokens: Tensor
    ) -> Tensor:
        """Run cross-attention over states [N, T, D], or [A, D] of the tokens in `read`; returns the same shape."""
        assert self.cross_attention is not None
        if read is None:
            return self.cross_attention(states, shown, image_tokens)
        if len(states) == 0:  # no fused attention is asked for nothing
            return states
        num_rows, num_queries = read.queries.shape
        nowhere = states.new_zeros(num_rows * num_queries, states.shape[-1])
        queries = nowhere.index_put((read.query_index,), states)
        attended = self.cross_attention(queries.unflatten(0, (num_rows, -1)), shown, image_tokens)
        return take_places(attended, read.query_index)


@dataclass(frozen=True)
class PredictedClasses:
    """The classes of A tokens, LongTensor [A], and their probabilities, float32 [A].

    Under a CRF these are marginal probabilities given the whole sequence. After training with the hinge loss they only
    rank: that loss stops at its margin and knows no probabilities.
    """

    classes: Tensor
    probabilities: Tensor


def predict_classes(logits: Tensor, chain: TagChain | None) -> PredictedClasses:
    """Predict the classes of A tokens: the most probable of each token, or under a CRF the most probable sequence.

    Args:
        logits: [A, C].
        chain: None without a CRF.
    """
    if chain is None:
        probabilities, classes = logits.float().softmax(-1).max(-1)
        return PredictedClasses(classes, probabilities)
    classes = best_classes(logits, chain)
    probabilities = log_marginals(logits, chain).exp().gather(1, classes[:, None])[:, 0]
    return PredictedClasses(classes, probabilities)
