"""Micro-batches of one rank, in the order of the run."""

from collections.abc import Iterator

import torch
import torch.utils.data

from plum.data.collate import Collator
from plum.data.mixture import MixtureDataset
from plum.structures import Batch


class RankPositions(torch.utils.data.Sampler[list[int]]):
    """Positions of each micro-batch of a rank.

    Slot j of micro-batch m on rank r is position (m * world_size + r) * micro_batch_size + j: one rank with batches of
    8 and two ranks with batches of 4 see the same 8 samples per micro-batch.
    """

    def __init__(self, rank: int, world_size: int, micro_batch_size: int, start: int, count: int) -> None:
        if not 0 <= rank < world_size or micro_batch_size < 1 or start < 0 or count < 0:
            raise ValueError(
                f"impossible loader: rank {rank} of {world_size}, micro-batch size {micro_batch_size}, start {start}, "
                f"{count} micro-batches"
            )
        self.rank = rank
        self.world_size = world_size
        self.micro_batch_size = micro_batch_size
        self.start = start
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[list[int]]:
        for micro_batch in range(self.start, self.start + self.count):
            first = (micro_batch * self.world_size + self.rank) * self.micro_batch_size
            yield list(range(first, first + self.micro_batch_size))


def make_loader(
    mixture: MixtureDataset,
    collator: Collator,
    *,
    rank: int,
    world_size: int,
    micro_batch_size: int,
    start_micro_batch: int,
    num_workers: int,
    num_micro_batches: int,
) -> "torch.utils.data.DataLoader[Batch]":
    """Build the loader of one rank.

    Args:
        mixture: the run's samples.
        collator: makes batches.
        rank: of this process.
        world_size: number of ranks.
        micro_batch_size: images per rank and micro-batch.
        start_micro_batch: first micro-batch (0, or where a resumed run stopped).
        num_workers: loader processes; 0 loads in this process.
        num_micro_batches: how many batches to yield, counted from `start_micro_batch`.

    Returns:
        An iterable of `num_micro_batches` batches, in order whatever `num_workers` is.
    """
    return torch.utils.data.DataLoader(
        mixture,  # type: ignore[arg-type]  # the collator turns lists of samples into batches
        batch_sampler=RankPositions(rank, world_size, micro_batch_size, start_micro_batch, num_micro_batches),
        collate_fn=collator,
        num_workers=num_workers,
        worker_init_fn=_use_one_thread if num_workers else None,
        prefetch_factor=4 if num_workers else None,
    )


def _use_one_thread(worker: int) -> None:
    torch.set_num_threads(1)
