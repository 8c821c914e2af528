"""`python -m plum train`: the program train.py, which an installed package has only in this form."""

import os
from collections.abc import Sequence

from jsonargparse import ArgumentParser


def train(arguments: Sequence[str]) -> int:
    """Train a model from a configuration; the same program as train.py.

    Args:
        arguments: see `run_training`.
    """
    return run_training(arguments, "plum train")


def add_keys(parser: ArgumentParser) -> None:
    """Add the keys of a configuration as flags."""
    from plum.training import config_file

    config_file.add_keys(parser)


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
