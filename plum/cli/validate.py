"""`python -m plum validate BENCHMARK`: equivalent to `python -m partonomy run BENCHMARK --model plum`."""

from collections.abc import Sequence

from jsonargparse import ArgumentParser

CALL = "python -m plum validate"
MODEL = "plum"
FLAGS = "--checkpoint runs/quickstart/model --questions data/mine --output runs/mine"


def validate(arguments: Sequence[str]) -> None:
    """Score a model on a benchmark; same as `python -m partonomy run`, with plum as the default model.

    Args:
        arguments: the benchmark and its flags.

    Raises:
        SystemExit: the benchmark or a flag is unknown, or help was requested.
        OSError, ValueError, RuntimeError: the run failed; see `partonomy.harness.run.run_benchmark`.
    """
    from partonomy.cli.run import run_any

    run_any(CALL, arguments, FLAGS, MODEL)


def add_benchmarks(parser: ArgumentParser) -> None:
    """Add every benchmark as a subcommand with its own flags."""
    from partonomy.cli import run

    run.add_benchmarks(parser, MODEL)
