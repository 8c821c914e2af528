"""Writes and reads tensors of a module as safetensors, strictly by name and shape, one shard in memory at a time.

A file beside them, such as model.crc32, holds a CRC-32 of every tensor, which is compared whenever the tensor is read.
"""

import hashlib
import json
import os
import re
import zlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from partonomy.files import read_json_as, require_readable

MAX_SHARD_BYTES = 4 * 10**9
NUM_NAMES_SHOWN = 5
FINGERPRINT_BYTES = 2**20
"""Bytes of either end of a file in a fingerprint: enough to distinguish trained weights, and quick at 26 GB."""

CHECKSUMS_FILE = "{stem}.crc32"
"""JSON file of every tensor's CRC-32 by its name. Folders of earlier versions and of other programs have none."""
SHARD_NUMBER = re.compile(r"-\d{5}-of-\d{5}$")


def checksum(tensor: Tensor) -> str:
    """Return the CRC-32 of a contiguous CPU tensor's bytes, as eight hexadecimal digits."""
    return f"{zlib.crc32(tensor.detach().reshape(-1).view(torch.uint8).numpy().data):08x}"


def give_usual_mode(path: Path) -> None:
    """Set a file's mode to that of other new files under the umask (for shared model folders)."""
    umask = os.umask(0)
    os.umask(umask)
    path.chmod(0o666 & ~umask)


