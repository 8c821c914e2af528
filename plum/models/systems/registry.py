"""Registry of systems: the builder and the target notation of each. A sister system adds its row here."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from plum.config import ModelConfig, Quantization, with_fit
from plum.models.grounded_lmm import GroundedLMM
from plum.models.segmenters.build import complete_sizes
from plum.models.systems.calico import build_calico
from plum.models.systems.components import Backbones
from plum.models.systems.lisa import build_lisa, lisa_notation
from plum.models.systems.m2sa import build_m2sa
from plum.models.systems.plum import build_plum, plum_notation
from plum.models.systems.target_notation import TargetNotation


@dataclass(frozen=True)
class System:
    """Builder of a system's model (with random weights) and of its target notation."""

    build: Callable[[ModelConfig, Backbones], GroundedLMM]
    notation: Callable[[ModelConfig], TargetNotation]


SYSTEMS = {
    "plum": System(build_plum, plum_notation),
    "lisa": System(build_lisa, lisa_notation),
    "m2sa": System(build_m2sa, lisa_notation),
    "calico": System(build_calico, lisa_notation),
}


def build_model(
    config: ModelConfig, is_backbone_empty: bool = False, quantization: Quantization = "none"
) -> GroundedLMM:
    """Build the system `config.system` names, with random weights (under `torch.device("meta")`: without any).

    Args:
        config: architecture.
        is_backbone_empty: allocate no memory for the parameters of LLaVA and SAM; see `plum.models.weightless`.
        quantization: of the language model; requires `is_backbone_empty`.

    Raises:
        ValueError: no system has that name, or the configuration is for another system.
    """
    config = with_fit(config)
    config = replace(config, sam=complete_sizes(config.sam))
    if config.system != "calico":
        if config.calico is not None:
            raise ValueError(f"model.system {config.system} has no use for model.calico: set it to null")
        if config.llava is not None and config.llava.vision.num_query_tokens is not None:
            raise ValueError(
                f"model.system {config.system} has no Q-Former: set model.llava.vision.num_query_tokens to null"
            )
    return _find(config).build(config, Backbones(is_backbone_empty, quantization))


def build_notation(config: ModelConfig) -> TargetNotation:
    """Return the target notation of the system that `config.system` names."""
    return _find(config).notation(config)


def _find(config: ModelConfig) -> System:
    if config.system not in SYSTEMS:
        raise ValueError(f"model.system: {config.system!r} is not one of {sorted(SYSTEMS)}")
    return SYSTEMS[config.system]
