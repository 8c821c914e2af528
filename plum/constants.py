"""Constants that are kept on the device: a tensor made from Python numbers is a copy for which the device waits."""

from functools import lru_cache

import torch
from torch import Tensor


@lru_cache(maxsize=256)
def constant(values: tuple[float, ...], device: torch.device) -> Tensor:
    """Return the tensor of some numbers on a device, made once; it must not be written to.

    Args:
        values: floats (float32) or integers (int64).
        device: where the tensor is kept.
    """
    with torch.inference_mode(False):  # an inference tensor could not be used in training later
        return torch.tensor(values, device=device)
