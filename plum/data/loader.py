"""Micro-batches of one rank, in the order of the run; `mixture.py` defines which sample a position holds.

Each batch leaves its loader process as a single piece of shared memory.
"""

import io
import math
import pickle
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch
import torch.utils.data
from torch import Tensor

from plum.data.collate import Collator
from plum.data.mixture import MixtureDataset
from plum.structures import Batch, Sample

Layout = tuple[tuple[torch.dtype, tuple[int, ...]], ...]


@dataclass(frozen=True)
class PackedBatch:
    """A batch whose tensors lie in one buffer.

    content: the pickled batch, with the number of each tensor in its place
    layout: dtype and shape of each tensor; in the buffer tensors with larger items come first, so that all are aligned
    buffer: uint8 [bytes]
    """

    content: bytes
    layout: Layout
    buffer: Tensor


@dataclass(frozen=True)
class PackingCollator:
    """Collator of a loader process: collates samples, then packs the batch."""

    collate: Callable[[Sequence[Sample]], Batch]

    def __call__(self, samples: Sequence[Sample]) -> PackedBatch:
        """Collate and pack samples; raises what the collator raises."""
        return pack_batch(self.collate(samples))


def pack_batch(batch: Batch) -> PackedBatch:
    """Copy the tensors of a batch (in main memory) into one buffer."""
    file = io.BytesIO()
    pickler = _TensorPickler(file)
    pickler.dump(batch)
    tensors = pickler.tensors
    layout = tuple((tensor.dtype, tuple(tensor.shape)) for tensor in tensors)
    buffer = torch.empty(sum(tensor.nbytes for tensor in tensors), dtype=torch.uint8)
    for view, tensor in zip(_views(buffer, layout), tensors, strict=True):
        view.copy_(tensor)
    return PackedBatch(file.getvalue(), layout, buffer)


def unpack_batch(packed: PackedBatch) -> Batch:
    """Return the batch; its tensors are views of the buffer."""
    batch = _TensorUnpickler(io.BytesIO(packed.content), _views(packed.buffer, packed.layout)).load()
    assert isinstance(batch, Batch)
    return batch


def _views(buffer: Tensor, layout: Layout) -> list[Tensor]:
    """Return the tensors of a buffer."""
    order = sorted(range(len(layout)), key=lambda i: -layout[i][0].itemsize)
    sizes = [layout[i][0].itemsize * math.prod(layout[i][1]) for i in order]
    pieces = dict(zip(order, buffer.split(sizes), strict=True))
    return [pieces[i].view(dtype).view(shape) for i, (dtype, shape) in enumerate(layout)]


class _TensorPickler(pickle.Pickler):
    """Replaces tensors by their numbers, and keeps them."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file)
        self.tensors: list[Tensor] = []

    def persistent_id(self, obj: object) -> int | None:
        """Return the number of a tensor; None for everything else."""
        if not isinstance(obj, Tensor):
            return None
        self.tensors.append(obj)
        return len(self.tensors) - 1


class _TensorUnpickler(pickle.Unpickler):
    """Puts tensors back."""

    def __init__(self, file: io.BytesIO, tensors: list[Tensor]) -> None:
        super().__init__(file)
        self.tensors = tensors

    def persistent_load(self, pid: int) -> Tensor:
        """Return the tensor with a number."""
        return self.tensors[pid]


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

    Returns:
        `num_micro_batches` batches, in the same order for any `num_workers`. An error is raised in its batch's turn.
    """
    positions = RankPositions(rank, world_size, micro_batch_size, start_micro_batch, num_micro_batches)
    if num_workers == 0:
        return _load_ahead(torch.utils.data.DataLoader(mixture, batch_sampler=positions, collate_fn=collator))
    loader = torch.utils.data.DataLoader(
        mixture,
        batch_sampler=positions,
        collate_fn=PackingCollator(collator),
        num_workers=num_workers,
        worker_init_fn=_use_one_thread,
        prefetch_factor=4,
    )
    return map(unpack_batch, loader)


def load_listed(mixture: MixtureDataset, collator: Collator, positions: Sequence[Sequence[int]]) -> Iterator[Batch]:
    """Load micro-batches of named positions in a thread of this process.

    Args:
        mixture: the samples.
        collator: makes batches.
        positions: for each micro-batch, the positions of its samples.
    """
    return _load_ahead(
        torch.utils.data.DataLoader(mixture, batch_sampler=[list(one) for one in positions], collate_fn=collator)
    )


def _load_ahead(loader: Iterable[Batch]) -> Iterator[Batch]:
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
