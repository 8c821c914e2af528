"""Command line of plum: lists the commands, each of which has its own file.

A command's packages (torch, transformers, ...) take seconds to import, so help and typing errors import none of them.
"""

import logging
from collections.abc import Sequence
from importlib import import_module

from partonomy.cli.config_files import FLAG, naming_config_files
from partonomy.cli.exit_status import run_command
from partonomy.cli.parsers import (
    COMPLETION_FLAG,
    SHELLS,
    PlainParser,
    add_version,
    completion_shell,
    example,
    parse_words,
    print_completion,
    underscored,
)
from partonomy.terminal import safe_output
from plum.cli import config_flags
from plum.cli.commands import COMMANDS, EXAMPLES, PROGRAM

WITH_CONFIG = ("segment", "chat", "predict")
"""Commands whose flags can also be set in a YAML file (`--config FILE`)."""


def build_parser(commands: Sequence[str] = tuple(COMMANDS)) -> PlainParser:
    """Build the parser with some commands.

    Args:
        commands: their modules are imported; the other commands have a name and a summary alone.
    """
    parser = PlainParser(
        prog=PROGRAM,
        description="PLUM: train, use, validate, export and prepare models.",
        epilog=example(f"{PROGRAM} segment --help"),
    )
    add_version(parser)
    parser.add_argument(COMPLETION_FLAG, choices=SHELLS, help="print a script that completes commands and flags")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, summary in COMMANDS.items():
        if name in commands:
            import_module(f"plum.cli.{name.replace('-', '_')}").add_command(subparsers)
            subparsers.choices[name].epilog = example(f"{PROGRAM} {name} {EXAMPLES[name]}")
        else:
            subparsers.add_parser(name, help=summary, add_help=False)
    for name in set(commands) & set(WITH_CONFIG):
        subparsers.choices[name].add_argument(FLAG, metavar="FILE", help=config_flags.HELP)
    return parser


def main(arguments: Sequence[str]) -> int:
    """Run one command; its output goes through a filter of control characters (`partonomy.terminal`).

    Returns:
        The exit status; see `partonomy.cli.exit_status`.
    """
    if arguments[:1] == ["train"]:  # its flags are the keys of a configuration, which its own parser knows
        from plum.cli.train import run_training

        return run_training(arguments[1:], "plum train")
    with safe_output():
        return _run(arguments)


def _run(arguments: Sequence[str]) -> int:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    words = underscored(arguments)
    return run_command(lambda: _run_named(words), words)


def _run_named(words: Sequence[str]) -> None:
    """Parse the arguments and run the command that they name."""
    if shell := completion_shell(words):
        print_completion(build_parser(), "plum", shell)
    named = [name for name in words[:1] if name in COMMANDS]
    expanded = config_flags.expand_config(words) if named and named[0] in WITH_CONFIG else words
    with naming_config_files(words):  # whose names `expanded` lacks
        parsed = parse_words(build_parser(named), expanded)
    parsed.run(parsed)
