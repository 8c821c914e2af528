"""What autograd keeps, measured: bytes of the distinct storages that are saved for the backward pass."""

from collections.abc import Callable, Iterable
from typing import TypeVar

import torch
from torch import Tensor

Result = TypeVar("Result")


def measure_saved(run: Callable[[], Result], known: Iterable[Tensor]) -> tuple[int, Result]:
    """Run a forward pass and return the bytes it saves, without parameters, buffers and inputs (`known`)."""
    ignored = {tensor.untyped_storage().data_ptr() for tensor in known}
    kept: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        # The tensor is held, so that its address is not given away again.
        kept.setdefault(tensor.untyped_storage().data_ptr(), tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = run()
    return sum(tensor.untyped_storage().nbytes() for at, tensor in kept.items() if at not in ignored), result
