"""The main numbers of a finished run, printed when it ends."""

from collections.abc import Sequence

from partonomy.benchmarks.partonomy.metrics import mask_metric_names
from partonomy.benchmarks.registry import find_benchmark
from partonomy.benchmarks.task import ALL
from partonomy.harness.provenance import imported_lines, marks_lines, overlap_line, read_marks
from partonomy.harness.summary import GroupSummary, Summary
from partonomy.metrics.bootstrap import Estimate
from partonomy.metrics.matching import Matching
from partonomy.table_format import ColumnGroup, Table, TableFormat, TableRow, format_percent, render_table

PARTS_ACCURACY = "parts_accuracy"
MAX_METRICS = 6
"""Metrics printed per group."""
MAX_REASONS = 5
"""Failure reasons printed per group; the number is bounded because every lost image has its own reason."""


def overview(summary: Summary) -> str:
    """Return one line per group (in Partonomy, per question type), or one per metric if the benchmark has no groups."""
    return _one_group(summary) if set(summary.groups) == {ALL} else _by_group(summary)


def find_estimate(entry: GroupSummary | None, name: str) -> Estimate:
    """Return a group's estimate of a metric, or an empty estimate if the group or the metric does not exist."""
    nothing = Estimate(None, None, None, 0)
    return nothing if entry is None else entry.metrics.get(name, nothing)


def summary_notes(summary: Summary) -> str:
    """Return notes for the reader of the numbers: training overlap, marks, failures, and groups not asked."""
    lines = [overlap_line(summary.provenance), *imported_lines(summary.provenance), *_marks(summary)]
    for entry in summary.groups.values():
        name = "" if entry.name == ALL else f"{entry.name}: "
        if entry.num_failed:
            shown = list(entry.reasons.items())[:MAX_REASONS]
            lines += [f"{name}{count} failed: {reason}" for reason, count in shown]
            if len(entry.reasons) > MAX_REASONS:
                lines.append(f"{name}{len(entry.reasons) - MAX_REASONS} more reasons, see summary.json")
        elif not entry.num_expected:
            reasons = "; ".join(f"{reason} ({count})" if count else reason for reason, count in entry.reasons.items())
            lines.append(f"{name}not asked: {reasons}")
    return "\n".join(lines)


def _one_group(summary: Summary) -> str:
    """Return the protocol, then every metric with its interval, the headline first."""
    entry = summary.groups[ALL]
    names = [summary.headline, *(name for name in entry.metrics if name != summary.headline)]
    rows = []
    for name in names:
        estimate = find_estimate(entry, name)
        interval = "" if estimate.value is None else f"{format_percent(estimate.low)} - {format_percent(estimate.high)}"
        rows.append(TableRow((name, format_percent(estimate.value), interval, str(estimate.count))))
    counts = f"{entry.num_expected} items, {entry.num_failed} failed"
    note = "\n".join([counts, *summary.notes, summary_notes(summary)])
    columns = (ColumnGroup("", ("metric", "value", "95% interval", "counted")),)
    return render_table(Table(_title(summary), columns, tuple(rows), note), TableFormat.TEXT)


def _by_group(summary: Summary) -> str:
    """Return one line per group: Partonomy's main metrics, or another benchmark's headline and the metrics after it."""
    if not any(PARTS_ACCURACY in entry.metrics for entry in summary.groups.values()):
        found = dict.fromkeys(name for entry in summary.groups.values() for name in entry.metrics)
        shown = sorted(found, key=lambda name: name != summary.headline)[:MAX_METRICS]
        return _group_table(summary, ("Group", "asked", "failed", *shown), shown)
    matching = read_marks(summary.provenance).matching
    names = (*mask_metric_names(matching)[:2], PARTS_ACCURACY, "objects_accuracy", "generated_parts_f1")
    kind = "" if matching is Matching.PAIRED else f" ({matching})"
    headings = (
        *("Question type", "asked", "failed", f"micro-gIoU{kind}", f"macro-gIoU{kind}"),
        *("parts acc.", "object acc.", "own F1"),
    )
    return _group_table(summary, headings, names)


def _group_table(summary: Summary, headings: Sequence[str], names: Sequence[str]) -> str:
    rows = [
        TableRow((entry.name, str(entry.num_expected), str(entry.num_failed), *_percents(entry, names)))
        for entry in summary.groups.values()
    ]
    note = "\n".join([*summary.notes, summary_notes(summary)])
    table = Table("Results (%)", (ColumnGroup("", tuple(headings)),), tuple(rows), note)
    return render_table(table, TableFormat.TEXT)


def _percents(entry: GroupSummary, names: Sequence[str]) -> list[str]:
    return [format_percent(find_estimate(entry, name).value) for name in names]


def _title(summary: Summary) -> str:
    name = summary.model_label if summary.is_imported else "adapters off" if summary.is_base else "model"
    limit = summary.config["limit"]
    cut = "" if limit is None else f", only the first {limit} items"
    return f"{summary.benchmark} {summary.split} (%), {summary.protocol}, {name}{cut}"


def _marks(summary: Summary) -> list[str]:
    """Return the lines about the marks in the model's answers, if the benchmark's scores depend on them."""
    return marks_lines(summary.provenance) if find_benchmark(summary.benchmark).depends_on_marks else []
