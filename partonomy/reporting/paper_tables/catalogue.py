"""Every table of a paper that holds runs, by the name that `tables --table` takes."""

from collections.abc import Sequence

from partonomy.reporting.loaded_run import AnyRun
from partonomy.reporting.paper_tables.mmr_tables import TITLES, MmrTable
from partonomy.reporting.paper_tables.paper_table import PaperTable
from partonomy.reporting.paper_tables.partonomy_tables import PartonomyTable
from partonomy.reporting.paper_tables.quoted_rows import TABLE_SUBSETS
from partonomy.reporting.paper_tables.retention_table import RetentionTable

PAPER_TABLES: dict[str, PaperTable] = {
    table.name: table
    for table in (
        *(PartonomyTable(number) for number in TABLE_SUBSETS),
        RetentionTable(),
        *(MmrTable(number) for number in TITLES),
    )
}


def tables_of(run: AnyRun) -> tuple[PaperTable, ...]:
    """The tables in which a run stands beside the numbers of papers."""
    return tuple(table for table in PAPER_TABLES.values() if table.suits(run))


def check_holds(table: PaperTable, runs: Sequence[AnyRun]) -> None:
    """Refuse runs that a table does not hold.

    Raises:
        ValueError: Names the first of them.
    """
    for run in runs:
        if not table.holds(run):
            what = f"{run.summary.benchmark} {run.summary.split}".strip()
            raise ValueError(f"{run.path} is a run on {what}, which table {table.name} does not hold")
