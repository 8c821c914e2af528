"""PLUM: LLaVA with adapters + span tagger + SAM with mask feedback (paper, section 4), sizes from the configuration."""

from plum.config import ModelConfig
from plum.models.grounded_lmm import GroundedLMM
from plum.models.heads.mask_feedback import build_feedback
from plum.models.heads.query_projection import QueryProjection
from plum.models.heads.span_tagger import SpanTagger
from plum.models.systems.components import Backbones
from plum.models.systems.tagged_phrases import TaggedPhrases


def build_plum(config: ModelConfig, backbones: Backbones) -> GroundedLMM:
    """Build PLUM with random weights.

    Raises:
        ValueError: the configuration is for another system.
    """
    tagger, hidden_size = config.tagger, config.language.hidden_size
    if tagger is None or config.seg_token is not None:
        raise ValueError("model.system plum needs model.tagger and no model.seg_token")
    return GroundedLMM(
        config=config,
        backbone=backbones.build_backbone(config),
        tagger=SpanTagger(
            hidden_size,
            tagger.context,
            tagger.num_heads,
            tagger.feedforward_dim,
            tagger.dropout,
            order=tagger.order,
            scheme=tagger.scheme,
            use_crf=tagger.use_crf,
            use_cross_attention=tagger.use_cross_attention,
        ),
        query_projection=QueryProjection(hidden_size, config.sam.prompt_dim),
        sam=backbones.build_segmenter(config),
        feedback=build_feedback(config),
    )


def plum_notation(_config: ModelConfig) -> TaggedPhrases:
    """Return PLUM's target notation."""
    return TaggedPhrases()
