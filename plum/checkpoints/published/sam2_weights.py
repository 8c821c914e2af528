"""Published checkpoints of SAM 2 and its relatives in transformers' form: a folder with config.json and safetensors.

`facebook/sam2.1-hiera-{tiny,small,base-plus,large}` are such folders; so is what `Sam2Model.save_pretrained` writes.
Their config.json describes the video model (`sam2_video`), of whose weights the memory is left out. SAM 3 has a licence
of its own and is only given out on request: whoever names a folder of it has accepted that licence.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast, get_args, get_type_hints

import torch
import transformers
from torch import Tensor
from transformers import PreTrainedConfig

from partonomy.files import read_json
from plum.config import Sam2Config
from plum.models.segmenters.sam2 import STOCK, own_sizes, stock_config

CONFIG_FILE = "config.json"
OWN_PREFIX = "sam."
"""Prefix of a segmenter's tensors in a saved model."""
MODEL_TYPES: Mapping[str, str] = {
    **{name: name for name in get_args(get_type_hints(Sam2Config)["model_type"])},
    "sam2_video": "sam2",
    "edgetam_video": "edgetam",
    "sam3_video": "sam3_tracker",
    "sam3_tracker_video": "sam3_tracker",
}
"""The model types of published folders, each with ours."""
TABLES = ("shared_image_embedding.positional_embedding", "prompt_encoder.shared_embedding.positional_embedding")
"""One positional table, which checkpoints hold twice."""
NOT_SIZES = ("dynamic_multimask",)
"""Beginnings of the settings that PLUM sets itself; see `plum.models.segmenters.sam2`."""
LICENCES: Mapping[str, str] = {
    "sam2": "SAM 2: Apache 2.0",
    "edgetam": "EdgeTAM: Apache 2.0",
    "sam3_tracker": "SAM 3: SAM License (Meta); read it before you use or pass on these weights",
}
"""Licence of the published weights by model type, for notes and model cards."""


@dataclass(frozen=True)
class PublishedSam2:
    """A published segmenter: its sizes, its weights by the names of `Sam2`, and the licence of published weights."""

    config: Sam2Config
    weights: Mapping[str, Tensor]
    licence: str


def read_sam2_config(folder: Path) -> Sam2Config:
    """Read the sizes of a folder in transformers' form.

    Raises:
        FileNotFoundError: the folder has no config.json.
        ValueError: it describes another model, or one with a part that is built otherwise here; the message names the
            file and the key.
    """
    path = folder / CONFIG_FILE
    if not path.is_file():
        raise FileNotFoundError(
            f"{folder} has no {CONFIG_FILE}: give the folder of a SAM 2 model in transformers' form"
        )
    content = read_json(path)
    content = content.get("tracker_config", content)  # SAM 3's video model nests its tracker
    found = content.get("model_type") if isinstance(content, dict) else None
    if not isinstance(found, str) or found not in MODEL_TYPES:
        known = ", ".join(sorted(MODEL_TYPES))
        raise ValueError(
            f"{path}: model_type is {found!r}, not one of {known}: it is not a SAM 2 in transformers' form"
        )
    model_type = cast(Literal["sam2", "edgetam", "sam3_tracker"], MODEL_TYPES[found])
    try:
        stock = getattr(transformers, STOCK[model_type].config).from_dict(content)
    except Exception as error:  # transformers' own checks of types raise several kinds
        raise ValueError(f"{path}: {' '.join(str(error).split())}") from error
    return _to_sizes(model_type, stock, path)


def _to_sizes(
    model_type: Literal["sam2", "edgetam", "sam3_tracker"], stock: PreTrainedConfig, path: Path
) -> Sam2Config:
    """Translate transformers' configuration, and check that ours describes the same model."""
    prompt, decoder = stock.prompt_encoder_config, stock.mask_decoder_config
    config = Sam2Config(
        model_type=model_type,
        image_size=prompt.image_size,
        patch_size=prompt.patch_size,
        prompt_dim=prompt.hidden_size,
        mask_in_channels=prompt.mask_input_channels,
        decoder_depth=decoder.num_hidden_layers,
        decoder_heads=decoder.num_attention_heads,
        decoder_mlp_dim=decoder.mlp_dim,
        vision=own_sizes(stock.vision_config),
    )
    try:
        ours = stock_config(config)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    for part in ("vision_config", "prompt_encoder_config", "mask_decoder_config"):
        built, given = own_sizes(getattr(ours, part)), own_sizes(getattr(stock, part))
        for key in sorted(built.keys() | given.keys()):
            if key != "model_type" and not key.startswith(NOT_SIZES) and built.get(key) != given.get(key):
                raise ValueError(f"{path}: {part}.{key} is {given.get(key)}, only {built.get(key)} can be built here")
    return config


def read_sam2(folder: Path) -> PublishedSam2:
    """Read a folder in transformers' form, strictly: every tensor of the segmenter must be there, and no other.

    Tensors of a video model's memory, and SAM 3's detector, are left out, as transformers itself does.

    Raises:
        FileNotFoundError: the folder has no config.json or no weights.
        ValueError: see `read_sam2_config`; or tensors are missing, unknown, of other shapes, or not finite; the message
            names the folder and the first of them.
    """
    config = read_sam2_config(folder)
    if not any(folder.glob("*.safetensors")):
        raise FileNotFoundError(
            f"{folder} has no *.safetensors: give the folder of a SAM 2 model in transformers' form"
        )
    loaded = _load(folder, config)
    weights = {name: tensor.detach() for name, tensor in loaded.state_dict().items()}
    for name, tensor in weights.items():
        if not bool(torch.isfinite(tensor).all()):
            raise ValueError(f"{folder}: {name} holds NaN or infinite weights: download the folder again")
    if not torch.equal(*(weights[name] for name in TABLES)):
        raise ValueError(f"{folder}: {TABLES[0]} and {TABLES[1]} differ, but they are one table: download it again")
    return PublishedSam2(config, weights, LICENCES[config.model_type])


def _load(folder: Path, config: Sam2Config) -> torch.nn.Module:
    """Build transformers' own model with the folder's weights, float32; refuse what does not fit."""
    stock = getattr(transformers, STOCK[config.model_type].model)
    try:
        loaded, found = stock.from_pretrained(
            folder,
            config=stock_config(config),
            local_files_only=True,
            output_loading_info=True,
            use_safetensors=True,
            ignore_mismatched_sizes=True,  # reported below, by name
            dtype=torch.float32,
        )
    except Exception as error:  # a damaged file raises safetensors' own errors, others transformers'
        raise ValueError(f"{folder}: {' '.join(str(error).split())}") from error
    report: Mapping[str, Any] = found
    shapes = [f"{name} is {tuple(there)}, not {tuple(here)}" for name, there, here in report["mismatched_keys"]]
    for what, names in (
        ("lacks", sorted(report["missing_keys"])),
        ("has unknown tensors:", sorted(report["unexpected_keys"])),
        ("has tensors of other sizes:", shapes),
    ):
        if names:
            rest = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise ValueError(
                f"{folder} {what} {names[0]}{rest}: it is not the {config.model_type} of its {CONFIG_FILE}"
            )
    return loaded


def own_sam2_name(published: str) -> str:
    """Return our name of a tensor: transformers' own modules are used, so only a prefix differs."""
    return OWN_PREFIX + published
