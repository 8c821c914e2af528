"""CALICO's frozen towers from published folders: EVA-CLIP and Q-Former of BLIP-2 or InstructBLIP, and DINOv2.

Both are read in transformers' layout (Salesforce/blip2-*, Salesforce/instructblip-*, facebook/dinov2-*). A table names
every tensor; what is left out is listed with a reason, and any other name is an error. CALICO's paper takes BLIP-2's
Q-Former; InstructBLIP's was trained with the instruction's text beside the queries, which CALICO does not give it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from huggingface_hub.errors import StrictDataclassError
from transformers import (
    Blip2QFormerConfig,
    Blip2VisionConfig,
    Dinov2Config,
    Dinov2WithRegistersConfig,
    LlamaConfig,
    PretrainedConfig,
)

from partonomy.files import read_json
from plum.checkpoints.published.conversion import Part, survey_part
from plum.checkpoints.published.llava_keys import (
    OWN_PROJECTOR,
    OWN_VISION,
    Dropped,
    Layout,
    describe_dropped,
    detect_layout,
)
from plum.checkpoints.published.source_files import SourceFiles, find_weight_files
from plum.checkpoints.published.survey import NUM_NAMES_SHOWN, list_names
from plum.config import DinoConfig, LanguageConfig, QFormerConfig, VisionConfig

Config = TypeVar("Config", bound=PretrainedConfig)
OWN_QFORMER, OWN_DINO = "llava.qformer.", "llava.dino."
OWN_QUERIES = f"{OWN_QFORMER}queries"
BLIP_TYPES = ("blip-2", "instructblip")
DINO_TYPES: Mapping[str, type[Dinov2Config | Dinov2WithRegistersConfig]] = {
    "dinov2": Dinov2Config,
    "dinov2_with_registers": Dinov2WithRegistersConfig,
}
LLAMA = "llama"
BLIP_VISION_CONSTANTS = {"hidden_act": "gelu", "layer_norm_eps": 1e-6, "qkv_bias": True}
QFORMER_CONSTANTS = {"hidden_act": "gelu", "layer_norm_eps": 1e-12}
DINO_CONSTANTS = {"hidden_act": "gelu", "layer_norm_eps": 1e-6, "qkv_bias": True, "mlp_ratio": 4, "num_channels": 3}


def _layers(prefix: str, *modules: str) -> tuple[str, ...]:
    return tuple(f"{prefix}{module}.{kind}" for module in modules for kind in ("weight", "bias"))


_EVA_KEYS = (
    "embeddings.class_embedding",
    "embeddings.position_embedding",
    *_layers("embeddings.", "patch_embedding"),
    *_layers("encoder.layers.{}.", "layer_norm1", "layer_norm2", "mlp.fc1", "mlp.fc2"),
    *_layers("encoder.layers.{}.self_attn.", "qkv", "projection"),
    *_layers("", "post_layernorm"),
)
_QFORMER_KEYS = tuple(
    key
    for attention in ("attention", "crossattention")
    for key in (
        *_layers(f"encoder.layer.{{}}.{attention}.attention.", "query", "key", "value"),
        *_layers(f"encoder.layer.{{}}.{attention}.output.", "dense", "LayerNorm"),
    )
) + _layers("encoder.layer.{}.", "intermediate_query.dense", "output_query.dense", "output_query.LayerNorm")
_PROJECTION = "language_projection."
_TEXT = "reads instruction text, which CALICO does not give the Q-Former"
_MATCHING = "matches images with texts, which CALICO does not do"
_BLIP_LEFT_OUT = (
    Dropped("language_model.", "CALICO's language model is GLaMM's"),
    Dropped("qformer.encoder.layer.{}.intermediate.", _TEXT),
    Dropped("qformer.encoder.layer.{}.output.", _TEXT),
    *(Dropped(f"qformer.embeddings.{name}", _TEXT) for name in ("word_embeddings.", "position_")),
    *(Dropped(f"{name}.", _MATCHING) for name in ("embeddings", "text_projection", "vision_projection", "itm_head")),
)


def _blip_layout(name: str, norm: str) -> Layout:
    """Return a layout by its name and by that of the norm of the Q-Former's queries."""
    rows = [(f"vision_model.{key}", OWN_VISION + key) for key in _EVA_KEYS]
    rows += [(f"qformer.{key}", f"{OWN_QFORMER}network.{key}") for key in _QFORMER_KEYS]
    rows += [(f"qformer.{norm}{kind}", f"{OWN_QFORMER}network.layernorm.{kind}") for kind in ("weight", "bias")]
    rows += [("query_tokens", OWN_QUERIES)]
    rows += [(_PROJECTION + kind, OWN_PROJECTOR + kind) for kind in ("weight", "bias")]
    anchors = ("query_tokens", f"qformer.{norm}weight")
    return Layout(name, tuple(rows), anchors, dropped=_BLIP_LEFT_OUT, projector=None)


