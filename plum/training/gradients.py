"""Gradients of one micro-batch, handed to DeepSpeed in one order on every rank.

DeepSpeed's stage 2 fills its buckets with gradients as the backward pass completes them, and adds bucket to bucket over
ranks. Which gradient is complete when depends on the graph, hence on the batch: text alone, no phrase, one, several. On
ranks with unlike batches it would add gradients of different tensors. So a rank first computes all gradients of its
micro-batch, away from DeepSpeed; then one more backward pass, whose graph is the same on all ranks whatever their
batches, brings them one by one to DeepSpeed.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn


class GradientSource(nn.Module):
    """The module that DeepSpeed wraps instead of the model: its forward pass takes gradients, its backward gives them.

    Its children are those of `source`, so that parameters keep their names in checkpoints.

    Args:
        source: whose trained parameters have the gradients.

    Raises:
        ValueError: nothing is trainable.
    """

    def __init__(self, source: nn.Module) -> None:
        super().__init__()
        assert not list(source.parameters(recurse=False)), "only children are taken over"
        for name, child in source.named_children():
            self.add_module(name, child)
        self.trained = trained_parameters(self)

    def forward(self, gradients: Sequence[Tensor]) -> Tensor:
        """Return a scalar 0 whose backward pass gives every trained parameter its gradient, the last one first.

        The pass runs along a chain with one link a parameter, so that neither the order nor the set of gradients
        depends on where they come from. It takes the gradients as they are and does not scale them.

        Args:
            gradients: one a trained parameter, of its shape and dtype.
        """
        chain = gradients[0].new_zeros((), dtype=torch.float32)
        for parameter, gradient in zip(self.trained, gradients, strict=True):
            chain = _Link.apply(chain, parameter, gradient)
        return chain


class _Link(torch.autograd.Function):
    """Passes a scalar on; on the way back leaves a gradient at a parameter."""

    @staticmethod
    def forward(ctx: Any, chain: Tensor, parameter: Tensor, gradient: Tensor) -> Tensor:
        ctx.gradient = gradient
        return chain.clone()

    @staticmethod
    def backward(ctx: Any, *above: Tensor) -> tuple[Tensor, Tensor, None]:
        return above[0], ctx.gradient, None


def trained_parameters(module: nn.Module) -> list[nn.Parameter]:
    """Return what is trained, in the same order on every rank.

    Raises:
        ValueError: nothing is trainable.
    """
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    if not parameters:
        raise ValueError("no parameter is trainable: check the run's `trainable` settings")
    return parameters


def micro_batch_gradients(loss: Tensor, parameters: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Return the gradient of every parameter without touching its `grad`; zeros for what the loss does not depend on.

    Args:
        loss: scalar; its graph is freed.
        parameters: those trained.
    """
    if not loss.requires_grad:  # text alone where only the mask decoder is trained
        return tuple(torch.zeros_like(parameter) for parameter in parameters)
    return torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)
