"""Start a run from a saved model's weights, when the new architecture may add adapters or switch an optional part.

The backbone is copied strictly, also for another system than the saved one. Only adapters and optional heads (tagger,
feedback, early fusion) may differ, and whatever starts afresh or is left behind is reported by name. A model is built
without memory for its backbone and filled in the dtype it is trained in, so that a rank never holds more than that, the
fresh heads in float32 and the file it reads.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from plum.checkpoints.model_config_io import describe_differences, read_model_config
from plum.checkpoints.store import HEAD_PREFIX, saved_tensors
from plum.checkpoints.weights import copy_tensors
from plum.config import ModelConfig, Quantization, SpecialTokensConfig
from plum.models.backbones.lora import is_adapter, name_without_adapters, reset_adapters
from plum.models.grounded_lmm import GroundedLMM
from plum.models.systems.registry import build_model
from plum.models.weightless import allocate_parameters

OPTIONAL = ("tagger", "feedback", "sam.early_fusion")
"""Modules of GroundedLMM that one model has and another has not."""
RESETTABLE = ("query_projection", *OPTIONAL)
"""Modules that a run may start afresh: the heads that a system adds to LLaVA and SAM."""


@dataclass(frozen=True)
class Placement:
    """How a model's weights are held: their dtype, their device, and whether the language model's are packed."""

    dtype: torch.dtype = torch.float32
    device: torch.device = torch.device("cpu")
    quantization: Quantization = "none"


@dataclass(frozen=True)
class InitialisedModel:
    """A model ready to be trained, and lines that say where its weights come from."""

    model: GroundedLMM
    notes: tuple[str, ...]


def build_from(
    config: ModelConfig, folder: str, placement: Placement, reset_modules: Iterable[str] = ()
) -> InitialisedModel:
    """Build a model and fill it with a saved one's weights; see `initialise_from`.

    Fresh heads and adapters are drawn in float32 and then rounded: DeepSpeed, whose float32 master copies start from
    the rounded weights, would do the same to a float32 model.
    """
    model = build_model(config, is_backbone_empty=True, quantization=placement.quantization)
    # bitsandbytes packs weights as they move to the device, so they are read on the CPU.
    device = torch.device("cpu") if placement.quantization != "none" else placement.device
    for network in (model.llava, model.sam):
        allocate_parameters(network, placement.dtype, device)
    reset_adapters(model.llava)
    notes = initialise_from(model, folder, reset_modules)
    return InitialisedModel(model.to(placement.dtype), tuple(notes))


def initialise_from(model: GroundedLMM, folder: str, reset_modules: Iterable[str] = ()) -> list[str]:
    """Copy the weights of a saved model into `model`, one tensor at a time.

    Args:
        model: freshly built; changed in place.
        folder: a saved model.
        reset_modules: names out of RESETTABLE that keep their fresh weights.

    Returns:
        Lines that say what was copied, what starts afresh and what was left behind.

    Raises:
        FileNotFoundError: a file of the saved model is missing.
        ValueError: a module cannot be reset, or the architectures differ in more than optional parts.
    """
    reset = tuple(reset_modules)
    if unknown := sorted(set(reset) - set(RESETTABLE)):
        raise ValueError(f"reset_modules: {unknown} is none of {list(RESETTABLE)}")
    require_same_backbone(model.config, folder)
    saved = saved_tensors(folder)
    targets: list[tuple[Tensor, str]] = []
    fresh: Counter[str] = Counter()
    used: set[str] = set()
    is_base = not any(name.startswith(HEAD_PREFIX) for name in saved)
    for name, tensor in model.state_dict().items():
        # Continued adapters stand under their own names; a base without adapters under names without their wrapping.
        source = name if name in saved else name_without_adapters(name)
        used.update((source, name_without_adapters(name)))  # trained weights may hide a base's tensor of that name
        is_reset = _part_of(name) in reset
        if is_reset or source not in saved:
            if not is_reset and not _may_be_missing(name, is_base):
                raise ValueError(f"{folder} has no {source}; it is a checkpoint of another architecture")
            fresh[_part_of(name)] += 1
        elif saved[source].shape != tuple(tensor.shape):
            raise ValueError(f"{folder}: {source} is {saved[source].shape}, this run needs {tuple(tensor.shape)}")
        else:
            targets.append((tensor, source))
    left = Counter(_part_of(name) for name in saved if name not in used)
    if forbidden := sorted(set(left) - set(OPTIONAL)):
        raise ValueError(
            f"{folder} has weights this run has no place for ({forbidden}); merge adapters first: python -m plum export"
        )
    copy_tensors(targets, saved)
    return [
        f"Copied {len(targets)} tensors from {folder}",
        f"Starting afresh: {_describe(fresh)}",
        f"Left behind: {_describe(left)}",
    ]


def require_same_backbone(own: ModelConfig, folder: str) -> None:
    """Refuse a model whose fixed parts are built differently; a token that only one of them writes is no difference.

    Args:
        own: this run's architecture, special tokens included.
        folder: the saved model.

    Raises:
        FileNotFoundError: it has no config.json.
        ValueError: something differs; names every key with both values.
    """
    saved = read_model_config(Path(folder))
    neutral = replace(
        own,
        system=saved.system,
        seg_token=saved.seg_token,
        tagger=saved.tagger,
        feedback=saved.feedback,
        lora=saved.lora,
        llava=replace(own.llava, special_tokens=_suppressed_alike(own, saved)),
    )
    if differences := describe_differences(saved, neutral):
        raise ValueError(
            f"{folder} differs from this run's model in (key: saved, this run's) {'; '.join(differences)}; the values "
            f"of its config.json are the checkpoint's own: put them into the run's YAML"
        )
    if saved.lora is not None and saved.lora != own.lora:
        raise ValueError(
            f"{folder} has adapters {saved.lora}, this run {own.lora}; merge them first: python -m plum export"
        )


def _suppressed_alike(own: ModelConfig, saved: ModelConfig) -> SpecialTokensConfig | None:
    """Return the run's special tokens with the saved model's idea of which ids are no text."""
    tokens, others = own.llava.special_tokens, saved.llava.special_tokens
    return tokens if tokens is None or others is None else replace(tokens, suppressed=others.suppressed)


def _may_be_missing(name: str, is_base: bool) -> bool:
    """Say whether a tensor may start afresh: adapters and optional heads, over a converted base all heads."""
    return is_adapter(name) or _part_of(name) in (RESETTABLE if is_base else OPTIONAL)


def _part_of(name: str) -> str:
    if is_adapter(name):
        return "adapters"
    first = name.split(".", 1)[0]
    return next((module for module in RESETTABLE if name.startswith(f"{module}.")), first)


def _describe(parts: Counter[str]) -> str:
    return ", ".join(f"{part} ({count} tensors)" for part, count in sorted(parts.items())) or "nothing"
