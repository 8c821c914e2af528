"""Command line of plum: lists the commands, each of which has its own file."""

import argparse
import logging
import sys
from collections.abc import Sequence
from importlib import import_module

from partonomy.cli.config_files import FLAG, naming_config_files
from partonomy.terminal import one_line, safe_output
from plum.cli import config_flags

COMMANDS = (
    "segment",
    "chat",
    "train-tokenizer",
    "teacher-forced",
    "export",
    "predict",
    "data-status",
    "convert-llava",
    "validate",
    "retention",
    "mmr-tables",
    "doctor",
    "costs",
)
"""Each is a module of this package with `add_command`."""
WITH_CONFIG = ("segment", "chat", "predict")
"""Commands whose flags can also be set in a YAML file (`--config FILE`)."""


def build_parser(commands: Sequence[str] = COMMANDS) -> argparse.ArgumentParser:
    """Build the parser with some commands; modules of other commands, which may import much, are not imported."""
    parser = argparse.ArgumentParser(
        prog="python -m plum", description="PLUM: use, validate, export and prepare trained models."
    )
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name in commands:
        import_module(f"plum.cli.{name.replace('-', '_')}").add_command(subparsers)
    for name in set(commands) & set(WITH_CONFIG):
        subparsers.choices[name].add_argument(FLAG, metavar="FILE", help=config_flags.HELP)
    return parser


def main(arguments: Sequence[str]) -> int:
    """Run one command; its output goes through a filter of control characters (`partonomy.terminal`).

    Returns:
        Exit status: 0, or 1 after an error in the input, which is printed without a traceback.
    """
    with safe_output():
        return _run(arguments)


def _run(arguments: Sequence[str]) -> int:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    named = [name for name in arguments[:1] if name in COMMANDS]
    try:
        expanded = config_flags.expand_config(arguments) if named and named[0] in WITH_CONFIG else arguments
        with naming_config_files(arguments):
            parsed = build_parser(named or COMMANDS).parse_args(expanded)
        parsed.run(parsed)
    except (OSError, ValueError, RuntimeError) as error:
        print(f"error: {one_line(str(error))}", file=sys.stderr)
        return 1
    return 0
