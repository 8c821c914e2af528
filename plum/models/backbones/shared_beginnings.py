"""Conversations about one image as one sequence, with their common prefix stored once.

Rows of tokens are passed to the model in groups of similar length, so that short ones are not padded to the longest.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from plum.structures import TEXT_ONLY

MIN_SAVED_PLACES = 256
"""Token places that a further pass must save. Measured on a CPU (docs/LOG.md): a pass pays from 64 on, at the tiny size
and at four layers of 512. On a GPU not measured: there a pass also reads all weights again, which at 7B is about the
arithmetic of a hundred places."""


def group_rows(lengths: Sequence[int], min_saved: int = MIN_SAVED_PLACES) -> list[list[int]]:
    """Divide rows into passes: as few token places as possible, each pass counted as `min_saved` of them.

    Args:
        lengths: real tokens of each row, at least one.
        min_saved: cost of a pass, in token places.

    Returns:
        Rows of each pass, those of the longest rows first.
    """
    order = sorted(range(len(lengths)), key=lambda row: -lengths[row])
    cheapest, begins = [0], [0]  # of the first rows in that order: cost, and where their last pass begins
    for end in range(1, len(order) + 1):
        costs = [cheapest[begin] + (end - begin) * lengths[order[begin]] + min_saved for begin in range(end)]
        cheapest.append(min(costs))
        begins.append(costs.index(min(costs)))
    groups: list[list[int]] = []
    end = len(order)
    while end:
        groups.insert(0, order[begins[end] : end])
        end = begins[end]
    return groups


BEGINNING, PADDING = 0, -1
"""`SequencePass.branches` of common tokens and of padding."""
MASK_ALIGNMENT = 8
"""Fused attention on CUDA copies, in every layer, a mask whose rows do not begin at multiples of as many numbers."""


@dataclass(frozen=True)
class SequencePass:
    """Sequences that run together, padded on the right; tensors [G, L].

    input_ids; positions: of each token in its conversation
    branches: which conversation of its sequence a token belongs to, counted from 1; BEGINNING; PADDING
    image_index: [G], row of each sequence's image, or TEXT_ONLY
    is_branched: some sequence holds several conversations, known here without asking the device
    """

    input_ids: Tensor
    positions: Tensor
    branches: Tensor
    image_index: Tensor
    is_branched: bool

    def to(self, device: torch.device) -> "SequencePass":
        """Move to a device."""
        return SequencePass(
            self.input_ids.to(device),
            self.positions.to(device),
            self.branches.to(device),
            self.image_index.to(device),
            self.is_branched,
        )

    def is_visible(self) -> Tensor:
        """Say which token (last dimension) each token sees, bool [G, L, L].

        Padding sees the beginning: a softmax over nothing is not a number.
        """
        keys, queries = self.branches[:, None, :], self.branches[:, :, None]
        order = torch.arange(self.branches.shape[1], device=keys.device)
        return (order[:, None] >= order) & ((keys == BEGINNING) | (keys == queries))

    def attention_mask(self, dtype: torch.dtype) -> Tensor:
        """What is added to attention logits, [G, 1, L, L]: 0 where a token (row) sees another, else -inf."""
        num_sequences, length = self.branches.shape
        aligned = torch.zeros(num_sequences, 1, length, align(length), dtype=dtype, device=self.branches.device)
        return aligned[..., :length].masked_fill_(~self.is_visible()[:, None], float("-inf"))


def align(length: int) -> int:
    """Numbers from the beginning of one row of a mask to that of the next."""
    return -(-length // MASK_ALIGNMENT) * MASK_ALIGNMENT


@dataclass(frozen=True)
class SequenceLayout:
    """Conversations as sequences, in passes of similar length.

    places: [N, T], where each token of a conversation stands among all places of the passes, one pass after the other;
        of padding where the conversation's last token does
    """

    passes: tuple[SequencePass, ...]
    places: Tensor

    @property
    def num_places(self) -> int:
        """Places of all passes, padding included: the tokens that are run."""
        return sum(one.input_ids.numel() for one in self.passes)


@dataclass(frozen=True)
class _Rows:
    """Conversations on the CPU: ids [N, T], lengths [N], row of each one's image or TEXT_ONLY [N]."""

    ids: np.ndarray
    lengths: np.ndarray
    images: np.ndarray