class ShardWriter:
    """Collects tensors and writes a shard whenever the next tensor would exceed the limit."""

    def __init__(self, folder: Path, stem: str, max_bytes: int) -> None:
        self.folder, self.stem, self.max_bytes = folder, stem, max_bytes
        self.total_bytes = 0
        self.total_parameters = 0
        self._waiting: dict[str, Tensor] = {}
        self._waiting_bytes = 0
        self._shards: list[tuple[str, ...]] = []
        self._checksums: dict[str, str] = {}

    def add(self, name: str, tensor: Tensor) -> None:
        """Add one tensor; its dtype is kept.

        Raises:
            ValueError: a tensor of that name was added before.
        """
        if name in self._waiting or any(name in shard for shard in self._shards):
            raise ValueError(f"{name} was added twice")
        if self._waiting and self._waiting_bytes + tensor.nbytes > self.max_bytes:
            self._flush()
        # A view of something larger, or a tied tensor's second name, is copied: safetensors refuses shared storage.
        is_tied = any(other.data_ptr() == tensor.data_ptr() for other in self._waiting.values()) and tensor.nbytes > 0
        is_view = is_tied or tensor.untyped_storage().nbytes() != tensor.nbytes or not tensor.is_contiguous()
        self._waiting[name] = tensor.detach().contiguous().clone() if is_view else tensor.detach()
        self._waiting_bytes += tensor.nbytes
        self.total_bytes += tensor.nbytes
        self.total_parameters += tensor.numel()

    def finish(self) -> None:
        """Write what is left and give the files their names: one `stem`.safetensors, or shards and an index."""
        if self._waiting or not self._shards:
            self._flush()
        checksums = self.folder / CHECKSUMS_FILE.format(stem=self.stem)
        checksums.write_text(json.dumps(self._checksums, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        if len(self._shards) == 1:
            self._part(0).rename(self.folder / f"{self.stem}.safetensors")
            return
        weight_map: dict[str, str] = {}
        for number, names in enumerate(self._shards):
            file = f"{self.stem}-{number + 1:05}-of-{len(self._shards):05}.safetensors"
            self._part(number).rename(self.folder / file)
            weight_map |= dict.fromkeys(names, file)
        metadata = {"total_parameters": self.total_parameters, "total_size": self.total_bytes}
        content = {"metadata": metadata, "weight_map": weight_map}
        index = self.folder / f"{self.stem}.safetensors.index.json"
        index.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")

    @property
    def num_shards(self) -> int:
        """Number of files written so far."""
        return len(self._shards)

    def _part(self, number: int) -> Path:
        return self.folder / f"{self.stem}-part-{number:05}"

    def _flush(self) -> None:
        part = self._part(len(self._shards))
        save_file(self._waiting, part, metadata={"format": "pt"})
        give_usual_mode(part)
        self._shards.append(tuple(self._waiting))
        self._checksums |= {name: checksum(tensor) for name, tensor in self._waiting.items()}
        self._waiting, self._waiting_bytes = {}, 0


@dataclass(frozen=True)
class SavedTensor:
    """File and shape of a saved tensor, and its name in the file if that is not the model's."""

    file: Path
    shape: tuple[int, ...]
    key: str = ""


def write_tensors(tensors: Mapping[str, Tensor], folder: Path, stem: str) -> None:
    """Write `stem`.safetensors, or numbered shards and an index if it would exceed 4 GB.

    Slices of larger tensors are copied: ZeRO keeps trained parameters as slices, which safetensors refuses.
    """
    writer = ShardWriter(folder, stem, MAX_SHARD_BYTES)
    for name, tensor in tensors.items():
        writer.add(name, tensor.cpu())
    writer.finish()


def read_into(module: nn.Module, expected: Iterable[str], folder: Path, stem: str) -> None:
    """Copy the tensors written under `stem` into a module, one at a time.

    Args:
        module: receives the tensors in its own dtype and on its own device.
        expected: names that must be present, no more and no fewer.
        folder: where `write_tensors` wrote.
        stem: as given to `write_tensors`.

    Raises:
        FileNotFoundError: no such file.
        ValueError: names or shapes differ; nothing is copied in that case.
    """
    own = _named_tensors(module)
    wanted = {name: own[name] for name in expected}
    saved = list_tensors(folder, stem)
    _require_equal(wanted, saved, folder)
    copy_tensors([(tensor, name) for name, tensor in wanted.items()], saved)


def list_tensors(folder: Path, stem: str) -> dict[str, SavedTensor]:
    """List the tensors written under `stem`, by name, without reading them.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a shard does not hold what the index says.
    """
    found = {
        name: SavedTensor(file, shape)
        for file in _find_files(folder, stem)
        for name, shape in _read_shapes(file).items()
    }
    index = folder / f"{stem}.safetensors.index.json"
    if index.is_file() and not (folder / f"{stem}.safetensors").is_file():
        weight_map = _read_weight_map(index)
        differing = sorted({(name, saved.file.name) for name, saved in found.items()} ^ set(weight_map.items()))
        if differing:
            raise ValueError(f"{index} and its shards differ in {len(differing)} entries, such as {differing[0]}")
    return found


@torch.no_grad()
def copy_tensors(targets: Iterable[tuple[Tensor, str]], saved: Mapping[str, SavedTensor]) -> None:
    """Copy saved tensors, one at a time, into (target, saved name) pairs whose shapes have been checked.

    Raises:
        ValueError: a file is damaged, or a tensor was changed since it was written, or holds NaN or infinite values,
            or values beyond the target's dtype; the message names file and tensor.
    """
    by_file: defaultdict[Path, list[tuple[Tensor, str]]] = defaultdict(list)
    for target, name in targets:
        by_file[saved[name].file].append((target, name))
    for file, pairs in by_file.items():
        with open_tensors(file) as tensors:
            for target, name in pairs:
                key = saved[name].key or name
                value = tensors.read(key)
                target.copy_(with_rows(value, target.shape[0]) if target.ndim else value)
                if not _is_finite(target):
                    raise ValueError(f"{file}: {_describe_broken(key, value, target.dtype)}")


def with_rows(saved: Tensor, num_rows: int) -> Tensor:
    """Return a matrix with as many rows; those that it lacks are the mean of the others.

    A stock model's own embeddings lack rows of tokens that a run has added and trained a copy of.
    """
    if len(saved) == num_rows:
        return saved
    missing = saved.float().mean(0, keepdim=True).to(saved.dtype).expand(num_rows - len(saved), -1)
    return torch.cat([saved, missing])


def first_names(module: nn.Module) -> dict[str, str]:
    """Return the first name of every tensor of a module's state, by its name: tied tensors have several.

    Trained weights are saved once, under the first; another name may be that of the untrained tensor in a base.
    """
    firsts: dict[int, str] = {}
    return {name: firsts.setdefault(id(tensor), name) for name, tensor in _named_tensors(module).items()}


def is_fitting(name: str, shape: Sequence[int], saved: SavedTensor | Tensor) -> bool:
    """Return whether a saved tensor has a tensor's shape, or lacks only rows that `with_rows` may add.

    These are rows of embeddings that were not trained, under a trained copy.
    """
    found = tuple(saved.shape)
    if found == tuple(shape):
        return True
    is_untrained = name.endswith("embed_tokens.original_module.weight")
    return is_untrained and found[1:] == tuple(shape[1:]) and found[0] < shape[0]


def _is_finite(tensor: Tensor) -> bool:
    """Return whether no value is NaN or infinite. A sum shows it in one pass over the memory."""
    if tensor.is_meta or not tensor.is_floating_point() or bool(torch.isfinite(tensor.sum(dtype=torch.float32))):
        return True
    return bool(torch.isfinite(tensor).all())  # finite values may have an infinite sum


def _describe_broken(name: str, saved: Tensor, dtype: torch.dtype) -> str:
    if _is_finite(saved):
        largest = float(saved.float().abs().max())
        return f"the tensor {name} has values up to {largest:.3g}, which {dtype} cannot hold; choose another dtype"
    values = saved.float()
    num_nan, num_infinite = int(values.isnan().sum()), int(values.isinf().sum())
    return (
        f"the tensor {name} holds {num_nan} NaN and {num_infinite} infinite values of {values.numel()}: the weights "
        "are damaged, or their training diverged; use others"
    )


class TensorFile:
    """An open safetensors file."""

    def __init__(self, file: Path, tensors: safe_open) -> None:
        self._file, self._tensors = file, tensors
        self._checksums = _read_checksums(file.with_name(CHECKSUMS_FILE.format(stem=SHARD_NUMBER.sub("", file.stem))))

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shape of every tensor by its name, without reading the tensors."""
        return {name: tuple(self._tensors.get_slice(name).get_shape()) for name in self._tensors.keys()}  # noqa: SIM118

    def read(self, name: str) -> Tensor:
        """Return a tensor on the CPU in its own dtype.

        Raises:
            ValueError: its bytes are not those that were written.
        """
        tensor: Tensor = self._tensors.get_tensor(name)
        if name in self._checksums and self._checksums[name] != checksum(tensor):
            raise ValueError(
                f"{self._file}: the tensor {name} was changed since it was written (its checksum differs); restore the "
                "file, or write it again"
            )
        return tensor


def _read_checksums(path: Path) -> dict[str, str]:
    if not path.is_file():
        return {}
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, str])
    except msgspec.DecodeError as error:
        raise ValueError(
            f"{path}: damaged ({error}); restore it, or delete it to read the weights unchecked"
        ) from error


@contextmanager
def open_tensors(file: Path) -> Iterator[TensorFile]:
    """Open a safetensors file.

    Raises:
        OSError: it is missing or may not be read.
        ValueError: it is damaged; the message names it.
    """
    require_readable(file)
    try:
        with safe_open(file, framework="pt") as tensors:
            yield TensorFile(file, tensors)
    except SafetensorError as error:
        raise ValueError(f"{file}: damaged, or no safetensors file ({error}); write or download it again") from error


def fingerprint(folder: Path) -> str:
    """Return a digest of the names, sizes and ends of a folder's safetensors files."""
    digest = hashlib.sha256()
    for file in sorted(folder.glob("*.safetensors")):
        size = file.stat().st_size
        digest.update(f"{file.name}:{size};".encode())
        with file.open("rb") as content:
            digest.update(content.read(FINGERPRINT_BYTES))
            content.seek(max(0, size - FINGERPRINT_BYTES))
            digest.update(content.read())
    return digest.hexdigest()


def _named_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Return parameters and saved buffers, not copies, under their state-dict names."""
    return dict(module.state_dict(keep_vars=True))


def _find_files(folder: Path, stem: str) -> list[Path]:
    """Return the single file, or the shards the index names."""
    single, index = folder / f"{stem}.safetensors", folder / f"{stem}.safetensors.index.json"
    if single.is_file():
        return [single]
    if not index.is_file():
        raise FileNotFoundError(f"{folder} has neither {single.name} nor {index.name}; is it the right folder?")
    names = sorted(set(_read_weight_map(index).values()))
    if missing := [name for name in names if not (folder / name).is_file()]:
        raise FileNotFoundError(
            f"{folder}: {index.name} names {missing}, which do not exist; copy or write the folder again"
        )
    return [folder / name for name in names]


@dataclass(frozen=True)
class _ShardIndex:
    """What is read of an index of shards."""

    weight_map: dict[str, str]


def _read_weight_map(index: Path) -> dict[str, str]:
    """Return the shard of each tensor.

    Raises:
        ValueError: the file is damaged, or a shard lies elsewhere.
    """
    weight_map = read_json_as(index, _ShardIndex, "copy or write the folder again").weight_map
    if strange := [name for name in weight_map.values() if Path(name).name != name]:
        raise ValueError(f"{index}: the shard {strange[0]!r} is no file name of its own folder")
    return weight_map


def _read_shapes(file: Path) -> dict[str, tuple[int, ...]]:
    """Read names and shapes only."""
    with open_tensors(file) as tensors:
        return tensors.shapes()


def _require_equal(wanted: Mapping[str, Tensor], found: Mapping[str, SavedTensor], folder: Path) -> None:
    """Refuse a file whose names or shapes are not the module's."""
    missing, unknown = sorted(wanted.keys() - found.keys()), sorted(found.keys() - wanted.keys())
    if missing or unknown:
        raise ValueError(
            f"{folder} holds a checkpoint of another architecture: {len(missing)} tensors are missing "
            f"{missing[:NUM_NAMES_SHOWN]}, {len(unknown)} are unknown {unknown[:NUM_NAMES_SHOWN]}"
        )
    for name, tensor in wanted.items():
        if tuple(tensor.shape) != found[name].shape:
            raise ValueError(
                f"{folder} holds a checkpoint of another architecture: {name} is {found[name].shape} there and "
                f"{tuple(tensor.shape)} in the model"
            )