BLIP_LAYOUTS = (_blip_layout("BLIP-2", "layernorm."), _blip_layout("InstructBLIP", "embeddings.layernorm."))

_JOINT_GATE = "mlp.weights_in"
"""DINOv2's joint projection of gate and values, which transformers 5 keeps apart."""
_DINO_LAYER = "encoder.layer.{}."
_DINO_KEYS = (
    *(f"embeddings.{name}" for name in ("cls_token", "mask_token", "position_embeddings", "register_tokens")),
    *_layers("embeddings.", "patch_embeddings.projection"),
    *_layers(_DINO_LAYER, "norm1", "norm2", "mlp.fc1", "mlp.fc2"),
    *(f"{_DINO_LAYER}layer_scale{number}.lambda1" for number in (1, 2)),
    *_layers("", "layernorm"),
)
_DINO_ATTENTION = {
    "attention.attention.query": "attention.q_proj",
    "attention.attention.key": "attention.k_proj",
    "attention.attention.value": "attention.v_proj",
    "attention.output.dense": "attention.o_proj",
}
_DINO_GATED = {_JOINT_GATE: _JOINT_GATE, "mlp.weights_out": "mlp.down_proj"}
_DINO_NEW = (*_DINO_ATTENTION.values(), "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")


def _dino_layout(name: str, prefix: str, renamed: Mapping[str, str]) -> Layout:
    """Return a layout by the prefix of its names and by the published names of a layer's modules."""
    rows = [(prefix + key, f"{OWN_DINO}network.{key}") for key in _DINO_KEYS]
    for published, own in renamed.items():
        pairs = zip(_layers(_DINO_LAYER, published), _layers(_DINO_LAYER, own), strict=True)
        rows += [(prefix + key, f"{OWN_DINO}network.{own_key}") for key, own_key in pairs]
    anchors = (f"{prefix}embeddings.cls_token", prefix + _layers(_DINO_LAYER, next(iter(renamed)))[0].format(0))
    head = (Dropped("classifier.", "classifies images, which CALICO does not do"),)
    return Layout(name, tuple(rows), anchors, dropped=head if prefix else (), projector=None)


DINO_LAYOUTS = tuple(
    _dino_layout(f"DINOv2{what}{names}", prefix, renamed)
    for prefix, what in (
        ("", ""),
        ("dinov2.", " with a head"),
        ("dinov2_with_registers.", " with registers and a head"),
    )
    for names, renamed in (
        ("", _DINO_ATTENTION | _DINO_GATED),
        (", names of transformers 5", {module: module for module in _DINO_NEW}),
    )
)


@dataclass(frozen=True)
class BlipFolder:
    """EVA-CLIP, Q-Former and, if it fits, f_image of a BLIP-2 or InstructBLIP folder.

    Attributes:
        part: the weights.
        vision: EVA-CLIP's sizes and the number of queries.
        qformer: the Q-Former's sizes.
        embedding_size: width of the Q-Former.
        has_projection: whether f_image is taken from the folder.
        notes: what was found and left out.
    """

    part: Part
    vision: VisionConfig
    qformer: QFormerConfig
    embedding_size: int
    has_projection: bool
    notes: tuple[str, ...]


@dataclass(frozen=True)
class DinoFolder:
    """DINOv2 of a folder: its weights, its sizes, and notes on what was found and left out."""

    part: Part
    config: DinoConfig
    notes: tuple[str, ...]


