"""Any image-text-to-text model of transformers as a backbone, if its inner names follow the library.

The stock model encodes one image at a time, so that images of any size need no padding among them. Positions come with
the batch (`ConversationImages.positions`), and features that the first layers add to image tokens (Qwen3-VL's
DeepStack) with the image tokens. A family needs a row in `FAMILIES`; the tests compare each with its stock `forward`.
"""

import inspect
import logging
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import AutoModelForImageTextToText, PreTrainedModel

from plum.config import HfBackboneConfig, LlavaConfig, LoraConfig, Quantization, stock_hf_config
from plum.models.backbones.backbone import Backbone
from plum.models.backbones.lora import add_adapters
from plum.models.backbones.quantization import quantize_language_model
from plum.models.frozen import grad_if_trainable
from plum.models.weightless import without_weights
from plum.structures import ImageTokens, Pixels, StockPixels

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Family:
    """What differs between families of stock models.

    decoder: name of the language model
    towers: names of what encodes an image, projector included
    own_attention: what keeps layers from attending to all earlier tokens and to no later one, in words; such a model
        takes the plain path (`Backbone.shares_prefixes`). Empty: nothing
    has_image_masks: which tokens attend to each other depends on which are image tokens
    """

    decoder: str = "language_model"
    towers: tuple[str, ...] = ("vision_tower", "multi_modal_projector")
    own_attention: str = ""
    has_image_masks: bool = False


FAMILIES = {
    "internvl": Family(),
    "llava": Family(),
    "llava_onevision": Family(),
    "qwen2_vl": Family(towers=("visual",)),
    "qwen2_5_vl": Family(towers=("visual",)),
    "qwen3_vl": Family(towers=("visual",)),
    "qwen3_5": Family(towers=("visual",), own_attention="linear attention"),
    "gemma3": Family(own_attention="sliding windows, and images that attend both ways", has_image_masks=True),
    "idefics3": Family("text_model", ("vision_model", "connector")),
    "smolvlm": Family("text_model", ("vision_model", "connector")),
}
"""By transformers' `model_type`: families in which all of PLUM's paths are exact (see the tests of this module)."""


class HfBackbone(Backbone):
    """A stock model of one of `FAMILIES`.

    Args:
        network: the stock model.
        family: the model's.
        config: special tokens.
    """

    def __init__(self, network: PreTrainedModel, family: Family, config: HfBackboneConfig) -> None:
        super().__init__(network, config.special_tokens)
        self.family = family
        self.shares_prefixes = shares_prefixes(config)
        self.encoder_inputs = tuple(inspect.signature(network.model.get_image_features).parameters)

    def encode_images(self, pixels: Pixels) -> ImageTokens:
        """Encode images, each by itself."""
        assert isinstance(pixels, StockPixels), "inputs of the model's own image processor"
        model = self.stock.model
        towers = [model.get_submodule(name) for name in self.family.towers]
        encoded = []
        for image in pixels.images:
            inputs = {name: tensor for name, tensor in image.items() if name in self.encoder_inputs}
            inputs["pixel_values"] = inputs["pixel_values"].to(model.dtype)
            with grad_if_trainable(*towers):
                found = model.get_image_features(**inputs, return_dict=True)
            layers = getattr(found, "deepstack_features", None)
            encoded.append(
                ImageTokens(
                    _tokens(found.pooler_output)[None],
                    layers=torch.stack([_tokens(layer) for layer in layers], dim=1)[None] if layers else None,
                )
            )
        return ImageTokens.concatenate(encoded)

    def masks(self, embeddings: Tensor, input_ids: Tensor, attention_mask: Tensor | None) -> object | None:
        """See `Backbone`; masks that depend on image tokens are the stock model's own."""
        if not self.family.has_image_masks:
            return attention_mask
        create: Callable[..., object] = getattr(self.stock, "create_masks_for_generate")  # noqa: B009
        return create(
            config=self.decoder.config,
            inputs_embeds=embeddings,
            attention_mask=attention_mask,
            past_key_values=None,
            position_ids=None,
            token_type_ids=(input_ids == self.special_tokens.image).int(),
            is_first_iteration=True,
        )


def _tokens(features: Tensor | list[Tensor] | tuple[Tensor, ...]) -> Tensor:
    """Return the features of an image, tile after tile, as [n, D]."""
    tiles = [features] if isinstance(features, Tensor) else list(features)
    return torch.cat([tile.flatten(0, -2) for tile in tiles])


def find_family(config: HfBackboneConfig) -> Family:
    """Return the family of a stock model.

    Raises:
        ValueError: the architecture is none of `FAMILIES`.
    """
    if config.model_type not in FAMILIES:
        raise ValueError(
            f"model.hf: {config.model_type or 'no model_type'!r} is none of the families that PLUM's heads run on: "
            f"{', '.join(sorted(FAMILIES))}"
        )
    return FAMILIES[config.model_type]


def shares_prefixes(config: LlavaConfig | HfBackboneConfig) -> bool:
    """Return whether conversations of a model can share a common prefix; see `Backbone.shares_prefixes`.

    Raises:
        ValueError: see `find_family`.
    """
    return isinstance(config, LlavaConfig) or not find_family(config).own_attention


def build_hf(
    config: HfBackboneConfig, lora: LoraConfig | None, is_empty: bool = False, quantization: Quantization = "none"
) -> HfBackbone:
    """Build a stock model of the configured sizes with random weights.

    Args:
        config: the model.
        lora: adapters, if any.
        is_empty: allocate no memory for the parameters, adapters included; see `plum.models.weightless`.
        quantization: of the language model under the adapters; requires `is_empty`.

    Raises:
        ValueError: the architecture is none of `FAMILIES`, or transformers refuses the sizes.
    """
    assert is_empty or quantization == "none", "a language model is quantized as its weights are loaded"
    family, stock_config = find_family(config), stock_hf_config(config)
    if family.own_attention:
        logger.info(
            "%s has %s, so every conversation runs by itself: questions about one image do not share its states",
            config.model_type,
            family.own_attention,
        )
    with without_weights(is_empty):
        stock = AutoModelForImageTextToText.from_config(stock_config)
        quantize_language_model(stock, quantization)
    stock.tie_weights()  # parameters without memory lose the tie between embed_tokens and lm_head
    with without_weights(is_empty):
        backbone = HfBackbone(stock, family, config)
        if lora is not None:
            backbone.network = add_adapters(stock, lora, family.decoder)
    return backbone
