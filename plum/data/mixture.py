"""The training mixture: the sample at position k of a run, as a function of (seed, k) only.

There is no state between samples. A resumed run therefore needs only its micro-batch counter, and any split of the
positions over ranks and loader processes sees the same stream.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch.utils.data

from plum.data.length_groups import WINDOW_GROUPS, group_lengths, spread_lengths
from plum.data.sources.base import Source
from plum.structures import Sample

BLOCK = 1000
"""Number of positions within which every source gets exactly its share."""

_SOURCE_ORDER, _ITEM_ORDER, _SAMPLE, _LENGTH_GROUPS, _REPLACED = range(5)  # keeps the uses of the seed apart


@dataclass(frozen=True)
class Draw:
    """The draw at one position: the source's number, the record's index, and the pass over the source.

    With replacement the pass only counts: the source's earlier draws divided by its size.
    """

    source: int
    index: int
    epoch: int


class MixtureDataset(torch.utils.data.Dataset[Sample]):
    """Random access to an endless stream of samples.

    Sources take turns by weight in shuffled blocks of `BLOCK` positions. Within a source, every record is used once,
    in a seeded order, before any is used again. With `with_replacement`, each draw is independent instead.

    Args:
        sources: at least one, none empty.
        weights: one positive share per source, relative to the others.
        seed: the run's seed.
        part_vocabulary: sorted object-part names; class c of a sample's part map is `part_vocabulary[c - 1]`.
        class_pixels: pixels of each class of the part maps over all images, background first; empty without part maps.
        group_by_length: size of the groups of successive samples of similar length; 0: samples come as they are drawn.
        spread_lengths: number of successive samples ordered so that equal pieces have similar lengths; 0: as drawn.
        with_replacement: draw records with replacement, as the loaders of LISA, M2SA and PLUM do. (They draw the source
            with replacement, too; here a block still has every source's exact share.)

    Raises:
        ValueError: there is no source, a source is empty, a weight is not positive or too small for a block, or both
            `group_by_length` and `spread_lengths` are set.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        weights: Sequence[float],
        seed: int,
        part_vocabulary: Sequence[str] = (),
        *,
        group_by_length: int = 0,
        spread_lengths: int = 0,
        with_replacement: bool = False,
        class_pixels: Sequence[int] = (),
    ) -> None:
        self.sources = tuple(sources)
        self.seed = seed
        self.part_vocabulary = tuple(part_vocabulary)
        if group_by_length and spread_lengths:
            raise ValueError("samples are either grouped by length or spread by it: set one of the two to 0")
        self.group_by_length = group_by_length
        self.spread_lengths = spread_lengths
        self.with_replacement = with_replacement
        self.class_pixels = tuple(class_pixels)
        self._window: int | None = None
        self._window_order = np.zeros(0, dtype=np.int64)
        self.block_counts = _share_block([source.name for source in self.sources], weights)
        for source in self.sources:
            if len(source) == 0:
                raise ValueError(f"data source {source.name} is empty")

    def __getitem__(self, position: int) -> Sample:
        """Make the sample at a position.

        Raises:
            ValueError: the record at the position is broken; the message names it.
        """
        drawn = self.drawn_position(position)
        draw = self.locate(drawn)
        return self.sources[draw.source].sample(draw.index, self._generator(drawn))

    def drawn_position(self, position: int) -> int:
        """Return the position in the stream as drawn that comes at `position` of the run.

        Without an order by length it is `position` itself. With one it lies in the same window: `WINDOW_GROUPS` groups,
        or the samples that are spread.
        """
        size = self.group_by_length * WINDOW_GROUPS or self.spread_lengths
        if not size:
            return position
        window, offset = divmod(position, size)
        if window != self._window:  # positions come in order, so that one cached window is enough
            lengths = np.array([self._text_length(k) for k in range(window * size, (window + 1) * size)])
            self._window, self._window_order = window, self._order(window, lengths)
        return window * size + int(self._window_order[offset])

    def _order(self, window: int, lengths: np.ndarray) -> np.ndarray:
        if self.spread_lengths:
            return spread_lengths(lengths)
        generator = np.random.default_rng((self.seed, _LENGTH_GROUPS, window))
        return group_lengths(lengths, self.group_by_length, generator)

    def _text_length(self, drawn: int) -> int:
        draw = self.locate(drawn)
        return self.sources[draw.source].text_length(draw.index, self._generator(drawn))

    def _generator(self, drawn: int) -> np.random.Generator:
        """Return the random generator of a sample."""
        return np.random.default_rng((self.seed, _SAMPLE, drawn))

    def locate(self, position: int) -> Draw:
        """Return what is drawn at a position, without loading it.

        Raises:
            IndexError: the position is negative.
        """
        if position < 0:
            raise IndexError(f"positions of a run start at 0, got {position}")
        block, offset = divmod(position, BLOCK)
        order = _block_order(self.seed, block, self.block_counts)
        source = int(order[offset])
        earlier = block * self.block_counts[source] + int(np.count_nonzero(order[:offset] == source))
        length = len(self.sources[source])
        epoch, place = divmod(earlier, length)
        if self.with_replacement:
            generator = np.random.default_rng((self.seed, _REPLACED, position))
            return Draw(source, int(generator.integers(length)), epoch)
        return Draw(source, int(_item_order(self.seed, source, epoch, length)[place]), epoch)


def _share_block(names: Sequence[str], weights: Sequence[float]) -> tuple[int, ...]:
    """Return each source's number of positions in a block, by largest remainders, so that they sum to `BLOCK`."""
    if not names or len(names) != len(weights):
        raise ValueError(f"a mixture needs one weight per source, got {len(names)} sources and {len(weights)} weights")
    total = float(sum(weights))
    exact = [BLOCK * weight / total for weight in weights] if total > 0 else [0.0] * len(weights)
    counts = [int(share) for share in exact]
    by_remainder = sorted(range(len(exact)), key=lambda i: (counts[i] - exact[i], i))
    for i in by_remainder[: BLOCK - sum(counts)]:
        counts[i] += 1
    for name, weight, count in zip(names, weights, counts, strict=True):
        if weight <= 0 or count == 0:
            raise ValueError(
                f"data source {name}: weight {weight} gives it no sample; use at least {1 / BLOCK:.1%} of the total, "
                "or remove the source from the mixture"
            )
    return tuple(counts)


@lru_cache(maxsize=4)
def _block_order(seed: int, block: int, counts: tuple[int, ...]) -> np.ndarray:
    """Return the source of every position of a block."""
    sources = np.repeat(np.arange(len(counts)), counts)
    return np.random.default_rng((seed, _SOURCE_ORDER, block)).permutation(sources)


@lru_cache(maxsize=32)
def _item_order(seed: int, source: int, epoch: int, length: int) -> np.ndarray:
    """Return the order of a source's records in one pass."""
    return np.random.default_rng((seed, _ITEM_ORDER, source, epoch)).permutation(length)
