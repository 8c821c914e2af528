"""`python -m partonomy COMMAND`; `--help` lists the commands, and `COMMAND --help` lists a command's settings."""

import ast
import importlib
import inspect
import logging
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args, get_origin

from docstring_parser import parse as parse_docstring
from jsonargparse import ArgumentParser

from partonomy.cli.exit_status import run_command
from partonomy.cli.parsers import (
    COMPLETION_FLAG,
    SHELLS,
    add_version,
    completion_shell,
    example,
    parse_words,
    print_completion,
    settings_parser,
)
from partonomy.terminal import safe_output

PROGRAM = "python -m partonomy"
RUN_EXAMPLE = "partonomy --questions data/mine --model random --output runs/mine_random"


@dataclass(frozen=True)
class Command:
    """A command of `python -m partonomy`: the function's parameters are its settings, the docstring is its help.

    Attributes:
        name: Name on the command line.
        function: "module:function" under `partonomy.cli`; it may return an exit status.
        positionals: Parameters given without a flag's name; one annotated as a list takes one or more words, and one
            with a default is optional.
        example: Arguments of an example, which the command's help text shows.
        fill: "module:function" that adds a command's own subcommands to its parser; `function` then gets all arguments.
    """

    name: str
    function: str
    positionals: tuple[str, ...] = ()
    example: str = ""
    fill: str = ""

    @property
    def epilog(self) -> str:
        """End of the help text."""
        return example(f"{PROGRAM} {self.name} {self.example}")

    def load(self) -> Callable[..., int | None]:
        """Import the function."""
        function: Callable[..., int | None] = _load(self.function)
        return function


COMMANDS = (
    Command(
        "build",
        "build:build",
        example="--source coco --annotations instances.json --images photos --output data/mine",
    ),
    Command("build-mmr", "mmr:build_mmr_like", ("dataset",), "data/mine --output dataset_like --split val"),
    Command(
        "build-mixedparts",
        "mixed_parts:build_mixed_parts_command",
        ("datasets",),
        "data/pascal data/paco --output data/mixed --num_train 1000 --num_val 100 --num_test 100",
    ),
    Command("import", "data:import_questions", example="--questions partonomy_qa_pairs.json --output data/core"),
    Command("export", "data:export_questions", example="--questions data/mine --output qa_pairs.json"),
    Command("push-dataset", "hub:push_dataset", ("folder", "name"), "data/mine org/mine --license cc-by-4.0"),
    Command("pull-dataset", "hub:pull_dataset", ("name", "folder"), "org/mine data/pulled"),
    Command("stats", "stats:stats", ("folders",), "data/mine"),
    Command("check", "check:check", ("folder",), "--annotations instances.json --images photos"),
    Command("seal", "seal:seal", ("folder",), "data/mine"),
    Command("describe", "describe:describe", ("folder",), "data/mine --output data/mine_described"),
    Command("prune", "curate:prune", ("folder",), "data/mine --min_annotations 5 --output data/pruned"),
    Command("merge", "curate:merge", ("folders",), "data/mine data/others --output data/both"),
    Command("split", "curate:split", ("folder",), "data/mine --output_train data/train --output_val data/val"),
    Command("blind", "blind:blind", ("questions",), "data/mine"),
    Command("run", "run:run_command", example=RUN_EXAMPLE, fill="run:add_benchmarks"),
    Command("tables", "results:tables", ("runs",), "runs/mine runs/mine_random"),
    Command("compare", "results:compare", ("run_a", "run_b"), "runs/mine_random runs/mine"),
    Command("report", "results:report", ("run",), "runs/mine --baselines runs/mine_random"),
    Command("leaderboard", "results:leaderboard", ("runs",), "runs/mine runs/mine_random --output board.html"),
    Command("chart", "results:chart", ("runs",), "runs/mine --output chart.svg"),
    Command("merge-runs", "merge_runs:merge_runs", ("runs",), "runs/shard1 runs/shard2 --output runs/whole"),
    Command("export-predictions", "results:export_predictions", ("run",), "runs/mine --output predictions.json"),
    Command("export-results", "results:export_results", ("run",), "runs/mine --format coco --output results.json"),
    Command(
        "import-predictions",
        "import_predictions:import_predictions",
        ("files",),
        "predictions.json --questions data/mine --name my-model --output runs/imported",
    ),
    Command("export-lmms-eval", "lmms_eval:export_lmms_eval", ("folder",), "data/mine --output lmms_tasks"),
)


DESCRIPTION = "Partonomy: data sets, questions, tables, reports."


