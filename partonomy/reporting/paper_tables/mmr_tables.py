"""Runs together with the rows quoted from Tables 2 to 6 and 8 of the MMR paper."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from partonomy.benchmarks.mmr import MMR
from partonomy.benchmarks.multi_referring import MULTI_REFERRING_NAMES, PREFIX
from partonomy.benchmarks.street_scenes import STREET_NAMES
from partonomy.benchmarks.task import ALL
from partonomy.harness.run_folder import SUMMARY_FILE
from partonomy.harness.summary import Summary, read_summary
from partonomy.metrics.bootstrap import Estimate
from partonomy.quoted_rows import QUOTED, SOURCE_COLUMN, read_quoted
from partonomy.reporting.loaded_run import AnyRun
from partonomy.reporting.paper_tables.paper_table import (
    PAPER_PROTOCOL,
    PaperTable,
    PaperTableStyle,
    TidyRow,
    format_interval,
)
from partonomy.table_format import ColumnGroup, Table, TableRow, format_percent

TITLES = {
    2: "MMR (%)",
    3: "RefCOCO, RefCOCO+, RefCOCOg: cIoU (%)",
    4: "Multi-referring RefCOCO, RefCOCO+, RefCOCOg: cIoU (%)",
    5: "RefCOCOm: mIoU, which is gIoU here (%)",
    6: "Number of [SEG] tokens and early local feature fusion, on MMR (%)",
    8: "Several classes of street scenes: mIoU, which is gIoU here (%)",
}
NOTES = {
    2: "The paper's M2SA is scored in mode teacher_forced, as its code does; of the other rows it is not known. (tr): "
    "trained on its mixture. Rows compare only under one mode.",
    3: "The paper's code forces the answer, as mode forced does.",
    4: "The paper's questions were drawn at random and are not published; ours are drawn as it describes.",
    5: "A run on the annotation file X_part stands under part, one on X under object_and_part.",
    6: "The paper's rows: x/x is LISA-7B trained on the mixture with MMR (LISA-7B (tr) in its Table 2), then M2SA-7B "
    "without and with fusion. configs/m2sa_7b.yaml trains the last; configs/overlays/mmr_lisa.yaml on top of it trains "
    "the first, configs/overlays/mmr_many_seg.yaml the second.",
    8: "The paper's models were not trained on these data. It does not name its categories; ours are the 19 that "
    "Cityscapes evaluates.",
}
_SAME_COLUMNS = {6: 2}
"""Table -> the table with the same benchmark and columns."""
PART_ENDING = "_part"
REFCOCO_NAMES = ("refcoco", "refcoco+", "refcocog")
REFCOCOM = "refcocom"


@dataclass(frozen=True)
class _Key:
    """The key shared by the runs of one row."""

    checkpoint: str
    checkpoint_hash: str | None
    protocol: str
    limit: int | None


@dataclass(frozen=True)
class MmrTable(PaperTable):
    """Table 2, 3, 4, 5, 6 or 8 of the MMR paper."""

    number: int
    name: str = field(init=False)
    is_by_name: bool = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", f"mmr{self.number}")
        object.__setattr__(self, "is_by_name", self.number in _SAME_COLUMNS)

    def holds(self, run: AnyRun) -> bool:
        """Whether the run is on one of the table's benchmarks and splits."""
        return find_table(run.summary) == _SAME_COLUMNS.get(self.number, self.number)

    def render(self, runs: Sequence[AnyRun], style: PaperTableStyle) -> Table:
        """Return the paper's rows and then one row per checkpoint and protocol."""
        return mmr_table(self.number, [run.summary for run in runs], style.has_intervals)

    def quoted(self) -> Iterator[TidyRow]:
        """Generate the paper's numbers with an empty group; the metric is a column's name."""
        rows = _read_quoted(self.number)
        for method, values in rows.rows.items():
            for column, value in zip(rows.columns, values, strict=True):
                yield TidyRow(self.name, method, TITLES[self.number], QUOTED, PAPER_PROTOCOL, "", column, value)

    def metrics(self, run: AnyRun) -> Mapping[str, Sequence[str]]:
        """Return the metrics that the table shows, under the only group."""
        return {ALL: tuple(_shown_metrics(run.summary.benchmark))}


def load_mmr_runs(paths: Sequence[Path]) -> tuple[Summary, ...]:
    """Read the runs.

    Raises:
        FileNotFoundError: A run has not finished.
        ValueError: None of the tables has a run's benchmark and split.
    """
    summaries = []
    for path in paths:
        summary = read_summary(path / SUMMARY_FILE)
        if find_table(summary) is None:
            raise ValueError(
                f"{path} is a run on {summary.benchmark} {summary.split}, which none of the tables includes"
            )
        summaries.append(summary)
    return tuple(summaries)


