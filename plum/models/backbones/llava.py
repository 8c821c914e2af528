"""LLaVA as a backbone: CLIP tower, projector and LLaMA (paper, section 4)."""

import torch
from torch import Tensor, nn
from transformers import CLIPVisionConfig, LlamaConfig, LlavaForConditionalGeneration
from transformers import LlavaConfig as StockLlavaConfig

from plum.config import LlavaConfig, LoraConfig, Quantization, SpecialTokensConfig
from plum.models.backbones.backbone import Backbone
from plum.models.backbones.lora import add_adapters
from plum.models.backbones.quantization import quantize_language_model
from plum.models.frozen import grad_if_trainable
from plum.models.weightless import without_weights
from plum.structures import ImageTokens, Pixels


class LlavaBackbone(Backbone):
    """CLIP tower, projector and LLaMA; every image has the same number of tokens.

    Args:
        network: stock LLaVA.
        num_image_tokens: tokens of an image.
        num_vision_layers: layers of the tower up to the selected one.
        special_tokens: ids that the model needs; None: not yet read from the tokenizer.
    """

    def __init__(
        self,
        network: LlavaForConditionalGeneration,
        num_image_tokens: int,
        num_vision_layers: int,
        special_tokens: SpecialTokensConfig | None,
    ) -> None:
        super().__init__(network, special_tokens)
        self.num_image_tokens = num_image_tokens
        self.num_vision_layers = num_vision_layers

    def no_images(self) -> ImageTokens:
        """Return the tokens of no image, [0, n, D]."""
        return ImageTokens(
            torch.zeros(0, self.num_image_tokens, self.hidden_size, dtype=self.stock.dtype, device=self.device)
        )

    def encode_images(self, pixels: Pixels) -> ImageTokens:
        """Encode normalised images [B, 3, p, p] to image tokens.

        The tower stops at the selected layer; stock LLaVA also runs the layers after it.
        """
        assert isinstance(pixels, Tensor), "CLIP's square input"
        tower, projector = self.stock.model.vision_tower, self.stock.model.multi_modal_projector
        with grad_if_trainable(tower):
            states = pixels.to(tower.embeddings.patch_embedding.weight.dtype)
            states = tower.pre_layrnorm(tower.embeddings(states))
            for layer in tower.encoder.layers[: self.num_vision_layers]:
                states = layer(states, None)
        with grad_if_trainable(tower, projector):
            return ImageTokens(projector(states[:, 1:]))  # without the class token


def build_llava(
    config: LlavaConfig, lora: LoraConfig | None, is_empty: bool = False, quantization: Quantization = "none"
) -> LlavaBackbone:
    """Build a LLaVA of the configured sizes with random weights.

    Args:
        config: sizes.
        lora: adapters, if any.
        is_empty: allocate no memory for the parameters, adapters included; see `plum.models.weightless`.
        quantization: of the language model under the adapters; requires `is_empty`.
    """
    assert is_empty or quantization == "none", "a language model is quantized as its weights are loaded"
    vision, tokens = config.vision, config.special_tokens
    with without_weights(is_empty):
        stock = LlavaForConditionalGeneration(stock_config(config))
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


def stock_config(config: LlavaConfig) -> StockLlavaConfig:
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
