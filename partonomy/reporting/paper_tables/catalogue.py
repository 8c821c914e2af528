"""All paper tables that can include runs, by the name that `tables --table` takes."""

from collections.abc import Sequence

from partonomy.reporting.loaded_run import AnyRun
from partonomy.reporting.paper_tables.ablation_tables import ABLATION_TABLES
from partonomy.reporting.paper_tables.long_tail_tables import SPLITS, LongTailTable
from partonomy.reporting.paper_tables.mixed_parts_table import MixedPartsTable
from partonomy.reporting.paper_tables.mmr_tables import TITLES, MmrTable
from partonomy.reporting.paper_tables.paper_table import PaperTable
from partonomy.reporting.paper_tables.partonomy_tables import TABLE_SUBSETS, PartonomyTable
from partonomy.reporting.paper_tables.reason_seg_table import ReasonSegTable
from partonomy.reporting.paper_tables.retention_table import RetentionTable
from partonomy.reporting.paper_tables.sequence_table import SequenceTable

PAPER_TABLES: dict[str, PaperTable] = {
    table.name: table
    for table in (
        *(PartonomyTable(number) for number in TABLE_SUBSETS),
        ReasonSegTable(),
        RetentionTable(),
        *(MmrTable(number) for number in TITLES),
        *(LongTailTable(number) for number in SPLITS),
        *ABLATION_TABLES,
        SequenceTable(),
        MixedPartsTable(),
    )
}


def tables_of(run: AnyRun) -> tuple[PaperTable, ...]:
    """Return the paper tables that include a run, without those that only their name requests."""
    return tuple(table for table in PAPER_TABLES.values() if table.suits(run) and not table.is_by_name)


def check_holds(table: PaperTable, runs: Sequence[AnyRun]) -> None:
    """Check that a table can include the runs.

    Raises:
        ValueError: The table cannot include a run; the message names the first.
    """
    for run in runs:
        if not table.holds(run):
            what = f"{run.summary.benchmark} {run.summary.split}".strip()
            raise ValueError(f"{run.path} is a run on {what}, which table {table.name} does not include")