def table_of(benchmark: str) -> int | None:
    """Return the number of the paper's table for a benchmark."""
    if benchmark in MULTI_REFERRING_NAMES:
        return 4
    if benchmark in STREET_NAMES:
        return 8
    return 3 if benchmark in REFCOCO_NAMES else {MMR: 2, REFCOCOM: 5}.get(benchmark)


def find_table(summary: Summary) -> int | None:
    """Return the number of the paper's table for a run; None if no table has its benchmark and split."""
    number = table_of(summary.benchmark)
    return number if number and set(_columns(summary)) <= set(_read_quoted(number).columns) else None


def mmr_table(number: int, summaries: Sequence[Summary], has_intervals: bool = True) -> Table:
    """Return the paper's rows and then one row per checkpoint and protocol.

    Raises:
        ValueError: Two runs would share a cell.
    """
    quoted = _read_quoted(number)
    rows = [
        TableRow((method, "", *(value or "-" for value in values)), "paper (quoted)")
        for method, values in quoted.rows.items()
    ]
    by_row: dict[_Key, dict[str, Estimate]] = {}
    for summary in summaries:
        if table_of(summary.benchmark) == _SAME_COLUMNS.get(number, number):
            row = by_row.setdefault(_key(summary), {})
            if set(row) & set(_estimates(summary)):
                raise ValueError(
                    f"two runs report the same results ({summary.benchmark} {summary.split}, "
                    f"{summary.protocol}); pass only one of them"
                )
            row.update(_estimates(summary))
    for key, found in by_row.items():
        cut = "" if key.limit is None else f", first {key.limit}"
        cells = [format_percent(found[name].value) if name in found else "-" for name in quoted.columns]
        intervals = [format_interval(found[name]) if name in found else "" for name in quoted.columns]
        below = ("", "", *intervals) if has_intervals else ()
        rows.append(TableRow((key.checkpoint, key.protocol + cut, *cells), "runs", below))
    return Table(
        f"Table {number}: {TITLES[number]}", _column_groups(number, quoted.columns), tuple(rows), NOTES[number]
    )


@dataclass(frozen=True)
class _Quoted:
    """A table's columns and, for each method, the cells as printed; an empty cell is a dash in the paper."""

    columns: tuple[str, ...]
    rows: Mapping[str, tuple[str, ...]]


def _read_quoted(number: int) -> _Quoted:
    quoted = read_quoted(f"mmr_table{number}")
    columns = tuple(column for column in quoted.columns if column not in ("method", SOURCE_COLUMN))
    return _Quoted(columns, {row["method"]: tuple(row[column] for column in columns) for row in quoted.rows})


def _columns(summary: Summary) -> dict[str, str]:
    """Return the columns that a run fills, and the metric of each."""
    name, split = summary.benchmark, summary.split
    if name == MMR:
        return {f"{split}_{metric}": metric for metric in _shown_metrics(name)}
    (metric,) = _shown_metrics(name)
    if name == REFCOCOM:
        return {split if split.endswith(PART_ENDING) else f"{split}_object_and_part": metric}
    return {f"{name.removeprefix(PREFIX) if name in STREET_NAMES else name}_{split}": metric}


def _shown_metrics(benchmark: str) -> tuple[str, ...]:
    is_mean = benchmark in (REFCOCOM, *STREET_NAMES)
    return ("giou", "ciou") if benchmark == MMR else ("giou",) if is_mean else ("ciou",)


def _estimates(summary: Summary) -> dict[str, Estimate]:
    """Return a run's values for its table, by column."""
    return {column: summary.metrics[metric] for column, metric in _columns(summary).items()}


def _key(summary: Summary) -> _Key:
    config = summary.config
    return _Key(summary.model_label, config["checkpoint_hash"], summary.protocol, config["limit"])


def _column_groups(number: int, columns: Sequence[str]) -> tuple[ColumnGroup, ...]:
    """Group columns: metrics below splits (2, 6), splits below data sets (3, 4), or kinds below splits (5)."""
    is_split_first = _SAME_COLUMNS.get(number, number) == 2
    pairs = [column.rsplit("_", 1) if is_split_first else column.split("_", 1) for column in columns]
    labels = dict.fromkeys(label for label, _ in pairs)
    groups = [ColumnGroup(label, tuple(below for one, below in pairs if one == label)) for label in labels]
    return (ColumnGroup("", ("Method", "Protocol")), *groups)
