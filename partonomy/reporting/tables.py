"""Makes the tables of a set of runs: paper tables, all metrics with intervals, and the benchmarks' own tables."""

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, fields, replace

from partonomy.benchmarks.partonomy.metrics import MetricProtocol
from partonomy.benchmarks.task import ALL
from partonomy.harness.provenance import imported_lines
from partonomy.harness.summary import GroupSummary
from partonomy.metrics.bootstrap import Estimate
from partonomy.reporting.loaded_run import AnyRun
from partonomy.reporting.overview import find_estimate, summary_notes
from partonomy.reporting.paper_tables.catalogue import PAPER_TABLES, check_holds
from partonomy.reporting.paper_tables.paper_table import (
    OURS,
    PaperTable,
    PaperTableStyle,
    TidyRow,
    format_interval,
    tidy_percent,
)
from partonomy.reporting.paper_tables.tag_table import TAG_TABLE
from partonomy.table_format import ColumnGroup, Table, TableFormat, TableRow, format_percent, render_table
from partonomy.terminal import spreadsheet_cell

AUTO, ALL_TABLES = "auto", "all"
TABLE_CHOICES = (*PAPER_TABLES, TAG_TABLE, ALL_TABLES, AUTO)
"""The values of `--table`: names of paper tables, `all` and `auto`; see `paper_table_runs`. `TAG_TABLE` reads other
files than those of runs."""
PaperTableRuns = tuple[tuple[PaperTable, tuple[AnyRun, ...]], ...]
"""Paper tables, each with the runs that it includes."""


def paper_table_runs(runs: Sequence[AnyRun], choice: str) -> PaperTableRuns:
    """Return the chosen paper tables, each with the runs that it includes.

    A table chosen by name includes every run. Otherwise the tables that suit a run include it: `all` has every table of
    its benchmark, and `auto` only the automatic ones.

    Raises:
        ValueError: There are no runs, or a table cannot include one of them.
    """
    if not runs:
        raise ValueError("there are no runs to tabulate")
    if choice in PAPER_TABLES:
        check_holds(PAPER_TABLES[choice], runs)
        return ((PAPER_TABLES[choice], tuple(runs)),)
    chosen = []
    for table in (table for table in PAPER_TABLES.values() if not table.is_by_name):
        members = tuple(run for run in runs if table.suits(run))
        is_shown = any(table.holds(run) for run in runs) if choice == ALL_TABLES else table.is_automatic and members
        if is_shown:
            chosen.append((table, members))
    return tuple(chosen)


def result_tables(runs: Sequence[AnyRun], choice: str, style: PaperTableStyle) -> tuple[Table, ...]:
    """Return the chosen paper tables; `auto` and `all` add every metric of the runs and their benchmarks' own tables.

    A benchmark with groups has a table for each run; any other benchmark has one table with a row for each run.
    """
    tables = [_with_origin(table.render(members, style), members) for table, members in paper_table_runs(runs, choice)]
    if choice in PAPER_TABLES:
        return tuple(tables)
    by_benchmark: dict[str, list[AnyRun]] = {}
    for run in runs:
        by_benchmark.setdefault(run.summary.benchmark, []).append(run)
    for members in by_benchmark.values():
        single = [run for run in members if set(run.summary.groups) == {ALL}]
        tables += [metric_table(single, style.has_intervals)] if single else []
        for run in members:
            tables += [] if run in single else [interval_table(run)]
            tables += further_tables(run)
    return tuple(tables)


def _with_origin(table: Table, runs: Sequence[AnyRun]) -> Table:
    """Return a paper's table whose note also says which runs are imported, and from which files."""
    lines = [f"{run.name}: {line}." for run in runs for line in imported_lines(run.summary.provenance)]
    return replace(table, note=" ".join(filter(None, [table.note, *lines])))


def render_tables(runs: Sequence[AnyRun], choice: str, style: PaperTableStyle, table_format: TableFormat) -> str:
    """Render all result tables as one text."""
    return "\n\n".join(render_table(table, table_format) for table in result_tables(runs, choice, style)) + "\n"


def metric_table(runs: Sequence[AnyRun], has_intervals: bool = True) -> Table:
    """Tabulate every metric of a benchmark without groups, one row per run, the headline first.

    Args:
        runs: Runs of one benchmark.
        has_intervals: Whether the 95% intervals are printed below the values.
    """
    summaries = [run.summary for run in runs]
    names = list(dict.fromkeys([summary.headline for summary in summaries] + [n for s in summaries for n in s.metrics]))
    names = [name for name in names if any(find_estimate(s.groups[ALL], name).count for s in summaries)]
    rows = []
    for run in runs:
        entry, limit = run.summary.groups[ALL], run.config.limit
        cut = "" if limit is None else f", first {limit}"
        labels = (run.name, run.summary.split, run.summary.protocol + cut, f"{entry.num_expected} ({entry.num_failed})")
        estimates = [find_estimate(entry, name) for name in names]
        below = ("",) * len(labels) + tuple(map(format_interval, estimates))
        cells = (*labels, *(format_percent(estimate.value) for estimate in estimates))
        rows.append(TableRow(cells, intervals=below if has_intervals and any(below) else ()))
    words = runs[0].task.WORDS
    headings = ("Run", "Split", "Protocol", f"{words.items} (failed)", *names)
    interval_words = ", with 95% intervals of a bootstrap over images below" if has_intervals else ""
    return Table(
        f"{runs[0].summary.benchmark}: every metric (%){interval_words}",
        (ColumnGroup("", headings),),
        tuple(rows),
        "\n".join(f"{run.name}: {line}" for run in runs for line in _notes(run)),
    )


