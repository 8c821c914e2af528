"""Builders of backbone and segmenter for a system: with random weights, or empty, to be filled from a checkpoint."""

from dataclasses import dataclass

from plum.config import HfBackboneConfig, ModelConfig, Quantization, SamConfig
from plum.models.backbones.backbone import Backbone
from plum.models.backbones.calico import build_calico_backbone
from plum.models.backbones.hf import build_hf
from plum.models.backbones.llava import build_llava
from plum.models.segmenters.build import build_segmenter
from plum.models.segmenters.sam import SegmentAnything, build_sam
from plum.models.segmenters.segmenter import Segmenter
from plum.models.weightless import without_weights


@dataclass(frozen=True)
class Backbones:
    """How the backbone and the segmenter are built; a system's own heads always get random weights.

    is_empty: allocate no memory for their parameters; see `plum.models.weightless`
    quantization: of the language model; requires `is_empty`
    """

    is_empty: bool = False
    quantization: Quantization = "none"

    def build_backbone(self, config: ModelConfig) -> Backbone:
        """Build the configured backbone, adapters included.

        Raises:
            ValueError: there is none, the parts of `config.calico` contradict each other, or a stock model's
                architecture or sizes are refused.
        """
        if config.calico is not None:
            return build_calico_backbone(config.of_llava, config.calico, config.lora, self.is_empty, self.quantization)
        backbone = config.backbone
        if isinstance(backbone, HfBackboneConfig):
            return build_hf(backbone, config.lora, self.is_empty, self.quantization)
        return build_llava(backbone, config.lora, self.is_empty, self.quantization)

    def build_segmenter(self, config: ModelConfig) -> Segmenter:
        """Build SAM, or what `config.sam` names instead, without additions.

        Raises:
            ValueError: the sizes contradict each other.
        """
        with without_weights(self.is_empty):
            return build_segmenter(config.sam)

    def build_sam(self, config: SamConfig) -> SegmentAnything:
        """Build SAM itself, for a system that changes it."""
        with without_weights(self.is_empty):
            return build_sam(config)
