"""`python -m partonomy COMMAND`; `--help` lists the commands, and `COMMAND --help` lists a command's settings."""

import logging
import sys
from collections.abc import Sequence

from jsonargparse import ArgumentParser

from partonomy.cli import programs
from partonomy.cli.programs import Command, Program, run_program

RUN_EXAMPLE = "partonomy --questions data/mine --model random --output runs/mine_random"
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

PROGRAM = Program(
    name="partonomy",
    package="partonomy.cli",
    description="Partonomy: data sets, questions, tables, reports.",
    commands=COMMANDS,
    example=f"{COMMANDS[0].name} --help",
)


def build_parser(only: str | None = None) -> ArgumentParser:
    """Build the parser of all commands, or of one; see `partonomy.cli.programs.build_parser`."""
    return programs.build_parser(PROGRAM, None if only is None else [only])


def main(arguments: Sequence[str]) -> int:
    """Run one command.

    Returns:
        The exit status; see `partonomy.cli.exit_status`.
    """
    logging.getLogger("sentence_transformers").setLevel(logging.WARNING)
    return run_program(PROGRAM, arguments)


def run() -> None:
    """Run the command line and exit with its status; the installed command `partonomy` calls it."""
    sys.exit(main(sys.argv[1:]))


if __name__ == "__main__":
    run()
