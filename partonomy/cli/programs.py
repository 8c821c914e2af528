"""Programs of many commands: each command is a function, its parameters are the flags, its docstring is the help.

A command's packages (torch, transformers, ...) take seconds to import, so the list of commands and errors in it come
from the functions' source files, and a command's own help from its function alone.
"""

import ast
import importlib
import logging
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from docstring_parser import parse as parse_docstring
from jsonargparse import ArgumentParser

from partonomy.cli.exit_status import run_command
from partonomy.cli.flags import add_function_flags, read_arguments
from partonomy.cli.parsers import (
    COMPLETION_FLAG,
    SHELLS,
    CommandParser,
    add_version,
    completion_shell,
    example,
    parse_words,
    print_completion,
    settings_parser,
)
from partonomy.terminal import safe_output


@dataclass(frozen=True)
class Command:
    """A command: the function's parameters are its flags, the docstring is its help.

    Attributes:
        name: Name on the command line.
        function: "module:function" in the program's package; it may return an exit status.
        positionals: Parameters given without a flag's name; one annotated as a list takes one or more words, and one
            with a default is optional.
        example: Arguments of an example, which the command's help text shows.
        fill: "module:function" that adds the flags of a command that parses its arguments itself to a parser, for
            completion and documentation; `function` then gets all arguments.
    """

    name: str
    function: str
    positionals: tuple[str, ...] = ()
    example: str = ""
    fill: str = ""


@dataclass(frozen=True)
class Program:
    """A program.

    Attributes:
        name: The installed command; `python -m NAME` is the same.
        package: Package of the commands' modules.
        description: Summary of the program.
        commands: The commands, in the order of the help text.
        example: Arguments of the example in the help text.
    """

    name: str
    package: str
    description: str
    commands: tuple[Command, ...]
    example: str

    @property
    def call(self) -> str:
        """The program as help texts write it."""
        return f"python -m {self.name}"

    def load(self, place: str) -> Any:
        """Import "module:name" of the package."""
        module, name = place.split(":")
        return getattr(importlib.import_module(f"{self.package}.{module}"), name)


def build_parser(program: Program, names: Collection[str] | None = None) -> ArgumentParser:
    """Build the parser of a program; it is used for completion and documentation.

    Args:
        program: The program.
        names: Commands to build, so that no other command's packages are imported; None builds all.
    """
    parser = _program_parser(program)
    commands = parser.add_subcommands(dest="command", metavar="COMMAND")
    for command in program.commands:
        if names is None or command.name in names:
            own = command_parser(program, command)
            commands.add_subcommand(command.name, own, help=_summary(program.load(command.function)))
            if command.fill:  # only now, because jsonargparse requires subcommands in the order of their levels
                program.load(command.fill)(own)
    return parser


def build_outline(program: Program) -> ArgumentParser:
    """Build a parser that knows the commands' names and summaries, without importing their packages.

    It answers `--help` and typing errors.
    """
    parser = _program_parser(program)
    commands = parser.add_subcommands(dest="command", metavar="COMMAND")
    for command in program.commands:
        summary = _read_summary(program, command.function)
        commands.add_subcommand(command.name, settings_parser(add_help=False), help=summary)
    return parser


def command_parser(program: Program, command: Command) -> ArgumentParser:
    """Build the parser of one command; what `fill` adds is left out."""
    function = program.load(command.function)
    call = f"{program.call} {command.name}"
    description, epilog = _description(function), example(f"{call} {command.example}")
    if command.fill:
        return settings_parser(call, description, epilog)
    parser = CommandParser(call, description, epilog)
    add_function_flags(parser, function, command.positionals)
    return parser


def run_program(program: Program, arguments: Sequence[str]) -> int:
    """Run one command; its output goes through a filter of control characters (`partonomy.terminal`).

    Returns:
        The exit status; see `partonomy.cli.exit_status`.
    """
    with safe_output():
        logging.basicConfig(level=logging.INFO, format="%(message)s")
        return run_command(lambda: _run_named(program, arguments), arguments)


def _run_named(program: Program, arguments: Sequence[str]) -> int | None:
    """Parse the arguments and run the command that they name."""
    if shell := completion_shell(arguments):
        print_completion(build_parser(program), program.name, shell)
    named = next((command for command in program.commands if list(arguments[:1]) == [command.name]), None)
    if named is None:
        parse_words(build_outline(program), arguments)
        raise ValueError(f"name the command first: {program.call} COMMAND FLAGS")
    function: Callable[..., int | None] = program.load(named.function)
    if named.fill:
        return function(arguments[1:])
    parsed = parse_words(command_parser(program, named), arguments[1:])
    return function(**read_arguments(function, parsed))


def _program_parser(program: Program) -> ArgumentParser:
    parser = settings_parser(
        prog=program.call, description=program.description, epilog=example(f"{program.call} {program.example}")
    )
    add_version(parser)
    parser.add_argument(COMPLETION_FLAG, choices=SHELLS, help="print a script that completes commands and flags")
    return parser


def _read_summary(program: Program, place: str) -> str:
    """Return the first sentence of a function's docstring from its source file."""
    module, name = place.split(":")
    package = find_spec(program.package)
    assert package is not None
    assert package.origin is not None
    source = Path(package.origin).with_name(f"{module}.py").read_text(encoding="utf-8")
    functions = [node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef) and node.name == name]
    return parse_docstring(ast.get_docstring(functions[0]) or "").short_description or ""


def _summary(function: Callable[..., int | None]) -> str:
    return parse_docstring(function.__doc__ or "").short_description or ""


def _description(function: Callable[..., int | None]) -> str:
    """Return a function's docstring without its parameters."""
    parsed = parse_docstring(function.__doc__ or "")
    return " ".join(filter(None, (parsed.short_description, parsed.long_description)))
