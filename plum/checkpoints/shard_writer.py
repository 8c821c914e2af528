"""Tensors to safetensors shards as they come: no more than one shard is held in memory.

Names and index are those of transformers' `save_pretrained`.
"""

import json
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from plum.checkpoints.file_modes import give_usual_mode

MAX_SHARD_BYTES = 4 * 10**9


class ShardWriter:
    """Collects tensors and writes a shard whenever the next one would pass the limit."""

    def __init__(self, folder: Path, stem: str, max_bytes: int) -> None:
        self.folder, self.stem, self.max_bytes = folder, stem, max_bytes
        self.total_bytes = 0
        self.total_parameters = 0
        self._waiting: dict[str, Tensor] = {}
        self._waiting_bytes = 0
        self._shards: list[tuple[str, ...]] = []

    def add(self, name: str, tensor: Tensor) -> None:
        """Take one tensor; dtypes are kept.

        Raises:
            ValueError: a tensor of that name was taken before.
        """
        if name in self._waiting or any(name in shard for shard in self._shards):
            raise ValueError(f"{name} is there twice")
        if self._waiting and self._waiting_bytes + tensor.nbytes > self.max_bytes:
            self._flush()
        # A view of something larger is copied: safetensors refuses shared storage.
        is_view = tensor.untyped_storage().nbytes() != tensor.nbytes or not tensor.is_contiguous()
        self._waiting[name] = tensor.detach().contiguous().clone() if is_view else tensor.detach()
        self._waiting_bytes += tensor.nbytes
        self.total_bytes += tensor.nbytes
        self.total_parameters += tensor.numel()

    def finish(self) -> None:
        """Write what is left and give the files their names: one `stem`.safetensors, or shards and an index."""
        if self._waiting or not self._shards:
            self._flush()
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
        """Files written so far."""
        return len(self._shards)

    def _part(self, number: int) -> Path:
        return self.folder / f"{self.stem}-part-{number:05}"

    def _flush(self) -> None:
        part = self._part(len(self._shards))
        save_file(self._waiting, part, metadata={"format": "pt"})
        give_usual_mode(part)
        self._shards.append(tuple(self._waiting))
        self._waiting, self._waiting_bytes = {}, 0
