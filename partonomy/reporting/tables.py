"""The tables of a set of runs: the paper's, each run's own metrics with intervals, accuracy by answer length."""

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from enum import StrEnum

from partonomy.benchmarks.partonomy.metrics import (
    AUTHORS_PREFIX,
    PROTOCOL_METRICS,
    MetricProtocol,
    metric_of,
)
from partonomy.harness.summary import GroupSummary
from partonomy.metrics.bootstrap import Estimate
from partonomy.metrics.multiple_choice import Selector
from partonomy.reporting.loaded_run import LoadedRun, length_accuracies
from partonomy.reporting.overview import summary_notes
from partonomy.reporting.paper_tables import (
    EXACT,
    NO_PROTOCOL,
    OURS,
    PAPER_PROTOCOL,
    QUOTED,
    PaperTableStyle,
    find_estimate,
    one_per_dataset,
    random_values,
    segmentation_metrics,
    segmentation_results,
    text_metrics,
    text_results,
)
from partonomy.reporting.quoted_rows import TABLE_SUBSETS, TEXT_TABLE, load_reference, segmentation_table
from partonomy.structures import TABLE_TYPES, QuestionType
from partonomy.table_format import (
    ColumnGroup,
    Table,
    TableFormat,
    TableRow,
    format_percent,
    render_table,
)


class TableChoice(StrEnum):
    """Which tables: one of the paper's by number, those of the runs' data sets, or all of them."""

    SEGMENTATION_CORE = "2"
    TEXT = "3"
    SEGMENTATION_PACO = "9"
    SEGMENTATION_PART_IMAGENET = "10"
    SEGMENTATION_PASCAL = "11"
    ALL = "all"
    AUTO = "auto"

    @property
    def number(self) -> int | None:
        """Number of the paper's table; None for `all` and `auto`."""
        return int(self.value) if self.value.isdigit() else None


def paper_table_runs(runs: Sequence[LoadedRun], choice: TableChoice) -> dict[int, tuple[LoadedRun, ...]]:
    """The numbers of the chosen tables of the paper, each with the runs that stand in it.

    A table chosen by its number holds every run. Otherwise a run stands in the segmentation table of its data set (by
    the set's name) and in table 3; `auto` leaves out tables without a run.
    """
    if not runs:
        raise ValueError("there is no run to tabulate")
    if choice.number is not None:
        return {choice.number: tuple(runs)}
    chosen = {}
    for number in TABLE_SUBSETS:
        members = [run for run in runs if number in (TEXT_TABLE, segmentation_table(run.dataset_name))]
        if members or choice is TableChoice.ALL:
            chosen[number] = tuple(members)
    return chosen


def result_tables(runs: Sequence[LoadedRun], choice: TableChoice, style: PaperTableStyle) -> tuple[Table, ...]:
    """The chosen tables of the paper; for `auto` and `all` also each run's own metrics and accuracy by length."""
    tables = [
        text_results(members, style) if number == TEXT_TABLE else segmentation_results(members, number, style)
        for number, members in paper_table_runs(runs, choice).items()
    ]
    if choice.number is None:
        tables += [table for run in runs for table in (interval_table(run), length_table(run))]
    return tuple(tables)


def render_tables(
    runs: Sequence[LoadedRun], choice: TableChoice, style: PaperTableStyle, table_format: TableFormat
) -> str:
    """All result tables in one text."""
    return "\n\n".join(render_table(table, table_format) for table in result_tables(runs, choice, style)) + "\n"


def interval_table(run: LoadedRun) -> Table:
    """Every metric of a run with its 95% interval, one column per question type that was asked."""
    asked = [entry for entry in run.summary.groups.values() if entry.num_expected]
    names = list(dict.fromkeys(name for entry in asked for name in entry.metrics))
    rows = [
        TableRow((name, *(format_estimate(entry.metrics.get(name)) for entry in asked)))
        for name in names
        if any(name in entry.metrics and entry.metrics[name].count for entry in asked)
    ]
    counts = [TableRow(("questions (failed)", *(f"{entry.num_expected} ({entry.num_failed})" for entry in asked)))]
    return Table(
        f"{run.name}: every metric (%), with 95% intervals of a bootstrap over images",
        (ColumnGroup("", ("Metric", *(entry.name for entry in asked))),),
        (*counts, *rows),
        summary_notes(run.summary),
    )


def length_table(run: LoadedRun) -> Table:
    """Parts accuracy by the number of parts in the correct answer, under each selector."""
    records = [record for record in run.records if record.question_type is not None]
    by_selector = {selector: length_accuracies(records, selector) for selector in Selector}
    rows = []
    for index, entry in enumerate(by_selector[Selector.SEQUENCE]):
        cells = [format_percent(by_selector[selector][index].accuracy) for selector in Selector]
        rows.append(TableRow((str(entry.num_parts), str(entry.num_questions), *cells)))
    return Table(
        f"{run.name}: parts accuracy (%) by number of parts in the correct answer, all question types",
        (ColumnGroup("", ("Parts", "Questions", *(selector.value for selector in Selector))),),
        tuple(rows),
    )


