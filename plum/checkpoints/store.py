"""A saved model is one folder: config.json, safetensors, tokenizer, model card. `save_pretrained` and
`load_pretrained`.

Beside it a light form for runs at full size (`save_trained`): only what was trained, over a base that is not repeated.
`plum.export.export_adapters` writes it with the adapters in peft's own format. `load_pretrained` reads all.
"""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from plum.checkpoints.model_config_io import read_model_config, write_model_config
from plum.checkpoints.weights import (
    SavedTensor,
    copy_tensors,
    fingerprint,
    list_tensors,
    read_into,
    write_tensors,
)
from plum.config import ModelConfig
from plum.inputs.tokenizer import load_tokenizer
from plum.models.backbones.lora import is_adapter, name_of_peft, name_without_adapters
from plum.models.grounded_lmm import GroundedLMM
from plum.models.systems.registry import build_model
from plum.models.systems.special_tokens import with_special_tokens
from plum.models.weightless import allocate_parameters

MODEL_STEM = "model"
TRAINED_STEM = "trained"
ADAPTER_STEM = "adapter_model"
"""peft's file of adapters, under its names; an adapters-only export has it beside the other trained weights."""
BASE_FILE = "base.json"
"""Which saved model lies under trained weights: its folder and fingerprint."""
CARD_FILE = "README.md"
HEAD_PREFIX = "query_projection."
"""Every PLUM has it, whatever optional heads it lacks."""


@dataclass(frozen=True)
class LoadedModel:
    """A model in evaluation mode with its tokenizer and architecture."""

    model: GroundedLMM
    tokenizer: PreTrainedTokenizerBase
    config: ModelConfig


def save_pretrained(
    model: GroundedLMM, tokenizer: PreTrainedTokenizerBase, folder: Path | str, model_card: str
) -> None:
    """Write a whole model; adapters stay unmerged (`plum.export.merged` merges).

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
    _save(Path(folder), model.state_dict(), MODEL_STEM, config=model.config, tokenizer=tokenizer, model_card=model_card)


def save_trained(
    model: GroundedLMM, tokenizer: PreTrainedTokenizerBase, folder: Path | str, model_card: str, base: Path | str
) -> None:
    """Write only what a run trained, and which saved model it started from: at 13B that one alone is 26 GB.

    Args:
        model: any dtype; trained parameters are those that require gradients. Adapters are always written.
        tokenizer: the one the model was trained with.
        folder: must not exist.
        model_card: Markdown, written to README.md.
        base: folder of the saved model (of either form) that everything else was copied from; it has to stay.

    Raises:
        FileExistsError: `folder` exists.
        ValueError: nothing is trainable, or tokenizer and model do not fit.
    """
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad or is_adapter(n)}
    if not trained:
        raise ValueError("no parameter is trainable, so there is nothing to save; use save_pretrained")
    _save(
        Path(folder),
        trained,
        TRAINED_STEM,
        config=model.config,
        tokenizer=tokenizer,
        model_card=model_card,
        base=Path(base),
    )


def load_pretrained(
    folder: Path | str, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> LoadedModel:
    """Load what `save_pretrained` or `save_trained` wrote, strictly.

    Raises:
        FileNotFoundError: a file, or the base of trained weights, is missing.
        ValueError: configuration, names or shapes are another architecture's, the tokenizer is another model's, or the
            base of trained weights has changed.
    """
    folder = Path(folder)
    config = read_model_config(folder)
    tokenizer = load_tokenizer(folder)
    with_special_tokens(config, tokenizer)
    require_heads(folder)
    model = build_model(config, is_backbone_empty=True).to(dtype)
    allocate_parameters(model, dtype, device)
    if (folder / BASE_FILE).is_file():
        _read_over_base(model, folder)
    else:
        read_into(model, model.state_dict().keys(), folder, MODEL_STEM)
    return LoadedModel(model.to(device).eval(), tokenizer, config)


def has_heads(folder: Path | str) -> bool:
    """Say whether a saved model has PLUM's heads; what `plum convert-llava` writes has none."""
    return any(name.startswith(HEAD_PREFIX) for name in saved_tensors(folder))


def saved_tensors(folder: Path | str) -> dict[str, SavedTensor]:
    """List the tensors of a saved model by name; those a base lends stand under its names.

    Raises:
        FileNotFoundError: a file, or the base of trained weights, is missing.
        ValueError: the base of trained weights has changed.
    """
    folder = Path(folder)
    if not (folder / BASE_FILE).is_file():
        return list_tensors(folder, MODEL_STEM)
    recorded = json.loads((folder / BASE_FILE).read_text(encoding="utf-8"))
    base = Path(recorded["base"])
    if not base.is_dir():
        raise FileNotFoundError(
            f"{folder} holds trained weights over {base}, which is gone: put it back, or name its new place in "
            f"{folder / BASE_FILE}"
        )
    if fingerprint(base) != recorded["fingerprint"]:
        raise ValueError(f"{folder} holds trained weights over {base}, whose weights have changed since")
    trained = list_tensors(folder, TRAINED_STEM)
    if (folder / f"{ADAPTER_STEM}.safetensors").is_file():
        adapters = list_tensors(folder, ADAPTER_STEM)
        trained |= {name_of_peft(key): replace(saved, key=key) for key, saved in adapters.items()}
    return saved_tensors(base) | trained


def _save(
    folder: Path,
    tensors: Mapping[str, Tensor],
    stem: str,
    *,
    config: ModelConfig,
    tokenizer: PreTrainedTokenizerBase,
    model_card: str,
    base: Path | None = None,
) -> None:
    """Write every file beside `folder`, then rename."""
    config = with_special_tokens(config, tokenizer)
    partial = start_folder(folder)
    write_model_config(config, partial)
    write_tensors(tensors, partial, stem)
    tokenizer.save_pretrained(str(partial))
    (partial / CARD_FILE).write_text(model_card, encoding="utf-8")
    if base is not None:
        recorded = {"base": str(base.resolve()), "fingerprint": fingerprint(base)}
        (partial / BASE_FILE).write_text(json.dumps(recorded, indent=2) + "\n", encoding="utf-8")
    partial.rename(folder)


def require_heads(folder: Path) -> None:
    """Refuse a converted base: its heads would be random."""
    if not has_heads(folder):
        raise ValueError(
            f"{folder} holds LLaVA and SAM without PLUM's heads: it is a base to train from (init_from), not a model"
        )


def _read_over_base(model: GroundedLMM, folder: Path) -> None:
    """Copy trained weights, and everything else from their base; a tensor that neither has is an error."""
    saved = saved_tensors(folder)
    targets = []
    for name, tensor in model.state_dict().items():
        source = name if name in saved else name_without_adapters(name)
        if source not in saved or saved[source].shape != tuple(tensor.shape):
            found = saved[source].shape if source in saved else "missing"
            raise ValueError(
                f"{folder} and its base hold a checkpoint of another architecture: {source} is {found} there and "
                f"{tuple(tensor.shape)} in the model"
            )
        targets.append((tensor, source))
    copy_tensors(targets, saved)


def start_folder(folder: Path) -> Path:
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
