"""The language model's states of a prefix forest: every node is computed once, its keys and values are kept.

One pass over the layers serves all new nodes of all pictures, without padding: only attention, which is a small part
of the work, is arranged by branches.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from transformers import DynamicCache

from plum.inference.prefix_forest import NO_NODE, AttentionBlock, ForestRow, NewNodes, PrefixForest
from plum.models.llava import LlavaBackbone

MAX_LOGIT_ROWS = 1024
"""Positions whose next-token logits are held at a time."""


class ForestStates:
    """States of conversations about some pictures; grows with every `add`.

    Args:
        llava: the language model.
        image_tokens: [B, image tokens, D], CLIP's tokens of the pictures.
    """

    def __init__(self, llava: LlavaBackbone, image_tokens: Tensor) -> None:
        self.llava = llava
        self.forest = PrefixForest(len(image_tokens), llava.num_image_tokens)
        self._image_tokens = image_tokens
        self._keys: list[Tensor] = []  # per layer [nodes, key-value heads, d]
        self._values: list[Tensor] = []
        self._states = image_tokens.new_zeros(0, image_tokens.shape[-1])
        self._log_probs = np.zeros(0)  # per node
        self._has_log_prob = np.zeros(0, dtype=bool)

    @property
    def bytes_per_token(self) -> int:
        """Keys and values of one node in all layers; 0 before there is any."""
        kept = [tensor[0] for tensor in (*self._keys, *self._values)]
        return sum(tensor.numel() * tensor.element_size() for tensor in kept)

    def add(self, rows: Sequence[ForestRow]) -> list[np.ndarray]:
        """Add conversations and compute what is new.

        Returns:
            Per row the number of the node of each of its tokens, int64 [T].
        """
        paths = self.forest.add(rows)
        new = self.forest.take_new()
        if len(new.token_ids):
            self._states = torch.cat([self._states, self._compute(new)])
            self._log_probs = np.concatenate([self._log_probs, np.zeros(len(new.token_ids))])
            self._has_log_prob = np.concatenate([self._has_log_prob, np.zeros(len(new.token_ids), dtype=bool)])
        return paths

    def gather(self, paths: Sequence[np.ndarray]) -> Tensor:
        """States [N, T, D] of rows, padded at the right with states that mean nothing."""
        nodes = np.zeros((len(paths), max(map(len, paths))), dtype=np.int64)
        for row, path in enumerate(paths):
            nodes[row, : len(path)] = path
        return self._states[self._index(nodes)]

    def log_probs(self, paths: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Log-probabilities of the rows' text tokens given what precedes them.

        Returns:
            Per row float64 [T], nats; 0 for image patches and the first token, which nothing predicts.
        """
        parents = np.asarray(self.forest.parents)
        is_text = np.asarray(self.forest.patches) == NO_NODE
        nodes = np.unique(np.concatenate(paths))
        nodes = nodes[is_text[nodes] & (parents[nodes] != NO_NODE) & ~self._has_log_prob[nodes]]
        nodes = nodes[np.argsort(parents[nodes], kind="stable")]  # children of one state share its logits
        for chunk in _chunks_by_parent(nodes, parents[nodes], MAX_LOGIT_ROWS):
            self._log_probs[chunk] = self._log_probs_of(chunk, parents[chunk])
            self._has_log_prob[chunk] = True
        return [self._log_probs[path] for path in paths]

    def continue_greedily(self, paths: Sequence[np.ndarray], max_new_tokens: int) -> Tensor:
        """Continue prompts of the forest; their keys and values are copied, the forest stays as it is.

        Args:
            paths: of N prompts, from `add`.
            max_new_tokens: longest continuation.

        Returns:
            Token ids [N, up to max_new_tokens], the end token included, padding after it.
        """
        length = max(map(len, paths))
        nodes = np.zeros((len(paths), length), dtype=np.int64)  # padded on the left
        is_token = np.zeros(nodes.shape, dtype=np.int64)
        for row, path in enumerate(paths):
            nodes[row, length - len(path) :] = path
            is_token[row, length - len(path) :] = 1
        known = self._index(nodes[:, :-1])
        cache = DynamicCache()
        for layer, (keys, values) in enumerate(zip(self._keys, self._values, strict=True)):
            cache.update(keys[known].transpose(1, 2), values[known].transpose(1, 2), layer)  # [N, heads, length - 1, d]
        token_ids = self._index(np.asarray(self.forest.token_ids)[nodes])
        return self.llava.generate_from(token_ids, self._index(is_token), cache, max_new_tokens)

    def _log_probs_of(self, nodes: np.ndarray, parents: np.ndarray) -> np.ndarray:
        unique, row_of_node = np.unique(parents, return_inverse=True)
        logits = self.llava.token_logits(self._states[self._index(unique)]).float()  # [parents, V]
        tokens = self._index(np.asarray(self.forest.token_ids)[nodes])
        rows = self._index(row_of_node)
        return (logits[rows, tokens] - logits.logsumexp(-1)[rows]).double().cpu().numpy()

    def _compute(self, new: NewNodes) -> Tensor:
        """States [n, D] of new nodes; their keys and values join the others'."""
        blocks = [_BlockOnDevice(block, self._image_tokens.device) for block in new.blocks]
        places = self._index(new.places)

        def attend(layer: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
            if layer == len(self._keys):
                self._keys.append(keys)
                self._values.append(values)
            else:
                self._keys[layer] = torch.cat([self._keys[layer], keys])
                self._values[layer] = torch.cat([self._values[layer], values])
            attended = [block.attend(queries, self._keys[layer], self._values[layer]) for block in blocks]
            return torch.cat(attended)[places]

        return self.llava.run_layers(self._embed(new), self._index(new.depths), attend)

    def _embed(self, new: NewNodes) -> Tensor:
        embeddings = self.llava.embed_text(self._index(new.token_ids))
        at = np.flatnonzero(new.patches != NO_NODE)
        if len(at):
            patches = self._image_tokens[self._index(new.pictures[at]), self._index(new.patches[at])]
            embeddings[self._index(at)] = patches.to(embeddings.dtype)
        return embeddings

    def _index(self, numbers: np.ndarray) -> Tensor:
        return torch.from_numpy(numbers).to(self._image_tokens.device)


class _BlockOnDevice:
    """An attention block with its tables on the device."""

    def __init__(self, block: AttentionBlock, device: torch.device) -> None:
        self.queries = torch.from_numpy(block.queries).to(device)
        self.keys = torch.from_numpy(block.keys).to(device)
        visible = block.is_visible
        self.mask = None if visible is None else torch.from_numpy(visible[:, None]).to(device)  # [R, 1, q, k]

    def attend(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Attend from new nodes [n, heads, d] to all nodes [nodes, key-value heads, d]: [R * q, heads, d]."""
        attended = functional.scaled_dot_product_attention(
            queries[self.queries].transpose(1, 2),
            keys[self.keys].transpose(1, 2),
            values[self.keys].transpose(1, 2),
            attn_mask=self.mask,
            is_causal=self.mask is None,
            enable_gqa=queries.shape[1] != keys.shape[1],
        )
        return attended.transpose(1, 2).flatten(0, 1)


def _chunks_by_parent(nodes: np.ndarray, parents: np.ndarray, size: int) -> list[np.ndarray]:
    """Split nodes, sorted by parent, into runs of at most `size` parents."""
    if not len(nodes):
        return []
    number = np.unique(parents, return_inverse=True)[1]
    return np.split(nodes, np.searchsorted(number, np.arange(size, int(number[-1]) + 1, size)))
