"""The argument parsers of both programs, and what they have in common.

Every flag takes dashes and underscores alike, a misspelt command, flag, choice or key of a YAML file is answered with
the nearest name, and the example at the end of a help text keeps its lines.
"""

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NoReturn, get_args, get_origin

import jsonargparse

from partonomy.cli.config_files import FLAG, naming_config_files
from partonomy.machine_faults import describe_error
from partonomy.suggestions import nearest, nearest_path
from partonomy.terminal import one_line
from partonomy.version import DISTRIBUTION, find_version
from partonomy.yaml_files import read_yaml

COMPLETION_FLAG = "--print_completion"
SHELLS = ("bash", "zsh")
EXAMPLE_START = "example"
"""Start of a help text whose lines are kept as they are."""
MEANT = "did you mean"
OUTPUT_WORD = "output"
"""Word in the name of a flag whose file need not exist."""


def underscored(arguments: Sequence[str]) -> list[str]:
    """Write the names of flags with underscores (`--zero-stage=2` -> `--zero_stage=2`); values stay as they are.

    Words after a bare `--` are values.
    """
    words = list(arguments)
    end = words.index("--") if "--" in words else len(words)
    return [_underscored(word) for word in words[:end]] + words[end:]


def _underscored(word: str) -> str:
    if not word.startswith("--"):
        return word
    name, equals, value = word[2:].partition("=")
    return f"--{name.replace('-', '_')}{equals}{value}"


def example(*commands: str) -> str:
    """Return commands as the epilog of a help text."""
    return "\n".join(
        (f"{EXAMPLE_START}:" if len(commands) == 1 else f"{EXAMPLE_START}s:", *(f"  {c}" for c in commands))
    )


class _PlainFormatter(argparse.HelpFormatter):
    """Wraps descriptions and keeps the lines of examples."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return text if text.startswith(EXAMPLE_START) else super()._fill_text(text, width, indent)


class _SettingsFormatter(jsonargparse.DefaultHelpFormatter):
    """The same for jsonargparse."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return text if text.startswith(EXAMPLE_START) else super()._fill_text(text, width, indent)


class PlainParser(argparse.ArgumentParser):
    """A parser of argparse; arguments are those of `argparse.ArgumentParser`.

    Args:
        prog: the program.
        description: what it does.
        epilog: the example; see `example`.
        add_help: whether there is a flag `--help`.
        usage: text in place of the generated usage.
    """

    def __init__(
        self,
        prog: str | None = None,
        description: str | None = None,
        epilog: str | None = None,
        add_help: bool = True,
        usage: str | None = None,
    ) -> None:
        super().__init__(prog, usage, description, epilog, formatter_class=_PlainFormatter, add_help=add_help)


def settings_parser(
    prog: str | None = None,
    description: str | None = None,
    epilog: str | None = None,
    add_help: bool = True,
    exit_on_error: bool = True,
) -> jsonargparse.ArgumentParser:
    """Return a parser of jsonargparse whose help text keeps the lines of the example.

    Args:
        prog: the program.
        description: what it does.
        epilog: the example; see `example`.
        add_help: whether there is a flag `--help`.
        exit_on_error: False: raise `jsonargparse.ArgumentError` for an argument that is refused.
    """
    return jsonargparse.ArgumentParser(
        prog=prog,
        description=description,
        epilog=epilog,
        add_help=add_help,
        exit_on_error=exit_on_error,
        formatter_class=_SettingsFormatter,
    )


