"""A pretended device: tensors that say they are on "meta" but hold numbers, and a count of what a GPU would wait for.

Every operation runs on the CPU. What is counted makes the host wait for a GPU, or is a copy of its own: values that the
host reads, shapes that depend on values (boolean indices, `nonzero`, `unique`), and copies between the host and the
device. Each finding names the line of the project that caused it.
"""

import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

from plum.constants import constant

DEVICE = torch.device("meta")
_ATEN = torch.ops.aten
_READS = {_ATEN._local_scalar_dense.default, _ATEN.equal.default, _ATEN.is_nonzero.default}
_DATA_DEPENDENT = {
    _ATEN.nonzero.default,
    _ATEN.masked_select.default,
    _ATEN.masked_scatter_backward.default,
    _ATEN._unique2.default,
    _ATEN.unique_dim.default,
    _ATEN.unique_consecutive.default,
    _ATEN.bincount.default,
}
_INDEXED = {
    _ATEN.index.Tensor,
    _ATEN.index_put.default,
    _ATEN.index_put_.default,
    _ATEN._index_put_impl_.default,
    _ATEN._unsafe_index_put.default,
}


class HeldTensor(Tensor):
    """A tensor on the pretended device; `held` has its numbers."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> "HeldTensor":
        made: HeldTensor = Tensor._make_wrapper_subclass(
            cls, held.shape, strides=held.stride(), dtype=held.dtype, device=DEVICE
        )
        made.held = held
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise RuntimeError(f"{func} ran outside of `pretended_device`")


class DeviceWaits(TorchDispatchMode):
    """Runs operations, and counts waits and copied bytes while `is_counting`."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()
        self.bytes = 0
        self.is_counting = False

    def note(self, what: str) -> None:
        """Count a wait at the innermost line of the project."""
        if not self.is_counting:
            return
        lines = [frame for frame in traceback.extract_stack() if "/plum/" in frame.filename]
        own = [line for line in lines if "/tests/" not in line.filename]
        where = f"{own[-1].filename.rpartition('/plum/')[2]}:{own[-1].lineno}" if own else "the test"
        self.found[f"{what} at {where}"] += 1

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        tensors = [one for one in tree_flatten((args, kwargs))[0] if isinstance(one, Tensor)]
        is_held = any(isinstance(one, HeldTensor) for one in tensors)
        asked = kwargs.get("device")
        target = torch.device(asked) if asked is not None else DEVICE if is_held else torch.device("cpu")
        if asked is not None:
            kwargs["device"] = torch.device("cpu")
        if func is _ATEN._to_copy.default:
            if is_held != (target == DEVICE):
                self.note("copy to the device" if target == DEVICE else "copy to the host")
                self.bytes += args[0].nbytes * self.is_counting
        elif is_held:
            self._examine(func, args, kwargs, tensors)
        plain_args, plain_kwargs = tree_map(_release, (args, kwargs))
        result = func(*plain_args, **plain_kwargs)
        if func in _READS or target != DEVICE or (func is _ATEN.copy_.default and not isinstance(args[0], HeldTensor)):
            return result
        before = {id(one.held): one for one in tensors if isinstance(one, HeldTensor)}  # operations in place

        def hold(one: object) -> object:
            return (before[id(one)] if id(one) in before else HeldTensor(one)) if isinstance(one, Tensor) else one

        return tree_map(hold, result)

    def _examine(self, func: Any, args: Any, kwargs: dict[str, Any], tensors: list[Tensor]) -> None:
        if func in _READS:
            self.note(f"the host reads a value ({func.__name__})")
        if func in _DATA_DEPENDENT or (func is _ATEN.repeat_interleave.Tensor and kwargs.get("output_size") is None):
            self.note(f"a shape depends on values ({func.__name__})")
        if func in _INDEXED and any(one is not None and one.dtype == torch.bool for one in args[1]):
            self.note("a shape depends on values (boolean index)")
        if any(not isinstance(one, HeldTensor) and one.ndim > 0 for one in tensors):
            self.note(f"copy to the device (a tensor of the host given to {func.__name__})")


def _release(value: object) -> object:
    return value.held if isinstance(value, HeldTensor) else value


class _HostCalls(TorchFunctionMode):
    """Does what PyTorch does in C++ before an operation is dispatched, for tensors that it would take for empty."""

    MADE: ClassVar = (torch.tensor, torch.as_tensor)

    def __init__(self, waits: DeviceWaits) -> None:
        super().__init__()
        self.waits = waits

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func is Tensor.tolist and isinstance(args[0], HeldTensor):
            self.waits.note("the host reads values (tolist)")
            return args[0].held.tolist()
        if func in self.MADE and kwargs.get("device") is not None:
            device = kwargs.pop("device")
            return func(*args, **kwargs).to(device)
        return func(*args, **kwargs)


@contextmanager
def pretended_device() -> Iterator[DeviceWaits]:
    """Let tensors be moved to `DEVICE` and used there; yields the count."""
    constant.cache_clear()  # those on the real "meta" hold nothing
    try:
        with DeviceWaits() as waits, _HostCalls(waits):
            yield waits
    finally:
        constant.cache_clear()
