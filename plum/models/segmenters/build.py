"""Builds the segmenter that a configuration describes. A further segmenter adds its row here."""

from plum.config import Sam2Config, SegmenterConfig
from plum.models.segmenters.sam import build_sam
from plum.models.segmenters.sam2 import build_sam2, complete_sam2
from plum.models.segmenters.segmenter import Segmenter


def build_segmenter(config: SegmenterConfig) -> Segmenter:
    """Build a segmenter with random weights.

    Raises:
        ValueError: the sizes contradict each other, or a package that it needs is missing.
    """
    return build_sam2(config) if isinstance(config, Sam2Config) else build_sam(config)


def complete_sizes(config: SegmenterConfig) -> SegmenterConfig:
    """Return a configuration that names every size of the image encoder, so that no default can change it later.

    Raises:
        ValueError: an unknown size, or sizes that contradict each other.
    """
    return complete_sam2(config) if isinstance(config, Sam2Config) else config