def read_blip(folder: Path, language: LanguageConfig) -> BlipFolder:
    """Survey a BLIP-2 or InstructBLIP folder.

    f_image is taken from it if it projects to a LLaMA of the width of CALICO's (InstructBLIP with Vicuna); otherwise it
    belongs to another language model and is left out.

    Args:
        folder: config.json and weights, as published by Salesforce in transformers' layout.
        language: CALICO's language model.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: the folder is not BLIP-2's, has a tensor that no table names, or a value that plum cannot express.
    """
    path = folder / "config.json"
    content = read_json(path)
    if content.get("model_type") not in BLIP_TYPES:
        raise ValueError(
            f"{path}: model_type is {content.get('model_type')!r}, not {' or '.join(map(repr, BLIP_TYPES))}: --blip "
            "takes a download of Salesforce/instructblip-vicuna-7b or Salesforce/blip2-*"
        )
    vision = _parse(Blip2VisionConfig, _group(path, content, "vision_config"), path)
    qformer = _parse(Blip2QFormerConfig, _group(path, content, "qformer_config"), path)
    text = _group(path, content, "text_config")
    is_llama = text.get("model_type") == LLAMA
    _require_constants(path, "vision_config", vision, BLIP_VISION_CONSTANTS)
    _require_constants(path, "qformer_config", qformer, QFORMER_CONSTANTS)
    files = find_weight_files(folder)
    names = list_names(files)
    layout = detect_layout(names, BLIP_LAYOUTS, str(folder))
    has_projection = is_llama and _parse(LlamaConfig, text, path).hidden_size == language.hidden_size
    if not has_projection:
        reason = f"f_image of {text.get('model_type', 'opt')}, not of a LLaMA of width {language.hidden_size}"
        layout = replace(layout, dropped=(Dropped(_PROJECTION, reason), *layout.dropped))
        layout = replace(layout, table=tuple(row for row in layout.table if not row[0].startswith(_PROJECTION)))
    prefixes = (OWN_VISION, OWN_QFORMER, *((OWN_PROJECTOR,) if has_projection else ()))
    part = replace(_survey(folder, files, names, layout, prefixes), unbatched=frozenset({OWN_QUERIES}))
    num_queries = _num_queries(part)
    sizes = VisionConfig(
        image_size=_square(path, "vision_config.image_size", vision.image_size),
        patch_size=_square(path, "vision_config.patch_size", vision.patch_size),
        hidden_size=vision.hidden_size,
        intermediate_size=vision.intermediate_size,
        num_layers=vision.num_hidden_layers,
        num_heads=vision.num_attention_heads,
        fit="stretch",  # BLIP's processor does
        num_query_tokens=num_queries,
    )
    own_qformer = QFormerConfig(
        num_layers=qformer.num_hidden_layers,
        num_heads=qformer.num_attention_heads,
        intermediate_size=qformer.intermediate_size,
        cross_attention_frequency=qformer.cross_attention_frequency,
    )
    origin = (
        f"from {folder}" if has_projection else "none; a run that starts here has to train it (trainable.projector)"
    )
    notes = (
        f"EVA-CLIP and Q-Former with {num_queries} queries: from {folder} ({layout.name})",
        f"f_image: {origin}",
        *_left_out_notes(layout, names),
    )
    return BlipFolder(part, sizes, own_qformer, qformer.hidden_size, has_projection, notes)


