"""Frozen modules run without an autograd graph; modules of fixed precision are never rounded."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn


def grad_if_trainable(*modules: nn.Module) -> AbstractContextManager[None]:
    """Return a context that records gradients only if some parameter of `modules` is trainable (and they are on)."""
    is_trainable = any(parameter.requires_grad for module in modules for parameter in module.parameters())
    return torch.set_grad_enabled(torch.is_grad_enabled() and is_trainable)


def without_autocast(device: torch.device) -> AbstractContextManager[None]:
    """Return a context in which operations keep their dtype; torch has no autocast of the meta device to turn off."""
    return nullcontext() if device.type == "meta" else torch.autocast(device.type, enabled=False)


class NeverRounded(nn.Module):
    """A module whose parameters stay in float32, or wider, whatever dtype the rest of the model is cast to."""

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "NeverRounded":
        """Move as nn.Module does, but leave out a cast to half precision."""

        def move(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            is_rounded = moved.is_floating_point() and moved.dtype.itemsize < torch.float32.itemsize
            return tensor.to(moved.device) if is_rounded else moved

        super()._apply(move, recurse)
        return self
