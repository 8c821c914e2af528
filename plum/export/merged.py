"""Merged export: a trained model with its adapters merged, for inference or as the base of another stage.

One tensor, or one shard, is in memory at a time. The written weights are verified: every tensor is read back, and the
logits of a probe text are compared.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from partonomy.datasets.photographs import copy_training_images
from partonomy.progress import counted, progress
from plum.checkpoints.model_config_io import read_model_config, write_model_config
from plum.checkpoints.model_weights import MergedWeights, ModelWeights, Weights, empty_model
from plum.checkpoints.published.streamed_probe import probe_logits
from plum.checkpoints.store import MODEL_STEM, write_folder
from plum.checkpoints.weights import MAX_SHARD_BYTES, ShardWriter, list_tensors
from plum.export.export_source import ExportSource, find_source
from plum.export.model_card import write_card

MERGE_TOLERANCE = 1e-4
"""Maximum change of a logit by merging in float32, as a share of the largest logit: rounding of sums, far below 1%."""
WRITE_TOLERANCES = {torch.float32: 0.0, torch.float16: 0.02, torch.bfloat16: 0.1}
"""The same for writing: float32 weights are written unchanged, others are rounded to 11 or 8 bits."""


@dataclass(frozen=True)
class ExportRequest:
    """What to export.

    Attributes:
        source: folder of a saved model, of a run, or of a checkpoint of a run.
        destination: output folder; must not exist.
        dtype: dtype of the exported weights; the merge itself is in float32.
        max_shard_bytes: maximum size of a weight file.
        summaries: `summary.json` files, or the folders that hold them, whose scores the model card shows.
    """

    source: Path
    destination: Path
    dtype: torch.dtype = torch.float32
    max_shard_bytes: int = MAX_SHARD_BYTES
    summaries: tuple[Path, ...] = ()


@dataclass(frozen=True)
class ProbeDifference:
    """Largest absolute difference of the probe's logits (natural-log units), and its bound."""

    difference: float
    bound: float


@dataclass(frozen=True)
class ExportResult:
    """What was written, and the change of the probe's logits by merging and by writing (a cast to `dtype`)."""

    described_source: str
    num_tensors: int
    num_bytes: int
    num_shards: int
    largest_logit: float
    merge: ProbeDifference
    written: ProbeDifference


def export_merged(request: ExportRequest) -> ExportResult:
    """Merge the adapters of a model, if it has any, and save the result.

    The export is atomic: everything is written to a temporary folder next to `destination`, checked and renamed.

    Raises:
        FileNotFoundError, FileExistsError: see `find_source` and `write_folder`.
        ValueError: the source is damaged, or the change of the probe's logits exceeds its bound.
    """
    source = find_source(request.source)
    merged = MergedWeights(source.weights)
    with write_folder(request.destination) as partial:
        before = probe_logits(source.weights)
        after = before if source.weights.config.lora is None else probe_logits(merged)
        largest = float(before.abs().max())
        merge = _compare(before, after, MERGE_TOLERANCE * largest, "merging the adapters")
        writer = _write(merged, partial, request)
        _write_rest(source, merged, partial, request)
        reloaded = _reread(partial)
        written = _compare(
            after, probe_logits(reloaded), WRITE_TOLERANCES[request.dtype] * largest, f"writing {request.dtype}"
        )
    return ExportResult(
        source.described_as, len(merged.names), writer.total_bytes, writer.num_shards, largest, merge, written
    )


def _compare(first: Tensor, second: Tensor, bound: float, what: str) -> ProbeDifference:
    difference = float((first - second).abs().max())
    if not difference <= bound:  # also true for NaN
        raise ValueError(
            f"{what} changed the logits of a probe text by {difference:.2e}, more than "
            f"{bound:.2e}: nothing was exported"
        )
    return ProbeDifference(difference, bound)


def _write(merged: Weights, partial: Path, request: ExportRequest) -> ShardWriter:
    """Write the weights, then compare the files with the tensors given to the writer."""
    writer = ShardWriter(partial, MODEL_STEM, request.max_shard_bytes)
    # Buffers such as frequencies keep their precision, as in a model that is cast (`GroundedLMM._apply`).
    exact = {name for name, _ in empty_model(merged.config).named_buffers()}
    digests: dict[str, str] = {}
    with progress(len(merged.names), "export", "tensor") as shown:
        for name in counted(merged.names, shown):
            tensor = merged.read(name)
            tensor = tensor.float() if name in exact else tensor.to(request.dtype)
            digests[name] = _digest(tensor)
            writer.add(name, tensor)
    writer.finish()
    reloaded = ModelWeights(merged.config, list_tensors(partial, MODEL_STEM), {}, str(partial), is_strict=True)
    with progress(len(reloaded.names), "check", "tensor") as shown:
        for name in counted(reloaded.names, shown):
            if _digest(reloaded.read(name)) != digests[name]:
                raise ValueError(f"{partial}: {name} is not what was written: check the disk; nothing was exported")
    return writer


def _digest(tensor: Tensor) -> str:
    digest = hashlib.sha256(f"{tuple(tensor.shape)} {tensor.dtype}".encode())
    digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _write_rest(source: ExportSource, merged: Weights, partial: Path, request: ExportRequest) -> None:
    write_model_config(merged.config, partial)
    source.tokenizer.save_pretrained(str(partial))
    copy_training_images((request.source, source.run), partial)
    write_card(partial, request.destination.name, source, merged.config, request.summaries)


def _reread(folder: Path) -> ModelWeights:
    return ModelWeights(read_model_config(folder), list_tensors(folder, MODEL_STEM), {}, str(folder), is_strict=True)
