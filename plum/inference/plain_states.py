"""States of conversations about some images, each conversation computed by itself: the plain path.

For models that cannot share the states of a common prefix (`Backbone.shares_prefixes`). It has the methods of
`plum.inference.prefix_forest.ForestStates`, so that callers need not know which of them they use.
"""

from bisect import bisect
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from plum.inference.prefix_forest import MAX_LOGIT_ROWS, ForestRow, ForestStates
from plum.models.backbones.backbone import Backbone
from plum.structures import TEXT_ONLY, ConversationImages, ImageTokens

MAX_PLACES_TOGETHER = 4096
"""Token positions, padding included, of the conversations that run in one batch; bounds the memory of their states."""


class PlainStates:
    """States of conversations about some images; a conversation that begins another one is not computed again.

    Args:
        backbone: the language model.
        image_tokens: of the images.
    """

    def __init__(self, backbone: Backbone, image_tokens: ImageTokens) -> None:
        self.backbone = backbone
        self._image_tokens = image_tokens
        self._rows: list[ForestRow] = []
        self._starts: list[int] = []  # where each row's states begin
        self._states = image_tokens.values.new_zeros(0, image_tokens.values.shape[-1])

    @property
    def bytes_per_token(self) -> int:
        """Bytes of one token's keys and values in all layers, as if each of them kept both."""
        config = self.backbone.decoder.config
        width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        numbers = 2 * int(config.num_hidden_layers) * int(config.num_key_value_heads) * int(width)
        return numbers * self._states.element_size()

    def add(self, rows: Sequence[ForestRow]) -> list[np.ndarray]:
        """Add conversations and compute those that begin no earlier one.

        Returns:
            For each row, where its tokens are among all that were computed, int64 [T].
        """
        first, end = len(self._rows), len(self._states)
        for row in sorted(rows, key=lambda one: -len(one.ids)):
            if self._find(row) is None:
                self._rows.append(row)
                self._starts.append(end)
                end += len(row.ids)
        new = self._rows[first:]  # those of similar length together, the longest first
        parts = [self._states]
        while new:
            size = max(1, MAX_PLACES_TOGETHER // len(new[0].ids))
            parts.append(self._compute(new[:size]))
            new = new[size:]
        self._states = torch.cat(parts)
        return [self._path_of(row) for row in rows]

    def gather(self, paths: Sequence[np.ndarray]) -> Tensor:
        """Return the states [N, T, D] of rows, padded on the right with meaningless states."""
        places = np.zeros((len(paths), max(map(len, paths))), dtype=np.int64)
        for row, path in enumerate(paths):
            places[row, : len(path)] = path
        return self._states[torch.from_numpy(places).to(self._states.device)]

    def log_probs(self, paths: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Return log-probabilities of the rows' text tokens given the tokens before them; see `ForestStates`."""
        return [self._log_probs_of(path) for path in paths]

    def continue_greedily(self, paths: Sequence[np.ndarray], max_new_tokens: int) -> Tensor:
        """Continue prompts greedily; see `ForestStates`."""
        rows = [self._row_at(path) for path in paths]
        ids, is_token = self._pad([row.ids[: len(path)] for row, path in zip(rows, paths, strict=True)])
        shown = self._shown(rows, ids.shape[1])
        return self.backbone.generate(ids, is_token, shown, self._image_tokens, max_new_tokens)

    def _find(self, row: ForestRow) -> int | None:
        """Return the number of a computed row that begins with `row`."""
        for number, known in enumerate(self._rows):
            if known.images == row.images and known.ids[: len(row.ids)] == row.ids:
                return number
        return None

    def _path_of(self, row: ForestRow) -> np.ndarray:
        number = self._find(row)
        assert number is not None, "every row has been computed"
        return self._starts[number] + np.arange(len(row.ids))

    def _row_at(self, path: np.ndarray) -> ForestRow:
        """Return the computed row to which a path belongs."""
        return self._rows[bisect(self._starts, int(path[0])) - 1]

    def _compute(self, rows: Sequence[ForestRow]) -> Tensor:
        """Return the states [n, D] of rows, one after the other, without padding."""
        ids, is_token = self._pad([row.ids for row in rows])
        states = self.backbone.hidden_states(ids, is_token, self._shown(rows, ids.shape[1]), self._image_tokens)
        return states[is_token.bool()]

    def _pad(self, rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """Return ids padded on the right, and 1 at those that are tokens, both [N, T]."""
        length = max(map(len, rows))
        padding = [length - len(row) for row in rows]
        ids = [[*row, *[0] * number] for row, number in zip(rows, padding, strict=True)]
        is_token = [[1] * len(row) + [0] * number for row, number in zip(rows, padding, strict=True)]
        return self._on_device(np.asarray(ids)), self._on_device(np.asarray(is_token))

    def _log_probs_of(self, path: np.ndarray) -> np.ndarray:
        row = self._row_at(path)
        patches = {place for places in row.patches for place in places}
        predicted = np.asarray([place for place in range(1, len(path)) if place not in patches], dtype=np.int64)
        found = np.zeros(len(path))
        for first in range(0, len(predicted), MAX_LOGIT_ROWS):
            places = predicted[first : first + MAX_LOGIT_ROWS]
            logits = self.backbone.token_logits(self._states[self._on_device(path[places - 1])]).float()
            tokens = self._on_device(np.asarray(row.ids, dtype=np.int64)[places])
            chosen = logits.gather(1, tokens[:, None])[:, 0]
            found[places] = (chosen - logits.logsumexp(-1)).cpu().double().numpy()  # MPS has no float64
        return found

    def _shown(self, rows: Sequence[ForestRow], length: int) -> ConversationImages:
        """Return the images of rows that are cut or padded on the right to a length."""
        most = max(1, *(len(row.images) for row in rows))
        images = np.full((len(rows), most), TEXT_ONLY, dtype=np.int64)
        lengths = [0] * len(self._image_tokens)
        positions = None
        for number, row in enumerate(rows):
            images[number, : len(row.images)] = row.images
            for image, patches in zip(row.images, row.patches, strict=True):
                lengths[image] = len(patches)
            if row.positions is not None:
                if positions is None:
                    positions = np.zeros((len(row.positions), len(rows), length), dtype=np.int64)
                own = row.positions[:, :length]
                positions[:, number, : own.shape[1]] = own
        placed = None if positions is None else self._on_device(positions)
        return ConversationImages(self._on_device(images), tuple(lengths), None, placed)

    def _on_device(self, numbers: np.ndarray) -> Tensor:
        return torch.from_numpy(numbers).to(self._states.device)


def conversation_states(backbone: Backbone, image_tokens: ImageTokens) -> "ForestStates | PlainStates":
    """Return the states of conversations, with common prefixes computed once if the model allows it."""
    return (ForestStates if backbone.shares_prefixes else PlainStates)(backbone, image_tokens)