def build_parser(only: str | None = None) -> ArgumentParser:
    """Build the parser; each command takes flags, a YAML file (`--config`), or both.

    Args:
        only: Name of the only command to build, so that no other command's packages are imported; None builds all.
    """
    parser = _program_parser()
    commands = parser.add_subcommands(dest="command", metavar="COMMAND")
    for command in COMMANDS:
        if only is None or only == command.name:
            summary = _summary(command.load())
            own = settings_parser(description=summary) if command.fill else _command_parser(command)
            own.epilog = command.epilog
            commands.add_subcommand(command.name, own, help=summary)
            if command.fill:
                _load(command.fill)(
                    own
                )  # only now, because jsonargparse requires subcommands in the order of their levels
    return parser


def build_outline() -> ArgumentParser:
    """Build a parser that knows the commands' names and summaries, without importing their packages.

    It answers `--help` and typing errors.
    """
    parser = _program_parser()
    commands = parser.add_subcommands(dest="command", metavar="COMMAND")
    for command in COMMANDS:
        commands.add_subcommand(command.name, settings_parser(add_help=False), help=_read_summary(command.function))
    return parser


def main(arguments: Sequence[str]) -> int:
    """Run one command; its output goes through a filter of control characters (`partonomy.terminal`).

    Returns:
        The exit status; see `partonomy.cli.exit_status`.
    """
    with safe_output():
        return _run(arguments)


def _program_parser() -> ArgumentParser:
    parser = settings_parser(
        prog=PROGRAM, description=DESCRIPTION, epilog=example(f"{PROGRAM} {COMMANDS[0].name} --help")
    )
    add_version(parser)
    parser.add_argument(COMPLETION_FLAG, choices=SHELLS, help="print a script that completes commands and flags")
    return parser


def _run(arguments: Sequence[str]) -> int:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("sentence_transformers").setLevel(logging.WARNING)
    return run_command(lambda: _run_named(arguments), arguments)


def _run_named(arguments: Sequence[str]) -> int | None:
    """Parse the arguments and run the command that they name."""
    if shell := completion_shell(arguments):
        print_completion(build_parser(), "partonomy", shell)
    named = next((command for command in COMMANDS if list(arguments[:1]) == [command.name]), None)
    if named is None:
        parse_words(build_outline(), arguments)
    elif named.fill:
        return named.load()(arguments[1:])
    parsed = parse_words(build_parser(named.name if named else None), arguments)
    named = next(command for command in COMMANDS if command.name == parsed.command)
    return named.load()(**{key: value for key, value in parsed[parsed.command].items() if key != "config"})


def _load(place: str) -> Any:
    """Import "module:name" of `partonomy.cli`."""
    module, name = place.split(":")
    return getattr(importlib.import_module(f"partonomy.cli.{module}"), name)


def _command_parser(command: Command) -> ArgumentParser:
    function = command.load()
    parser = settings_parser(description=_summary(function))
    parser.add_argument("--config", action="config", help="YAML file with the settings below")
    parameters = inspect.signature(function).parameters
    help_of = {param.arg_name: param.description for param in parse_docstring(function.__doc__ or "").params}
    switches = {name for name, parameter in parameters.items() if parameter.default is False}
    for name in command.positionals:
        kinds = (parameters[name].annotation, *get_args(parameters[name].annotation))
        is_list = any(get_origin(kind) is list for kind in kinds)
        is_optional = parameters[name].default is not inspect.Parameter.empty
        nargs = ("*" if is_optional else "+") if is_list else "?" if is_optional else None
        parser.add_argument(name, type=str, nargs=nargs, help=help_of.get(name))
    parser.add_function_arguments(function, as_positional=False, skip={*command.positionals, *switches})
    for name in sorted(switches):
        parser.add_argument(f"--{name}", action="store_true", help=help_of.get(name))
    return parser


def _read_summary(place: str) -> str:
    """Return the first sentence of a function's docstring from its source file."""
    module, name = place.split(":")
    source = (Path(__file__).parent / "cli" / f"{module}.py").read_text(encoding="utf-8")
    functions = [node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef) and node.name == name]
    return parse_docstring(ast.get_docstring(functions[0]) or "").short_description or ""


def _summary(function: Callable[..., int | None]) -> str:
    return parse_docstring(function.__doc__ or "").short_description or ""


def run() -> None:
    """Run the command line and exit with its status; the installed command `partonomy` calls it."""
    sys.exit(main(sys.argv[1:]))


if __name__ == "__main__":
    run()
