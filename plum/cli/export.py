"""`python -m plum export`: save a trained model as one folder for inference or for the next stage."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from partonomy.cli.flags import checked_text

UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9}


def parse_size(text: str) -> int:
    """Read a number of bytes, such as "4GB".

    Raises:
        ValueError: the text is not a size.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMG]?B?)", text.upper())
    unit = match[2].rstrip("B") + "B" if match and match[2] not in ("", "B") else ""
    if match is None or float(match[1]) <= 0:
        raise ValueError(f"{text!r} is not a size; write 4GB, 500MB or a number of bytes")
    return int(float(match[1]) * UNITS[unit])


if TYPE_CHECKING:
    Size = str
else:
    Size = checked_text("Size", parse_size)


def export(
    source: Path,
    destination: Path,
    *,
    dtype: Literal["bfloat16", "float16", "float32"] = "float32",
    max_shard_size: Size | None = None,
    adapters_only: bool = False,
    stock: bool = False,
    base: Path | None = None,
    summary: tuple[Path, ...] = (),
) -> None:
    """Merge a trained model's adapters and save the result.

    Args:
        source: folder of a run (its model or, until it has one, its newest checkpoint), of a checkpoint
            (RUN/checkpoints/update_NNNNNN) or of a saved model; checkpoints are pickles, so use only ones that you
            trust
        destination: new folder to write
        dtype: dtype of the exported weights
        max_shard_size: maximum size of a file, e.g. 4GB (the default)
        adapters_only: export only the trained weights: adapters in PEFT's format, and heads; loading them needs the
            base model
        stock: export only the backbone of a model over an adopted checkpoint, adapters merged, in the form of its own
            class of transformers, which vLLM and others load
        base: base model of the adapters, with --adapters_only (default: the run's)
        summary: summary.json files, or their folders, to quote in the model card

    Raises:
        FileNotFoundError: there is nothing to export.
        ValueError: flags contradict each other, or the exported model computes something else.
    """
    if adapters_only and stock:
        raise ValueError("--adapters_only and --stock are two forms of an export; choose one")
    if adapters_only:
        if dtype != "float32":
            raise ValueError("--dtype applies to merged weights; --adapters_only keeps the dtype of the trained ones")
        _export_adapters(source, destination, base, summary)
        return
    if base is not None:
        raise ValueError("--base belongs to --adapters_only: a merged model has no base")
    import torch

    from plum.checkpoints.weights import MAX_SHARD_BYTES
    from plum.export.merged import ExportRequest, export_merged

    shard_bytes = parse_size(max_shard_size) if max_shard_size else MAX_SHARD_BYTES
    if stock:
        from plum.export.stock import export_stock

        exported = export_stock(ExportRequest(source, destination, getattr(torch, dtype), shard_bytes))
        print(f"Exported the backbone of the {exported.described_source}")
        print(f"{destination}: {exported.num_tensors} tensors, {exported.num_bytes / 1e9:.3f} GB")
        return
    result = export_merged(ExportRequest(source, destination, getattr(torch, dtype), shard_bytes, summary))
    print(f"Exported the {result.described_source}")
    files = f"{result.num_shards} file" + ("s" if result.num_shards > 1 else "")
    print(f"{destination}: {result.num_tensors} tensors, {result.num_bytes / 1e9:.3f} GB in {files}")
    print(f"Logits of a probe text, at most {result.largest_logit:.3f} in size, moved at most by")
    print(f"  merging in float32:      {result.merge.difference:.2e} (bound {result.merge.bound:.2e})")
    print(f"  writing as {dtype + ':':<14}{result.written.difference:.2e} (bound {result.written.bound:.2e})")


def _export_adapters(source: Path, destination: Path, base: Path | None, summary: tuple[Path, ...]) -> None:
    from plum.export.export_adapters import AdaptersRequest, export_adapters

    result = export_adapters(AdaptersRequest(source, destination, base, summary))
    print(f"Exported the trained weights of the {result.described_source}")
    print(
        f"{destination}: {result.num_adapter_tensors} tensors of adapters, {result.num_other_tensors} other, "
        f"{result.num_bytes / 1e9:.3f} GB, over {result.base}"
    )
    print(f"Logits of a probe text moved by {result.logit_difference:.2e} when loaded over the base")
