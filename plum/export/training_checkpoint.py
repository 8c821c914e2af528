"""Reads the trained weights of a checkpoint that a run resumes from, written by any number of ranks."""

import contextlib
import io
import pickle
import tempfile
from pathlib import Path

import torch
from torch import Tensor

from plum.training.run_checkpoints import WHOLE_FILE, to_universal
from plum.training.safe_checkpoints import require_plain_content

BFLOAT16_ZERO_1 = "bf16_zero_pp_rank_*_optim_states.pt"
"""Files of DeepSpeed's optimizer for ZeRO-1 in bfloat16 with float32 accumulation."""
UNIVERSAL_WEIGHTS = "fp32.pt"
MODEL_PREFIX = "model."
"""Prefix of the model's names: a checkpoint stores the objective, which contains the model."""


def read_trained(checkpoint: Path) -> dict[str, Tensor]:
    """Return the trained tensors of a checkpoint by the model's parameter names, float32.

    For a DeepSpeed checkpoint, these are the optimizer's master weights, assembled from the parts of all ranks.
    DeepSpeed's files are pickles, so the classes that they name are checked before they are loaded.

    Args:
        checkpoint: folder, `checkpoints/update_NNNNNN` of a run.

    Raises:
        FileNotFoundError: there is no checkpoint.
        ValueError: some of its files are missing or damaged, or would run code.
    """
    if not checkpoint.is_dir():
        raise FileNotFoundError(f"{checkpoint}: no such checkpoint; name a folder RUN/checkpoints/update_NNNNNN")
    require_plain_content(checkpoint)
    if (checkpoint / WHOLE_FILE).is_file():
        state = _read_whole(checkpoint)
    elif any(checkpoint.glob(BFLOAT16_ZERO_1)):
        state = _read_universal(checkpoint)
    else:
        state = _read_deepspeed(checkpoint)
    # The part pretext of the tiny recipe is not part of the model.
    return {
        name.removeprefix(MODEL_PREFIX): tensor.detach().float()
        for name, tensor in state.items()
        if name.startswith(MODEL_PREFIX)
    }


def _read_whole(checkpoint: Path) -> dict[str, Tensor]:
    content = torch.load(checkpoint / WHOLE_FILE, map_location="cpu", weights_only=True)
    trained: dict[str, Tensor] = content["trainable"]
    return trained


def _read_universal(checkpoint: Path) -> dict[str, Tensor]:
    """Read a ZeRO-1 checkpoint in bfloat16, which DeepSpeed assembles only on conversion to its universal format."""
    with tempfile.TemporaryDirectory() as folder:
        link = Path(folder) / checkpoint.name
        link.symlink_to(checkpoint.resolve(), target_is_directory=True)
        try:
            weights = sorted((to_universal(link) / "zero").glob(f"*/{UNIVERSAL_WEIGHTS}"))
        except RuntimeError as error:
            raise ValueError(f"{checkpoint} is not a whole DeepSpeed checkpoint: {error}") from error
        return {path.parent.name: torch.load(path, map_location="cpu", weights_only=True)["param"] for path in weights}


def _read_deepspeed(checkpoint: Path) -> dict[str, Tensor]:
    from deepspeed.utils.zero_to_fp32 import (  # noqa: PLC0415  (exports of saved models run without it)
        get_fp32_state_dict_from_zero_checkpoint,
    )

    try:
        with contextlib.redirect_stdout(io.StringIO()):  # it prints a line per file
            state: dict[str, Tensor] = get_fp32_state_dict_from_zero_checkpoint(
                str(checkpoint.parent), tag=checkpoint.name, exclude_frozen_parameters=True
            )
    except (
        AssertionError,
        EOFError,
        FileNotFoundError,
        KeyError,
        RuntimeError,
        ValueError,
        pickle.UnpicklingError,
    ) as error:
        raise ValueError(f"{checkpoint} is not a whole DeepSpeed checkpoint: {error}") from error
    return state
