"""Conversations about the same images as one sequence, with their common prefix stored once.

Rows of tokens are passed to the model in groups of similar length, so that short ones are not padded to the longest.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from plum.structures import TEXT_ONLY, ConversationImages

MIN_SAVED_PLACES = 256
"""Token positions that an additional pass must save. On a CPU, a pass pays off from 64 positions (docs/LOG.md; tiny
size, and four layers of width 512). On a GPU this is not measured; there, a pass also reads all weights again, which at
7B costs about as much as the arithmetic of a hundred positions."""
BEGINNING, PADDING = 0, -1
"""`SequencePass.branches` of common tokens and of padding."""
MASK_ALIGNMENT = 8
"""Rows of a mask begin at multiples of this many elements; fused attention on CUDA copies others in every layer."""


def group_rows(lengths: Sequence[int], min_saved: int = MIN_SAVED_PLACES) -> list[list[int]]:
    """Divide rows into passes so that the token positions plus `min_saved` per pass are as few as possible.

    Args:
        lengths: number of real tokens of each row, at least one.
        min_saved: cost of a pass, in token positions.

    Returns:
        Rows of each pass, longest rows first.
    """
    order = sorted(range(len(lengths)), key=lambda row: -lengths[row])
    cheapest, begins = [0], [0]  # per prefix of that order: its cost, and where its last pass begins
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


@dataclass(frozen=True)
class SequencePass:
    """Sequences that run together, padded on the right; tensors [G, L].

    input_ids; positions: position of each token in its conversation, [axes, G, L] if images take up rectangles
    branches: number of each token's conversation in its sequence, from 1; or BEGINNING, or PADDING
    shown: the images of each of the G sequences
    is_branched: some sequence holds several conversations; stored here to avoid a device synchronisation
    patches: LongTensor [3, tokens], of each image token its place g * L + l, its image, and its place in the image
    """

    input_ids: Tensor
    positions: Tensor
    branches: Tensor
    shown: ConversationImages
    is_branched: bool
    patches: Tensor

    def to(self, device: torch.device) -> "SequencePass":
        """Move to a device."""
        return SequencePass(
            self.input_ids.to(device),
            self.positions.to(device),
            self.branches.to(device),
            self.shown.to(device),
            self.is_branched,
            self.patches.to(device),
        )

    def merge(self, embeddings: Tensor, image_tokens: Tensor) -> Tensor:
        """Replace `<image>` in embeddings [G, L, D] with image tokens [B, n, D].

        The places are known, so that neither this nor its backward pass has to look for `<image>` on the device.
        """
        places, images, numbers = self.patches
        patches = image_tokens[images, numbers].to(embeddings.dtype)
        return embeddings.flatten(0, 1).index_put((places,), patches).view_as(embeddings)

    def is_visible(self) -> Tensor:
        """Return which tokens (last dimension) each token attends to, bool [G, L, L].

        Padding attends to the common prefix, because a softmax over nothing is NaN.
        """
        keys, queries = self.branches[:, None, :], self.branches[:, :, None]
        order = torch.arange(self.branches.shape[1], device=keys.device)
        return (order[:, None] >= order) & ((keys == BEGINNING) | (keys == queries))

    def attention_mask(self, dtype: torch.dtype) -> Tensor:
        """Return the additive attention mask [G, 1, L, L]: 0 where a token (row) attends to another, else -inf."""
        num_sequences, length = self.branches.shape
        aligned = torch.zeros(num_sequences, 1, length, align(length), dtype=dtype, device=self.branches.device)
        return aligned[..., :length].masked_fill_(~self.is_visible()[:, None], float("-inf"))


def align(length: int) -> int:
    """Return the distance between the beginnings of a mask's rows, in elements."""
    return -(-length // MASK_ALIGNMENT) * MASK_ALIGNMENT


@dataclass(frozen=True)
class SequenceLayout:
    """Conversations as sequences, in passes of similar length.

    places: [N, T], index of each conversation's tokens in the concatenated positions of all passes; padding has the
        index of the conversation's last token
    """

    passes: tuple[SequencePass, ...]
    places: Tensor

    @property
    def num_places(self) -> int:
        """Number of token positions in all passes, padding included."""
        return sum(one.input_ids.numel() for one in self.passes)


@dataclass(frozen=True)
class _Rows:
    """Conversations on the CPU: ids [N, T], lengths [N], rows of each one's images [N, I], tokens of every image.

    prompt_ends: [N], where each first prompt ends; None: only needed if prompts keep conversations apart
    positions: [axes, N, T]; None: a token's position is its index
    """

    ids: np.ndarray
    lengths: np.ndarray
    images: np.ndarray
    image_lengths: tuple[int, ...]
    prompt_ends: np.ndarray | None
    positions: np.ndarray | None
    image_token: int

    def positions_of(self, row: int, start: int, end: int) -> np.ndarray:
        """Return the positions of a conversation's tokens, [end - start] or [axes, end - start]."""
        return np.arange(start, end) if self.positions is None else self.positions[:, row, start:end]

    def prompt(self, row: int) -> tuple[int, ...]:
        """Return the ids of a conversation's first prompt; empty if prompts do not matter."""
        return () if self.prompt_ends is None else tuple(self.ids[row, : self.prompt_ends[row] + 1].tolist())


@dataclass(frozen=True)
class _Sequence:
    """Conversations `rows` that share their first `num_common` tokens; `length` is the total length."""

    rows: tuple[int, ...]
    num_common: int
    length: int


def lay_out(
    input_ids: Tensor,
    attention_mask: Tensor,
    shown: ConversationImages,
    image_token: int,
    pad_token: int,
    *,
    by_prompt: bool = False,
) -> SequenceLayout:
    """Lay out right-padded conversations; synchronises with the device, as ids are compared on the CPU.

    Args:
        input_ids: [N, T], `<image>` expanded.
        attention_mask: [N, T], 1 on real tokens.
        shown: the images of the N conversations; conversations without an image stay separate.
        image_token: id of `<image>`; conversations stay separate unless their common prefix contains all image tokens.
        pad_token: id of padding.
        by_prompt: keep conversations with different first prompts separate, because the states of their images depend
            on the prompt (CALICO); needs `shown.prompt_ends`.

    Returns:
        The layout, on the device of the ids.
    """
    assert not by_prompt or shown.prompt_ends is not None, "the caller has checked where prompts end"
    rows = _Rows(
        input_ids.cpu().numpy(),
        attention_mask.sum(1).cpu().numpy(),
        shown.rows.cpu().numpy(),
        shown.lengths,
        shown.prompt_ends.cpu().numpy() if by_prompt and shown.prompt_ends is not None else None,
        None if shown.positions is None else shown.positions[..., : input_ids.shape[1]].cpu().numpy(),
        image_token,
    )
    sequences = _find_sequences(rows, image_token)
    places = np.zeros(rows.ids.shape, dtype=np.int64)
    passes, num_before = [], 0
    for chosen in group_rows([sequence.length for sequence in sequences]):
        one = _fill_pass([sequences[i] for i in chosen], rows, pad_token, places, num_before)
        num_before += one.input_ids.numel()
        passes.append(one.to(input_ids.device))
    return SequenceLayout(tuple(passes), torch.from_numpy(places).to(input_ids.device))


def _find_sequences(rows: _Rows, image_token: int) -> list[_Sequence]:
    """Group conversations about the same images, in the same order, and with the same first prompt if it matters."""
    by_images: dict[tuple[tuple[int, ...], tuple[int, ...]], list[int]] = {}
    alone = []
    for row, images in enumerate(map(tuple, rows.images.tolist())):
        if images[0] == TEXT_ONLY:
            alone.append(row)
        else:
            by_images.setdefault((images, rows.prompt(row)), []).append(row)
    sequences = []
    for asked in by_images.values():
        lengths = rows.lengths[asked]
        num_common = _num_common(rows.ids[asked], int(lengths.min()))
        if len(asked) == 1 or (rows.ids[asked, num_common:] == image_token).any():
            alone += asked
        else:
            length = num_common + int((lengths - num_common).sum())
            sequences.append(_Sequence(tuple(asked), num_common, length))
    return sequences + [_Sequence((row,), int(rows.lengths[row]), int(rows.lengths[row])) for row in alone]


def _num_common(ids: np.ndarray, shortest: int) -> int:
    """Return the length of the common prefix of all rows of ids [n, T], at most `shortest`."""
    return int((ids[:, :shortest] == ids[0, :shortest]).all(0).cumprod().sum())


def _fill_pass(
    group: Sequence[_Sequence], rows: _Rows, pad_token: int, places: np.ndarray, num_before: int
) -> SequencePass:
    """Build a pass from sequences; write the indices of their tokens, offset by `num_before`, into `places`."""
    shape = (len(group), max(sequence.length for sequence in group))
    input_ids, branches = np.full(shape, pad_token), np.full(shape, PADDING)
    positions = np.zeros(shape if rows.positions is None else (len(rows.positions), *shape), dtype=np.int64)
    for i, sequence in enumerate(group):
        start, common = num_before + i * shape[1], sequence.num_common
        input_ids[i, :common] = rows.ids[sequence.rows[0], :common]
        positions[..., i, :common] = rows.positions_of(sequence.rows[0], 0, common)
        branches[i, :common] = BEGINNING
        end = common
        for branch, row in enumerate(sequence.rows, start=1):
            length = int(rows.lengths[row])
            begin, end = end, end + length - common
            input_ids[i, begin:end] = rows.ids[row, common:length]
            positions[..., i, begin:end] = rows.positions_of(row, common, length)
            branches[i, begin:end] = branch
            places[row, :common] = start + np.arange(common)
            places[row, common:length] = start + np.arange(begin, end)
            places[row, length:] = places[row, length - 1]  # not one token for all: gradients add up per token
    first_rows = [sequence.rows[0] for sequence in group]
    images = rows.images[first_rows]
    # A sequence begins with the first prompt of all its conversations, so positions in it are those of the first.
    ends = None if rows.prompt_ends is None else torch.from_numpy(rows.prompt_ends[first_rows])
    return SequencePass(
        torch.from_numpy(input_ids),
        torch.from_numpy(positions),
        torch.from_numpy(branches),
        ConversationImages(torch.from_numpy(images), rows.image_lengths, ends),
        is_branched=any(len(sequence.rows) > 1 for sequence in group),
        patches=torch.from_numpy(_number_patches(input_ids == rows.image_token, images, rows.image_lengths)),
    )


def _number_patches(is_patch: np.ndarray, images: np.ndarray, lengths: Sequence[int]) -> np.ndarray:
    """Number the image tokens of sequences; see `SequencePass.patches`.

    Args:
        is_patch: bool [G, L], where `<image>` is.
        images: [G, I], the images of each sequence, TEXT_ONLY after its last one.
        lengths: number of tokens of each image.

    Raises:
        ValueError: there are fewer or more `<image>` than tokens of images.
    """
    shown = images[images != TEXT_ONLY]
    counts = [lengths[image] for image in shown]
    numbers = np.concatenate([np.zeros(0, dtype=np.int64), *(np.arange(count) for count in counts)])
    places = np.flatnonzero(is_patch & (images[:, :1] != TEXT_ONLY))
    if len(places) != len(numbers):
        raise ValueError(f"{len(places)} <image> tokens stand for images of {len(numbers)} tokens")
    return np.stack([places, np.repeat(shown, counts), numbers])
