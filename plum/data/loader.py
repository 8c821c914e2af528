"""Micro-batches of one rank, in the order of the run; `mixture.py` defines which sample a position holds.

Each batch leaves its loader process as a single piece of shared memory, and goes to a GPU in a single copy.
"""

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch
import torch.utils.data

from plum.data.collate import Collator
from plum.data.mixture import MixtureDataset
from plum.data.packed_batch import PackedBatch, PackingCollator, unpack_batch
from plum.structures import Batch

CPU = torch.device("cpu")
PREFETCHED = 4
"""Batches that each loader process makes in advance."""
Loaded = TypeVar("Loaded", Batch, PackedBatch)


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


def load_batches(
    mixture: MixtureDataset,
    collator: Collator,
    *,
    rank: int,
    world_size: int,
    micro_batch_size: int,
    start_micro_batch: int,
    num_workers: int,
    num_micro_batches: int,
    device: torch.device = CPU,
) -> Iterator[Batch]:
    """Load the micro-batches of one rank.

    Args:
        mixture: the run's samples.
        collator: makes batches.
        rank: rank of this process.
        world_size: number of ranks.
        micro_batch_size: images per rank and micro-batch.
        start_micro_batch: first micro-batch (0, or where a resumed run stopped).
        num_workers: loader processes; 0 loads in a thread of this process.
        num_micro_batches: number of batches to yield, counted from `start_micro_batch`.
        device: where the batches are yielded. To another device than the CPU, images are sent as bytes.

    Returns:
        `num_micro_batches` batches, in the same order for any `num_workers`. An error is raised in its batch's turn.
    """
    positions = RankPositions(rank, world_size, micro_batch_size, start_micro_batch, num_micro_batches)
    if num_workers == 0:
        return _load_in_thread(mixture, collator, positions, device)
    loader = torch.utils.data.DataLoader(
        mixture,
        batch_sampler=positions,
        collate_fn=PackingCollator(collator if device.type == "cpu" else collator.sending_bytes()),
        num_workers=num_workers,
        worker_init_fn=_use_one_thread,
        prefetch_factor=PREFETCHED,
        pin_memory=device.type == "cuda",
    )
    return map(unpack_batch, loader) if device.type == "cpu" else _send(loader, collator, device)


def load_listed(
    mixture: MixtureDataset, collator: Collator, positions: Sequence[Sequence[int]], device: torch.device = CPU
) -> Iterator[Batch]:
    """Load micro-batches of named positions in a thread of this process.

    Args:
        mixture: the samples.
        collator: makes batches.
        positions: for each micro-batch, the positions of its samples.
        device: see `load_batches`.
    """
    return _load_in_thread(mixture, collator, [list(one) for one in positions], device)


def _load_in_thread(
    mixture: MixtureDataset, collator: Collator, positions: Iterable[list[int]], device: torch.device
) -> Iterator[Batch]:
    if device.type == "cpu":
        return _load_ahead(torch.utils.data.DataLoader(mixture, batch_sampler=positions, collate_fn=collator))
    packing = PackingCollator(collator.sending_bytes(), is_pinned=device.type == "cuda")
    packed = _load_ahead(torch.utils.data.DataLoader(mixture, batch_sampler=positions, collate_fn=packing))
    return _send(packed, collator, device)


def _send(packed: Iterable[PackedBatch], collator: Collator, device: torch.device) -> Iterator[Batch]:
    """Send batches to a device, each in one copy, and normalise their images there."""
    return (collator.transform.normalise(unpack_batch(one.to(device))) for one in packed)


def _load_ahead(loader: Iterable[Loaded]) -> Iterator[Loaded]:
    """Load the next batch in a thread while the current one is trained on.

    Decoding, resizing and tokenizing release the interpreter lock, as training does in its backward pass and while it
    waits for other ranks.
    """
    batches = iter(loader)
    with ThreadPoolExecutor(1, "loader") as pool:
        upcoming = pool.submit(next, batches, None)
        while (batch := upcoming.result()) is not None:
            upcoming = pool.submit(next, batches, None)
            yield batch


def _use_one_thread(worker: int) -> None:
    torch.set_num_threads(1)
