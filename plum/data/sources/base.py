"""Protocol of a data source: named, sized, randomly accessible, and random only through the generator it is given."""

from collections.abc import Iterator, Sequence
from typing import Protocol, TypeVar

import numpy as np

from plum.structures import Exchange, Sample

Item = TypeVar("Item")


class Source(Protocol):
    """One source of a training mixture."""

    name: str

    def __len__(self) -> int:
        """Return the number of images (or other records) from which samples are made."""
        ...

    def sample(self, index: int, generator: np.random.Generator) -> Sample:
        """Make a sample of record `index`; the same index and generator state give the same sample.

        Raises:
            ValueError: the record is broken; the message names it.
        """
        ...

    def text_length(self, index: int, generator: np.random.Generator) -> int:
        """Return the characters of the longest conversation of `sample` with the same arguments; no image is read.

        A source that would have to read an image returns its typical length.
        """
        ...

    def exchanges(self) -> Iterator[Exchange]:
        """Yield every wording of the source with every name it knows (without masks), to train a tokenizer on."""
        ...


def draw_indices(total: int, limit: int, generator: np.random.Generator) -> list[int]:
    """Draw up to `limit` different indices below `total`, in random order."""
    return [int(index) for index in generator.permutation(total)[:limit]]


def longest_text(conversations: Sequence[Sequence[Exchange]]) -> int:
    """Return the characters of the questions and answers of the longest conversation."""
    return max(sum(len(one.question) + len(one.answer) for one in conversation) for conversation in conversations)


def draw_one(items: Sequence[Item], generator: np.random.Generator) -> Item:
    """Draw one item uniformly."""
    return items[int(generator.integers(len(items)))]
