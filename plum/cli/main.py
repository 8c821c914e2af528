"""Command line of plum: one file per command, this one only lists them."""

import argparse
import logging
import sys
from collections.abc import Sequence

from plum.cli import (
    chat,
    convert_llava,
    data_status,
    doctor,
    export,
    predict,
    retention,
    segment,
    teacher_forced,
    train_tokenizer,
    validate,
)


def build_parser() -> argparse.ArgumentParser:
    """Build the parser with every command."""
    parser = argparse.ArgumentParser(
        prog="python -m plum", description="PLUM: ask a trained model, and make its tokenizer."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    segment.add_command(commands)
    chat.add_command(commands)
    train_tokenizer.add_command(commands)
    teacher_forced.add_command(commands)
    export.add_command(commands)
    predict.add_command(commands)
    data_status.add_command(commands)
    convert_llava.add_command(commands)
    validate.add_command(commands)
    retention.add_command(commands)
    doctor.add_command(commands)
    return parser


def main(arguments: Sequence[str]) -> int:
    """Run one command.

    Returns:
        Exit status: 0, or 1 after an error in the input, which is printed without a traceback.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    parsed = build_parser().parse_args(arguments)
    try:
        parsed.run(parsed)
    except (FileExistsError, FileNotFoundError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0
