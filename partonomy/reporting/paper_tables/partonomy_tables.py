"""Runs and quoted rows in the layout of the paper's tables 2, 9 to 11 (segmentation) and 3 (text)."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from partonomy.benchmarks.partonomy.metrics import PROTOCOL_METRICS, MetricProtocol, mask_metric_names, metric_of
from partonomy.benchmarks.partonomy.records import ChoiceRecord, QuestionRecord
from partonomy.benchmarks.partonomy.steps import Conditioning
from partonomy.harness.provenance import marks_lines, overlap_words, read_marks
from partonomy.metrics.matching import Matching
from partonomy.metrics.multiple_choice import GuessSums, RandomBaseline
from partonomy.quoted_rows import QUOTED, SOURCE_COLUMN, read_quoted
from partonomy.reporting.loaded_run import AnyRun, LoadedRun
from partonomy.reporting.overview import find_estimate
from partonomy.reporting.paper_tables.paper_table import (
    EXACT,
    NO_PROTOCOL,
    OURS,
    PAPER_PROTOCOL,
    PaperTable,
    PaperTableStyle,
    TidyRow,
    format_interval,
    tidy_percent,
)
from partonomy.structures import TABLE_TYPES, QuestionType
from partonomy.table_format import ColumnGroup, Table, TableRow, format_percent

SEGMENTATION_TABLES = {"paco": 9, "partimagenet": 10, "pascal": 11}
"""Table of segmentation results by a word in the dataset's name; any other name gets table 2 (Core)."""
TEXT_TABLE = 3
TABLE_SUBSETS = {
    2: "Partonomy-Core",
    3: "Partonomy-Core",
    9: "Partonomy-PACO_LVIS",
    10: "Partonomy-PartImageNet",
    11: "Partonomy-PascalParts",
}
_FINE_TUNED = "(ft): fine-tuned on Partonomy."
_PART_PREDICTION = "Part2Whole and Whole2Part: the masks of the parts."
TABLE_LEGENDS = {
    2: f"{_FINE_TUNED} (gt): open-vocabulary segmenters given the true part names. {_PART_PREDICTION}",
    3: f"{_FINE_TUNED} P, R: precision and recall of part names; A, PA: accuracy of the parts; OA: of the object. "
    "GPT-4o is gpt-4o-2024-08-06, shown all choices at once.",
    9: f"{_FINE_TUNED} {_PART_PREDICTION}",
    10: f"{_FINE_TUNED} {_PART_PREDICTION}",
    11: f"{_FINE_TUNED} {_PART_PREDICTION}",
}
PAPER_NAMES = {
    QuestionType.IDENTIFICATION_WITH_LABEL: "Identification",
    QuestionType.POSITIVE_WITH_LABEL: "Intersection",
    QuestionType.NEGATIVE_WITH_LABEL: "Difference",
    QuestionType.PART_TO_WHOLE: "Part2Whole",
    QuestionType.WHOLE_TO_PART: "Whole2Part",
}
BENCHMARK = "partonomy"
QUOTED_GROUP = "quoted from the paper"
OWN_GROUP = "measured here"
_PARTS_METRICS = ("parts_precision", "parts_recall", "parts_accuracy")
_PROTOCOL_WORDS = {
    MetricProtocol.OURS: 'Protocol "ours": a failed question scores 0; the answer of the highest sequence probability.',
    MetricProtocol.AUTHORS: 'Protocol "authors", as their code counts: failed questions are left out; masks that are '
    "missing are left out; macro-gIoU has one value per question; the answer of the highest mean log-probability over "
    "the conversation.",
}


QuestionRun = LoadedRun[QuestionRecord]


@dataclass(frozen=True)
class ReferenceRow:
    """One row of a table of the paper.

    Attributes:
        method: Name as printed, "(ft)" included.
        group: Heading under which the row is printed; empty in tables without such headings.
        block: Id of a block of adjacent rows; the paper draws a rule between blocks.
        is_fine_tuned: Whether the method was fine-tuned on Partonomy.
        extra_segmentation_data: yes, no, or "-" as printed; empty in table 3, which has no such column.
        values: Percentages; None for a dash in the paper.
    """

    method: str
    group: str
    block: int
    is_fine_tuned: bool
    extra_segmentation_data: str
    values: tuple[float | None, ...]


