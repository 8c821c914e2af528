"""CALICO: segments common and unique parts of several images, with [SEG] tokens in its answers (CALICO, section 3).

The backbone is `plum.models.backbones.calico`; [SEG] tokens, their projection f_segmentation and SAM are LISA's. The
paper builds on GLaMM, which inherits LISA's convention that the state *before* a [SEG] is SAM's prompt.
"""

from plum.config import ModelConfig
from plum.models.grounded_lmm import GroundedLMM
from plum.models.systems.components import Backbones
from plum.models.systems.lisa import build_lisa


def build_calico(config: ModelConfig, backbones: Backbones) -> GroundedLMM:
    """Build CALICO with random weights.

    Raises:
        ValueError: the configuration is for another system, or its parts contradict each other.
    """
    if config.calico is None:
        raise ValueError("model.system calico needs model.calico")
    if config.seg_token is not None and config.seg_token.targets != "many":
        raise ValueError("model.system calico writes a [SEG] for each mask: set model.seg_token.targets to many")
    return build_lisa(config, backbones)
