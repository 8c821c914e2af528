"""`python -m plum mmr-tables`: compare runs with the rows of the MMR paper's Tables 2 to 5 and 8."""

from pathlib import Path

from partonomy.table_format import TableFormat, render_table


def mmr_tables(runs: tuple[Path, ...], *, format: TableFormat = TableFormat.TEXT) -> None:
    """Compare runs with the rows of the MMR paper's Tables 2 to 5 and 8.

    Args:
        runs: output folders of runs on MMR, RefCOCO, multi-referring RefCOCO, RefCOCOm, Cityscapes or GTAV
        format: form of the table

    Raises:
        FileNotFoundError: a folder holds no finished run.
        ValueError: a run belongs to another benchmark.
    """
    from partonomy.reporting.paper_tables.mmr_tables import load_mmr_runs, mmr_table, table_of

    summaries = load_mmr_runs(runs)
    numbers = sorted({number for summary in summaries if (number := table_of(summary.benchmark)) is not None})
    tables = [render_table(mmr_table(number, summaries), format) for number in numbers]
    print("\n\n".join(tables))