@dataclass(frozen=True)
class ReferenceTable:
    """The quoted rows of a table of the paper; `columns` are "<question type>_<metric>"."""

    number: int
    subset: str
    columns: tuple[str, ...]
    rows: tuple[ReferenceRow, ...]


def segmentation_table(dataset_name: str) -> int:
    """Return the number of the paper's table whose data is closest to a dataset, by name."""
    name = dataset_name.lower().replace("_", "").replace("-", "")
    return next((number for word, number in SEGMENTATION_TABLES.items() if word in name), 2)


def load_reference(number: int) -> ReferenceTable:
    """Read `paper_rows/table<number>.csv`.

    Raises:
        ValueError: A row is not marked as quoted.
    """
    quoted = read_quoted(f"table{number}")
    fixed = {"method", "group", "block", "fine_tuned", "extra_segmentation_data", SOURCE_COLUMN}
    columns = tuple(name for name in quoted.columns if name not in fixed)
    rows = [
        ReferenceRow(
            row["method"],
            row["group"],
            int(row["block"]),
            row["fine_tuned"] == "yes",
            row.get("extra_segmentation_data", ""),
            tuple(float(row[name]) if row[name] else None for name in columns),
        )
        for row in quoted.rows
    ]
    return ReferenceTable(number, TABLE_SUBSETS[number], columns, tuple(rows))


@dataclass(frozen=True)
class PartonomyTable(PaperTable):
    """Table 2, 9, 10 or 11 (segmentation), or 3 (text) of the Partonomy/PLUM paper."""

    number: int
    is_automatic: bool = True
    name: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", str(self.number))

    def holds(self, run: AnyRun) -> bool:
        """Whether the run is on Partonomy's questions."""
        return run.summary.benchmark == BENCHMARK

    def suits(self, run: AnyRun) -> bool:
        """Whether this is the text table, or the segmentation table that matches the question set's name."""
        return self.holds(run) and self.number in (TEXT_TABLE, segmentation_table(run.dataset_name))

    def render(self, runs: Sequence[AnyRun], style: PaperTableStyle) -> Table:
        """Return the paper's rows and then the runs, one row per run and protocol."""
        is_text = self.number == TEXT_TABLE
        return text_results(runs, style) if is_text else segmentation_results(runs, self.number, style)

    def quoted(self) -> Iterator[TidyRow]:
        """Generate the paper's numbers; the group is the question type."""
        reference = load_reference(self.number)
        for row in reference.rows:
            for column, value in zip(reference.columns, row.values, strict=True):
                kind = next(kind.value for kind in TABLE_TYPES if column.startswith(kind.value + "_"))
                metric = column.removeprefix(kind + "_")
                text = "" if value is None else f"{value:.1f}"
                yield TidyRow(self.name, row.method, reference.subset, QUOTED, PAPER_PROTOCOL, kind, metric, text)

    def exact(self, runs: Sequence[AnyRun]) -> Iterator[TidyRow]:
        """Generate, for Table 3, the expected score of a uniform guess on each question set."""
        for run in one_per_dataset(runs) if self.number == TEXT_TABLE else ():
            for kind in TABLE_TYPES:
                count = str(len(run.of_group(kind)))
                for metric, value in zip(text_metrics(kind), random_values(run, kind), strict=True):
                    labels = (self.name, "random guess", run.dataset_name, EXACT, NO_PROTOCOL, kind.value, metric)
                    yield TidyRow(*labels, tidy_percent(value), n=count)

    def metrics(self, run: AnyRun) -> Mapping[str, Sequence[str]]:
        """Return the metrics that the table shows, by question type."""
        is_text = self.number == TEXT_TABLE
        return {kind.value: text_metrics(kind) if is_text else segmentation_metrics(run) for kind in TABLE_TYPES}


def segmentation_results(runs: Sequence[QuestionRun], number: int, style: PaperTableStyle) -> Table:
    """Make Table 2, 9, 10 or 11: paired micro- and macro-gIoU in percent. `runs` may be empty."""
    reference = load_reference(number)
    rows = list(_quoted_rows(reference))
    for run in runs:
        for protocol in style.protocols:
            rows.append(_own_row(run, protocol, ("",), style, _segmentation_metrics(run, protocol)))
    groups = tuple(ColumnGroup(PAPER_NAMES[kind], ("micro", "macro")) for kind in TABLE_TYPES)
    return Table(
        f"Segmentation (gIoU, %), layout of the paper's Table {number}; protocol of our rows: {_names(style)}",
        (ColumnGroup("", ("Method", "Source", "Protocol", "Extra seg data")), *groups),
        tuple(rows),
        _note(reference, runs, style),
    )


