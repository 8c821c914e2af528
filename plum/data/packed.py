"""Batches on their way from loader processes: all tensors in one piece of shared memory.

torch hands every tensor over by a file of its own, opened by both processes: with one mask per phrase, receiving a
batch of small images cost the training process two thirds of the time that loading it took, and many masks run out of
file descriptors ("received 0 items of ancdata").
"""

import io
import math
import pickle
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from plum.structures import Batch, Sample

Layout = tuple[tuple[torch.dtype, tuple[int, ...]], ...]


@dataclass(frozen=True)
class PackedBatch:
    """A batch whose tensors lie in one buffer.

    content: the batch, pickled, with the number of each tensor in its place
    layout: per tensor, its dtype and shape; in the buffer those of larger items come first, so that all are aligned
    buffer: uint8 [bytes]
    """

    content: bytes
    layout: Layout
    buffer: Tensor


@dataclass(frozen=True)
class PackingCollator:
    """The collator of a loader process: collates, then packs."""

    collate: Callable[[Sequence[Sample]], Batch]

    def __call__(self, samples: Sequence[Sample]) -> PackedBatch:
        """Collate samples; raises what the collator does."""
        return pack_batch(self.collate(samples))


def pack_batch(batch: Batch) -> PackedBatch:
    """Copy the tensors of a batch, which lie in main memory, into one buffer."""
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
    """Return the batch, its tensors views of the buffer."""
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
    """Leaves tensors out, and keeps them."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file)
        self.tensors: list[Tensor] = []

    def persistent_id(self, obj: object) -> int | None:
        """Number of a tensor; None for everything else."""
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
        """Tensor of a number."""
        return self.tensors[pid]
