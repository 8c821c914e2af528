"""A saved model is one folder: config.json, safetensors, tokenizer, model card. `save_pretrained` and
`load_pretrained`.

Beside it a light form for runs at full size: only what was trained, over a base that is not repeated.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerBase

from plum.checkpoints.model_config_io import describe_differences, read_model_config, write_model_config
from plum.checkpoints.weights import read_into, write_tensors
from plum.config import ModelConfig
from plum.data.tokenizer import load_tokenizer
from plum.models.grounded_lmm import GroundedLMM
from plum.models.registry import build_model
from plum.models.special_tokens import with_special_tokens

MODEL_STEM = "model"
TRAINABLE_STEM = "trainable"
CARD_FILE = "README.md"


@dataclass(frozen=True)
class LoadedModel:
    """A model in evaluation mode with its tokenizer and architecture."""

    model: GroundedLMM
    tokenizer: PreTrainedTokenizerBase
    config: ModelConfig


def save_pretrained(
    model: GroundedLMM, tokenizer: PreTrainedTokenizerBase, folder: Path | str, model_card: str
) -> None:
    """Write a whole model; adapters stay unmerged (`plum.checkpoints.export` merges).

    Everything is written to a new place beside `folder`, then renamed, so `folder` is complete or absent.

    Args:
        model: any dtype; tensors keep it.
        tokenizer: the one the model was trained with.
        folder: must not exist.
        model_card: Markdown, written to README.md.

    Raises:
        FileExistsError: `folder` exists.
        ValueError: tokenizer and model do not fit.
    """
    folder = Path(folder)
    config = with_special_tokens(model.config, tokenizer)
    partial = _start_folder(folder)
    write_model_config(config, partial)
    write_tensors(model.state_dict(), partial, MODEL_STEM)
    tokenizer.save_pretrained(str(partial))
    (partial / CARD_FILE).write_text(model_card, encoding="utf-8")
    partial.rename(folder)


def load_pretrained(
    folder: Path | str, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> LoadedModel:
    """Load what `save_pretrained` wrote, strictly.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: configuration, names or shapes are another architecture's, or the tokenizer is another model's.
    """
    folder = Path(folder)
    config = read_model_config(folder)
    tokenizer = load_tokenizer(folder)
    with_special_tokens(config, tokenizer)
    model = build_model(config).to(dtype)
    read_into(model, model.state_dict().keys(), folder, MODEL_STEM)
    return LoadedModel(model.to(device).eval(), tokenizer, config)


def save_trainable(model: GroundedLMM, folder: Path | str) -> None:
    """Write only the trained parameters and the architecture: at 13B the base alone is 26 GB.

    Raises:
        FileExistsError: `folder` exists.
        ValueError: nothing is trainable.
    """
    folder = Path(folder)
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    if not trained:
        raise ValueError("no parameter is trainable, so there is nothing to save; use save_pretrained")
    partial = _start_folder(folder)
    write_model_config(model.config, partial)
    write_tensors(trained, partial, TRAINABLE_STEM)
    partial.rename(folder)


def load_trainable(model: GroundedLMM, folder: Path | str) -> None:
    """Copy what `save_trainable` wrote into a model with the same trainable parameters, strictly by name.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: architecture or trainable names differ.
    """
    folder = Path(folder)
    if differences := describe_differences(read_model_config(folder), model.config):
        raise ValueError(
            f"{folder} holds a checkpoint of another architecture (key: saved, this run's): {'; '.join(differences)}"
        )
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    read_into(model, trained, folder, TRAINABLE_STEM)


def _start_folder(folder: Path) -> Path:
    """Make the empty place that will be renamed to `folder`."""
    if folder.exists():
        raise FileExistsError(
            f"{folder} exists; a saved model is never overwritten: remove it or choose another folder"
        )
    partial = folder.with_name(f"{folder.name}.partial")
    if partial.exists():
        shutil.rmtree(partial)
    partial.mkdir(parents=True)
    return partial
