"""Tensors of a module to safetensors files and back, strictly by name and shape."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from huggingface_hub import save_torch_state_dict
from safetensors import safe_open
from torch import Tensor, nn

MAX_SHARD_SIZE = "4GB"
NUM_NAMES_SHOWN = 5


def write_tensors(tensors: Mapping[str, Tensor], folder: Path, stem: str) -> None:
    """Write `stem`.safetensors, or numbered shards and an index where it would pass 4 GB."""
    save_torch_state_dict(
        {name: _own_storage(tensor.detach().cpu()) for name, tensor in tensors.items()},
        folder,
        filename_pattern=f"{stem}{{suffix}}.safetensors",
        max_shard_size=MAX_SHARD_SIZE,
    )


def _own_storage(tensor: Tensor) -> Tensor:
    """Copy a view: ZeRO keeps trained parameters as slices of one flat buffer, which safetensors would refuse."""
    return tensor.clone() if tensor.untyped_storage().nbytes() != tensor.nbytes else tensor


def read_into(module: nn.Module, expected: Iterable[str], folder: Path, stem: str) -> None:
    """Copy the tensors written under `stem` into a module, one at a time.

    Args:
        module: receives them, in its own dtype and on its own device.
        expected: names that must be there, no more and no fewer.
        folder: where `write_tensors` wrote.
        stem: as given to `write_tensors`.

    Raises:
        FileNotFoundError: no such file.
        ValueError: names or shapes differ; nothing has been copied then.
    """
    own = _named_tensors(module)
    wanted = {name: own[name] for name in expected}
    files = _find_files(folder, stem)
    shapes = {name: shape for file in files for name, shape in _read_shapes(file).items()}
    _require_equal(wanted, shapes, folder)
    with torch.no_grad():
        for file in files:
            with safe_open(file, framework="pt") as tensors:
                for name in tensors.keys():  # noqa: SIM118  (no mapping: only .keys() lists)
                    wanted[name].copy_(tensors.get_tensor(name))


def _named_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Return parameters and saved buffers under their state-dict names, not copies."""
    return dict(module.state_dict(keep_vars=True))


def _find_files(folder: Path, stem: str) -> list[Path]:
    """Return the single file, or the shards the index names."""
    single, index = folder / f"{stem}.safetensors", folder / f"{stem}.safetensors.index.json"
    if single.is_file():
        return [single]
    if not index.is_file():
        raise FileNotFoundError(f"{folder} has neither {single.name} nor {index.name}")
    names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    if missing := [name for name in names if not (folder / name).is_file()]:
        raise FileNotFoundError(f"{folder}: {index.name} names {missing}, which are not there")
    return [folder / name for name in names]


def _read_shapes(file: Path) -> dict[str, tuple[int, ...]]:
    """Read names and shapes alone."""
    with safe_open(file, framework="pt") as tensors:
        return {name: tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118


def _require_equal(wanted: Mapping[str, Tensor], found: Mapping[str, tuple[int, ...]], folder: Path) -> None:
    """Refuse a file whose names or shapes are not the module's."""
    missing, unknown = sorted(wanted.keys() - found.keys()), sorted(found.keys() - wanted.keys())
    if missing or unknown:
        raise ValueError(
            f"{folder} holds a checkpoint of another architecture: {len(missing)} tensors are missing "
            f"{missing[:NUM_NAMES_SHOWN]}, {len(unknown)} are unknown {unknown[:NUM_NAMES_SHOWN]}"
        )
    for name, tensor in wanted.items():
        if tuple(tensor.shape) != found[name]:
            raise ValueError(
                f"{folder} holds a checkpoint of another architecture: {name} is {found[name]} there and "
                f"{tuple(tensor.shape)} in the model"
            )
