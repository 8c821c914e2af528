"""Which builder makes which system. A sister system adds its builder here and nothing else in this package."""

from collections.abc import Callable

from plum.config import ModelConfig
from plum.models.grounded_lmm import GroundedLMM
from plum.models.plum import build_plum

BUILDERS: dict[str, Callable[[ModelConfig], GroundedLMM]] = {"plum": build_plum}


def build_model(config: ModelConfig) -> GroundedLMM:
    """Build the system `config.system` names, with random weights (under `torch.device("meta")`: without any).

    Raises:
        ValueError: no builder has that name.
    """
    if config.system not in BUILDERS:
        raise ValueError(f"model.system: {config.system!r} is none of {sorted(BUILDERS)}")
    return BUILDERS[config.system](config)
