"""The argument parsers of both programs, and what they have in common.

Every flag takes dashes and underscores alike, a misspelt command, flag, choice or key of a YAML file is answered with
the nearest name, and the example at the end of a help text keeps its lines.
"""

import argparse
import math
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NoReturn, get_args, get_origin

import jsonargparse
import yaml

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


class PlainHelp(str):
    """Help text of a flag that is shown as it is, without the type and the default that jsonargparse appends."""


class _SettingsFormatter(jsonargparse.DefaultHelpFormatter):
    """Wraps descriptions and keeps the lines of examples."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return text if text.startswith(EXAMPLE_START) else super()._fill_text(text, width, indent)

    def _get_help_string(self, action: argparse.Action) -> str:
        return action.help if isinstance(action.help, PlainHelp) else super()._get_help_string(action)


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


@dataclass(frozen=True)
class ListForm:
    """How the command line gives a list; a repeated flag adds to it in every form.

    Attributes:
        is_greedy: whether several words follow one flag.
        is_text: whether a single value is a text that the command itself divides, such as `[a, b]` or `a,b`.
    """

    is_greedy: bool
    is_text: bool = False


class CommandParser(jsonargparse.ArgumentParser):
    """The parser of one command, whose flags `partonomy.cli.flags` adds; its errors are argparse's.

    Its command line takes precedence over its YAML files, wherever they are named; see `normalized`.

    Args:
        prog: the program and the command.
        description: what it does.
        epilog: the example; see `example`.

    Attributes:
        list_flags: flags that take a list, and its form.
    """

    def __init__(self, prog: str, description: str | None = None, epilog: str | None = None) -> None:
        super().__init__(
            prog=prog,
            description=description,
            epilog=epilog,
            allow_abbrev=True,
            formatter_class=_SettingsFormatter,
        )
        self.list_flags: dict[str, ListForm] = {}

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print the usage and the error, and exit with status 2."""
        super().error(_plain_error(self, message), ex)


def literals(kind: Any) -> list[Any]:
    """Return the values of a `Literal`, also of one with None; [] for another type."""
    kinds = (kind, *get_args(kind)) if kind is not None else ()
    return [value for one in kinds if get_origin(one) is Literal for value in get_args(one)]


def _plain_error(parser: jsonargparse.ArgumentParser, message: str) -> str:
    """Return an error of jsonargparse in argparse's words: the flag, the value, and what it has to be."""
    if missing := re.fullmatch(r"the following arguments are required: (.+)", message):
        return (
            f"the following arguments are required: {', '.join(_flag(parser, key) for key in missing[1].split(', '))}"
        )
    if unknown := re.fullmatch(r"Option '(.+)' is not accepted", message):
        return f"the key '{unknown[1]}' is not a flag of this command"
    if other := re.fullmatch(r"Unexpected config: (.+)", message, re.DOTALL):
        return f"argument {FLAG}: expected lines of the form `flag: value`, got {other[1].strip()!r}"
    found = re.fullmatch(r'Parser key "([^"]+)"[^:]*:\s*(.+)', message, re.DOTALL)
    return message if found is None else f"argument {_flag(parser, found[1])}: {_fault(parser, *found.groups())}"


def _fault(parser: jsonargparse.ArgumentParser, key: str, reason: str) -> str:
    """Return what is wrong with the value of a key."""
    if own := re.search(r"Not of type (?!Path\b)\w+: (.+)", reason):  # a type's own check, which says it all
        return own[1]
    value = re.search(r"Got value: (.+)", reason) or re.search(r"Given value: (.+)", reason)
    kind = getattr(_action(parser, key), "_typehint", None)
    if value is None or kind is None:
        return reason
    if choices := literals(kind):
        return f"invalid choice: {value[1]!r} (choose from {', '.join(map(repr, choices))})"
    faults = (fault for basic, fault in _FAULTS.items() if f"{basic.__name__}'>" in reason)
    fault = next(faults, None)
    shown = re.sub(r"\bPosixPath\('(.*?)'\)", r"\1", value[1])
    return reason if fault is None else f"{shown!r} {fault}"


_FAULTS = {
    int: "is not an integer",
    float: "is not a number",
    bool: "is neither true nor false",
    str: "is not a text; put it in quotes",
    Path: "is not a path; put it in quotes",
}
"""What is wrong with a value that is not of a type."""


def _action(parser: argparse.ArgumentParser, key: str) -> argparse.Action | None:
    """Return the action of a key; a command's name may precede it."""
    return next((one for one in parser._actions if one.dest in (key, key.rpartition(".")[2])), None)


def _flag(parser: argparse.ArgumentParser, key: str) -> str:
    """Return a key as the command line writes it."""
    action = _action(parser, key)
    return f"--{key.rpartition('.')[2]}" if action is None or action.option_strings else action.dest


