"""Hand the gradients of a micro-batch to DeepSpeed or DistributedDataParallel in the same order on every rank.

DeepSpeed's stage 2 fills its buckets with gradients as the backward pass completes them, and sums the buckets over the
ranks. The order of completion depends on the graph and hence on the batch: text only, no phrase, one, several. If the
ranks' batches differ, DeepSpeed would sum gradients of different tensors. DistributedDataParallel would wait for
gradients that never arrive. Each rank therefore first computes all gradients of its micro-batch without them. A second
backward pass, whose graph is the same on all ranks for any batch, then hands the gradients over one by one.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn


class GradientSource(nn.Module):
    """The module that is wrapped instead of the model: its forward pass takes gradients, its backward yields them.

    Its children are those of `source`, so that parameters keep their names in checkpoints.

    Args:
        source: module whose trained parameters the gradients belong to.
        first_to_last: whether the first parameter gets its gradient first; otherwise the last one does.

    Raises:
        ValueError: nothing is trainable.
    """

    def __init__(self, source: nn.Module, *, first_to_last: bool = False) -> None:
        super().__init__()
        assert not list(source.parameters(recurse=False)), "only parameters of child modules are supported"
        for name, child in source.named_children():
            self.add_module(name, child)
        self.trained = trained_parameters(self)
        self.first_to_last = first_to_last

    def forward(self, gradients: Sequence[Tensor]) -> Tensor:
        """Return a scalar 0 whose backward pass gives every trained parameter its gradient, one after the other.

        The pass follows a chain with one link per parameter, so that neither the order nor the set of gradients
        depends on how they were computed. It does not scale the gradients.

        Args:
            gradients: one per trained parameter, with its shape; they are cast to its dtype.
        """
        links = [*zip(self.trained, gradients, strict=True)]
        chain = gradients[0].new_zeros((), dtype=torch.float32)
        for parameter, gradient in reversed(links) if self.first_to_last else links:
            chain = _Link.apply(chain, parameter, gradient)
        return chain


class _Link(torch.autograd.Function):
    """Passes a scalar through; its backward pass gives a parameter its gradient."""

    @staticmethod
    def forward(ctx: Any, chain: Tensor, parameter: Tensor, gradient: Tensor) -> Tensor:
        ctx.gradient, ctx.dtype = gradient, parameter.dtype
        return chain.clone()

    @staticmethod
    def backward(ctx: Any, *above: Tensor) -> tuple[Tensor, Tensor, None]:
        return above[0], ctx.gradient.to(ctx.dtype), None


def trained_parameters(module: nn.Module) -> list[nn.Parameter]:
    """Return the trained parameters, in the same order on every rank.

    Raises:
        ValueError: nothing is trainable.
    """
    return [*named_trained_parameters(module).values()]


def named_trained_parameters(module: nn.Module) -> dict[str, nn.Parameter]:
    """Return the trained parameters by name, in the same order on every rank.

    Raises:
        ValueError: nothing is trainable.
    """
    parameters = {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}
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
