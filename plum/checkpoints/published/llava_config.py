"""Reads config.json of published LLaVA and CLIP folders; values that plum cannot express are refused."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from transformers import CLIPVisionConfig, LlamaConfig
from transformers import LlavaConfig as StockLlavaConfig

from partonomy.files import read_json
from plum.checkpoints.published.llava_keys import OWN_VISION, Layout
from plum.config import Fit, LanguageConfig, LlavaConfig, VisionConfig, usual_fit
from plum.inputs.conversation import TemplateName

CLIP_HEAD_DIM = 64
"""Width of a head in OpenAI's CLIP towers; shapes alone do not show the number of heads."""
ORIGINAL_TYPES = ("llava", "llava_llama")
DELIMITED: Mapping[TemplateName, TemplateName] = {
    "llava_v1": "llava_v1_im_start_end",
    "vicuna_v1.1": "vicuna_v1.1_im_start_end",
}
"""Templates with the image alone, and their variants with `<im_start>` and `<im_end>` around it."""
FIT_OF_ASPECT_RATIO: Mapping[str, Fit] = {"square": "crop", "pad": "pad"}
"""LLaVA's `image_aspect_ratio`: `square` leaves the image to CLIP's processor, which cuts out its centre."""
LANGUAGE_CONSTANTS = {"hidden_act": "silu", "attention_bias": False, "mlp_bias": False, "tie_word_embeddings": False}
VISION_CONSTANTS = {"hidden_act": "quick_gelu", "layer_norm_eps": 1e-5, "num_channels": 3}


@dataclass(frozen=True)
class SourceConfig:
    """Content of config.json, before the weights are inspected.

    Attributes:
        path: the file.
        language: sizes; `vocab_size` may still grow.
        vision: CLIP's sizes; None if another folder or the shapes determine them.
        select_layer: index of CLIP's hidden state that is used.
        projector: type of the projector; None if the file does not state it.
        vision_name: name of the CLIP folder it was trained with, if stated.
        has_image_delimiters: trained with `<im_start>` and `<im_end>` around the image.
        aspect_ratio: LLaVA's `image_aspect_ratio`, how images became CLIP's square; None if the file does not state it.
        is_original: written by the original LLaVA code.
    """

    path: Path
    language: LanguageConfig
    vision: VisionConfig | None
    select_layer: int
    projector: str | None
    vision_name: str
    has_image_delimiters: bool
    aspect_ratio: str | None
    is_original: bool


def read_source_config(folder: Path) -> SourceConfig:
    """Read a LLaVA folder's config.json.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is not LLaVA's on LLaMA, or has a value that plum cannot express; the message names file and key.
    """
    path = folder / "config.json"
    content = read_json(path)
    if "text_config" in content:
        return _read_llava_hf(path, content)
    return _read_original(path, content)


def read_clip_config(folder: Path, select_layer: int) -> VisionConfig:
    """Read a CLIP folder's config.json (whole CLIP or its vision tower alone).

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is not CLIP's, or holds a value that plum cannot express.
    """
    path = folder / "config.json"
    content = read_json(path)
    if content.get("model_type") not in ("clip", "clip_vision_model"):
        raise ValueError(f"{path} is no CLIP configuration (model_type clip or clip_vision_model)")
    sizes = content.get("vision_config", content)
    return _vision(path, CLIPVisionConfig.from_dict(dict(sizes)), select_layer)


