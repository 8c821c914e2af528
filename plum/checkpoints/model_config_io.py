"""config.json of a saved model: writes and reads ModelConfig, checking every key by name.

Architecture flags are saved with the weights, so that a reloaded model computes the same as the saved one (the authors'
merge turned the feedback loop off).
"""

import dataclasses
import json
import types
import typing
from collections.abc import Mapping
from pathlib import Path

from partonomy.files import is_integer, parse_json
from plum.config import (
    Conversation,
    FeedbackConfig,
    ModelConfig,
    Sam2Config,
    SamConfig,
    SegTokenConfig,
    TaggerConfig,
    earlier_fit,
    names_sam2,
    with_fit,
)

FORMAT_VERSION = 7
"""2 added `seg_token`; 3 `llava.vision.fit`, `tagger.order` and `feedback.position_in`; 4 `tagger.scheme`,
`tagger.use_crf` and `tagger.use_cross_attention`; 5 `calico`, `llava.vision.num_query_tokens`,
`seg_token.has_phrase_tags` and `seg_token.unnamed_image`; 6 `sam.position_dtype`; 7 `hf`, and SAM 2's
`sam`."""
CONFIG_FILE = "config.json"

ZERO_FILE = "pytorch_model.bin"
"""What DeepSpeed's `zero_to_fp32` writes."""
_MAKES_MODEL = "makes a saved model of it"

Json = dict[str, "Json"] | list["Json"] | str | int | float | bool | None


def write_model_config(config: ModelConfig, folder: Path) -> None:
    """Write `folder`/config.json: format version, then the architecture with its "system" key."""
    content = {"format_version": FORMAT_VERSION, **dataclasses.asdict(with_fit(config))}
    (folder / CONFIG_FILE).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def read_model_config(folder: Path) -> ModelConfig:
    """Read `folder`/config.json, also of an earlier format version.

    Raises:
        FileNotFoundError: there is none.
        ValueError: the file has another format version, an unknown or missing key, or a value of the wrong type; the
            message names file and key.
    """
    path = folder / CONFIG_FILE
    if not path.is_file():
        raise FileNotFoundError(f"{folder} is not a saved model: it has no {CONFIG_FILE}{_with_command(folder)}")
    content = parse_json(path.read_bytes(), f"{path} is not JSON")
    if not isinstance(content, dict) or "format_version" not in content:
        raise ValueError(
            f"{path} has no format_version: it was not written by plum, or describes another architecture"
            f"{_with_command(folder)}"
        )
    version = content.pop("format_version")
    if not is_integer(version) or version not in range(1, FORMAT_VERSION + 1):
        raise ValueError(f"{path}: format_version is {version!r}, this code reads 1 to {FORMAT_VERSION}")
    if version == 1:  # before systems with [SEG] tokens
        content = {**content, "seg_token": None}
    if version < 3:
        content = _complete_before_version_3(content)
    if version < 4 and isinstance(content.get("tagger"), dict):
        tagger = typing.cast(dict[str, Json], content["tagger"])
        scores = {"use_crf": TaggerConfig.use_crf, "use_cross_attention": TaggerConfig.use_cross_attention}
        content = {**content, "tagger": {**tagger, "scheme": TaggerConfig.scheme, **scores}}
    if version < 5:
        content = _complete_before_version_5(content)
    if version < 6 and isinstance(content.get("sam"), dict):
        sam = typing.cast(dict[str, Json], content["sam"])
        content = {**content, "sam": {**sam, "position_dtype": SamConfig.position_dtype}}
    if version < 7:  # before other backbones than LLaVA
        content = {**content, "hf": None}
    config = _parse(ModelConfig, content, str(path), "")
    assert isinstance(config, ModelConfig)
    return with_fit(config)


def has_heads_of_lisa(content: Mapping[str, object]) -> bool:
    """Return whether a published config.json is of LISA or a system built on its code (M2SA, GLaMM, PLUM's authors)."""
    return "train_mask_decoder" in content and "out_dim" in content


def describe_conversion(folder: Path) -> str | None:
    """Say which command converts a published checkpoint, and to what; None for other folders."""
    path = folder / CONFIG_FILE
    if not path.is_file():
        weights = folder / ZERO_FILE
        command = f"python -m plum convert {weights} NEW_FOLDER --base LLAVA_FOLDER"
        return f"{command} {_MAKES_MODEL}" if weights.is_file() else None
    try:
        content = parse_json(path.read_bytes(), f"{path} is not JSON")
    except ValueError:  # whoever reads the model says so
        return None
    if not isinstance(content, dict) or "format_version" in content:
        return None
    if has_heads_of_lisa(content):
        clip = content.get("mm_vision_tower") or content.get("vision_tower") or "openai/clip-vit-large-patch14"
        return f"python -m plum convert {folder} NEW_FOLDER --clip CLIP_FOLDER {_MAKES_MODEL} (CLIP: {clip})"
    is_llava = content.get("model_type") in ("llava", "llava_llama")
    if is_llava or {"text_config", "vision_config"} <= content.keys():
        command = "convert-llava" if is_llava else "adopt"
        return (
            f"python -m plum {command} {folder} NEW_FOLDER --sam SAM_FILE makes a base of it to train from (init_from)"
        )
    return None


