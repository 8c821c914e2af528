"""The options of the open-vocabulary segmenters that have a name, and the model folders that they point to.

`--segmenter NAME --segmenter_options JSON` selects one. An option is either a model (a local folder, or the name of a
model of the Hugging Face Hub) or a number with a default. `stock_segmenters.py` has the segmenters themselves; this
module imports neither torch nor transformers.
"""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from partonomy.files import hash_files, hash_json, read_json

GROUNDED_SAM2, SAM3, CLIPSEG, OWLV2_SAM2 = "grounded_sam2", "sam3", "clipseg", "owlv2_sam2"
DETECTOR, SAM, MODEL = "detector", "sam", "model"
THRESHOLD, MASK_THRESHOLD, PHRASES_PER_CALL = "threshold", "mask_threshold", "phrases_per_call"
DEFAULT_PHRASES_PER_CALL: Final = 8
HASHED_SUFFIXES: Final = frozenset({".json", ".safetensors", ".model", ".jinja", ".txt"})
"""The files of a model folder that its results depend on: configuration, weights, tokenizer and its word list."""
_HUB_NAME: Final = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_SAM2_TYPES: Final = ("sam2", "sam2_video")
"""The published SAM 2 folders are video models, whose image half is the image model."""


@dataclass(frozen=True)
class SegmenterKind:
    """What a named segmenter takes.

    Attributes:
        models: Option -> the model types that its folder may have (`model_type` in config.json).
        thresholds: Option -> its default, a probability.
    """

    models: Mapping[str, tuple[str, ...]]
    thresholds: Mapping[str, float]

    def __str__(self) -> str:
        """The options in words, for messages."""
        models = [f"{name} (folder or Hub name of a {' or '.join(types)} model)" for name, types in self.models.items()]
        numbers = [f"{name} (default {value:g})" for name, value in self.thresholds.items()]
        return ", ".join([*models, *numbers, f"{PHRASES_PER_CALL} (default {DEFAULT_PHRASES_PER_CALL})"])


NAMED_SEGMENTERS: Final[Mapping[str, SegmenterKind]] = MappingProxyType(
    {
        GROUNDED_SAM2: SegmenterKind(
            {DETECTOR: ("grounding-dino", "mm-grounding-dino"), SAM: _SAM2_TYPES}, {THRESHOLD: 0.25}
        ),
        SAM3: SegmenterKind({MODEL: ("sam3", "sam3_video")}, {THRESHOLD: 0.5, MASK_THRESHOLD: 0.5}),
        CLIPSEG: SegmenterKind({MODEL: ("clipseg",)}, {THRESHOLD: 0.5}),
        OWLV2_SAM2: SegmenterKind({DETECTOR: ("owlv2",), SAM: _SAM2_TYPES}, {THRESHOLD: 0.1}),
    }
)
"""Name -> options. The defaults of `threshold` are those of transformers' post-processing (Grounding DINO 0.25, OWLv2
0.1), SAM 3's documented example (0.5), and the middle for CLIPSeg; the Partonomy paper does not report its own."""


@dataclass(frozen=True)
class SegmenterOptions:
    """The options of a named segmenter, complete and checked.

    Attributes:
        models: Option -> folder or Hub name, as the user gave it.
        thresholds: Option -> value in [0, 1).
        phrases_per_call: Maximum number of phrases in one call of a model; limits its memory.
    """

    models: Mapping[str, str]
    thresholds: Mapping[str, float]
    phrases_per_call: int = DEFAULT_PHRASES_PER_CALL

    def to_json(self) -> str:
        """Return all options, defaults included, as the JSON text that `parse_named_options` reads."""
        return json.dumps({**self.models, **self.thresholds, PHRASES_PER_CALL: self.phrases_per_call})


def parse_options(text: str | None, flag: str) -> dict[str, Any]:
    """Read a flag whose value is a JSON object.

    Args:
        text: The flag's value; None is an empty object.
        flag: Name of the flag, for messages.

    Raises:
        ValueError: The text is not a JSON object.
    """
    try:
        options = json.loads(text or "{}")
    except ValueError as error:
        raise ValueError(f"{flag} is not JSON: {error}") from error
    if not isinstance(options, dict):
        raise ValueError(f"{flag} must be a JSON object of arguments, got {text}")
    return options


