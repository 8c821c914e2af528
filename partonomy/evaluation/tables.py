"""The tables of a set of runs: the paper's, each run's own metrics with intervals, accuracy by answer length."""

from collections.abc import Sequence
from enum import StrEnum

from partonomy.benchmarks.partonomy import mask_metric_names
from partonomy.evaluation.answer_marks import marks_lines, read_marks
from partonomy.evaluation.loaded_run import LoadedRun, length_accuracies
from partonomy.evaluation.paper_tables import PaperTableStyle, find_estimate, segmentation_results, text_results
from partonomy.evaluation.reference import TABLE_SUBSETS, TEXT_TABLE, segmentation_table
from partonomy.evaluation.results import Summary
from partonomy.evaluation.table_format import (
    ColumnGroup,
    Table,
    TableFormat,
    TableRow,
    format_percent,
    render_table,
)
from partonomy.evaluation.training_overlap import overlap_line
from partonomy.metrics.bootstrap import Estimate
from partonomy.metrics.matching import Matching
from partonomy.metrics.multiple_choice import Selector

MAX_REASONS = 5
"""Reasons of failures printed per question type: every lost image has one of its own."""


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
    asked = [entry for entry in run.summary.question_types.values() if entry.num_expected]
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
        _notes(run.summary),
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


def overview(summary: Summary) -> str:
    """The run's main numbers, one line per question type."""
    matching = read_marks(summary.provenance).matching
    masks = mask_metric_names(matching)[:2]
    names = (*masks, "parts_accuracy", "objects_accuracy", "generated_parts_f1")
    rows = [
        TableRow(
            (
                entry.name,
                str(entry.num_expected),
                str(entry.num_failed),
                *(format_percent(find_estimate(entry, name).value) for name in names),
            )
        )
        for entry in summary.question_types.values()
    ]
    kind = "" if matching is Matching.PAIRED else f" ({matching})"
    headings = (
        *("Question type", "asked", "failed", f"micro-gIoU{kind}", f"macro-gIoU{kind}"),
        *("parts acc.", "object acc.", "own F1"),
    )
    return render_table(
        Table("Results (%)", (ColumnGroup("", headings),), tuple(rows), _notes(summary)), TableFormat.TEXT
    )


def format_estimate(estimate: Estimate | None) -> str:
    """Percent with interval, e.g. "36.2 [34.0, 38.5]"; a dash when nothing was counted."""
    if estimate is None or estimate.value is None:
        return "-"
    return f"{format_percent(estimate.value)} [{format_percent(estimate.low)}, {format_percent(estimate.high)}]"


def _notes(summary: Summary) -> str:
    lines = [overlap_line(summary.provenance), *marks_lines(summary.provenance)]
    for entry in summary.question_types.values():
        if entry.num_failed:
            shown = list(entry.reasons.items())[:MAX_REASONS]
            lines += [f"{entry.name}: {count} failed: {reason}" for reason, count in shown]
            if len(entry.reasons) > MAX_REASONS:
                lines.append(f"{entry.name}: {len(entry.reasons) - MAX_REASONS} more reasons, see summary.json")
        elif not entry.num_expected:
            reasons = "; ".join(f"{reason} ({count})" if count else reason for reason, count in entry.reasons.items())
            lines.append(f"{entry.name}: not asked: {reasons}")
    return "\n".join(lines)
