"""Runs of `plum validate` beside the rows of the MMR paper's Tables 2 to 5, which are quotations."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from partonomy.benchmarks.mmr import MMR
from partonomy.benchmarks.multi_referring import MULTI_REFERRING_NAMES
from partonomy.harness.run_folder import SUMMARY_FILE
from partonomy.harness.summary import Summary, read_summary
from partonomy.metrics.bootstrap import Estimate
from partonomy.reporting.paper_tables import format_interval
from partonomy.table_format import ColumnGroup, Table, TableRow, format_percent

TITLES = {
    2: "MMR (%)",
    3: "RefCOCO, RefCOCO+, RefCOCOg: cIoU (%)",
    4: "Multi-referring RefCOCO, RefCOCO+, RefCOCOg: cIoU (%)",
    5: "RefCOCOm: mIoU, which is gIoU here (%)",
}
NOTES = {
    2: "The paper's M2SA is scored in mode teacher_forced, as its code does; of the other rows it is not known. (tr): "
    "trained on its mixture. Rows compare only under one mode.",
    3: "The paper's code forces the answer, as mode forced does.",
    4: "The paper's questions were drawn at random and are not published; ours are drawn as it describes.",
    5: "A run on the annotation file X_part stands under part, one on X under object_and_part.",
}
PART_ENDING = "_part"
REFCOCO_NAMES = ("refcoco", "refcoco+", "refcocog")
REFCOCOM = "refcocom"


@dataclass(frozen=True)
class _Key:
    """Which runs stand in one row."""

    checkpoint: str
    checkpoint_hash: str | None
    protocol: str
    limit: int | None


def load_mmr_runs(paths: Sequence[Path]) -> tuple[Summary, ...]:
    """Read the runs.

    Raises:
        FileNotFoundError: A run has not finished.
        ValueError: A run is of a benchmark or split that stands in none of the tables.
    """
    summaries = []
    for path in paths:
        summary = read_summary(path / SUMMARY_FILE)
        number = table_of(summary.benchmark)
        if number is None or not set(_estimates(summary)) <= set(_read_quoted(number).columns):
            raise ValueError(f"{path} is a run on {summary.benchmark} {summary.split}, which none of the tables holds")
        summaries.append(summary)
    return tuple(summaries)


def table_of(benchmark: str) -> int | None:
    """The paper's table of a benchmark."""
    if benchmark in MULTI_REFERRING_NAMES:
        return 4
    return 3 if benchmark in REFCOCO_NAMES else {MMR: 2, REFCOCOM: 5}.get(benchmark)


def mmr_table(number: int, summaries: Sequence[Summary]) -> Table:
    """The paper's rows, then one per checkpoint and protocol.

    Raises:
        ValueError: Two runs would stand in one place.
    """
    quoted = _read_quoted(number)
    rows = [
        TableRow((method, "", *(value or "-" for value in values)), "paper (quoted)")
        for method, values in quoted.rows.items()
    ]
    by_row: dict[_Key, dict[str, Estimate]] = {}
    for summary in summaries:
        if table_of(summary.benchmark) == number:
            row = by_row.setdefault(_key(summary), {})
            if set(row) & set(_estimates(summary)):
                raise ValueError(
                    f"two runs of {summary.benchmark} {summary.split}, {summary.protocol}; give one of them"
                )
            row.update(_estimates(summary))
    for key, found in by_row.items():
        cut = "" if key.limit is None else f", first {key.limit}"
        cells = [format_percent(found[name].value) if name in found else "-" for name in quoted.columns]
        intervals = [format_interval(found[name]) if name in found else "" for name in quoted.columns]
        rows.append(TableRow((key.checkpoint, key.protocol + cut, *cells), "runs", ("", "", *intervals)))
    return Table(
        f"Table {number}: {TITLES[number]}", _column_groups(number, quoted.columns), tuple(rows), NOTES[number]
    )


@dataclass(frozen=True)
class _Quoted:
    """Columns of a table and, by method, their numbers as printed; empty where the paper has a dash."""

    columns: tuple[str, ...]
    rows: Mapping[str, tuple[str, ...]]


def _read_quoted(number: int) -> _Quoted:
    name = f"mmr_table{number}.csv"
    text = resources.files("partonomy").joinpath(f"paper_rows/{name}").read_text(encoding="utf-8")
    reader = csv.DictReader(text.splitlines())
    columns = tuple(column for column in reader.fieldnames or () if column not in ("method", "source"))
    rows = {}
    for row in reader:
        if row["source"] != "quoted":
            raise ValueError(f"{name}: the row of {row['method']} is not marked as quoted")
        rows[row["method"]] = tuple(row[column] for column in columns)
    return _Quoted(columns, rows)


def _estimates(summary: Summary) -> dict[str, Estimate]:
    """What a run puts into its table, by column."""
    name, split, metrics = summary.benchmark, summary.split, summary.metrics
    if name == MMR:
        return {f"{split}_{metric}": metrics[metric] for metric in ("giou", "ciou")}
    if name == REFCOCOM:
        return {split if split.endswith(PART_ENDING) else f"{split}_object_and_part": metrics["giou"]}
    return {f"{name}_{split}": metrics["ciou"]}


def _key(summary: Summary) -> _Key:
    config = summary.config
    return _Key(summary.model_label, config["checkpoint_hash"], summary.protocol, config["limit"])


def _column_groups(number: int, columns: Sequence[str]) -> tuple[ColumnGroup, ...]:
    """Table 2 has metrics below splits, 3 and 4 splits below data sets, 5 kinds below splits."""
    pairs = [column.rsplit("_", 1) if number == 2 else column.split("_", 1) for column in columns]
    labels = dict.fromkeys(label for label, _ in pairs)
    groups = [ColumnGroup(label, tuple(below for one, below in pairs if one == label)) for label in labels]
    return (ColumnGroup("", ("Method", "Protocol")), *groups)