def read_dino(folder: Path) -> DinoFolder:
    """Survey a DINOv2 folder, with or without registers.

    Args:
        folder: config.json and weights, as published by facebook in transformers' layout.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: the folder is not DINOv2's, has a tensor that no table names, or a value that plum cannot express.
    """
    path = folder / "config.json"
    content = read_json(path)
    kind = content.get("model_type")
    if kind not in DINO_TYPES:
        raise ValueError(
            f"{path}: model_type is {kind!r}, not {' or '.join(map(repr, DINO_TYPES))}: --dino takes a download of "
            "facebook/dinov2-* or facebook/dinov2-with-registers-*"
        )
    stock = _parse(DINO_TYPES[str(kind)], content, path)
    _require_constants(path, "", stock, DINO_CONSTANTS)
    num_registers = stock.num_register_tokens if isinstance(stock, Dinov2WithRegistersConfig) else 0
    if num_registers not in (0, 4):
        raise ValueError(f"{path}: num_register_tokens is {num_registers}; the published DINOv2 has 0 or 4")
    config = DinoConfig(
        image_size=_square(path, "image_size", stock.image_size),
        patch_size=_square(path, "patch_size", stock.patch_size),
        hidden_size=stock.hidden_size,
        num_layers=stock.num_hidden_layers,
        num_heads=stock.num_attention_heads,
        use_swiglu=stock.use_swiglu_ffn,
        num_register_tokens=4 if num_registers else 0,
    )
    files = find_weight_files(folder)
    names = list_names(files)
    layout = detect_layout(names, DINO_LAYOUTS, str(folder))
    part = replace(_survey(folder, files, names, layout, (OWN_DINO,)), split=_gates(layout, stock.num_hidden_layers))
    what = f"{config.num_layers} layers of {config.hidden_size}, {num_registers} registers"
    return DinoFolder(part, config, (f"DINOv2: from {folder} ({what})", *_left_out_notes(layout, names)))


def _gates(layout: Layout, num_layers: int) -> dict[str, tuple[str, ...]]:
    """Return our names of the joint projections, if the layout has any, and of the two tensors that each becomes."""
    if not any(_JOINT_GATE in own for _, own in layout.table):
        return {}
    layers = [f"{OWN_DINO}network.{_DINO_LAYER.format(layer)}" for layer in range(num_layers)]
    return {
        f"{layer}{_JOINT_GATE}.{kind}": (f"{layer}mlp.gate_proj.{kind}", f"{layer}mlp.up_proj.{kind}")
        for layer in layers
        for kind in ("weight", "bias")
    }


def _survey(folder: Path, files: SourceFiles, names: Sequence[str], layout: Layout, prefixes: tuple[str, ...]) -> Part:
    """Survey a folder; every unknown name is listed."""
    unknown = [name for name in names if not _is_known(layout, name)]
    if unknown:
        raise ValueError(
            f"{folder} has {len(unknown)} tensors that {layout.name} does not have: {unknown[:NUM_NAMES_SHOWN]}"
            f"{', ...' if len(unknown) > NUM_NAMES_SHOWN else ''}: another model?"
        )
    return survey_part(folder, files, layout.own_name, layout.published_name, prefixes)


def _is_known(layout: Layout, name: str) -> bool:
    try:
        layout.own_name(name)
    except ValueError:
        return False
    return True


def _num_queries(part: Part) -> int:
    shape = part.found.shapes[OWN_QUERIES]
    if len(shape) != 3 or shape[0] != 1:
        raise ValueError(f"{part.where}: query_tokens is {shape}, not [1, queries, width]")
    return shape[1]


def _left_out_notes(layout: Layout, names: Sequence[str]) -> tuple[str, ...]:
    return describe_dropped(layout.reason_to_drop(name) for name in names)


def _group(path: Path, content: Mapping[str, object], key: str) -> dict[str, object]:
    group = content.get(key, {})
    if not isinstance(group, dict):
        raise ValueError(f"{path}: {key} is {group!r}, not an object")
    return dict(group)


def _parse(kind: type[Config], content: Mapping[str, object], path: Path) -> Config:
    """Return the configuration of one of transformers' classes; keys that are missing have its defaults."""
    try:
        return kind.from_dict(dict(content))
    except StrictDataclassError as error:
        raise ValueError(f"{path}: {' '.join(str(error).split())}") from error


def _require_constants(path: Path, group: str, config: PretrainedConfig, constants: Mapping[str, object]) -> None:
    for key, needed in constants.items():
        if (found := getattr(config, key)) != needed:
            name = f"{group}.{key}" if group else key
            raise ValueError(f"{path}: {name} is {found!r}, plum's CALICO has {needed!r}")


def _square(path: Path, key: str, value: object) -> int:
    if not isinstance(value, int):
        raise ValueError(f"{path}: {key} is {value!r}, not the side of a square")
    return value
