"""Builders of LLaVA and the segmenter for a system: with random weights, or empty, to be filled from a checkpoint."""

from dataclasses import dataclass

from plum.config import ModelConfig, Quantization, SamConfig
from plum.models.backbones.calico import build_calico_backbone
from plum.models.backbones.llava import LlavaBackbone, build_llava
from plum.models.segmenters.build import build_segmenter
from plum.models.segmenters.sam import SegmentAnything, build_sam
from plum.models.segmenters.segmenter import Segmenter
from plum.models.weightless import without_weights


@dataclass(frozen=True)
class Backbones:
    """How LLaVA and the segmenter are built; a system's own heads always get random weights.

    is_empty: allocate no memory for their parameters; see `plum.models.weightless`
    quantization: of LLaVA's language model; requires `is_empty`
    """

    is_empty: bool = False
    quantization: Quantization = "none"

    def build_llava(self, config: ModelConfig) -> LlavaBackbone:
        """Build LLaVA, or CALICO's form of it, adapters included.

        Raises:
            ValueError: the parts of `config.calico` contradict each other.
        """
        if config.calico is not None:
            return build_calico_backbone(config.llava, config.calico, config.lora, self.is_empty, self.quantization)
        return build_llava(config.llava, config.lora, self.is_empty, self.quantization)

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
