"""`python -m plum train`: the program train.py, which an installed package has only in this form."""

import argparse
import os
from collections.abc import Sequence

from plum.cli.commands import COMMANDS


def add_command(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to the parser; `run_training` reads its arguments, which are the keys of a configuration."""
    commands.add_parser("train", help=COMMANDS["train"], add_help=False)


def run_training(arguments: Sequence[str], name: str = "train.py") -> int:
    """Train a grounded multimodal model; see train.py for the arguments and the exit status.

    Args:
        arguments: `--config FILE [--key value ...] [--overwrite]`.
        name: the program's name in error messages.
    """
    from plum.training.config_file import load_start
    from plum.training.reporting import run_reported, start_log
    from plum.training.slurm import launcher_variables

    def program() -> int:
        os.environ.update(launcher_variables(os.environ))
        start_log()
        start = load_start(arguments)
        from plum.training.run import train  # torch and transformers come with it, so not before the arguments are read

        train(start.config, overwrite=start.overwrite)
        return 0

    return run_reported(name, program)