def parse_words(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> Any:
    """Parse a command line; an error is followed by the nearest names, and by the YAML files that were read.

    Args:
        parser: the parser.
        arguments: the arguments; their flags take dashes and underscores alike.

    Returns:
        What the parser's `parse_args` returns.

    Raises:
        SystemExit: an argument is refused (status 2), or help was requested (status 0).
        ValueError: a key occurs twice in a configuration file; the message names both.
        jsonargparse.ArgumentError: an argument is refused by a parser that does not exit on errors; the message holds
            the nearest names.
    """
    words = underscored(arguments)
    try:
        with naming_config_files(words):
            return parser.parse_args(words)
    except SystemExit as stop:
        if stop.code:
            for hint in spelling_hints(parser, words):
                print(hint, file=sys.stderr)
        raise
    except jsonargparse.ArgumentError as error:
        if hints := spelling_hints(parser, words):
            raise jsonargparse.ArgumentError(None, "; ".join([str(error), *hints])) from error
        raise


def add_version(parser: argparse.ArgumentParser) -> None:
    """Add the flag `--version`."""
    parser.add_argument(
        "--version", action="version", version=f"{DISTRIBUTION} {find_version()}", help="print the version"
    )


def spelling_hints(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> list[str]:
    """Return a sentence for each word of a refused command line that is nearly a command, flag, choice or key.

    Args:
        parser: the parser that refused the arguments.
        arguments: the arguments, flags with underscores.
    """
    flags: dict[str, argparse.Action] = {}
    hints: list[str] = []
    rest = list(arguments)
    current: argparse.ArgumentParser | None = parser
    while current is not None:
        flags |= current._option_string_actions
        for action in current._actions:
            if not action.option_strings and action.choices and rest and not rest[0].startswith("-"):
                hints += _hint(rest[0], action.choices, f"{action.metavar or action.dest} ".lower())
        current = _next_parser(current, rest)
    files: list[str] = []
    for word, following in zip(rest, [*rest[1:], ""], strict=False):
        if not word.startswith("--") or word == "--":
            continue
        flag, equals, value = word.partition("=")
        value = value if equals else following
        if flag == FLAG:
            files.append(value)
        is_known = flag in flags or sum(known.startswith(flag) for known in flags) == 1
        hints += [] if is_known else _hint(flag, flags, "flag")
        if flag in flags and not value.startswith("--"):
            hints += _hint(value, _choices(flags[flag]), f"{flag} ")
    for file in files:
        hints += _hints_of_file(file, flags)
    return list(dict.fromkeys(hints))


def error_line(error: Exception, arguments: Sequence[str]) -> str:
    """Return an error as one line without control characters, with the file that a wrong path probably means.

    Args:
        error: the error.
        arguments: the command's arguments; a path among them that the message names and that does not exist is compared
            with the files that do.
    """
    text = describe_error(error)
    hints = _path_hints(arguments, text)
    return one_line(f"{text} ({' '.join(hints)})" if hints else text)


def _path_hints(arguments: Sequence[str], message: str) -> list[str]:
    if MEANT in message:
        return []
    hints = []
    flag = ""
    for word in arguments:
        name, equals, joined = word.partition("=")
        if word.startswith("-"):
            flag = name
            if not equals:
                continue
        value = joined if word.startswith("-") else word
        if len(value) > 1 and value in message and OUTPUT_WORD not in flag:
            near = None if _exists(value) else nearest_path(Path(value))
            hints += [f"{MEANT} {near}?"] if near is not None else []
    return list(dict.fromkeys(hints))


def _next_parser(parser: argparse.ArgumentParser, rest: list[str]) -> argparse.ArgumentParser | None:
    """Return the parser of the subcommand that the first word names, and remove the word; None if it names none."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction) and rest and rest[0] in action.choices:
            found: argparse.ArgumentParser = action.choices[rest.pop(0)]
            return found
    return None


def _hint(word: str, known: Any, kind: str) -> list[str]:
    """Return a sentence if a word is not known but similar to a name that is."""
    names = [str(name) for name in known]
    near = None if word in names else nearest(word, names)
    return [] if near is None else [f"{kind.strip()} {word}: {MEANT} {near}?"]


def _choices(action: argparse.Action) -> list[Any]:
    """Return the values that a flag takes; [] if they cannot be listed."""
    if action.choices is not None:
        return list(action.choices)
    kind = getattr(action, "_typehint", None)
    kinds = (kind, *get_args(kind)) if kind is not None else ()
    return [value for one in kinds if get_origin(one) is Literal for value in get_args(one)]


def _hints_of_file(file: str, flags: Mapping[str, argparse.Action]) -> list[str]:
    try:
        content = read_yaml(Path(file))
    except (OSError, ValueError):  # the parser's own message names it
        return []
    names = [flag.removeprefix("--") for flag in flags if not flag.endswith(".help")]
    groups = {name.rpartition(".")[0] for name in names}
    hints = []
    for key in _dotted_keys(content):
        group = key.rpartition(".")[0]
        if group in groups and key not in groups:  # keys of groups that may be null are no flags
            hints += [
                f"{file}: {hint}" for hint in _hint(key, (n for n in names if n.rpartition(".")[0] == group), "key")
            ]
    return hints


def _dotted_keys(content: object, prefix: str = "") -> Iterator[str]:
    if isinstance(content, Mapping):
        for key, value in content.items():
            yield f"{prefix}{key}"
            yield from _dotted_keys(value, f"{prefix}{key}.")


def _exists(path: str) -> bool:
    try:
        return Path(path).exists()
    except (OSError, ValueError):  # a name that no file can have
        return False


def completion_shell(arguments: Sequence[str]) -> str | None:
    """Return the shell of `--print_completion SHELL` in front of a command line; None if it has no such flag."""
    words = [part for word in underscored(arguments[:2]) for part in word.split("=", 1)]
    return words[1] if words[:1] == [COMPLETION_FLAG] and len(words) > 1 and words[1] in SHELLS else None


def print_completion(parser: argparse.ArgumentParser, program: str, shell: str) -> NoReturn:
    """Print a script that completes a program's commands and flags in a shell, and exit.

    Args:
        parser: the parser with all commands.
        program: the installed command.
        shell: bash or zsh.

    Raises:
        ValueError: shtab is not installed.
    """
    try:
        import shtab  # noqa: PLC0415  (optional)
    except ImportError as error:
        raise ValueError(f"{COMPLETION_FLAG} needs shtab: pip install '{DISTRIBUTION}[completion]'") from error
    parser.prog = program
    print(shtab.complete(parser, shell))
    sys.exit(0)
