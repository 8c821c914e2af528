"""What a data source is: named, countable, random access, and random only through the generator it is handed."""

from collections.abc import Iterator, Sequence
from typing import Protocol, TypeVar

import numpy as np

from plum.structures import Exchange, Sample

Item = TypeVar("Item")


class Source(Protocol):
    """One source of a training mixture."""

    name: str

    def __len__(self) -> int:
        """Number of images (or other records) that samples are made of."""
        ...

    def sample(self, index: int, generator: np.random.Generator) -> Sample:
        """Make a sample of record `index`; the same index and generator state give the same sample.

        Raises:
            ValueError: the record is broken; names it.
        """
        ...

    def text_length(self, index: int, generator: np.random.Generator) -> int:
        """Characters of the longest conversation that `sample` makes of the same arguments; no image is read.

        A source that would have to read one gives what is usual for it.
        """
        ...

    def exchanges(self) -> Iterator[Exchange]:
        """Every wording the source can use with every name it knows (masks left out): a tokenizer learns from these."""
        ...


def draw_indices(total: int, limit: int, generator: np.random.Generator) -> list[int]:
    """Draw up to `limit` different indices below `total`, in random order."""
    return [int(index) for index in generator.permutation(total)[:limit]]


def longest_text(conversations: Sequence[Sequence[Exchange]]) -> int:
    """Characters of the questions and answers of the longest conversation."""
    return max(sum(len(one.question) + len(one.answer) for one in conversation) for conversation in conversations)


def draw_one(items: Sequence[Item], generator: np.random.Generator) -> Item:
    """Draw one item uniformly."""
    return items[int(generator.integers(len(items)))]
