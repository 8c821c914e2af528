"""Start a run from a saved model's weights, when the new architecture may add adapters or switch an optional part.

The backbone is copied strictly. Only adapters, the tagger and the feedback may differ, and whatever starts afresh or is
left behind is reported by name.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from plum.checkpoints.model_config_io import describe_differences, read_model_config
from plum.checkpoints.store import HEAD_PREFIX, saved_tensors
from plum.checkpoints.weights import copy_tensors
from plum.config import ModelConfig
from plum.models.grounded_lmm import GroundedLMM
from plum.models.lora import is_adapter, name_without_adapters

RESETTABLE = ("tagger", "query_projection", "feedback")
"""Modules of GroundedLMM that a run may start afresh: PLUM's own heads."""


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
    _require_same_backbone(model.config, read_model_config(Path(folder)), folder)
    saved = saved_tensors(folder)
    targets: list[tuple[Tensor, str]] = []
    fresh: Counter[str] = Counter()
    used: set[str] = set()
    is_base = not any(name.startswith(HEAD_PREFIX) for name in saved)
    for name, tensor in model.state_dict().items():
        # Continued adapters stand under their own names; a base without adapters under names without their wrapping.
        source = name if name in saved else name_without_adapters(name)
        used.update((source, name_without_adapters(name)))  # trained weights may hide a base's tensor of that name
        is_reset = name.split(".", 1)[0] in reset
        if is_reset or source not in saved:
            if not is_reset and not _may_be_missing(name, is_base):
                raise ValueError(f"{folder} has no {source}; it is a checkpoint of another architecture")
            fresh[_part_of(name)] += 1
        elif saved[source].shape != tuple(tensor.shape):
            raise ValueError(f"{folder}: {source} is {saved[source].shape}, this run needs {tuple(tensor.shape)}")
        else:
            targets.append((tensor, source))
    left = Counter(_part_of(name) for name in saved if name not in used)
    if forbidden := sorted(set(left) - {"tagger", "feedback"}):
        raise ValueError(
            f"{folder} has weights this run has no place for ({forbidden}); merge adapters first: python -m plum export"
        )
    copy_tensors(targets, saved)
    return [
        f"Copied {len(targets)} tensors from {folder}",
        f"Starting afresh: {_describe(fresh)}",
        f"Left behind: {_describe(left)}",
    ]


def _require_same_backbone(own: ModelConfig, saved: ModelConfig, folder: str) -> None:
    """Refuse a model whose fixed parts are built differently."""
    neutral = replace(own, tagger=saved.tagger, feedback=saved.feedback, lora=saved.lora)
    if differences := describe_differences(saved, neutral):
        raise ValueError(f"{folder} differs from this run's model in (key: saved, this run's) {'; '.join(differences)}")
    if saved.lora is not None and saved.lora != own.lora:
        raise ValueError(
            f"{folder} has adapters {saved.lora}, this run {own.lora}; merge them first: python -m plum export"
        )


def _may_be_missing(name: str, is_base: bool) -> bool:
    """Say whether a tensor may start afresh: adapters and optional heads, over a converted base all heads."""
    optional = RESETTABLE if is_base else ("tagger", "feedback")
    return is_adapter(name) or name.split(".", 1)[0] in optional


def _part_of(name: str) -> str:
    return "adapters" if is_adapter(name) else name.split(".", 1)[0]


def _describe(parts: Counter[str]) -> str:
    return ", ".join(f"{part} ({count} tensors)" for part, count in sorted(parts.items())) or "nothing"
