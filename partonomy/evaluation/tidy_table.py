"""The tables as tidy CSV: one line per row, question type and metric."""

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields

from partonomy.evaluation.loaded_run import LoadedRun
from partonomy.evaluation.paper_tables import (
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
    text_metrics,
)
from partonomy.evaluation.protocols import AUTHORS_PREFIX, PROTOCOL_METRICS, MetricProtocol, metric_of
from partonomy.evaluation.reference import TEXT_TABLE, load_reference
from partonomy.evaluation.results import TypeSummary
from partonomy.evaluation.tables import TableChoice, paper_table_runs
from partonomy.questions.question_types import TABLE_TYPES, QuestionType


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
    for entry in run.summary.question_types.values():
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


def _metrics_of(entry: TypeSummary, protocol: MetricProtocol) -> list[str]:
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
