"""LLaVA with random or no weights, from its sizes."""

from torch import nn
from transformers import CLIPVisionConfig, LlamaConfig, LlavaForConditionalGeneration
from transformers import LlavaConfig as StockLlavaConfig

from plum.config import LlavaConfig, LoraConfig, Quantization
from plum.models.empty import without_weights
from plum.models.llava import LlavaBackbone
from plum.models.lora import add_adapters
from plum.models.quantization import quantize_language_model


def build_llava(
    config: LlavaConfig, lora: LoraConfig | None, is_empty: bool = False, quantization: Quantization = "none"
) -> LlavaBackbone:
    """Build a LLaVA with random weights from its sizes.

    Args:
        config: sizes.
        lora: adapters, if any.
        is_empty: without memory for its parameters, adapters included; see `plum.models.empty`.
        quantization: of the language model under the adapters; only of an empty one.
    """
    assert is_empty or quantization == "none", "a language model is quantized as its weights are loaded"
    vision, tokens = config.vision, config.special_tokens
    with without_weights(is_empty):
        stock = LlavaForConditionalGeneration(_stock_config(config))
        if config.projector == "linear":
            # LLaVA v1's single layer: the second one is the identity and stays frozen.
            nn.init.eye_(stock.model.multi_modal_projector.linear_2.weight)
            nn.init.zeros_(stock.model.multi_modal_projector.linear_2.bias)
        quantize_language_model(stock, quantization)
        layer = vision.select_layer
        num_vision_layers = layer if layer >= 0 else vision.num_layers + 1 + layer
        backbone = LlavaBackbone(stock, vision.num_image_tokens, num_vision_layers, tokens)
        if lora is not None:
            backbone.network = add_adapters(backbone.stock, lora)
    return backbone


def _stock_config(config: LlavaConfig) -> StockLlavaConfig:
    """Translate to transformers' configuration."""
    vision, language, tokens = config.vision, config.language, config.special_tokens
    return StockLlavaConfig(
        vision_config=CLIPVisionConfig(
            image_size=vision.image_size,
            patch_size=vision.patch_size,
            hidden_size=vision.hidden_size,
            intermediate_size=vision.intermediate_size,
            num_hidden_layers=vision.num_layers,
            num_attention_heads=vision.num_heads,
            projection_dim=vision.hidden_size,
        ),
        text_config=LlamaConfig(
            vocab_size=language.vocab_size,
            hidden_size=language.hidden_size,
            intermediate_size=language.intermediate_size,
            num_hidden_layers=language.num_layers,
            num_attention_heads=language.num_heads,
            num_key_value_heads=language.num_key_value_heads,
            max_position_embeddings=language.max_positions,
            rms_norm_eps=language.rms_norm_eps,
            rope_parameters={"rope_type": "default", "rope_theta": language.rope_theta},
            bos_token_id=None,
            eos_token_id=tokens.eos if tokens else None,
            pad_token_id=None,
            tie_word_embeddings=False,
        ),
        image_token_index=tokens.image if tokens else 0,
        image_seq_length=vision.num_image_tokens,
        projector_hidden_act="linear" if config.projector == "linear" else "gelu",
        vision_feature_layer=vision.select_layer,
        vision_feature_select_strategy="default",
    )
