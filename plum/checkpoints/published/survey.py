"""Inspection of a published checkpoint before anything is written: names, shapes, and whether it is a delta."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from plum.checkpoints.published.llava_keys import OWN_LANGUAGE
from plum.checkpoints.published.source_files import SourceFiles, open_weights

LARGEST_DELTA_NORM = 0.05
"""Bound on the mean weight of an RMSNorm in a delta: LLaMA's largest are far above it, and fine-tuning changes them by
thousandths."""
NUM_NAMES_SHOWN = 5

NameMap = Callable[[str], str | None]
"""Maps a published name to ours; None: ignored."""


@dataclass(frozen=True)
class Survey:
    """Tensors of some weight files under our names.

    Attributes:
        shapes: by our name.
        published: our name to "file: published name", for messages.
        largest_norm: largest mean magnitude of a RMSNorm weight of the language model; None without one.
    """

    shapes: Mapping[str, tuple[int, ...]]
    published: Mapping[str, str]
    largest_norm: float | None


def list_names(files: SourceFiles) -> list[str]:
    """Return all names and check them against the index.

    Raises:
        ValueError: a file is damaged, lacks a tensor that the index promises, or repeats one.
    """
    found: dict[str, Path] = {}
    for path in files.files:
        with open_weights(path) as file:
            names = file.names
        if missing := sorted(files.indexed.get(path, frozenset()) - set(names)):
            raise ValueError(f"{path} lacks {missing[:NUM_NAMES_SHOWN]}, which the index promises: download it again")
        for name in names:
            if name in found:
                raise ValueError(f"{name} is in both {found[name]} and {path}")
            found[name] = path
    return list(found)


def survey(files: SourceFiles, own_name: NameMap) -> Survey:
    """Read names and shapes, and the few small tensors that identify a delta.

    Raises:
        ValueError: a name is unknown; the message names file and tensor.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    published: dict[str, str] = {}
    norms: list[float] = []
    for path in files.files:
        with open_weights(path) as file:
            for name in file.names:
                own = translate(own_name, name, path)
                if own is None:
                    continue
                shapes[own], published[own] = file.shape(name), f"{path.name}: {name}"
                if own.startswith(OWN_LANGUAGE) and own.endswith("norm.weight"):
                    norms.append(float(file.read(name).float().abs().mean()))
    return Survey(shapes, published, max(norms) if norms else None)


def translate(own_name: NameMap, name: str, path: Path) -> str | None:
    """Apply a name map; errors name the file."""
    try:
        return own_name(name)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def refuse_delta(folder: Path, found: Survey) -> None:
    """Refuse delta weights (differences to LLaMA), which load like weights but produce nonsense.

    Merging keeps `delta` in config.json and often in the folder's name, so the check looks at the weights, not at
    names.

    Raises:
        ValueError: the norms' weights are near 0.
    """
    if found.largest_norm is not None and found.largest_norm < LARGEST_DELTA_NORM:
        raise ValueError(
            f"{folder} holds delta weights, differences to LLaMA (its RMSNorm weights are {found.largest_norm:.1e} at "
            "most, a model's are near 1). Add LLaMA to them first, with the original code: python -m "
            f"llava.model.apply_delta --base LLAMA_FOLDER --target MERGED_FOLDER --delta {folder}; then convert "
            "MERGED_FOLDER"
        )


def require_expected(found: Survey, expected: Mapping[str, tuple[int, ...]], where: str, names: NameMap) -> None:
    """Compare a checkpoint with the tensors of a model of these sizes.

    Args:
        found: survey of the checkpoint.
        expected: shapes by our names.
        where: name of the checkpoint, for error messages.
        names: maps our name to the published one.

    Raises:
        ValueError: tensors are missing, or have another shape than config.json implies; the message uses published
            names.
    """
    if missing := [names(own) or own for own in expected if own not in found.shapes]:
        raise ValueError(f"{where} lacks {len(missing)} tensors: {missing[:NUM_NAMES_SHOWN]}: an incomplete download?")
    for own, shape in found.shapes.items():
        if own not in expected:
            raise ValueError(f"{where}: {found.published[own]} does not belong to a model of its sizes")
        if shape != expected[own]:
            raise ValueError(f"{where}: {found.published[own]} is {shape}, but its config.json implies {expected[own]}")


def append_rows(tensor: Tensor, num_rows: int) -> Tensor:
    """Extend [V, D] to [num_rows, D]; new rows, which text never uses, are the mean of the old ones."""
    missing = num_rows - len(tensor)
    mean = tensor.to(torch.float32).mean(0, keepdim=True).to(tensor.dtype)
    return torch.cat([tensor, mean.expand(missing, -1)])
