"""Modules built without memory for their weights, which is allocated once file, dtype and device are known.

A 13B model built as usual holds 54 GB of random float32 numbers, which the checkpoint then overwrites.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from accelerate import init_empty_weights
from torch import nn

from plum.models.frozen import NeverRounded


@contextmanager
def without_weights(is_empty: bool = True) -> Iterator[None]:
    """Build modules whose parameters have shapes but no memory; their buffers (frequencies) are computed as usual.

    Args:
        is_empty: False has no effect.
    """
    if is_empty:
        with init_empty_weights(include_buffers=False):
            yield
    else:
        yield


def allocate_parameters(module: nn.Module, dtype: torch.dtype, device: torch.device | str = "cpu") -> None:
    """Allocate memory for parameters that have none, in place; values are arbitrary until weights are copied in.

    Args:
        module: built under `without_weights`, wholly or in part.
        dtype: dtype of the new parameters; those of a `NeverRounded` module keep their own.
        device: device of the new parameters.
    """
    fixed = {owner for one in module.modules() if isinstance(one, NeverRounded) for owner in one.modules()}
    allocated: dict[nn.Parameter, nn.Parameter] = {}  # tied parameters stay one
    for owner in module.modules():
        for name, parameter in owner.named_parameters(recurse=False):
            if parameter.is_meta:
                if parameter not in allocated:
                    kept = parameter.dtype if owner in fixed else dtype
                    allocated[parameter] = _allocated(parameter, kept, device)
                setattr(owner, name, allocated[parameter])


def _allocated(parameter: nn.Parameter, dtype: torch.dtype, device: torch.device | str) -> nn.Parameter:
    memory = torch.empty(parameter.shape, dtype=dtype, device=device)
    if type(parameter) is nn.Parameter:
        return nn.Parameter(memory, requires_grad=parameter.requires_grad)
    # bitsandbytes' parameters carry their packing settings; they are packed when they move, so never here.
    return type(parameter)(memory, requires_grad=False, **_packing(parameter))


def _packing(parameter: nn.Parameter) -> dict[str, object]:
    return {name: value for name, value in parameter.__dict__.items() if not name.startswith("_")}
