"""`python -m plum mmr-tables`: compare runs with the rows of the MMR paper's Tables 2 to 5 and 8."""

import argparse
from pathlib import Path

from partonomy.table_format import TableFormat, render_table
from plum.cli.commands import COMMANDS


def add_command(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to the parser."""
    parser = commands.add_parser("mmr-tables", help=COMMANDS["mmr-tables"])
    parser.add_argument(
        "runs",
        nargs="+",
        type=Path,
        help="output folders of runs on MMR, RefCOCO, multi-referring RefCOCO, RefCOCOm, Cityscapes or GTAV",
    )
    parser.add_argument(
        "--format",
        choices=[entry.value for entry in TableFormat],
        default=TableFormat.TEXT.value,
        help="form of the table (default: %(default)s)",
    )
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> None:
    from partonomy.reporting.paper_tables.mmr_tables import load_mmr_runs, mmr_table, table_of

    summaries = load_mmr_runs(arguments.runs)
    numbers = sorted({number for summary in summaries if (number := table_of(summary.benchmark)) is not None})
    tables = [render_table(mmr_table(number, summaries), TableFormat(arguments.format)) for number in numbers]
    print("\n\n".join(tables))
