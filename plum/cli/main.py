"""Command line of plum; `commands.py` lists the commands, each of which has its own file."""

from collections.abc import Collection, Sequence

from jsonargparse import ArgumentParser

from partonomy.cli import programs
from partonomy.cli.programs import run_program
from plum.cli.commands import PROGRAM


def build_parser(commands: Collection[str] | None = None) -> ArgumentParser:
    """Build the parser of all commands, or of some; see `partonomy.cli.programs.build_parser`."""
    return programs.build_parser(PROGRAM, commands)


def main(arguments: Sequence[str]) -> int:
    """Run one command.

    Returns:
        The exit status; see `partonomy.cli.exit_status`.
    """
    if arguments[:1] == ["train"]:  # it writes a log and reports its errors in a form of its own
        from plum.cli.train import train

        return train(arguments[1:])
    return run_program(PROGRAM, arguments)
