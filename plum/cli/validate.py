"""`python -m plum validate BENCHMARK`: equivalent to `python -m partonomy run BENCHMARK --model plum`."""

import argparse

from partonomy.benchmarks.registry import BENCHMARKS
from partonomy.cli.run import run_named
from plum.cli.commands import COMMANDS


def add_command(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to the parser."""
    parser = commands.add_parser("validate", help=COMMANDS["validate"])
    parser.add_argument("benchmark", choices=tuple(BENCHMARKS), help="benchmark to score the model on")
    parser.add_argument(
        "flags",
        nargs=argparse.REMAINDER,
        help="flags of `python -m partonomy run BENCHMARK`; BENCHMARK --help lists them",
    )
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> None:
    name = arguments.benchmark
    run_named(name, f"python -m plum validate {name}", arguments.flags, default_model="plum")
