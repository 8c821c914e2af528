"""Saved models: folders with config.json, safetensors, tokenizer and model card.

`save_pretrained` writes a complete model. For runs at full size, `save_trained` writes a light form: only the trained
weights, with a reference to their base. `plum.export.export_adapters` writes the light form with the adapters in peft's
own format. `load_pretrained` reads all three.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from partonomy.files import read_json_as
from partonomy.locks import new_folder
from plum.checkpoints.model_config_io import CONFIG_FILE, read_model_config, write_model_config
from plum.checkpoints.sizes import require_sizes
from plum.checkpoints.stock_folder import find_stock, list_stock_tensors
from plum.checkpoints.weights import (
    SavedTensor,
    copy_tensors,
    fingerprint,
    first_names,
    is_fitting,
    list_tensors,
    read_into,
    write_tensors,
)
from plum.config import ModelConfig
from plum.inputs.tokenizer import load_model_tokenizer
from plum.models.backbones.lora import is_adapter, name_of_peft, name_without_adapters
from plum.models.grounded_lmm import GroundedLMM
from plum.models.parameter_counts import BACKBONE_PARTS
from plum.models.systems.registry import build_model
from plum.models.systems.special_tokens import with_special_tokens
from plum.models.weightless import allocate_parameters

MODEL_STEM = "model"
TRAINED_STEM = "trained"
ADAPTER_STEM = "adapter_model"
"""peft's adapter file, with peft's names; an adapters-only export has it next to the other trained weights."""
BASE_FILE = "base.json"
"""Folder and fingerprint of the saved model under trained weights."""
CARD_FILE = "README.md"
HEAD_PREFIX = "query_projection."
"""Prefix of a head that every system has, whatever its optional heads."""


@dataclass(frozen=True)
class LoadedModel:
    """A model in evaluation mode with its tokenizer and architecture."""

    model: GroundedLMM
    tokenizer: PreTrainedTokenizerBase
    config: ModelConfig


def save_pretrained(
    model: GroundedLMM, tokenizer: PreTrainedTokenizerBase, folder: Path | str, model_card: str
) -> None:
    """Save a complete model; adapters stay unmerged (to merge them, see `plum.export.merged`).

    Saving is atomic: everything is written to a temporary folder next to `folder`, which is then renamed.

    Args:
        model: any dtype, which the tensors keep.
        tokenizer: the one the model was trained with.
        folder: must not exist.
        model_card: Markdown, written to README.md.

    Raises:
        FileExistsError: `folder` exists.
        ValueError: tokenizer and model do not match.
    """
    _save(Path(folder), model.state_dict(), MODEL_STEM, config=model.config, tokenizer=tokenizer, model_card=model_card)


def save_trained(
    model: GroundedLMM, tokenizer: PreTrainedTokenizerBase, folder: Path | str, model_card: str, base: Path | str
) -> None:
    """Save only the trained weights and a reference to the base model, which alone has 26 GB at 13B.

    Args:
        model: any dtype; trained parameters are those that require gradients. Adapters are always written.
        tokenizer: the one the model was trained with.
        folder: must not exist.
        model_card: Markdown, written to README.md.
        base: folder of the saved model (of either form) that provides all other weights; it must be kept.

    Raises:
        FileExistsError: `folder` exists.
        ValueError: nothing is trainable, or tokenizer and model do not match.
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
        ValueError: configuration, names or shapes are another architecture's, the tokenizer is another model's, the
            base of trained weights has changed, or some weights are NaN or infinite.
    """
    folder = Path(folder)
    config = read_model_config(folder)
    require_heads(folder)
    require_sizes(config, {name: saved.shape for name, saved in saved_tensors(folder).items()}, str(folder))
    tokenizer = load_model_tokenizer(folder, config)
    with_special_tokens(config, tokenizer)
    try:
        model = build_model(config, is_backbone_empty=True).to(dtype)
    except (AssertionError, ArithmeticError, RuntimeError, TypeError, ValueError) as error:  # torch's checks of sizes
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{folder / CONFIG_FILE}: no model of these sizes can be built ({reason})") from error
    allocate_parameters(model, dtype, device)
    if (folder / BASE_FILE).is_file():
        _read_over_base(model, folder)
    else:
        read_into(model, model.state_dict().keys(), folder, MODEL_STEM)
    model.backbone.weights_name = str(folder)
    return LoadedModel(model.to(device).eval(), tokenizer, config)


def has_heads(folder: Path | str) -> bool:
    """Return whether a saved model has PLUM's heads; the output of `plum convert-llava` has none."""
    return any(name.startswith(HEAD_PREFIX) for name in saved_tensors(folder))