def text_results(runs: Sequence[QuestionRun], style: PaperTableStyle) -> Table:
    """Make Table 3: precision, recall and accuracy of the parts, and accuracy of the object, in percent."""
    reference = load_reference(TEXT_TABLE)
    rows = list(_quoted_rows(reference))
    datasets = one_per_dataset(runs)
    for run in datasets:
        suffix = "" if len(datasets) == 1 else f" on {run.dataset_name}"
        cells = [format_percent(value) for kind in TABLE_TYPES for value in random_values(run, kind)]
        rows.append(TableRow((f"random guess{suffix}", EXACT, NO_PROTOCOL, *cells), OWN_GROUP))
    for run in runs:
        for protocol in style.protocols:
            rows.append(_own_row(run, protocol, (), style, None))
    groups = tuple(
        ColumnGroup(PAPER_NAMES[kind], ("P", "R", "PA", "OA") if kind.is_part_whole else ("P", "R", "A"))
        for kind in TABLE_TYPES
    )
    return Table(
        f"Text (%), layout of the paper's Table 3; protocol of our rows: {_names(style)}",
        (ColumnGroup("", ("Method", "Source", "Protocol")), *groups),
        tuple(rows),
        _note(reference, runs, style) + (" Random guess: exact expectation over the choices." if runs else ""),
    )


def segmentation_metrics(run: QuestionRun) -> tuple[str, ...]:
    """Return the names of the shown micro- and macro-gIoU: paired, or of the union if all phrases share one mask."""
    return mask_metric_names(read_marks(run.summary.provenance).matching)[:2]


def text_metrics(question_type: QuestionType) -> tuple[str, ...]:
    """Return the metrics of table 3 for one question type, in the order of its columns."""
    return (*_PARTS_METRICS, "objects_accuracy") if question_type.is_part_whole else _PARTS_METRICS


def random_values(run: QuestionRun, question_type: QuestionType) -> tuple[float | None, ...]:
    """Return a uniform guess's expected scores on the metrics of `text_metrics`; None if nothing was asked."""
    records = run.of_group(question_type)
    parts: RandomBaseline | None = random_parts(records)
    if parts is None:
        return (None,) * len(text_metrics(question_type))
    values = (parts.precision, parts.recall, parts.accuracy)
    if not question_type.is_part_whole:
        return values
    objects = random_objects(records)
    return (*values, None if objects is None else objects.accuracy)


def one_per_dataset(runs: Sequence[QuestionRun]) -> tuple[QuestionRun, ...]:
    """Return the first run on each question set."""
    first: dict[str, QuestionRun] = {}
    for run in runs:
        first.setdefault(run.dataset_hash, run)
    return tuple(first.values())


def random_parts(records: Iterable[QuestionRecord]) -> RandomBaseline | None:
    """Return a uniform guess's expected score on the part questions of these records."""
    return _random(record.parts_choice for record in records)


def random_objects(records: Iterable[QuestionRecord]) -> RandomBaseline | None:
    """Return a uniform guess's expected score on the object questions of these records."""
    return _random(record.object_choice for record in records)


def _random(choices: Iterable[ChoiceRecord | None]) -> RandomBaseline | None:
    sums = GuessSums()
    for choice in choices:
        if choice is not None:
            sums.add(choice.labels, choice.correct_index)
    return sums.baseline


def _own_row(
    run: QuestionRun,
    protocol: MetricProtocol,
    extra: tuple[str, ...],
    style: PaperTableStyle,
    metrics: Sequence[str] | None,
) -> TableRow:
    """Make a run's row under one protocol; `metrics` are every type's full metric names, None for those of table 3."""
    estimates = [
        find_estimate(run.summary.groups.get(kind.value), metric)
        for kind in TABLE_TYPES
        for metric in ([metric_of(protocol, name) for name in text_metrics(kind)] if metrics is None else metrics)
    ]
    matching = read_marks(run.summary.provenance).matching
    is_paired = metrics is None or matching is Matching.PAIRED
    labels = (run.name, OURS, protocol.value if is_paired else f"{protocol.value}, {matching}", *extra)
    intervals = ("",) * len(labels) + tuple(format_interval(estimate) for estimate in estimates)
    return TableRow(
        (*labels, *(format_percent(estimate.value) for estimate in estimates)),
        OWN_GROUP,
        intervals if style.has_intervals and any(intervals) else (),
    )


