"""`python -m plum retention`: how much VQA ability a model keeps after training for segmentation (paper, Table 5)."""

from pathlib import Path

from partonomy.table_format import TableFormat, render_table


def retention(runs: tuple[Path, ...], *, format: TableFormat = TableFormat.TEXT) -> None:
    """Compare VQA scores of runs with and without adapters (Table 5).

    Args:
        runs: output folders of runs on TextVQA, GQA or POPE
        format: form of the table

    Raises:
        FileNotFoundError: a folder holds no finished run.
        ValueError: a run belongs to another benchmark.
    """
    from partonomy.reporting.paper_tables.retention_table import load_retention_runs, retention_table

    table = retention_table(load_retention_runs(runs))
    print(render_table(table, format))
