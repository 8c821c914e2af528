"""`python -m plum pull`: download a model of the Hugging Face Hub to a folder."""

import argparse
from pathlib import Path

from plum.cli.commands import COMMANDS


def add_command(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to the parser."""
    parser = commands.add_parser("pull", help=COMMANDS["pull"])
    parser.add_argument("name", help="organisation/name on the Hub")
    parser.add_argument("folder", type=Path, help="new folder; the same command continues an interrupted download")
    parser.add_argument("--revision", help="branch, tag or commit (default: main)")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> None:
    from plum.checkpoints.hub import pull_model

    pull_model(arguments.name, arguments.folder, arguments.revision)
    print(
        f"{arguments.folder} holds {arguments.name}; name it as --checkpoint, or plum.load({str(arguments.folder)!r})"
    )
