"""Flags of a command: the parameters of its function, and the fields of the dataclasses among them.

A list is given as several words or as a repeated flag, and in YAML as a list or a single value. A flag of the command
line replaces the file's value, also that of a list. A boolean flag needs no value.
"""

import argparse
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, is_dataclass
from enum import StrEnum
from types import GenericAlias, MappingProxyType, UnionType
from typing import TYPE_CHECKING, Any, TypeVar, Union, get_args, get_origin, get_type_hints

from docstring_parser import parse as parse_docstring
from jsonargparse import ArgumentParser, Namespace
from jsonargparse.typing import extend_base_type

from partonomy.cli.config_files import FLAG
from partonomy.cli.parsers import CommandParser, ListForm, PlainHelp, literals

SettingsT = TypeVar("SettingsT")
CONFIG_HELP = "YAML file with any of the other flags (`seed: 1`); flags of the command line take precedence"
PRINT_HELP = f"print all settings as YAML, which {FLAG} reads, and exit (=skip_default: only those that differ)"
REQUIRED: Any = MISSING
"""Default of a flag that must be given."""


def checked_number(name: str, lowest: int, highest: int | None, fault: str) -> type[int]:
    """Return a type of integers in a range; a parser refuses other values with status 2.

    Args:
        name: the type's name.
        lowest: smallest value.
        highest: largest value; None: no limit.
        fault: what a message says of another value, after naming it.
    """

    def check(kind: type, value: object) -> None:
        text = str(value).strip()
        if not text.isdecimal() or int(text) < lowest or (highest is not None and int(text) > highest):
            raise ValueError(f"{str(value)!r} {fault}")

    made: type[int] = extend_base_type(name, int, check)
    return made


def checked_text(name: str, read: Callable[[str], object]) -> type[str]:
    """Return a type of texts that a function can read; a parser refuses other values with status 2.

    Args:
        name: the type's name.
        read: raises a ValueError that names the value and the cure.
    """

    def check(kind: type, value: object) -> None:
        read(str(value))

    made: type[str] = extend_base_type(name, str, check)
    return made


if TYPE_CHECKING:
    Positive = int
else:
    Positive = checked_number("Positive", 1, None, "is not a positive integer")


@dataclass(frozen=True)
class _Flag:
    """One flag.

    Attributes:
        name: without dashes.
        kind: its annotation.
        default: its default, or `REQUIRED`.
        help: what it sets; "" if it is not documented.
    """

    name: str
    kind: Any
    default: Any
    help: str


def add_config_flag(parser: ArgumentParser, help_text: str = CONFIG_HELP) -> None:
    """Add `--config FILE`, and `--print_config` with it."""
    parser.add_argument(FLAG, action="config", metavar="FILE", help=help_text)
    (shown,) = (action for action in parser._actions if "--print_config" in action.option_strings)
    shown.help = PRINT_HELP


def add_switch(container: Any, name: str, help_text: str) -> None:
    """Add a flag that is false by default; without a value it is true.

    Args:
        container: a parser or a group of its flags.
        name: the flag without dashes.
        help_text: what it does.
    """
    text = PlainHelp(help_text)
    container.add_argument(
        f"--{name}", type=bool, nargs="?", const=True, default=False, metavar="true|false", help=text
    )


def add_function_flags(
    parser: CommandParser, function: Callable[..., int | None], positionals: Sequence[str] = ()
) -> None:
    """Add the parameters of a function: `--config`, its positionals, its flags, and a group for each dataclass.

    A function that has a flag `config` of its own gets no YAML file of flags.

    Args:
        parser: the command's parser.
        function: the function.
        positionals: parameters given without a flag's name; a list takes one or more words, and one with a default is
            optional.
    """
    hints = get_type_hints(function)
    parameters = inspect.signature(function).parameters
    help_of = _documented(function)
    groups = [kind for kind in hints.values() if is_dataclass(kind)]
    names = {*parameters, *(entry.name for kind in groups for entry in fields(kind))}
    if FLAG.removeprefix("--") not in names:
        add_config_flag(parser)
    is_greedy = not any(_item(hints[name]) for name in positionals)
    for name in positionals:
        _add_positional(parser, _Flag(name, hints[name], _default(parameters[name].default), help_of.get(name, "")))
    for name, parameter in parameters.items():
        if name in positionals:
            continue
        if is_dataclass(kind := hints[name]):
            assert isinstance(kind, type)
            add_fields(parser, kind, title=_title(kind), is_greedy=is_greedy)
        else:
            _add_flag(parser, parser, _Flag(name, kind, _default(parameter.default), help_of.get(name, "")), is_greedy)


def add_fields(
    parser: CommandParser,
    settings: type[Any],
    defaults: Mapping[str, Any] = MappingProxyType({}),
    title: str = "",
    is_greedy: bool = True,
) -> None:
    """Add a flag for every field of a dataclass, with its help from the docstrings of the class and its bases.

    Args:
        parser: the command's parser.
        settings: the dataclass.
        defaults: values that replace the fields' defaults.
        title: title of the flags in the help text; "": they are listed with the others.
        is_greedy: whether a list takes several words; otherwise it is repeated.
    """
    container = parser.add_argument_group(title) if title else parser
    help_of = {name: text for base in reversed(settings.__mro__) for name, text in _documented(base).items()}
    hints = get_type_hints(settings)
    for entry in fields(settings):
        default = defaults.get(entry.name, entry.default)
        _add_flag(
            parser, container, _Flag(entry.name, hints[entry.name], default, help_of.get(entry.name, "")), is_greedy
        )