def vision_from_shapes(shapes: Mapping[str, tuple[int, ...]], select_layer: int) -> VisionConfig:
    """Derive CLIP's sizes from its tensors (by our names); the heads are CLIP_HEAD_DIM wide, as OpenAI's are."""
    hidden_size, _, patch_size, _ = shapes[f"{OWN_VISION}embeddings.patch_embedding.weight"]
    num_patches = shapes[f"{OWN_VISION}embeddings.position_embedding.weight"][0] - 1
    return VisionConfig(
        image_size=round(num_patches**0.5) * patch_size,
        patch_size=patch_size,
        hidden_size=hidden_size,
        intermediate_size=shapes[f"{OWN_VISION}encoder.layers.0.mlp.fc1.weight"][0],
        num_layers=sum(name.endswith("layer_norm1.weight") for name in shapes if name.startswith(OWN_VISION)),
        num_heads=max(1, hidden_size // CLIP_HEAD_DIM),
        select_layer=select_layer,
    )


def choose_conversation(source: SourceConfig, layout: Layout, chosen: TemplateName | None) -> tuple[TemplateName, str]:
    """Return the template a checkpoint was trained with, and the reason for the choice.

    Raises:
        ValueError: it cannot be inferred and none was chosen, or the chosen one does not fit.
    """
    if source.has_image_delimiters:
        return _choose_delimited(source, layout, chosen)
    if chosen is not None:
        if chosen in DELIMITED.values():
            raise ValueError(f"{source.path}: mm_use_im_start_end is not true, so --conversation {chosen} does not fit")
        return chosen, "as chosen"
    if layout.projector == "mlp2x_gelu":
        return "vicuna_v1.1", "LLaVA v1.5 was trained with it"
    if "llama-2" in source.path.parent.resolve().name.lower():
        return "llava_llama_2", "the folder's name says llama-2"
    raise ValueError(
        f"{source.path.parent} does not show its conversation template; set --conversation to one of "
        f"{list(get_args(TemplateName))}. llava-llama-2 checkpoints: llava_llama_2; LLaVA v1: its training code used "
        "vicuna_v1.1, its demo and LISA llava_v1"
    )


def _choose_delimited(source: SourceConfig, layout: Layout, chosen: TemplateName | None) -> tuple[TemplateName, str]:
    """Choose for a checkpoint that was trained with `<im_start>` and `<im_end>` around the image."""
    reason = "mm_use_im_start_end: the image is between <im_start> and <im_end>"
    if chosen is None and layout.projector == "mlp2x_gelu":
        return DELIMITED["vicuna_v1.1"], reason
    if chosen is None:
        raise ValueError(
            f"{source.path.parent} does not show its conversation template; set --conversation to one of "
            f"{list(DELIMITED)}. LLaVA v1: its training code used vicuna_v1.1, its demo and LISA llava_v1"
        )
    if chosen not in (*DELIMITED, *DELIMITED.values()):
        raise ValueError(
            f"{source.path}: trained with <im_start> and <im_end> around the image (mm_use_im_start_end), which "
            f"--conversation {chosen} does not support; choose one of {list(DELIMITED)}"
        )
    return DELIMITED.get(chosen, chosen), reason


def choose_fit(source: SourceConfig, conversation: TemplateName, chosen: Fit | None) -> tuple[Fit, str]:
    """Return how a checkpoint's images became CLIP's square, and the reason for the choice.

    Raises:
        ValueError: the checkpoint was trained with another way than plum's, and none was chosen.
    """
    if chosen is not None:
        return chosen, "as chosen"
    if source.aspect_ratio is None:
        return usual_fit(conversation), f"usual with {conversation}"
    if source.aspect_ratio not in FIT_OF_ASPECT_RATIO:
        raise ValueError(
            f"{source.path}: image_aspect_ratio is {source.aspect_ratio!r}, plum has {list(FIT_OF_ASPECT_RATIO)}; "
            f"--fit {'|'.join(get_args(Fit))} takes another than the checkpoint's"
        )
    return FIT_OF_ASPECT_RATIO[source.aspect_ratio], f"image_aspect_ratio is {source.aspect_ratio}"


def build_llava_config(
    source: SourceConfig, layout: Layout, vision: VisionConfig, conversation: TemplateName
) -> LlavaConfig:
    """Combine the parts.

    Raises:
        ValueError: configuration and weights disagree on the projector.
    """
    projector = layout.projector
    assert projector is not None, "a LLaVA layout has a projector"
    if source.projector is not None and source.projector != projector:
        raise ValueError(
            f"{source.path}: the projector is {source.projector!r}, but the weights hold {projector!r} ({layout.name})"
        )
    return LlavaConfig(vision=vision, language=source.language, projector=projector, conversation=conversation)


def _read_llava_hf(path: Path, content: dict[str, object]) -> SourceConfig:
    _require(path, content.get("model_type"), "llava", "model_type")
    config = StockLlavaConfig.from_dict(content)
    _require(path, config.projector_hidden_act, "gelu", "projector_hidden_act")
    _require(path, config.vision_feature_select_strategy, "default", "vision_feature_select_strategy")
    if not isinstance(config.text_config, LlamaConfig) or not isinstance(config.vision_config, CLIPVisionConfig):
        raise ValueError(f"{path}: plum reads LLaVA on LLaMA with CLIP, not text_config or vision_config of this type")
    if not isinstance(config.vision_feature_layer, int):
        raise ValueError(f"{path}: vision_feature_layer is {config.vision_feature_layer}, plum reads one layer")
    return SourceConfig(
        path=path,
        language=_language(path, config.text_config),
        vision=_vision(path, config.vision_config, config.vision_feature_layer),
        select_layer=config.vision_feature_layer,
        projector="mlp2x_gelu",
        vision_name="",
        has_image_delimiters=False,
        aspect_ratio=None,
        is_original=False,
    )


def _read_original(path: Path, content: dict[str, object]) -> SourceConfig:
    if content.get("model_type") not in ORIGINAL_TYPES:
        raise ValueError(
            f"{path}: model_type is {content.get('model_type')!r}; plum reads llava-hf folders and original ones of "
            f"type {list(ORIGINAL_TYPES)} (LLaVA on LLaMA)"
        )
    _require(path, content.get("mm_vision_select_feature", "patch"), "patch", "mm_vision_select_feature")
    select_layer = content.get("mm_vision_select_layer", -2)
    if not isinstance(select_layer, int):
        raise ValueError(f"{path}: mm_vision_select_layer is {select_layer!r}, not a number")
    projector = content.get("mm_projector_type")
    return SourceConfig(
        path=path,
        language=_language(path, LlamaConfig.from_dict({**content, "model_type": "llama"})),
        vision=None,
        select_layer=select_layer,
        projector=None if projector is None else str(projector),
        vision_name=str(content.get("mm_vision_tower", content.get("vision_tower", ""))),
        has_image_delimiters=bool(content.get("mm_use_im_start_end", False)),
        aspect_ratio=None if content.get("image_aspect_ratio") is None else str(content["image_aspect_ratio"]),
        is_original=True,
    )


def _language(path: Path, config: LlamaConfig) -> LanguageConfig:
    _require_constants(path, config, LANGUAGE_CONSTANTS)
    rope = dict(config.rope_parameters or {})
    _require(path, rope.get("rope_type", "default"), "default", "rope_scaling")
    _require(path, config.head_dim, config.hidden_size // config.num_attention_heads, "head_dim")
    return LanguageConfig(
        vocab_size=config.vocab_size,
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        num_layers=config.num_hidden_layers,
        num_heads=config.num_attention_heads,
        num_key_value_heads=config.num_key_value_heads or config.num_attention_heads,
        max_positions=config.max_position_embeddings,
        rms_norm_eps=config.rms_norm_eps,
        rope_theta=float(rope.get("rope_theta", 10000.0)),
    )


def _vision(path: Path, config: CLIPVisionConfig, select_layer: int) -> VisionConfig:
    _require_constants(path, config, VISION_CONSTANTS)
    if not isinstance(config.image_size, int) or not isinstance(config.patch_size, int):
        raise ValueError(f"{path}: image_size {config.image_size} and patch_size {config.patch_size} must be numbers")
    return VisionConfig(
        image_size=config.image_size,
        patch_size=config.patch_size,
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        num_layers=config.num_hidden_layers,
        num_heads=config.num_attention_heads,
        select_layer=select_layer,
    )


def _require_constants(path: Path, config: LlamaConfig | CLIPVisionConfig, constants: Mapping[str, object]) -> None:
    for key, value in constants.items():
        _require(path, getattr(config, key), value, key)


def _require(path: Path, found: object, needed: object, key: str) -> None:
    if found != needed:
        raise ValueError(f"{path}: {key} is {found!r}, plum's LLaVA has {needed!r}")