def _with_command(folder: Path) -> str:
    command = describe_conversion(folder)
    return "" if command is None else f". If it is a published checkpoint: {command}"


def _complete_before_version_3(content: dict[str, Json]) -> dict[str, Json]:
    """Give the keys that version 3 added the values that the code then had; other faults are left to the parser."""
    llava, tagger, feedback = content.get("llava"), content.get("tagger"), content.get("feedback")
    if isinstance(llava, dict) and isinstance(llava.get("vision"), dict):
        fit = earlier_fit(typing.cast(Conversation, llava.get("conversation")))
        content = {
            **content,
            "llava": {**llava, "vision": {**typing.cast(dict[str, Json], llava["vision"]), "fit": fit}},
        }
    if isinstance(tagger, dict):
        content = {**content, "tagger": {**tagger, "order": TaggerConfig.order}}
    if isinstance(feedback, dict):
        content = {**content, "feedback": {**feedback, "position_in": FeedbackConfig.position_in}}
    return content


def _complete_before_version_5(content: dict[str, Json]) -> dict[str, Json]:
    """Give the keys that version 5 added the values of models without a Q-Former and without phrase tags."""
    llava, seg_token = content.get("llava"), content.get("seg_token")
    if isinstance(llava, dict) and isinstance(llava.get("vision"), dict):
        vision = typing.cast(dict[str, Json], llava["vision"])
        content = {**content, "llava": {**llava, "vision": {**vision, "num_query_tokens": None}}}
    if isinstance(seg_token, dict):
        marks = {"has_phrase_tags": SegTokenConfig.has_phrase_tags, "unnamed_image": SegTokenConfig.unnamed_image}
        content = {**content, "seg_token": {**marks, **seg_token}}
    return {**content, "calico": None}


def describe_differences(first: ModelConfig, second: ModelConfig) -> list[str]:
    """Return one line "key: first value, second value" per leaf in which two configurations differ."""
    flat_first, flat_second = _flatten(dataclasses.asdict(first)), _flatten(dataclasses.asdict(second))
    keys = sorted(flat_first.keys() | flat_second.keys())
    missing = "(absent)"
    return [
        f"{key}: {flat_first.get(key, missing)}, {flat_second.get(key, missing)}"
        for key in keys
        if flat_first.get(key, missing) != flat_second.get(key, missing)
    ]


def _flatten(tree: dict[str, object], prefix: str = "") -> dict[str, object]:
    """Flatten nested dictionaries to dotted keys."""
    flat: dict[str, object] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat.update(_flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _parse(expected: object, value: Json, path: str, key: str) -> object:
    """Turn a JSON value into the type a dataclass field declares."""
    origin, arguments = typing.get_origin(expected), typing.get_args(expected)
    if dataclasses.is_dataclass(expected) and isinstance(expected, type):
        return _parse_dataclass(expected, value, path, key)
    if origin is typing.Literal:
        if not any(type(value) is type(one) and value == one for one in arguments):
            raise ValueError(f"{path}: {key} is {value!r}, not one of {list(arguments)}")
        return value
    if origin in (types.UnionType, typing.Union):
        if value is None and types.NoneType in arguments:
            return None
        return _parse(_choose(arguments, value), value, path, key)
    if origin is tuple:
        if not isinstance(value, list):
            raise ValueError(f"{path}: {key} is {value!r}, not a list")
        return tuple(_parse(arguments[0], item, path, f"{key}[{i}]") for i, item in enumerate(value))
    return _parse_plain(expected, value, path, key)


def _choose(options: tuple[type, ...], value: Json) -> type:
    """Return which type of a union a value that is not null has: the first, or SAM 2's if the value names its kind."""
    return Sam2Config if Sam2Config in options and names_sam2(value) else options[0]


def _parse_dataclass(expected: type, value: Json, path: str, key: str) -> object:
    """Build a dataclass from a JSON object with exactly its fields."""
    if not isinstance(value, dict):
        raise ValueError(f"{path}: {key or 'the file'} is {value!r}, not an object")
    hints = typing.get_type_hints(expected)
    names = [field.name for field in dataclasses.fields(expected)]
    prefix = f"{key}." if key else ""
    if unknown := sorted(set(value) - set(names)):
        raise ValueError(f"{path}: unknown key {prefix}{unknown[0]}: a checkpoint of another architecture?")
    if missing := [name for name in names if name not in value]:
        raise ValueError(f"{path}: missing key {prefix}{missing[0]}: a checkpoint of another architecture?")
    return expected(**{name: _parse(hints[name], value[name], path, prefix + name) for name in names})


def _parse_plain(expected: object, value: Json, path: str, key: str) -> object:
    """Check a number, flag, text or object of any content; an integer is accepted for a float."""
    expected = typing.get_origin(expected) or expected
    if expected is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is not expected:
        name = getattr(expected, "__name__", str(expected))
        raise ValueError(f"{path}: {key} is {value!r}, not of type {name}")
    return value
