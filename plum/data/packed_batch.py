"""A batch as one buffer, in which it leaves its loader process and goes to a device; its tensors are views.

Eighty small tensors would be as many copies, and from memory that is not pinned, the host waits for each.
"""

import io
import math
import pickle
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

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

    def pin_memory(self) -> "PackedBatch":
        """Return the batch in memory from which a GPU copies while the host goes on; DataLoader calls it."""
        return replace(self, buffer=self.buffer.pin_memory())

    def to(self, device: torch.device) -> "PackedBatch":
        """Move the batch in a single copy, for which the host does not wait if the memory is pinned."""
        return replace(self, buffer=self.buffer.to(device, non_blocking=True))


@dataclass(frozen=True)
class PackingCollator:
    """Collator of a loader process: collates samples, then packs the batch, in pinned memory if `is_pinned`."""

    collate: Callable[[Sequence[Sample]], Batch]
    is_pinned: bool = False

    def __call__(self, samples: Sequence[Sample]) -> PackedBatch:
        """Collate and pack samples; raises what the collator raises."""
        packed = pack_batch(self.collate(samples))
        return packed.pin_memory() if self.is_pinned else packed


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
    """Replaces tensors by their numbers, and keeps them. A tensor that occurs twice has one number."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file)
        self.tensors: list[Tensor] = []
        self.numbers: dict[int, int] = {}

    def persistent_id(self, obj: object) -> int | None:
        """Return the number of a tensor; None for everything else."""
        if not isinstance(obj, Tensor):
            return None
        if id(obj) not in self.numbers:
            self.numbers[id(obj)] = len(self.tensors)
            self.tensors.append(obj)
        return self.numbers[id(obj)]


class _TensorUnpickler(pickle.Unpickler):
    """Puts tensors back."""

    def __init__(self, file: io.BytesIO, tensors: list[Tensor]) -> None:
        super().__init__(file)
        self.tensors = tensors

    def persistent_load(self, pid: int) -> Tensor:
        """Return the tensor with a number."""
        return self.tensors[pid]