def format_estimate(estimate: Estimate | None) -> str:
    """Percent with interval, e.g. "36.2 [34.0, 38.5]"; a dash when nothing was counted."""
    if estimate is None or estimate.value is None:
        return "-"
    return f"{format_percent(estimate.value)} [{format_percent(estimate.low)}, {format_percent(estimate.high)}]"


@dataclass(frozen=True)
class TidyRow:
    """One number.

    Attributes:
        table: Number of the paper's table in which it stands; empty for a metric that is in none.
        method: The paper's method, or model and folder of a run.
        dataset: Question set.
        source: quoted, ours or exact (computed without a model).
        protocol: paper, ours, authors, or "-".
        question_type: As in the summary.
        metric: As in the summary, without the prefix of the authors' protocol.
        value: Percent; empty for a dash.
        low: Lower end of the 95% interval in percent; empty for none.
        high: Upper end.
        n: Masks, images or questions counted; empty for quoted numbers.
    """

    table: str
    method: str
    dataset: str
    source: str
    protocol: str
    question_type: str
    metric: str
    value: str
    low: str
    high: str
    n: str


def tidy_csv(runs: Sequence[LoadedRun], choice: TableChoice, style: PaperTableStyle) -> str:
    """The chosen tables, and for `auto` and `all` every metric of the runs, as CSV with a heading line."""
    buffer = io.StringIO()
    names = [field.name for field in fields(TidyRow)]
    writer = csv.DictWriter(buffer, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(row) for row in tidy_rows(runs, choice, style))
    return buffer.getvalue()


def tidy_rows(runs: Sequence[LoadedRun], choice: TableChoice, style: PaperTableStyle) -> Iterator[TidyRow]:
    """Quoted numbers, then random guesses, then the runs; intervals are there whatever the style says."""
    tables = paper_table_runs(runs, choice)
    for number in tables:
        yield from _quoted(number)
    for run in one_per_dataset(tables.get(TEXT_TABLE, ())):
        yield from _random_guess(run)
    for run in runs:
        numbers = [number for number, members in tables.items() if any(member is run for member in members)]
        for protocol in style.protocols:
            yield from _measured(run, numbers, protocol, has_all=choice.number is None)


def _quoted(number: int) -> Iterator[TidyRow]:
    reference = load_reference(number)
    for row in reference.rows:
        for column, value in zip(reference.columns, row.values, strict=True):
            kind = next(kind.value for kind in TABLE_TYPES if column.startswith(kind.value + "_"))
            metric = column.removeprefix(kind + "_")
            text = "" if value is None else f"{value:.1f}"
            yield TidyRow(
                str(number), row.method, reference.subset, QUOTED, PAPER_PROTOCOL, kind, metric, text, "", "", ""
            )


def _random_guess(run: LoadedRun) -> Iterator[TidyRow]:
    for kind in TABLE_TYPES:
        count = str(len(run.of_type(kind)))
        for metric, value in zip(text_metrics(kind), random_values(run, kind), strict=True):
            yield TidyRow(
                str(TEXT_TABLE),
                "random guess",
                run.dataset_name,
                EXACT,
                NO_PROTOCOL,
                kind.value,
                metric,
                _percent(value),
                "",
                "",
                count,
            )


def _measured(run: LoadedRun, numbers: Sequence[int], protocol: MetricProtocol, has_all: bool) -> Iterator[TidyRow]:
    for entry in run.summary.groups.values():
        in_tables = _table_of_metrics(run, entry.name, numbers)
        if has_all:
            names: Iterable[str] = _metrics_of(entry, protocol)
        else:
            names = in_tables
        for name in names:
            estimate = find_estimate(entry, metric_of(protocol, name) if name in PROTOCOL_METRICS else name)
            yield TidyRow(
                in_tables.get(name, ""),
                run.name,
                run.dataset_name,
                OURS,
                protocol.value,
                entry.name,
                name,
                _percent(estimate.value),
                _percent(estimate.low),
                _percent(estimate.high),
                str(estimate.count),
            )


def _metrics_of(entry: GroupSummary, protocol: MetricProtocol) -> list[str]:
    """A summary's metrics under one protocol, without the authors' prefix."""
    is_authors = [name.startswith(AUTHORS_PREFIX) for name in entry.metrics]
    wanted = protocol is MetricProtocol.AUTHORS
    return [
        name.removeprefix(AUTHORS_PREFIX)
        for name, flag in zip(entry.metrics, is_authors, strict=True)
        if flag is wanted
    ]


def _table_of_metrics(run: LoadedRun, question_type: str, numbers: Sequence[int]) -> dict[str, str]:
    """The metrics of a question type that stand in the tables of these numbers, and in which."""
    kinds = {kind.value: kind for kind in TABLE_TYPES}
    if question_type not in kinds:
        return {}
    kind: QuestionType = kinds[question_type]
    return {
        metric: str(number)
        for number in numbers
        for metric in (text_metrics(kind) if number == TEXT_TABLE else segmentation_metrics(run))
    }


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.4f}"
