"""Stock export: a trained model's backbone with its adapters merged, in the form of its own class of transformers.

Other programs (transformers, vLLM) load the folder as any checkpoint of that class. PLUM's heads and the segmenter are
not in it: they belong to the merged export (`plum.export.merged`).
"""

import json
from dataclasses import dataclass
from pathlib import Path

import torch

from partonomy.progress import counted, progress
from plum.checkpoints.model_weights import MergedWeights
from plum.checkpoints.stock_folder import OWN_PREFIX, list_stock_tensors, tied_names
from plum.checkpoints.store import CARD_FILE, MODEL_STEM, write_folder
from plum.checkpoints.weights import ShardWriter
from plum.config import HfBackboneConfig
from plum.export.export_source import ExportSource, find_source
from plum.export.merged import ExportRequest


@dataclass(frozen=True)
class StockExportResult:
    """What was written."""

    described_source: str
    num_tensors: int
    num_bytes: int
    num_shards: int


def export_stock(request: ExportRequest) -> StockExportResult:
    """Merge the adapters of a model over a stock checkpoint, and save the backbone in the checkpoint's form.

    The export is atomic. Every tensor that was written is found again under transformers' own names.

    Raises:
        FileNotFoundError, FileExistsError: see `find_source` and `write_folder`.
        ValueError: the backbone is LLaVA, or the source is damaged.
    """
    source = find_source(request.source)
    config = source.weights.config.hf
    if config is None:
        raise ValueError(f"{request.source} has LLaVA as its backbone; --stock is for models over adopted checkpoints")
    merged = MergedWeights(source.weights)
    tied = tied_names(config)
    names = [name for name in merged.names if name.startswith(OWN_PREFIX)]
    names = [name for name in names if name.removeprefix(OWN_PREFIX) not in tied]
    with write_folder(request.destination) as partial:
        writer = ShardWriter(partial, MODEL_STEM, request.max_shard_bytes)
        with progress(len(names), "export", "tensor") as shown:
            for name in counted(names, shown):
                writer.add(name.removeprefix(OWN_PREFIX), merged.read(name).to(request.dtype))
        writer.finish()
        _write_files(source, config, partial, request.dtype)
        list_stock_tensors(partial, config)
    return StockExportResult(source.described_as, len(names), writer.total_bytes, writer.num_shards)


def _write_files(source: ExportSource, config: HfBackboneConfig, folder: Path, dtype: torch.dtype) -> None:
    tokenizer = source.tokenizer
    tokenizer.save_pretrained(str(folder))
    ends = [tokenizer.convert_tokens_to_ids(token) for token in config.end_tokens]
    files: dict[str, dict[str, object]] = {
        "config.json": {**config.stock, "dtype": str(dtype).removeprefix("torch.")},
        "preprocessor_config.json": config.image_processor,
        "processor_config.json": config.processor,
        "generation_config.json": {"eos_token_id": ends, "pad_token_id": tokenizer.pad_token_id},
    }
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    (folder / CARD_FILE).write_text(
        f"The backbone ({config.model_type}) of the {source.described_as}, its adapters merged, made by "
        "`python -m plum export --stock`. PLUM's heads and the segmenter are not in it.\n",
        encoding="utf-8",
    )