def is_projector(name: str) -> bool:
    """Return whether a tensor of a model belongs to the projector between the vision tower and the language model."""
    parts = [part for part, component in BACKBONE_PARTS if component == "llava.projector"]
    return name.startswith("llava.") and any(part in name for part in parts)


def has_projector(folder: Path | str) -> bool:
    """Return whether a saved model has its projector; a start of CALICO may lack f_image (`plum convert`)."""
    return any(is_projector(name) for name in saved_tensors(folder))


@dataclass(frozen=True)
class BaseRecord:
    """The content of `base.json`: the folder of the base under trained weights, and the fingerprint of its weights."""

    base: str
    fingerprint: str


def read_base_record(folder: Path) -> BaseRecord:
    """Read `base.json` of trained weights.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is damaged; the message names the file and the field.
    """
    return read_json_as(folder / BASE_FILE, BaseRecord, "restore the file, or train or export the model again")


def saved_tensors(folder: Path | str) -> dict[str, SavedTensor]:
    """List the tensors of a saved model by name; tensors of a base keep the base's names.

    Raises:
        FileNotFoundError: a file, or the base of trained weights, is missing.
        ValueError: the base of trained weights has changed.
    """
    folder = Path(folder)
    stock = find_stock(folder)
    if stock is not None:
        hf = read_model_config(folder).hf
        assert hf is not None, "only a stock model is adopted"
        return list_stock_tensors(stock, hf) | list_tensors(folder, MODEL_STEM)
    if not (folder / BASE_FILE).is_file():
        return list_tensors(folder, MODEL_STEM)
    recorded = read_base_record(folder)
    base = Path(recorded.base)
    if not base.is_dir():
        raise FileNotFoundError(
            f"{folder} holds trained weights over {base}, which no longer exists: restore it, or set its new path in "
            f"{folder / BASE_FILE}"
        )
    if fingerprint(base) != recorded.fingerprint:
        raise ValueError(
            f"{folder} holds trained weights over {base}, whose weights have changed since; "
            f"restore them, or set the path of the unchanged ones in {folder / BASE_FILE}"
        )
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
    """Write every file to a temporary folder, then rename it."""
    config = with_special_tokens(config, tokenizer)
    with write_folder(folder) as partial:
        write_model_config(config, partial)
        write_tensors(tensors, partial, stem)
        tokenizer.save_pretrained(str(partial))
        (partial / CARD_FILE).write_text(model_card, encoding="utf-8")
        if base is not None:
            recorded = {"base": str(base.resolve()), "fingerprint": fingerprint(base)}
            (partial / BASE_FILE).write_text(json.dumps(recorded, indent=2) + "\n", encoding="utf-8")


def require_heads(folder: Path) -> None:
    """Refuse a converted base: its heads or its projector would be random."""
    if not has_heads(folder):
        raise ValueError(
            f"{folder} holds LLaVA and SAM without PLUM's heads: it is a base to train from (init_from), not a model"
        )
    if not has_projector(folder):
        raise ValueError(
            f"{folder} holds no projector of images (CALICO's f_image): it is a base to train from (init_from, with "
            "trainable.projector true), not a model"
        )


def _read_over_base(model: GroundedLMM, folder: Path) -> None:
    """Copy trained weights, and everything else from their base; a tensor that neither has is an error."""
    saved, first = saved_tensors(folder), first_names(model)
    targets = []
    for name, tensor in model.state_dict().items():
        if first[name] != name:
            continue
        source = name if name in saved else name_without_adapters(name)
        if source not in saved or not is_fitting(name, tensor.shape, saved[source]):
            found = saved[source].shape if source in saved else "missing"
            raise ValueError(
                f"{folder} and its base hold a checkpoint of another architecture: {source} is {found} there and "
                f"{tuple(tensor.shape)} in the model"
            )
        targets.append((tensor, source))
    copy_tensors(targets, saved)


@contextmanager
def write_folder(folder: Path) -> Iterator[Path]:
    """Yield an empty temporary folder that becomes `folder` when the block ends without an error.

    One process at a time writes the same folder; what a killed one has left is deleted.

    Args:
        folder: the folder to write; must not exist.

    Raises:
        FileExistsError: `folder` exists.
        BlockingIOError: another process is writing it.
    """
    with new_folder(folder, "a saved model is never overwritten: remove it or choose another folder") as partial:
        yield partial