def normalized(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> list[str]:
    """Write a command's arguments so that each flag occurs once, with one value.

    `--config FILE` comes first, so that all other flags take precedence. A boolean flag without a value gets `=true`.
    The values of a list are joined to one, written as YAML. The arguments of other parsers stay as they are.

    Args:
        parser: the parser of the command, or of the program.
        arguments: the arguments, flags with underscores.

    Raises:
        FileNotFoundError: a YAML file does not exist.
        ValueError: a file is not YAML, or a word is not UTF-8, which jsonargparse cannot read.
    """
    rest = list(arguments)
    current: argparse.ArgumentParser = parser
    while (following := _next_parser(current, rest)) is not None:
        current = following
    if not isinstance(current, CommandParser):
        return list(arguments)
    for word in rest:
        if any("\ud800" <= character <= "\udfff" for character in word):
            raise ValueError(f"{word!r} is not UTF-8; rename the file")
    names = list(arguments[: len(arguments) - len(rest)])
    end = rest.index("--") if "--" in rest else len(rest)
    return [*names, *_Words(current, rest[:end]).written(), *rest[end:]]


_TRUTH = ("true", "false")


class _Words:
    """The words of a command line; `written` reads them from left to right."""

    def __init__(self, parser: CommandParser, words: Sequence[str]) -> None:
        self.parser = parser
        self.waiting = list(words)

    def written(self) -> list[str]:
        """Return the words as `normalized` writes them."""
        files: list[str] = []
        others: list[str] = []
        places: dict[str, int] = {}
        values: dict[str, list[str]] = {}
        while self.waiting:
            word = self.waiting.pop(0)
            flag, equals, value = word.partition("=")
            flag = self._full_name(flag)
            action = self.parser._option_string_actions.get(flag)
            if isinstance(action, jsonargparse.ActionConfigFile):
                taken = [value] if equals else self._take(1)
                for file in taken:
                    self._require_settings(file)
                (files if taken else others).append("=".join([flag, *taken]))
            elif flag in self.parser.list_flags:
                taken = (
                    [value]
                    if equals
                    else self._take(len(self.waiting) if self.parser.list_flags[flag].is_greedy else 1)
                )
                if not taken:
                    others.append(flag)  # the parser says that it needs a value
                    continue
                values.setdefault(flag, []).extend(taken)
                places.setdefault(flag, len(others))
                others += [] if places[flag] < len(others) else [flag]
            elif action is not None and action.const is True and action.nargs == "?":
                is_given = not equals and bool(self.waiting) and self.waiting[0].lower() in _TRUTH
                value = self.waiting.pop(0) if is_given else value if equals else "true"
                others.append(f"{flag}={value.lower() if value.lower() in _TRUTH else value}")
            else:
                others.append(f"{flag}{equals}{value}" if word.startswith("--") else word)
        for flag, place in places.items():
            is_text = self.parser.list_flags[flag].is_text and len(values[flag]) == 1
            others[place] = f"{flag}={values[flag][0] if is_text else _as_yaml(values[flag])}"
        return [*files, *others]

    def _take(self, most: int) -> list[str]:
        """Remove the values that follow a flag."""
        taken: list[str] = []
        while len(taken) < most and self.waiting and not self._is_flag(self.waiting[0]):
            taken.append(self.waiting.pop(0))
        return taken

    def _require_settings(self, file: str) -> None:
        """Refuse a file of settings that cannot be read; settings may also be given in braces.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it is not YAML, or a positional that is a list has a single value.
        """
        if file.lstrip().startswith("{"):
            return
        if not _exists(file):
            raise FileNotFoundError(f"{file}: no such file (given by {FLAG}); correct the path")
        settings = read_yaml(Path(file))
        for action in self.parser._actions:
            value = settings.get(action.dest) if isinstance(settings, dict) else None
            is_list = not action.option_strings and action.nargs in ("+", "*")
            if is_list and value is not None and not isinstance(value, list):
                raise ValueError(f"{file}: {action.dest} is {value!r}, it must be a list: write [{value}]")

    def _is_flag(self, word: str) -> bool:
        return word.startswith("--") or word in self.parser._option_string_actions

    def _full_name(self, flag: str) -> str:
        """Return the flag that an abbreviation means; the word itself if it is none."""
        known = self.parser._option_string_actions
        meant = {one for one in known if one.startswith(flag) and not one.endswith("+")}
        return meant.pop() if flag.startswith("--") and flag not in known and len(meant) == 1 else flag


def _as_yaml(values: Sequence[str]) -> str:
    """Return texts as a list of YAML on one line."""
    return yaml.safe_dump(list(values), default_style='"', default_flow_style=True, width=math.inf).strip()


def parse_words(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> Any:
    """Parse a command line; an error is followed by the nearest names, and by the YAML files that were read.

    Args:
        parser: the parser.
        arguments: the arguments; their flags take dashes and underscores alike.

    Returns:
        What the parser's `parse_args` returns.

    Raises:
        SystemExit: an argument is refused (status 2), or help was requested (status 0).
        FileNotFoundError: a command's configuration file does not exist.
        ValueError: a configuration file is not YAML, or a key occurs twice in it; the message names both.
        jsonargparse.ArgumentError: an argument is refused by a parser that does not exit on errors; the message holds
            the nearest names.
    """
    words = underscored(arguments)
    try:
        with naming_config_files(words):
            return parser.parse_args(normalized(parser, words))
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
    return literals(getattr(action, "_typehint", None))


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
