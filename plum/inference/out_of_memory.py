"""Tells errors of exhausted memory from others: each library reports them in its own way."""

import gc

import cv2
import torch

_WORDS = ("out of memory", "can't allocate memory", "not enough memory", "alloc_failed")
"""Words of torch's errors for the CPU, CUDA, cuBLAS and MPS, which are plain RuntimeErrors in part."""


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that memory of the machine or the device is exhausted."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):  # NumPy's and PIL's are MemoryErrors
        return True
    if isinstance(error, cv2.error):
        return error.code == cv2.Error.StsNoMem
    return isinstance(error, RuntimeError) and any(word in str(error).lower() for word in _WORDS)


def release_memory() -> None:
    """Free what failed work has left; call it when no error or frame refers to that work any more."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
