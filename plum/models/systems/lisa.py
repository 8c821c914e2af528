"""LISA: LLaVA with adapters writes [SEG] tokens; the state before each is SAM's prompt (LISA paper, section 3.2).

LISA's released code puts `<im_start>` and `<im_end>` around the image and adds them to the vocabulary; so does a run
here whose `model.llava.conversation` has them, as the full-size configurations do. With `feedback.is_enabled`
this is "LISA (+F)" in Figure 5a of the PLUM paper.

Source: dvlab-research/LISA (`model/LISA.py`).
"""

from plum.config import ModelConfig
from plum.models.grounded_lmm import GroundedLMM
from plum.models.heads.mask_feedback import build_feedback
from plum.models.segmenters.segmenter import Segmenter
from plum.models.systems.components import Backbones
from plum.models.systems.seg_token import SegTokenProjection, SegTokens


def build_lisa(config: ModelConfig, backbones: Backbones) -> GroundedLMM:
    """Build LISA with random weights.

    Raises:
        ValueError: the configuration is for another system.
    """
    return build_around(config, backbones, backbones.build_segmenter(config))


def build_around(config: ModelConfig, backbones: Backbones, sam: Segmenter) -> GroundedLMM:
    """Build a system with [SEG] tokens around a segmenter."""
    if config.seg_token is None or config.tagger is not None:
        raise ValueError(f"model.system {config.system} needs model.seg_token and no model.tagger (null)")
    return GroundedLMM(
        config=config,
        backbone=backbones.build_backbone(config),
        tagger=None,
        query_projection=SegTokenProjection(config.language.hidden_size, config.sam.prompt_dim),
        sam=sam,
        feedback=build_feedback(config),
    )


def lisa_notation(config: ModelConfig) -> SegTokens:
    """Return the target notation of a system with [SEG] tokens."""
    assert config.seg_token is not None, "the builder refuses a configuration without it"
    marks = config.seg_token
    return SegTokens(marks.targets, marks.has_phrase_tags, marks.unnamed_image)
