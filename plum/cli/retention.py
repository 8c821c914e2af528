"""`python -m plum retention`: how much VQA ability a model keeps after training for segmentation (paper, Table 5)."""

import argparse
from pathlib import Path

from partonomy.table_format import TableFormat, render_table
from plum.cli.commands import COMMANDS


def add_command(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to the parser."""
    parser = commands.add_parser("retention", help=COMMANDS["retention"])
    parser.add_argument("runs", nargs="+", type=Path, help="output folders of runs on TextVQA, GQA or POPE")
    parser.add_argument(
        "--format",
        choices=[entry.value for entry in TableFormat],
        default=TableFormat.TEXT.value,
        help="form of the table (default: %(default)s)",
    )
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> None:
    from partonomy.reporting.paper_tables.retention_table import load_retention_runs, retention_table

    table = retention_table(load_retention_runs(arguments.runs))
    print(render_table(table, TableFormat(arguments.format)))
