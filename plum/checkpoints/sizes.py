"""Compares the sizes in a model's config.json with the headers of its weight files, before any module is built.

Modules of absurd sizes would take minutes and all memory to build, even without weights.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from partonomy.files import is_integer
from plum.config import LanguageConfig, ModelConfig, Sam2Config, SegmenterConfig, VisionConfig

Shape = tuple[int, ...]

DECODER = r"\.(?:language_model|text_model)"
"""Pattern of the language model's name in its tensors' names."""


@dataclass(frozen=True)
class _Width:
    """A number of the configuration that is a dimension of a tensor: the tensor's name as a pattern, and which."""

    key: str
    value: int
    tensor: str
    dimension: int


@dataclass(frozen=True)
class _Depth:
    """A number of the configuration that counts layers: the layers' names as a pattern with the layer's number."""

    key: str
    value: int
    layer: str


def require_sizes(config: ModelConfig, shapes: Mapping[str, Shape], where: str) -> None:
    """Refuse a configuration whose sizes are not those of the weights.

    What the files lack is not compared: the strict reader reports it by name.

    Args:
        config: the architecture.
        shapes: shape of every tensor, by the model's or its base's name.
        where: the folder, for messages.

    Raises:
        ValueError: a size differs; the message names the key, the size and that of the weights.
    """
    for width in _widths(config):
        pattern = re.compile(width.tensor)
        found = next((shape for name, shape in shapes.items() if pattern.search(name)), None)
        if found is not None and len(found) > width.dimension and found[width.dimension] != width.value:
            raise ValueError(_describe(where, width.key, width.value, f"{found[width.dimension]} in the weights"))
    for depth in _depths(config):
        pattern = re.compile(depth.layer)
        numbers = {match.group(1) for name in shapes if (match := pattern.search(name))}
        if numbers and len(numbers) != depth.value:
            raise ValueError(_describe(where, depth.key, depth.value, f"{len(numbers)} layers in the weights"))
    largest = max((size for shape in shapes.values() for size in shape), default=0)
    for key, value in _bounded(config):
        if shapes and value > largest:
            raise ValueError(_describe(where, key, value, f"and no tensor of the weights is wider than {largest}"))


def _describe(where: str, key: str, value: int, found: str) -> str:
    return (
        f"{where} holds a checkpoint of another architecture: {key} is {value} in config.json, {found}; restore the "
        "config.json that was written with the weights"
    )


def _widths(config: ModelConfig) -> Iterator[_Width]:
    yield from _language_widths(config.language, _language_key(config))
    if config.llava is not None:
        yield from _tower_widths(config.llava.vision)
    yield from _segmenter_widths(config.sam)
    yield _Width("sam.prompt_dim", config.sam.prompt_dim, r"^sam\.prompt_encoder\.no_mask_embed\.weight$", 1)
    yield from _calico_widths(config)
    decoder = r"^sam\.mask_decoder\.transformer\.layers\.0\.mlp\.(lin1|proj_in)\.weight$"
    yield _Width("sam.decoder_mlp_dim", config.sam.decoder_mlp_dim, decoder, 0)


def _segmenter_widths(sam: SegmenterConfig) -> Iterator[_Width]:
    if isinstance(sam, Sam2Config):  # the widths of its encoder are only bounded: each model type has its own names
        channels = r"^sam\.prompt_encoder\.mask_embed\.conv3\.weight$"
        yield _Width("sam.mask_in_channels", sam.mask_in_channels, channels, 1)
        return
    yield _Width("sam.encoder_dim", sam.encoder_dim, r"^sam\.image_encoder\.patch_embed\.proj\.weight$", 0)
    yield _Width("sam.patch_size", sam.patch_size, r"^sam\.image_encoder\.patch_embed\.proj\.weight$", 2)
    if sam.patch_size > 0:
        side = sam.image_size // sam.patch_size
        yield _Width("the patches per side of sam.image_size", side, r"^sam\.image_encoder\.pos_embed$", 1)


def _language_key(config: ModelConfig) -> str:
    return "llava.language" if config.hf is None else "hf.stock.text_config"


def _language_widths(language: LanguageConfig, key: str) -> Iterator[_Width]:
    yield _Width(f"{key}.hidden_size", language.hidden_size, rf"{DECODER}\.norm\.weight$", 0)
    gate = rf"{DECODER}\.layers\.0\.mlp\.gate_proj(\.base_layer)?\.weight$"
    yield _Width(f"{key}.intermediate_size", language.intermediate_size, gate, 0)


def _tower_widths(vision: VisionConfig) -> Iterator[_Width]:
    yield _Width("llava.vision.hidden_size", vision.hidden_size, r"vision_tower.*\.pre_layrnorm\.weight$", 0)
    first = r"vision_tower.*encoder\.layers\.0\.mlp\.fc1\.weight$"
    yield _Width("llava.vision.intermediate_size", vision.intermediate_size, first, 0)
    patch = r"vision_tower.*\.patch_embedding\.weight$"
    yield _Width("llava.vision.patch_size", vision.patch_size, patch, 2)
    if vision.patch_size > 0:
        positions = r"vision_tower.*\.position_embedding\.weight$"
        patches = vision.num_patches + 1
        yield _Width("the number of patches of llava.vision.image_size, plus 1,", patches, positions, 0)


