"""`python -m plum export`: merge a trained model's adapters into one folder for inference or for the next stage."""

import argparse

import torch

from plum.checkpoints.export import export_merged

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def add_command(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to the parser."""
    parser = commands.add_parser("export", help="merge a trained model's adapters and save the result")
    parser.add_argument("--checkpoint", required=True, help="folder of a saved model")
    parser.add_argument("--output", required=True, help="new folder")
    parser.add_argument("--dtype", choices=sorted(DTYPES), default="float32", help="of the exported weights")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> None:
    result = export_merged(arguments.checkpoint, arguments.output, DTYPES[arguments.dtype])
    print(f"{arguments.output}: adapters merged in float32, logits moved by {result.max_logit_difference:.2e} at most")
