"""`python -m plum export`: save a trained model as one folder for inference or for the next stage."""

import argparse
import re
from pathlib import Path

from plum.cli.commands import COMMANDS

DTYPES = ("bfloat16", "float16", "float32")
UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9}


def add_command(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to the parser."""
    parser = commands.add_parser("export", help=COMMANDS["export"])
    parser.add_argument(
        "source",
        type=Path,
        help="folder of a run (its model or, until it has one, its newest checkpoint), of a checkpoint "
        "(RUN/checkpoints/update_NNNNNN) or of a saved model; checkpoints are pickles, so use only ones that you trust",
    )
    parser.add_argument("destination", type=Path, help="new folder to write")
    parser.add_argument("--dtype", choices=DTYPES, default="float32", help="dtype of the exported weights")
    parser.add_argument(
        "--max_shard_size",
        type=parse_size,
        default=None,
        help="maximum size of a file, e.g. 4GB (the default)",
    )
    parser.add_argument(
        "--adapters_only",
        action="store_true",
        help="export only the trained weights: adapters in PEFT's format, and heads; loading them needs the base model",
    )
    parser.add_argument(
        "--base", type=Path, help="base model of the adapters, with --adapters_only (default: the run's)"
    )
    parser.add_argument(
        "--summary",
        nargs="+",
        type=Path,
        default=[],
        help="summary.json files, or their folders, to quote in the model card",
    )
    parser.set_defaults(run=_run)


def parse_size(text: str) -> int:
    """Read a number of bytes, such as "4GB".

    Raises:
        argparse.ArgumentTypeError: the text is not a size.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMG]?B?)", text.upper())
    unit = match[2].rstrip("B") + "B" if match and match[2] not in ("", "B") else ""
    if match is None or float(match[1]) <= 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size; write 4GB, 500MB or a number of bytes")
    return int(float(match[1]) * UNITS[unit])


def _run(arguments: argparse.Namespace) -> None:
    import torch

    from plum.checkpoints.weights import MAX_SHARD_BYTES
    from plum.export.merged import ExportRequest, export_merged

    if arguments.adapters_only:
        if arguments.dtype != "float32":
            raise ValueError("--dtype applies to merged weights; --adapters_only keeps the dtype of the trained ones")
        _run_adapters(arguments)
        return
    if arguments.base is not None:
        raise ValueError("--base belongs to --adapters_only: a merged model has no base")
    result = export_merged(
        ExportRequest(
            arguments.source,
            arguments.destination,
            getattr(torch, arguments.dtype),
            arguments.max_shard_size or MAX_SHARD_BYTES,
            tuple(arguments.summary),
        )
    )
    print(f"Exported the {result.described_source}")
    files = f"{result.num_shards} file" + ("s" if result.num_shards > 1 else "")
    print(f"{arguments.destination}: {result.num_tensors} tensors, {result.num_bytes / 1e9:.3f} GB in {files}")
    print(f"Logits of a probe text, at most {result.largest_logit:.3f} in size, moved at most by")
    print(f"  merging in float32:      {result.merge.difference:.2e} (bound {result.merge.bound:.2e})")
    print(f"  writing as {arguments.dtype + ':':<14}{result.written.difference:.2e} (bound {result.written.bound:.2e})")


def _run_adapters(arguments: argparse.Namespace) -> None:
    from plum.export.export_adapters import AdaptersRequest, export_adapters

    result = export_adapters(
        AdaptersRequest(arguments.source, arguments.destination, arguments.base, tuple(arguments.summary))
    )
    print(f"Exported the trained weights of the {result.described_source}")
    print(
        f"{arguments.destination}: {result.num_adapter_tensors} tensors of adapters, {result.num_other_tensors} other, "
        f"{result.num_bytes / 1e9:.3f} GB, over {result.base}"
    )
    print(f"Logits of a probe text moved by {result.logit_difference:.2e} when loaded over the base")
