"""`python -m partonomy COMMAND`; `python -m partonomy --help` lists the commands, `COMMAND --help` its settings."""

import logging
import os
import sys
from collections.abc import Callable, Mapping, Sequence

from jsonargparse import ArgumentParser, Namespace

from partonomy.cli import data
from partonomy.cli.config_files import naming_config_files

DATA_COMMANDS: Mapping[str, Callable[..., None]] = {
    "build": data.build,
    "import": data.import_questions,
    "export": data.export_questions,
    "stats": data.stats,
}

STATUS_BROKEN_PIPE = 141  # what a shell reports of a program that SIGPIPE ended


def build_parser() -> ArgumentParser:
    """Build the parser with every command; each takes flags, or `--config FILE.yaml`, or both."""
    parser = ArgumentParser(prog="python -m partonomy", description="Partonomy: data sets, questions, tables, reports.")
    commands = parser.add_subcommands(dest="command", metavar="COMMAND")

    build = _command("Build a data set with its questions, or draw the embedded one.")
    build.add_function_arguments(data.build, as_positional=False, skip={"overwrite"})
    build.add_argument("--overwrite", action="store_true", help="replace what is there, made with other settings")
    commands.add_subcommand("build", build, help="build a data set with its questions")

    importer = _command("Turn a published record file (..._qa_pairs.json) into a data set folder.")
    importer.add_function_arguments(data.import_questions, as_positional=False, skip={"overwrite"})
    importer.add_argument("--overwrite", action="store_true", help="replace what is there, made with other settings")
    commands.add_subcommand("import", importer, help="published record file -> data set folder")

    exporter = _command("Write a data set folder as a published record file, with its annotations beside it.")
    exporter.add_function_arguments(data.export_questions, as_positional=False, skip={"overwrite"})
    exporter.add_argument("--overwrite", action="store_true", help="replace what is there, made with other settings")
    commands.add_subcommand("export", exporter, help="data set folder -> published record file")

    stats = _command("Print the size of a data set (columns of the paper's Tables 1 and 8), and its questions.")
    stats.add_argument("folder", type=str, help="folder of a data set")
    commands.add_subcommand("stats", stats, help="print the size of a data set")

    tables = _command("Print the results of runs in the layout of the paper's tables, beside its rows.")
    tables.add_argument("runs", nargs="+", type=str, help="output folders of validate_partonomy.py")
    tables.add_argument("--format", type=str, default="text", help="text, markdown, latex or csv")
    tables.add_argument("--output", type=str | None, default=None, help="file to write instead of printing")
    commands.add_subcommand("tables", tables, help="print results as the paper's tables")

    report = _command("Write one self-contained HTML page about a run.")
    report.add_argument("run", type=str, help="output folder of validate_partonomy.py")
    report.add_argument("--output", type=str | None, default=None, help="HTML file; default RUN/report.html")
    report.add_argument("--baselines", type=list[str], default=[], help="other runs on the same questions, [a,b]")
    report.add_argument(
        "--training_metrics", type=list[str], default=[], help="metrics.jsonl files for the loss curves"
    )
    commands.add_subcommand("report", report, help="write an HTML report of a run")

    predictions = _command("Write a run's answers and masks as a JSON list in the published record's schema.")
    predictions.add_argument("run", type=str, help="output folder of validate_partonomy.py")
    predictions.add_argument("--output", type=str, required=True, help="file to write (.json)")
    predictions.add_argument("--overwrite", action="store_true", help="replace an existing file")
    commands.add_subcommand("export-predictions", predictions, help="a run -> predictions as published records")
    return parser


def main(arguments: Sequence[str]) -> int:
    """Run one command.

    Returns:
        Exit status: 0, 1 after an error in the input, which is printed without a traceback, or that of a command whose
        output pipe was closed.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("sentence_transformers").setLevel(logging.WARNING)
    with naming_config_files(arguments):
        parsed = build_parser().parse_args(list(arguments))
    try:
        _run(parsed.command, parsed[parsed.command])
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader of a pipe ("| head") has seen enough. What is left in the buffer must not meet the closed pipe
        # again when the interpreter flushes it at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return STATUS_BROKEN_PIPE
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201  the command line's own output
        return 1
    return 0


def _command(description: str) -> ArgumentParser:
    parser = ArgumentParser(description=description)
    parser.add_argument("--config", action="config", help="YAML file with the settings below")
    return parser


def _run(command: str, options: Namespace) -> None:
    settings = {key: value for key, value in options.items() if key != "config"}
    if command not in DATA_COMMANDS:
        from partonomy.cli import results  # noqa: PLC0415  matplotlib and jinja2: only where they are needed

        result_commands: Mapping[str, Callable[..., None]] = {
            "tables": results.tables,
            "report": results.report,
            "export-predictions": results.export_predictions,
        }
        result_commands[command](**settings)
        return
    DATA_COMMANDS[command](**settings)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
