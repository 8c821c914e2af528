"""`python -m plum push`: upload a saved model to the Hugging Face Hub."""

import argparse
from pathlib import Path

from plum.cli.commands import COMMANDS


def add_command(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to the parser."""
    parser = commands.add_parser("push", help=COMMANDS["push"])
    parser.add_argument("folder", type=Path, help="saved model, such as RUN/model or the folder of an export")
    parser.add_argument("name", help="organisation/name on the Hub; the repository is created if it does not exist")
    parser.add_argument("--private", action="store_true", help="make a repository that is created private")
    parser.add_argument("--revision", help="branch to write, created if it does not exist (default: main)")
    parser.add_argument("--license", help="the Hub's name of the licence (default: the card's, or other)")
    parser.add_argument(
        "--base_model",
        help="name on the Hub of the model under the trained weights (default: the card's)",
    )
    parser.add_argument("--tags", nargs="+", default=[], help="further tags of the model card")
    parser.add_argument("--datasets", nargs="+", default=[], help="further names of training data for the model card")
    parser.add_argument(
        "--summary",
        nargs="+",
        type=Path,
        default=[],
        help="summary.json files, or their folders, whose scores the model card lists",
    )
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> None:
    from plum.export.hub_upload import UploadRequest, push_model

    address = push_model(
        UploadRequest(
            arguments.folder,
            arguments.name,
            arguments.private,
            arguments.revision,
            arguments.license,
            arguments.base_model,
            tuple(arguments.tags),
            tuple(arguments.datasets),
            tuple(arguments.summary),
        )
    )
    print(f"{arguments.folder} is uploaded: {address}")