def _calico_widths(config: ModelConfig) -> Iterator[_Width]:
    calico = config.calico
    if calico is None:
        return
    projector = r"multi_modal_projector\.weight$"
    yield _Width("calico.embedding_size", calico.embedding_size, projector, 1)
    if calico.qformer is not None and config.of_llava.vision.num_query_tokens is not None:
        num_queries = config.of_llava.vision.num_query_tokens
        yield _Width("llava.vision.num_query_tokens", num_queries, r"^llava\.qformer\.queries$", 0)
        inner = r"^llava\.qformer\.network\.encoder\.layer\.0\.intermediate_query\.dense\.weight$"
        yield _Width("calico.qformer.intermediate_size", calico.qformer.intermediate_size, inner, 0)
    if calico.dino is not None:
        dino = calico.dino
        yield _Width("calico.dino.hidden_size", dino.hidden_size, r"^llava\.dino\.network\.layernorm\.weight$", 0)
        patch = r"^llava\.dino\.network\.embeddings\.patch_embeddings\.projection\.weight$"
        yield _Width("calico.dino.patch_size", dino.patch_size, patch, 2)
        if dino.patch_size > 0:
            patches = (dino.image_size // dino.patch_size) ** 2 + 1
            positions = r"^llava\.dino\.network\.embeddings\.position_embeddings$"
            yield _Width("the number of patches of calico.dino.image_size, plus 1,", patches, positions, 1)


def _depths(config: ModelConfig) -> Iterator[_Depth]:
    yield _Depth(f"{_language_key(config)}.num_layers", config.language.num_layers, rf"{DECODER}\.layers\.(\d+)\.")
    if config.llava is not None:
        layers = config.llava.vision.num_layers
        yield _Depth("llava.vision.num_layers", layers, r"vision_tower.*encoder\.layers\.(\d+)\.")
    if config.calico is not None and config.calico.qformer is not None:
        layers = config.calico.qformer.num_layers
        yield _Depth("calico.qformer.num_layers", layers, r"^llava\.qformer\.network\.encoder\.layer\.(\d+)\.")
    if config.calico is not None and config.calico.dino is not None:
        layers = config.calico.dino.num_layers
        yield _Depth("calico.dino.num_layers", layers, r"^llava\.dino\.network\.encoder\.layer\.(\d+)\.")
    yield from _encoder_depths(config.sam)
    yield _Depth("sam.decoder_depth", config.sam.decoder_depth, r"^sam\.mask_decoder\.transformer\.layers\.(\d+)\.")


def _encoder_depths(sam: SegmenterConfig) -> Iterator[_Depth]:
    if not isinstance(sam, Sam2Config):
        yield _Depth("sam.encoder_depth", sam.encoder_depth, r"^sam\.image_encoder\.blocks\.(\d+)\.")
        return
    layers = r"^sam\.vision_encoder\.backbone\.(?:blocks|layers)\.(\d+)\."
    for key, numbers in _encoder_numbers(sam):
        if key in ("blocks_per_stage", "num_hidden_layers"):
            yield _Depth(f"sam.vision.backbone_config.{key} (sum)", sum(numbers), layers)


def _encoder_numbers(sam: Sam2Config) -> Iterator[tuple[str, list[int]]]:
    """Yield the integers of the image encoder's backbone, alone or in a list, by name."""
    backbone = sam.vision.get("backbone_config")
    for key, value in backbone.items() if isinstance(backbone, dict) else ():
        numbers = value if isinstance(value, list) else [value]
        if all(is_integer(one) for one in numbers):
            yield key, numbers


def _bounded(config: ModelConfig) -> Iterator[tuple[str, int]]:
    """Yield further sizes that allocate memory, each of which is some dimension of some tensor."""
    language = config.language
    key = _language_key(config)
    yield f"{key}.vocab_size", language.vocab_size
    yield f"{key}.num_heads", language.num_heads
    yield f"{key}.num_key_value_heads", language.num_key_value_heads
    yield "sam.mask_in_channels", config.sam.mask_in_channels
    if isinstance(config.sam, Sam2Config):
        for key, numbers in _encoder_numbers(config.sam):
            if key in ("hidden_size", "intermediate_size", "embed_dim_per_stage"):
                yield f"sam.vision.backbone_config.{key}", max(numbers, default=0)
    if config.tagger is not None:
        yield "tagger.feedforward_dim", config.tagger.feedforward_dim
    if config.feedback.use_order_embedding:
        yield "feedback.max_order", config.feedback.max_order
    if config.lora is not None:
        yield "lora.rank", config.lora.rank
