"""PLUM: LLaVA with adapters + span tagger + SAM with mask feedback (paper, section 4), sizes from the configuration."""

from plum.config import ModelConfig
from plum.models.grounded_lmm import GroundedLMM
from plum.models.llava import build_llava
from plum.models.mask_feedback import FilmMaskEncoder, MaskFeedback, TemporalMaskPooler
from plum.models.query_projection import QueryProjection
from plum.models.sam import build_sam
from plum.models.span_tagger import SpanTagger


def build_plum(config: ModelConfig) -> GroundedLMM:
    """Build PLUM with random weights."""
    hidden_size = config.llava.language.hidden_size
    tagger = config.tagger
    return GroundedLMM(
        config=config,
        llava=build_llava(config.llava, config.lora),
        tagger=SpanTagger(hidden_size, tagger.context, tagger.num_heads, tagger.feedforward_dim, tagger.dropout),
        query_projection=QueryProjection(hidden_size, config.sam.prompt_dim),
        sam=build_sam(config.sam),
        feedback=build_feedback(config) if config.feedback.is_enabled else None,
    )


def build_feedback(config: ModelConfig) -> MaskFeedback:
    """Build the mask feedback loop around SAM's sizes."""
    sam, feedback = config.sam, config.feedback
    side = sam.image_size // sam.patch_size
    return MaskFeedback(
        encoder=FilmMaskEncoder(sam.prompt_dim, sam.mask_in_channels),
        pooler=TemporalMaskPooler(
            sam.prompt_dim, (side, side), feedback.num_heads, feedback.use_order_embedding, feedback.max_order
        ),
        detach_feedback=feedback.detach_feedback,
    )
