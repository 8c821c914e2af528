"""Shards: parts of a piece of work that machines without a common launcher do independently (`--shard 2/8`)."""

import re
from dataclasses import dataclass

FORM = re.compile(r"([0-9]+)/([0-9]+)")


@dataclass(frozen=True)
class Shard:
    """Shard `index` of `count`. `index` counts from 0; the text form "2/8" counts from 1."""

    index: int = 0
    count: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.index < self.count:
            raise ValueError(f"shard {self.index} does not lie in [0, {self.count})")

    def __str__(self) -> str:
        return f"{self.index + 1}/{self.count}"

    @property
    def file_stem(self) -> str:
        """The stem of the shard's file names, for example "2-of-8"."""
        return f"{self.index + 1}-of-{self.count}"

    def span(self, num_items: int) -> range:
        """Return the positions of this shard's items. Shards are contiguous, and their lengths differ by at most 1."""
        return range(self.index * num_items // self.count, (self.index + 1) * num_items // self.count)


def parse_shard(text: str) -> Shard:
    """Read "2/8", the second of eight shards.

    Raises:
        ValueError: the text has another form, or there is no such shard.
    """
    found = FORM.fullmatch(text)
    number, count = (int(found[1]), int(found[2])) if found else (0, 0)
    if not 1 <= number <= count:
        raise ValueError(f"--shard {text!r}: give NUMBER/COUNT with 1 <= NUMBER <= COUNT, e.g. 2/8")
    return Shard(number - 1, count)


def all_shards(count: int) -> tuple[Shard, ...]:
    """Return all `count` shards in order."""
    return tuple(Shard(index, count) for index in range(count))
