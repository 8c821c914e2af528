"""`python -m plum retention`: what of a model's VQA its training for segmentation left (paper, Table 5)."""

import argparse
from pathlib import Path

from partonomy.reporting.paper_tables.retention_table import load_retention_runs, retention_table
from partonomy.table_format import TableFormat, render_table


def add_command(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to the parser."""
    parser = commands.add_parser("retention", help="VQA scores of runs beside those with the adapters off (Table 5)")
    parser.add_argument("runs", nargs="+", type=Path, help="output folders of `plum validate textvqa|gqa|pope`")
    parser.add_argument("--format", choices=[entry.value for entry in TableFormat], default=TableFormat.TEXT.value)
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> None:
    table = retention_table(load_retention_runs(arguments.runs))
    print(render_table(table, TableFormat(arguments.format)))
