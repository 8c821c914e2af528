"""Results in the layout of the paper's tables 2 (segmentation) and 3 (text), beside the rows quoted from it."""

from collections.abc import Sequence

from partonomy.benchmarks.partonomy import Conditioning
from partonomy.evaluation.loaded_run import LoadedRun, length_accuracies, random_objects, random_parts
from partonomy.evaluation.reference import ReferenceTable, load_reference, segmentation_table
from partonomy.evaluation.results import Summary, TypeSummary
from partonomy.evaluation.table_format import (
    ColumnGroup,
    Table,
    TableFormat,
    TableRow,
    format_percent,
    render_table,
)
from partonomy.metrics.bootstrap import Estimate
from partonomy.metrics.multiple_choice import RandomBaseline, Selector
from partonomy.questions.question_types import TABLE_TYPES, QuestionType

PAPER_NAMES = {
    QuestionType.IDENTIFICATION_WITH_LABEL: "Identification",
    QuestionType.POSITIVE_WITH_LABEL: "Intersection",
    QuestionType.NEGATIVE_WITH_LABEL: "Difference",
    QuestionType.PART_TO_WHOLE: "Part2Whole",
    QuestionType.WHOLE_TO_PART: "Whole2Part",
}
OURS, QUOTED, EXACT = "ours", "paper", "exact"
"""Values of the tables' source column."""
MAX_REASONS = 5
"""Reasons of failures printed per question type: every lost image has one of its own."""
QUOTED_GROUP = "quoted from the paper"
OWN_GROUP = "measured here"


def result_tables(runs: Sequence[LoadedRun]) -> tuple[Table, ...]:
    """Tables 2 and 3 with the runs' rows, then each run's own metrics with intervals, and accuracy by answer length."""
    if not runs:
        raise ValueError("there is no run to tabulate")
    own = [table for run in runs for table in (interval_table(run), length_table(run))]
    return (segmentation_results(runs), text_results(runs), *own)


def render_tables(runs: Sequence[LoadedRun], table_format: TableFormat) -> str:
    """All result tables in one text."""
    return "\n\n".join(render_table(table, table_format) for table in result_tables(runs)) + "\n"


def segmentation_results(runs: Sequence[LoadedRun]) -> Table:
    """Table 2, or for the other subsets 9 to 11: paired micro- and macro-gIoU in percent."""
    reference = load_reference(segmentation_table(runs[0].dataset_name))
    metrics = ("giou_micro_paired", "giou_macro_paired")
    rows = [_reference_row(reference, index, True) for index in range(len(reference.rows))]
    for run in runs:
        cells = [_value(run.summary, kind, metric) for kind in TABLE_TYPES for metric in metrics]
        rows.append(TableRow((run.name, OURS, "", *(format_percent(value) for value in cells)), OWN_GROUP))
    groups = tuple(ColumnGroup(PAPER_NAMES[kind], ("micro", "macro")) for kind in TABLE_TYPES)
    return Table(
        f"Segmentation (gIoU, %), layout of the paper's Table {reference.number}",
        (ColumnGroup("", ("Method", "Source", "Extra seg data")), *groups),
        tuple(rows),
        _note(reference, runs),
    )


def text_results(runs: Sequence[LoadedRun]) -> Table:
    """Table 3: precision, recall and accuracy of the parts, accuracy of the object, in percent."""
    reference = load_reference(3)
    rows = [_reference_row(reference, index, False) for index in range(len(reference.rows))]
    for run in _one_per_dataset(runs):
        suffix = "" if len(_one_per_dataset(runs)) == 1 else f" on {run.dataset_name}"
        cells = [cell for kind in TABLE_TYPES for cell in _random_cells(run, kind)]
        rows.append(TableRow((f"random guess{suffix}", EXACT, *cells), OWN_GROUP))
    for run in runs:
        values = [_value(run.summary, kind, metric) for kind in TABLE_TYPES for metric in _text_metrics(kind)]
        rows.append(TableRow((run.name, OURS, *(format_percent(value) for value in values)), OWN_GROUP))
    groups = tuple(
        ColumnGroup(PAPER_NAMES[kind], ("P", "R", "PA", "OA") if kind.is_part_whole else ("P", "R", "A"))
        for kind in TABLE_TYPES
    )
    return Table(
        "Text (%), layout of the paper's Table 3",
        (ColumnGroup("", ("Method", "Source")), *groups),
        tuple(rows),
        _note(reference, runs) + " Random guess: exact expectation over the choices.",
    )


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
        _not_asked(run.summary),
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
    names = ("giou_micro_paired", "giou_macro_paired", "parts_accuracy", "objects_accuracy", "generated_parts_f1")
    rows = [
        TableRow(
            (
                entry.name,
                str(entry.num_expected),
                str(entry.num_failed),
                *(format_percent(_estimate(entry, name).value) for name in names),
            )
        )
        for entry in summary.question_types.values()
    ]
    headings = ("Question type", "asked", "failed", "micro-gIoU", "macro-gIoU", "parts acc.", "object acc.", "own F1")
    return render_table(
        Table("Results (%)", (ColumnGroup("", headings),), tuple(rows), _not_asked(summary)), TableFormat.TEXT
    )


