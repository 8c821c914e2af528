"""Frozen modules run without an autograd graph."""

from contextlib import AbstractContextManager

import torch
from torch import nn


def grad_if_trainable(*modules: nn.Module) -> AbstractContextManager[None]:
    """Return a context that records gradients only if some parameter of `modules` is trainable (and they are on)."""
    is_trainable = any(parameter.requires_grad for module in modules for parameter in module.parameters())
    return torch.set_grad_enabled(torch.is_grad_enabled() and is_trainable)
