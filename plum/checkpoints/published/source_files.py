"""Weight files of published checkpoints: safetensors or PyTorch pickles, single or in shards, opened one at a time.

Pickles are read with `weights_only=True`, so that they cannot run code, and memory-mapped if their format allows it.
"""

import pickle
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from partonomy.files import read_json, require_readable

STEMS = ("model.safetensors", "pytorch_model.bin")
"""Names of single files; shards are listed in an index of the same name plus `.index.json`. Safetensors come first."""

UNPICKLER_ERROR = "WeightsUnpickler error:"
"""Start of the reason in the message of `torch.load`."""


@dataclass(frozen=True)
class SourceFiles:
    """The weight files of a folder.

    Attributes:
        folder: folder of the files.
        files: in order.
        indexed: per file, the names listed in the folder's index; empty without an index.
    """

    folder: Path
    files: tuple[Path, ...]
    indexed: Mapping[Path, frozenset[str]]


def find_weight_files(folder: Path) -> SourceFiles:
    """Find a checkpoint's weight files.

    Raises:
        FileNotFoundError: there are none, or a shard that the index names is missing.
        ValueError: the index is broken.
    """
    for stem in STEMS:
        index = folder / f"{stem}.index.json"
        if index.is_file():
            return _read_index(index)
        if (folder / stem).is_file():
            return SourceFiles(folder, (folder / stem,), {})
    raise FileNotFoundError(f"{folder} has none of {[f'{stem}[.index.json]' for stem in STEMS]}: no checkpoint?")


def _read_index(index: Path) -> SourceFiles:
    content = read_json(index)
    entries = content.get("weight_map")
    if not isinstance(entries, dict) or not entries:
        raise ValueError(f"{index} has no weight_map: download it again")
    names: dict[Path, set[str]] = {}
    for name, file in entries.items():
        if not isinstance(file, str) or Path(file).name != file:
            raise ValueError(f"{index}: the shard {file!r} is no file name of its own folder: download the index again")
        names.setdefault(index.parent / str(file), set()).add(name)
    if missing := sorted(file.name for file in names if not file.is_file()):
        raise FileNotFoundError(f"{index} names {missing}, which are not in the folder: download them")
    return SourceFiles(index.parent, tuple(sorted(names)), {file: frozenset(found) for file, found in names.items()})


class OpenFile:
    """An open weight file: names, and tensors that are read on request."""

    def __init__(self, path: Path, tensors: "Mapping[str, Tensor] | safe_open") -> None:
        self.path = path
        self._tensors = tensors
        self.names: tuple[str, ...] = tuple(tensors.keys())

    def shape(self, name: str) -> tuple[int, ...]:
        """Return a tensor's shape without reading it."""
        if isinstance(self._tensors, Mapping):
            return tuple(self._tensors[name].shape)
        return tuple(self._tensors.get_slice(name).get_shape())

    def read(self, name: str) -> Tensor:
        """Return a tensor."""
        return self._tensors[name] if isinstance(self._tensors, Mapping) else self._tensors.get_tensor(name)


@contextmanager
def open_weights(path: Path) -> Iterator[OpenFile]:
    """Open one weight file.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: it is truncated, damaged or contains anything but tensors.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing")
    require_readable(path)
    if path.suffix == ".safetensors":
        try:
            with safe_open(path, framework="pt") as tensors:
                yield OpenFile(path, tensors)
        except SafetensorError as error:
            raise ValueError(_damaged(path, error)) from error
    else:
        yield OpenFile(path, _load_pickle(path))


def _load_pickle(path: Path) -> Mapping[str, Tensor]:
    """Load a state dict; files in zip format are memory-mapped, older ones are read into memory."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        # torch's message advises to load the file without its protection; only its reason is of use.
        reason = str(error).partition(UNPICKLER_ERROR)[2].strip().splitlines()
        raise ValueError(
            f"{path} is damaged, or holds more than tensors, which is never loaded (it could run code)"
            f"{f': {reason[0]}' if reason else ''}; download it again, or convert it where you trust it"
        ) from error
    except (LookupError, TypeError, AttributeError) as error:  # the unpickler, of bytes that are no pickle
        raise ValueError(f"{path} is not a file of PyTorch weights; name the checkpoint's own file") from error
    except (RuntimeError, EOFError, OSError, ValueError) as error:
        raise ValueError(_damaged(path, error)) from error
    if not isinstance(content, dict) or not all(isinstance(tensor, Tensor) for tensor in content.values()):
        raise ValueError(f"{path} is not a plain dictionary of tensors: a training checkpoint of another program?")
    return content


def _damaged(path: Path, error: Exception) -> str:
    reason = str(error).strip().splitlines()
    return f"{path} is truncated or damaged ({reason[0] if reason else type(error).__name__}): download it again"
