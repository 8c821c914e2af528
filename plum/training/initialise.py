"""Start a run from a saved model's weights, when the new architecture may add adapters or switch an optional part.

The backbone is copied strictly. Only adapters, the tagger and the feedback may differ, and whatever starts afresh or is
left behind is reported by name.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace

import torch

from plum.checkpoints.store import load_pretrained
from plum.config import ModelConfig
from plum.models.grounded_lmm import GroundedLMM

RESETTABLE = ("tagger", "query_projection", "feedback")
"""Modules of GroundedLMM that a run may start afresh: PLUM's own heads."""


def initialise_from(model: GroundedLMM, folder: str, reset_modules: Iterable[str] = ()) -> list[str]:
    """Copy the weights of a saved model into `model`.

    Args:
        model: freshly built; changed in place.
        folder: a saved model.
        reset_modules: names out of RESETTABLE that keep their fresh weights.

    Returns:
        Lines that say what was copied, what starts afresh and what was left behind.

    Raises:
        ValueError: a module cannot be reset, or the architectures differ in more than optional parts.
    """
    reset = tuple(reset_modules)
    if unknown := sorted(set(reset) - set(RESETTABLE)):
        raise ValueError(f"reset_modules: {unknown} is none of {list(RESETTABLE)}")
    source = load_pretrained(folder, "cpu", torch.float32)
    _require_same_backbone(model.config, source.config, folder)
    saved = source.model.state_dict()
    by_plain_name = {_without_adapter_wrapping(name): tensor for name, tensor in saved.items()}
    copied, fresh, used = 0, Counter[str](), set[str]()
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            plain = _without_adapter_wrapping(name)
            is_reset = name.split(".", 1)[0] in reset
            if is_reset or plain not in by_plain_name:
                if not is_reset and not _may_be_missing(name):
                    raise ValueError(f"{folder} has no {plain}; it is a checkpoint of another architecture")
                fresh[_part_of(name)] += 1
                used.add(plain)
                continue
            if by_plain_name[plain].shape != tensor.shape:
                raise ValueError(
                    f"{folder}: {plain} is {tuple(by_plain_name[plain].shape)}, this run needs {tuple(tensor.shape)}"
                )
            tensor.copy_(by_plain_name[plain])
            used.add(plain)
            copied += 1
    left = Counter(_part_of(name) for name in by_plain_name if name not in used)
    if forbidden := sorted(set(left) - {"tagger", "feedback"}):
        raise ValueError(
            f"{folder} has weights this run has no place for ({forbidden}); merge adapters first: python -m plum export"
        )
    return [
        f"Copied {copied} tensors from {folder}",
        f"Starting afresh: {_describe(fresh)}",
        f"Left behind: {_describe(left)}",
    ]


def _require_same_backbone(own: ModelConfig, saved: ModelConfig, folder: str) -> None:
    """Refuse a model whose fixed parts are built differently."""
    neutral = replace(own, tagger=saved.tagger, feedback=saved.feedback, lora=saved.lora)
    if neutral != saved:
        differing = [key for key in ("llava", "sam", "system") if getattr(own, key) != getattr(saved, key)]
        raise ValueError(f"{folder} differs from this run's model in {', '.join(differing)}")
    if saved.lora is not None and saved.lora != own.lora:
        raise ValueError(
            f"{folder} has adapters {saved.lora}, this run {own.lora}; merge them first: python -m plum export"
        )


def _without_adapter_wrapping(name: str) -> str:
    """Return the name a tensor of the base has without peft's wrappers."""
    plain = name.replace("llava.network.base_model.model.", "llava.network.").replace(".base_layer.", ".")
    return plain.replace(".original_module.", ".").replace(".modules_to_save.default.", ".")


def _may_be_missing(name: str) -> bool:
    """Say whether a tensor may start afresh: adapters and optional heads."""
    return ".lora_" in name or name.split(".", 1)[0] in ("tagger", "feedback")


def _part_of(name: str) -> str:
    return "adapters" if ".lora_" in name else name.split(".", 1)[0]


def _describe(parts: Counter[str]) -> str:
    return ", ".join(f"{part} ({count} tensors)" for part, count in sorted(parts.items())) or "nothing"
