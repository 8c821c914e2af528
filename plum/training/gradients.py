"""Hand the gradients of a micro-batch to DeepSpeed in the same order on every rank.

DeepSpeed's stage 2 fills its buckets with gradients as the backward pass completes them, and sums the buckets over the
ranks. The order of completion depends on the graph and hence on the batch: text only, no phrase, one, several. If the
ranks' batches differ, DeepSpeed would sum gradients of different tensors. Each rank therefore first computes all
gradients of its micro-batch without DeepSpeed. A second backward pass, whose graph is the same on all ranks for any
batch, then hands them to DeepSpeed one by one.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn


class GradientSource(nn.Module):
    """The module that DeepSpeed wraps instead of the model: its forward pass takes gradients, its backward yields them.

    Its children are those of `source`, so that parameters keep their names in checkpoints.

    Args:
        source: module whose trained parameters the gradients belong to.

    Raises:
        ValueError: nothing is trainable.
    """

    def __init__(self, source: nn.Module) -> None:
        super().__init__()
        assert not list(source.parameters(recurse=False)), "only parameters of child modules are supported"
        for name, child in source.named_children():
            self.add_module(name, child)
        self.trained = trained_parameters(self)

    def forward(self, gradients: Sequence[Tensor]) -> Tensor:
        """Return a scalar 0 whose backward pass gives every trained parameter its gradient, in reverse order.

        The pass follows a chain with one link per parameter, so that neither the order nor the set of gradients
        depends on how they were computed. It does not scale the gradients.

        Args:
            gradients: one per trained parameter, with its shape and dtype.
        """
        chain = gradients[0].new_zeros((), dtype=torch.float32)
        for parameter, gradient in zip(self.trained, gradients, strict=True):
            chain = _Link.apply(chain, parameter, gradient)
        return chain


class _Link(torch.autograd.Function):
    """Passes a scalar through; its backward pass gives a parameter its gradient."""

    @staticmethod
    def forward(ctx: Any, chain: Tensor, parameter: Tensor, gradient: Tensor) -> Tensor:
        ctx.gradient = gradient
        return chain.clone()

    @staticmethod
    def backward(ctx: Any, *above: Tensor) -> tuple[Tensor, Tensor, None]:
        return above[0], ctx.gradient, None


def trained_parameters(module: nn.Module) -> list[nn.Parameter]:
    """Return the trained parameters, in the same order on every rank.

    Raises:
        ValueError: nothing is trainable.
    """
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    if not parameters:
        raise ValueError("no parameter is trainable: check the run's `trainable` settings")
    return parameters


def micro_batch_gradients(loss: Tensor, parameters: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Return the gradient of every parameter without touching its `grad`; zeros if the loss does not depend on it.

    Args:
        loss: scalar; its graph is freed.
        parameters: the trained ones.
    """
    if not loss.requires_grad:  # a text-only batch when only the mask decoder is trained
        return tuple(torch.zeros_like(parameter) for parameter in parameters)
    return torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)
