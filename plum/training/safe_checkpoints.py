"""Looks at the files of a checkpoint before DeepSpeed unpickles them: a pickle may name any function and call it.

PyTorch lists what a file names without running it. Tensors and plain values pass, and the few classes that DeepSpeed
writes; anything else is refused.
"""

import os
import pickle
from pathlib import Path

import torch.serialization

TRUST_VARIABLE = "PLUM_TRUST_CHECKPOINTS"
"""Environment variable; 1 skips the check, for a checkpoint that another version of DeepSpeed has written."""
ALLOWED = frozenset(
    {
        "deepspeed.utils.tensor_fragment.fragment_address",
        "deepspeed.runtime.zero.config.ZeroStageEnum",
        "deepspeed.runtime.fp16.loss_scaler.LossScaler",
    }
)
"""Classes in DeepSpeed's checkpoints that do nothing but hold values."""


def require_plain_content(folder: Path) -> None:
    """Check that the files of a checkpoint hold tensors and values alone.

    Raises:
        ValueError: a file names something else, which would be called, or is no file of `torch.save`; the message names
            the file and the way out.
    """
    if os.environ.get(TRUST_VARIABLE) == "1":
        return
    for path in sorted(folder.rglob("*.pt")):
        try:
            named = set(torch.serialization.get_unsafe_globals_in_checkpoint(str(path))) - ALLOWED
        except (OSError, RuntimeError, ValueError, EOFError, pickle.UnpicklingError) as error:
            raise ValueError(
                f"{path}: not written by torch.save, or damaged ({error}); delete the checkpoint to continue from "
                "an earlier one"
            ) from error
        if named:
            raise ValueError(
                f"{path}: it would call {', '.join(sorted(named)[:5])} when it is read, which no checkpoint of this "
                f"project needs; delete the checkpoint, or set {TRUST_VARIABLE}=1 if you have written it yourself"
            )