@dataclass(frozen=True)
class _Sequence:
    """Conversations `rows` with their first `num_common` tokens in common, and the length of them all together."""

    rows: tuple[int, ...]
    num_common: int
    length: int


def lay_out(
    input_ids: Tensor, attention_mask: Tensor, image_index: Tensor, image_token: int, pad_token: int
) -> SequenceLayout:
    """Lay out right-padded conversations; waits for the device, as their ids are compared on the CPU.

    Args:
        input_ids: [N, T], `<image>` expanded.
        attention_mask: [N, T], 1 on real tokens.
        image_index: [N], row of each conversation's image, or TEXT_ONLY; conversations without one stay alone.
        image_token: id of `<image>`; a common beginning holds all of them, or conversations stay alone.
        pad_token: id in padding.

    Returns:
        The layout, on the device of the ids.
    """
    rows = _Rows(input_ids.cpu().numpy(), attention_mask.sum(1).cpu().numpy(), image_index.cpu().numpy())
    sequences = _find_sequences(rows, image_token)
    places = np.zeros(rows.ids.shape, dtype=np.int64)
    passes, num_before = [], 0
    for chosen in group_rows([sequence.length for sequence in sequences]):
        one = _fill_pass([sequences[i] for i in chosen], rows, pad_token, places, num_before)
        num_before += one.input_ids.numel()
        passes.append(one.to(input_ids.device))
    return SequenceLayout(tuple(passes), torch.from_numpy(places).to(input_ids.device))


def _find_sequences(rows: _Rows, image_token: int) -> list[_Sequence]:
    """Put conversations about one image together."""
    by_image: dict[int, list[int]] = {}
    alone = []
    for row, image in enumerate(rows.images.tolist()):
        if image == TEXT_ONLY:
            alone.append(row)
        else:
            by_image.setdefault(image, []).append(row)
    sequences = []
    for asked in by_image.values():
        lengths = rows.lengths[asked]
        num_common = _num_common(rows.ids[asked], int(lengths.min()))
        if len(asked) == 1 or (rows.ids[asked, num_common:] == image_token).any():
            alone += asked
        else:
            length = num_common + int((lengths - num_common).sum())
            sequences.append(_Sequence(tuple(asked), num_common, length))
    return sequences + [_Sequence((row,), int(rows.lengths[row]), int(rows.lengths[row])) for row in alone]


def _num_common(ids: np.ndarray, shortest: int) -> int:
    """Tokens that all rows of ids [n, T] have in common from the start on, of the first `shortest`."""
    return int((ids[:, :shortest] == ids[0, :shortest]).all(0).cumprod().sum())


def _fill_pass(
    group: Sequence[_Sequence], rows: _Rows, pad_token: int, places: np.ndarray, num_before: int
) -> SequencePass:
    """Write the sequences of a pass, and in `places` where their tokens went, behind `num_before` places."""
    shape = (len(group), max(sequence.length for sequence in group))
    input_ids, positions, branches = (np.full(shape, value) for value in (pad_token, 0, PADDING))
    for i, sequence in enumerate(group):
        start, common = num_before + i * shape[1], sequence.num_common
        input_ids[i, :common] = rows.ids[sequence.rows[0], :common]
        positions[i, :common] = np.arange(common)
        branches[i, :common] = BEGINNING
        end = common
        for branch, row in enumerate(sequence.rows, start=1):
            length = int(rows.lengths[row])
            begin, end = end, end + length - common
            input_ids[i, begin:end] = rows.ids[row, common:length]
            positions[i, begin:end] = np.arange(common, length)
            branches[i, begin:end] = branch
            places[row, :common] = start + np.arange(common)
            places[row, common:length] = start + np.arange(begin, end)
            places[row, length:] = places[row, length - 1]  # no token gets all of them: gradients add up per place
    return SequencePass(
        torch.from_numpy(input_ids),
        torch.from_numpy(positions),
        torch.from_numpy(branches),
        torch.from_numpy(rows.images[[sequence.rows[0] for sequence in group]]),
        is_branched=any(len(sequence.rows) > 1 for sequence in group),
    )