def parse_named_options(segmenter: str, text: str | None) -> SegmenterOptions:
    """Read and check the options of a named segmenter.

    Args:
        segmenter: One of `NAMED_SEGMENTERS`.
        text: JSON object; None is an empty one.

    Raises:
        ValueError: An option is unknown, missing or unusable; the message names it and lists what the segmenter takes.
    """
    kind, options = NAMED_SEGMENTERS[segmenter], parse_options(text, "--segmenter_options")
    takes = f"{segmenter} takes {kind}"
    for name in options:
        if name not in (*kind.models, *kind.thresholds, PHRASES_PER_CALL):
            raise ValueError(f"--segmenter_options: {segmenter} has no option {name!r}; {takes}")
    for name in kind.models:
        value = options.get(name)
        if value is None:
            raise ValueError(f"--segmenter_options: {segmenter} needs the option {name!r}; {takes}")
        if not isinstance(value, str) or not value:
            raise ValueError(f"--segmenter_options: {name!r} must be a folder or a Hub name, got {value!r}; {takes}")
    thresholds = {name: options.get(name, default) for name, default in kind.thresholds.items()}
    for name, value in thresholds.items():
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not math.isfinite(value) or not 0 <= value < 1:
            raise ValueError(f"--segmenter_options: {name!r} must be a number in [0, 1), got {value!r}; {takes}")
    count = options.get(PHRASES_PER_CALL, DEFAULT_PHRASES_PER_CALL)
    if not isinstance(count, int) or isinstance(count, bool) or count < 1:
        raise ValueError(
            f"--segmenter_options: {PHRASES_PER_CALL!r} must be a whole number of at least 1, got {count!r}; {takes}"
        )
    floats = {name: float(value) for name, value in thresholds.items()}
    return SegmenterOptions({name: options[name] for name in kind.models}, floats, count)


def find_models(segmenter: str, options: SegmenterOptions) -> dict[str, Path]:
    """Return the local folder of each model; a model of the Hub is downloaded to its cache.

    Args:
        segmenter: One of `NAMED_SEGMENTERS`.
        options: Its options.

    Raises:
        FileNotFoundError: A folder does not exist, or the Hub does not have the model.
        ValueError: A folder holds a model of another class.
    """
    folders = {}
    for name, types in NAMED_SEGMENTERS[segmenter].models.items():
        folder = _find_model(name, options.models[name])
        if not (folder / "config.json").is_file():
            raise FileNotFoundError(f"--segmenter_options: {name!r}: {folder} is not a model folder: no config.json")
        found = read_json(folder / "config.json").get("model_type")
        if found not in types:
            raise ValueError(
                f"--segmenter_options: {name!r}: {folder} holds a model of type {found!r}; {segmenter} needs "
                f"{' or '.join(types)} there"
            )
        folders[name] = folder
    return folders


def hash_models(folders: Mapping[str, Path]) -> str:
    """Return the sha256 over the configuration, weights and tokenizer of each model folder, by option and file name."""
    return hash_json({name: _hash_folder(folder) for name, folder in folders.items()})


def _hash_folder(folder: Path) -> str:
    return hash_files(sorted(path for path in folder.rglob("*") if path.suffix in HASHED_SUFFIXES))


def _find_model(option: str, value: str) -> Path:
    if Path(value).is_dir():
        return Path(value)
    if not _HUB_NAME.fullmatch(value):
        raise FileNotFoundError(f"--segmenter_options: {option!r}: {value} is not a folder")
    from huggingface_hub import snapshot_download  # noqa: PLC0415  (only for a model of the Hub)

    try:
        return Path(snapshot_download(value, allow_patterns=[f"*{suffix}" for suffix in sorted(HASHED_SUFFIXES)]))
    except Exception as error:  # the Hub's client raises errors of several libraries
        reason = " ".join(str(error).split())[:200]
        raise FileNotFoundError(
            f"--segmenter_options: {option!r}: {value} is not a folder, and the Hugging Face Hub does not deliver it "
            f"({type(error).__name__}: {reason})"
        ) from error
