"""The conversation encoder of a model: its tokenizer, its template and the size of its images in tokens."""

from transformers import PreTrainedTokenizerBase

from plum.config import HfBackboneConfig, ModelConfig
from plum.inputs.encoding import ConversationEncoder
from plum.inputs.stock_inputs import StockInputs


def build_encoder(
    config: ModelConfig,
    tokenizer: PreTrainedTokenizerBase,
    max_text_tokens: int | None = None,
    max_tokens: int | None = None,
) -> ConversationEncoder:
    """Build the encoder that a model is trained with.

    Args:
        config: the model.
        tokenizer: the model's.
        max_text_tokens, max_tokens: see `ConversationEncoder`.
    """
    backbone = config.backbone
    if isinstance(backbone, HfBackboneConfig):
        stock = StockInputs(backbone, tokenizer)
        return ConversationEncoder(tokenizer, stock, None, max_text_tokens, max_tokens, stock.has_rectangles)
    num_image_tokens = backbone.vision.num_image_tokens
    return ConversationEncoder(tokenizer, backbone.conversation, num_image_tokens, max_text_tokens, max_tokens)