def interval_table(run: AnyRun) -> Table:
    """Tabulate every metric of a run with its 95% interval, one column per group that was asked."""
    asked = [entry for entry in run.summary.groups.values() if entry.num_expected]
    names = list(dict.fromkeys(name for entry in asked for name in entry.metrics))
    rows = [
        TableRow((name, *(format_estimate(entry.metrics.get(name)) for entry in asked)))
        for name in names
        if any(name in entry.metrics and entry.metrics[name].count for entry in asked)
    ]
    counts = (f"{entry.num_expected} ({entry.num_failed})" for entry in asked)
    return Table(
        f"{run.name}: every metric (%), with 95% intervals of a bootstrap over images",
        (ColumnGroup("", ("Metric", *(entry.name for entry in asked))),),
        (TableRow((f"{run.task.WORDS.items} (failed)", *counts)), *rows),
        "\n".join(_notes(run)),
    )


def further_tables(run: AnyRun) -> list[Table]:
    """Return the benchmark's own tables of a run; see `Task.further_tables`."""
    tables: Iterable[Table] = run.task.further_tables(run.records)
    return [replace(table, title=f"{run.name}: {table.title}") for table in tables]


def format_estimate(estimate: Estimate | None) -> str:
    """Format a percentage with its interval, e.g. "36.2 [34.0, 38.5]"; a dash if nothing was counted."""
    if estimate is None or estimate.value is None:
        return "-"
    return f"{format_percent(estimate.value)} [{format_percent(estimate.low)}, {format_percent(estimate.high)}]"


def tidy_csv(runs: Sequence[AnyRun], choice: str, style: PaperTableStyle) -> str:
    """Render the chosen tables and, for `auto` and `all`, every metric of the runs as CSV with a header line."""
    return write_tidy(tidy_rows(runs, choice, style))


def write_tidy(rows: Iterable[TidyRow]) -> str:
    """Render tidy rows as CSV with a header line."""
    buffer = io.StringIO()
    names = [field.name for field in fields(TidyRow)]
    writer = csv.DictWriter(buffer, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: spreadsheet_cell(cell) for key, cell in asdict(row).items()} for row in rows)
    return buffer.getvalue()


def tidy_rows(runs: Sequence[AnyRun], choice: str, style: PaperTableStyle) -> Iterator[TidyRow]:
    """Generate quoted numbers, then exact ones, then the runs; intervals are included regardless of the style."""
    tables = paper_table_runs(runs, choice)
    for table, _ in tables:
        yield from table.quoted()
    for table, members in tables:
        yield from table.exact(members)
        yield from table.further(members)
    for run in runs:
        of_run = [table for table, members in tables if any(member is run for member in members)]
        for protocol in _protocols(run, style):
            yield from _measured(run, of_run, protocol, has_all=choice not in PAPER_TABLES)


def _protocols(run: AnyRun, style: PaperTableStyle) -> list[str]:
    """Return the protocols of a run's rows: the chosen ones of Partonomy's two, or the benchmark's own."""
    found = dict.fromkeys(run.task.counted_by(name)[0] for e in run.summary.groups.values() for name in e.metrics)
    two = {protocol.value for protocol in MetricProtocol}
    return [*(protocol.value for protocol in style.protocols if protocol in found), *(p for p in found if p not in two)]


def _measured(run: AnyRun, tables: Sequence[PaperTable], protocol: str, has_all: bool) -> Iterator[TidyRow]:
    for entry in run.summary.groups.values():
        in_tables = {metric: table.name for table in tables for metric in table.metrics(run).get(entry.name, ())}
        full_names = _counted_by(run, entry, protocol)
        for name in full_names if has_all else in_tables:
            estimate = find_estimate(entry, full_names.get(name, ""))
            yield TidyRow(
                in_tables.get(name, ""),
                run.name,
                run.dataset_name,
                OURS,
                protocol,
                entry.name,
                name,
                tidy_percent(estimate.value),
                tidy_percent(estimate.low),
                tidy_percent(estimate.high),
                str(estimate.count),
            )


def _counted_by(run: AnyRun, entry: GroupSummary, protocol: str) -> dict[str, str]:
    """Map a group's metric names without the protocol to full names, for one protocol."""
    pairs = [(run.task.counted_by(name), name) for name in entry.metrics]
    return {plain: name for (counted, plain), name in pairs if counted == protocol}


def _notes(run: AnyRun) -> list[str]:
    return [*run.summary.notes, *summary_notes(run.summary).splitlines()]