def format_estimate(estimate: Estimate | None) -> str:
    """Percent with interval, e.g. "36.2 [34.0, 38.5]"; a dash when nothing was counted."""
    if estimate is None or estimate.value is None:
        return "-"
    return f"{format_percent(estimate.value)} [{format_percent(estimate.low)}, {format_percent(estimate.high)}]"


def _text_metrics(question_type: QuestionType) -> tuple[str, ...]:
    parts = ("parts_precision", "parts_recall", "parts_accuracy")
    return (*parts, "objects_accuracy") if question_type.is_part_whole else parts


def _reference_row(reference: ReferenceTable, index: int, has_extra_data: bool) -> TableRow:
    row = reference.rows[index]
    values = ("-" if value is None else f"{value:.1f}" for value in row.values)
    extra = (row.extra_segmentation_data,) if has_extra_data else ()
    return TableRow((row.method, QUOTED, *extra, *values), QUOTED_GROUP)


def _random_cells(run: LoadedRun, question_type: QuestionType) -> tuple[str, ...]:
    records = run.of_type(question_type)
    parts: RandomBaseline | None = random_parts(records)
    if parts is None:
        return ("-",) * len(_text_metrics(question_type))
    cells = (format_percent(parts.precision), format_percent(parts.recall), format_percent(parts.accuracy))
    if not question_type.is_part_whole:
        return cells
    objects = random_objects(records)
    return (*cells, format_percent(None if objects is None else objects.accuracy))


def _one_per_dataset(runs: Sequence[LoadedRun]) -> tuple[LoadedRun, ...]:
    return tuple({run.dataset_hash: run for run in reversed(runs)}.values())


def _estimate(entry: TypeSummary | None, metric: str) -> Estimate:
    nothing = Estimate(None, None, None, 0)
    return nothing if entry is None else entry.metrics.get(metric, nothing)


def _value(summary: Summary, question_type: QuestionType, metric: str) -> float | None:
    return _estimate(summary.question_types.get(question_type.value), metric).value


def _not_asked(summary: Summary) -> str:
    lines = []
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


def _note(reference: ReferenceTable, runs: Sequence[LoadedRun]) -> str:
    datasets = ", ".join(dict.fromkeys(run.dataset_name for run in runs))
    note = (
        f'Source "{QUOTED}": quoted from the Partonomy/PLUM paper, Table {reference.number}, measured there on '
        f'{reference.subset}; "{OURS}": measured by this code on {datasets}. Rows on other data are not comparable.'
    )
    return " ".join([note, *(caveat for run in runs for caveat in _caveats(run))])


def _caveats(run: LoadedRun) -> list[str]:
    """What sets a run's rows apart from a full run under the default protocol."""
    config = run.summary.provenance["config"]
    num_failed = sum(entry.num_failed for entry in run.summary.question_types.values())
    mutation = run.summary.provenance["dataset"].get("build", {}).get("config", {}).get("mutation", "paper")
    caveats = []
    if config["limit"] is not None:
        caveats.append(f"{run.name}: at most {config['limit']} questions of each type (--limit).")
    if config["part_whole"] != Conditioning.GOLD:
        caveats.append(f"{run.name}: the second part-whole question follows the model's own first choice.")
    if mutation != "paper":
        caveats.append(f"{run.name}: wrong answers of the {mutation!r} kind, other choices than the paper's.")
    if num_failed:
        caveats.append(f"{run.name}: {num_failed} questions failed and score 0 in what failed.")
    return caveats
