"""Modules without weights of their own: shapes first, memory once the weights' file, dtype and device are known.

A 13B model built as usual holds 54 GB of random float32 numbers, which the checkpoint then overwrites.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from accelerate import init_empty_weights
from torch import nn


@contextmanager
def without_weights(is_empty: bool = True) -> Iterator[None]:
    """Build modules whose parameters have shapes but no memory; their buffers (frequencies) are computed as usual.

    Args:
        is_empty: False changes nothing.
    """
    if is_empty:
        with init_empty_weights(include_buffers=False):
            yield
    else:
        yield


def allocate_parameters(module: nn.Module, dtype: torch.dtype, device: torch.device | str = "cpu") -> None:
    """Give memory to the parameters that have none, in place; what is in it is arbitrary until weights are copied in.

    Args:
        module: built under `without_weights`, wholly or in part.
        dtype: of the new memory.
        device: where it lies.
    """
    for owner in module.modules():
        for name, parameter in owner.named_parameters(recurse=False):
            if parameter.is_meta:
                setattr(owner, name, _allocated(parameter, dtype, device))


def _allocated(parameter: nn.Parameter, dtype: torch.dtype, device: torch.device | str) -> nn.Parameter:
    memory = torch.empty(parameter.shape, dtype=dtype, device=device)
    if type(parameter) is nn.Parameter:
        return nn.Parameter(memory, requires_grad=parameter.requires_grad)
    # bitsandbytes' parameters carry how they will be packed; they are packed when they move, so never here.
    return type(parameter)(memory, requires_grad=False, **_packing(parameter))


def _packing(parameter: nn.Parameter) -> dict[str, object]:
    return {name: value for name, value in parameter.__dict__.items() if not name.startswith("_")}