def _segmentation_metrics(run: QuestionRun, protocol: MetricProtocol) -> tuple[str, ...]:
    """Return the full names of `segmentation_metrics` under a protocol; the authors' protocol has no union."""
    names = segmentation_metrics(run)
    if names[0] in PROTOCOL_METRICS:
        return tuple(metric_of(protocol, name) for name in names)
    return names if protocol is MetricProtocol.OURS else ("", "")


def _quoted_rows(reference: ReferenceTable) -> Iterable[TableRow]:
    block = reference.rows[0].block
    for row in reference.rows:
        values = ("-" if value is None else f"{value:.1f}" for value in row.values)
        extra = () if reference.number == TEXT_TABLE else (row.extra_segmentation_data,)
        group = f"{QUOTED_GROUP}: {row.group}" if row.group else QUOTED_GROUP
        has_rule = row.block != block and not row.group  # a heading also separates the blocks
        block = row.block
        yield TableRow((row.method, QUOTED, PAPER_PROTOCOL, *extra, *values), group, has_rule_above=has_rule)


def _names(style: PaperTableStyle) -> str:
    return " and ".join(protocol.value for protocol in style.protocols)


def _note(reference: ReferenceTable, runs: Sequence[QuestionRun], style: PaperTableStyle) -> str:
    note = (
        f'Source "{QUOTED}": quoted from the Partonomy/PLUM paper, Table {reference.number}, measured there on '
        f"{reference.subset}. {TABLE_LEGENDS[reference.number]}"
    )
    if not runs:
        return note
    datasets = ", ".join(dict.fromkeys(run.dataset_name for run in runs))
    own = f'"{OURS}": measured by this code on {datasets}; rows on other data are not comparable.'
    if style.has_intervals:
        own += " Below each value its 95% interval from a bootstrap over images."
    words = [_PROTOCOL_WORDS[protocol] for protocol in style.protocols]
    return " ".join([note, own, *words, *(caveat for run in runs for caveat in _caveats(run, style))])


def _caveats(run: QuestionRun, style: PaperTableStyle) -> list[str]:
    """Return the training overlap, and how the run differs from a full run under the default protocol."""
    config = run.summary.provenance["config"]
    entries = [entry for entry in run.summary.groups.values() if entry.num_expected]
    num_failed = sum(entry.num_failed for entry in entries)
    mutation = run.summary.provenance["dataset"].get("build", {}).get("config", {}).get("mutation", "paper")
    caveats = [
        f"{run.name}: images of its questions that the model was trained on: {overlap_words(run.summary.provenance)}."
    ]
    if config["limit"] is not None:
        caveats.append(f"{run.name}: at most {config['limit']} questions of each type (--limit).")
    if config["options"]["part_whole"] != Conditioning.GOLD:
        both = " (the authors' code gives the correct one)" if MetricProtocol.AUTHORS in style.protocols else ""
        caveats.append(f"{run.name}: the second part-whole question follows the model's own first choice{both}.")
    if mutation != "paper":
        caveats.append(f"{run.name}: wrong answers of the {mutation!r} kind, other choices than the paper's.")
    if config["options"].get("choice_protocol") == "listwise":
        caveats.append(f"{run.name}: all choices shown at once (listwise), not each scored alone.")
    caveats += [f"{run.name}: {line}." for line in marks_lines(run.summary.provenance)]
    if num_failed:
        caveats.append(f"{run.name}: {num_failed} of its questions failed.")
    caveats += [f"{run.name}: {line}." for line in run.summary.notes]
    wanted = metric_of(MetricProtocol.AUTHORS, "parts_accuracy")
    if MetricProtocol.AUTHORS in style.protocols and any(wanted not in entry.metrics for entry in entries):
        caveats.append(f"{run.name}: its summary.json is of an earlier version without all of the authors' metrics.")
    return caveats
