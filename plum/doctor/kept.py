"""What autograd keeps of a computation, counted on tensors without memory (torch's meta device)."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode


def saved_bytes(run: Callable[[], object], known: Iterable[Tensor]) -> int:
    """Return the bytes that autograd keeps of a computation, each storage once, without those of `known` tensors."""
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage()._cdata] = tensor
        return tensor

    not_counted = {tensor.untyped_storage()._cdata for tensor in known}
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        result = run()
    del result
    return sum(one.untyped_storage().nbytes() for key, one in kept.items() if key not in not_counted)


class CudaKernels(TorchFunctionMode):
    """Lets attention and dropout keep what CUDA's kernels keep; without a device torch would choose others.

    A condition on values, which no tensor has here, holds: transformers asks whether positions follow one another.

    Args:
        has_boolean_masks: dropout keeps its mask as booleans, as on CUDA, instead of in the states' dtype.
    """

    def __init__(self, *, has_boolean_masks: bool = True) -> None:
        super().__init__()
        self.has_boolean_masks = has_boolean_masks

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run a function of torch, or what takes its place."""
        named = dict(kwargs or {})
        if func is functional.scaled_dot_product_attention:
            return _FusedAttention.apply(*args[:3], named.get("attn_mask"))
        if func is functional.dropout and self.has_boolean_masks:
            return _boolean_dropout(*args, **named)
        if func is Tensor.__bool__ and args[0].is_meta:
            return True
        return func(*args, **named)


def _boolean_dropout(states: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    assert not inplace, "no decoder drops out in place"
    return torch.native_dropout(states, p, training)[0]


class _FusedAttention(torch.autograd.Function):
    """What a fused kernel keeps: queries, keys, values, mask, output, and the log-sum-exp of each query, float32."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        """Return an empty output of the kernel's shape and layout."""
        batch, heads, length, _ = query.shape
        output = query.new_empty(batch, length, heads, value.shape[-1]).transpose(1, 2)
        ctx.save_for_backward(
            query, key, value, mask, output, query.new_empty(batch, heads, length, dtype=torch.float32)
        )
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        """Not needed: nothing is differentiated without memory."""
        raise NotImplementedError