def read_fields(settings: type[SettingsT], parsed: Namespace) -> SettingsT:
    """Build a dataclass from the flags that `add_fields` added."""
    hints = get_type_hints(settings)
    names = [entry.name for entry in fields(settings)]  # type: ignore[arg-type]
    return settings(**{name: _converted(hints[name], parsed[name]) for name in names if name in parsed})


def read_arguments(function: Callable[..., int | None], parsed: Namespace) -> dict[str, Any]:
    """Return the arguments of a function from what a parser of `add_function_flags` has parsed."""
    hints = get_type_hints(function)
    arguments: dict[str, Any] = {}
    for name in inspect.signature(function).parameters:
        kind = hints[name]
        if is_dataclass(kind):
            assert isinstance(kind, type)
            arguments[name] = read_fields(kind, parsed)
        elif name in parsed:
            arguments[name] = _converted(kind, parsed[name])
    return arguments


def _add_positional(parser: CommandParser, flag: _Flag) -> None:
    item = _item(flag.kind)
    kind = _without_none(flag.kind) if item is None else item
    if flag.default is REQUIRED:
        nargs = None if item is None else "+"
        parser.add_argument(flag.name, type=kind, nargs=nargs, help=PlainHelp(flag.help))
        return
    # Without a default of its own, an absent positional leaves the value of the YAML file as it is.
    nargs = "?" if item is None else "*"
    parser.add_argument(flag.name, type=kind, nargs=nargs, default=argparse.SUPPRESS, help=PlainHelp(flag.help))


def _add_flag(parser: CommandParser, container: Any, flag: _Flag, is_greedy: bool) -> None:
    kind, word = flag.kind, f"--{flag.name}"
    is_required = flag.default is REQUIRED
    text = PlainHelp(_help(flag))
    name = flag.name.upper()
    default = None if is_required else flag.default
    if kind is bool:
        assert default is False, f"{word} is true by default; name its contrary"
        add_switch(container, flag.name, flag.help)
    elif _is_enum(kind):
        container.add_argument(word, choices=[str(member) for member in kind], default=str(default), help=text)
    elif (item := _item(kind)) is not None:
        parser.list_flags[word] = ListForm(is_greedy)
        metavar = f"{name} [{name} ...]" if is_greedy else name
        allowed: Any = GenericAlias(list, (item,)) | item
        allowed = allowed | None if default is None and not is_required else allowed
        value = list(default) if default is not None else None
        container.add_argument(word, type=allowed, default=value, required=is_required, metavar=metavar, help=text)
        _remove_alias(parser, word)
    elif get_origin(kind) is tuple:
        parser.list_flags[word] = ListForm(is_greedy=True)
        metavar = " ".join([name] * len(get_args(kind)))
        container.add_argument(word, type=kind, default=default, required=is_required, metavar=metavar, help=text)
    else:
        choices = literals(kind)
        metavar = "{" + ",".join(map(str, choices)) + "}" if choices else name
        container.add_argument(word, type=kind, default=default, required=is_required, metavar=metavar, help=text)
        if any(get_origin(one) is list for one in get_args(kind)):  # a list or a text
            parser.list_flags[word] = ListForm(is_greedy=False, is_text=True)
            _remove_alias(parser, word)


def _remove_alias(parser: CommandParser, word: str) -> None:
    """Remove the flag `--x+` that jsonargparse adds to append to a list: a repeated flag does that here."""
    action = parser._option_string_actions[word]
    for other in [one for one in action.option_strings if one != word]:
        del parser._option_string_actions[other]
    action.option_strings = [word]


def _help(flag: _Flag) -> str:
    if flag.default is REQUIRED:
        return f"{flag.help} (required)"
    shown = flag.default
    if shown is None or shown is False or shown in ("", ()):
        return flag.help
    return f"{flag.help} (default: {' '.join(map(str, shown)) if isinstance(shown, tuple) else shown})"


def _documented(function_or_class: Any) -> dict[str, str]:
    parsed = parse_docstring(inspect.getdoc(function_or_class) or "")
    return {one.arg_name: " ".join((one.description or "").split()) for one in parsed.params}


def _title(kind: type) -> str:
    return (parse_docstring(kind.__doc__ or "").short_description or kind.__name__).rstrip(".")


def _default(default: Any) -> Any:
    return REQUIRED if default is inspect.Parameter.empty else default


def _converted(kind: Any, value: Any) -> Any:
    """Return a parsed value in the form that its annotation says."""
    if _is_enum(kind):
        return kind(value)
    if _item(kind) is None or value is None:
        return value
    values = value if isinstance(value, list) else [value]
    return tuple(values) if get_origin(_without_none(kind)) is tuple else values


def _item(kind: Any) -> Any:
    """Return the type of a list's items (list[X], tuple[X, ...] or either with None); None for anything else."""
    kind = _without_none(kind)
    if get_origin(kind) is list:
        return get_args(kind)[0]
    if get_origin(kind) is tuple and get_args(kind)[1:] == (...,):
        return get_args(kind)[0]
    return None


def _without_none(kind: Any) -> Any:
    """Return the only alternative to None; the annotation itself if it has no None or several alternatives."""
    if get_origin(kind) not in (Union, UnionType):
        return kind
    others = [one for one in get_args(kind) if one is not type(None)]
    return others[0] if len(others) == 1 else kind


def _is_enum(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, StrEnum)
