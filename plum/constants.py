"""Constants that are kept on the device: a tensor made from Python numbers is a copy for which the device waits."""

from functools import lru_cache

import torch
from torch import Tensor


@lru_cache(maxsize=256)
def constant(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return the tensor of some numbers on a device, made once; it must not be written to.

    Args:
        values: the numbers.
        dtype: of the tensor; equal numbers of Python do not tell integers from floats.
        device: where the tensor is kept.
    """
    with torch.inference_mode(False):  # an inference tensor could not be used in training later
        return torch.tensor(values, dtype=dtype, device=device)
