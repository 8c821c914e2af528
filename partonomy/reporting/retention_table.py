"""Text retention: a segmenting model on VQA beside the same model without its adapters (paper, Table 5)."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from partonomy.harness.provenance import overlap_words
from partonomy.harness.run_folder import SUMMARY_FILE
from partonomy.harness.summary import Summary, read_summary
from partonomy.table_format import ColumnGroup, Table, TableRow

BENCHMARKS = ("textvqa", "gqa", "pope")
LABELS = {"textvqa": "TextVQA", "gqa": "GQA", "pope": "POPE"}
QUOTED_BASE = "LLaVA-13B"


@dataclass(frozen=True)
class RetentionRow:
    """One model under one protocol; values in percent by benchmark, missing where there is no run."""

    method: str
    protocol: str
    values: Mapping[str, float]


@dataclass(frozen=True)
class _Key:
    """Which runs stand in one row."""

    checkpoint_hash: str | None
    protocol: str
    limit: int | None


def load_quoted_retention() -> tuple[RetentionRow, ...]:
    """The rows of Table 5.

    Raises:
        ValueError: A row is not marked as quoted.
    """
    text = resources.files("partonomy").joinpath("paper_rows/table5.csv").read_text(encoding="utf-8")
    rows = []
    for row in csv.DictReader(text.splitlines()):
        if row["source"] != "quoted":
            raise ValueError(f"table5.csv: the row of {row['method']} is not marked as quoted")
        rows.append(RetentionRow(row["method"], "quoted", {name: float(row[name]) for name in BENCHMARKS}))
    return tuple(rows)


def load_retention_runs(paths: Sequence[Path]) -> tuple[Summary, ...]:
    """Read the runs of `plum validate`.

    Raises:
        FileNotFoundError: A run has not finished.
        ValueError: A run is of another benchmark.
    """
    summaries = []
    for path in paths:
        summary = read_summary(path / SUMMARY_FILE)
        if summary.benchmark not in BENCHMARKS:
            raise ValueError(f"{path} is a run on {summary.benchmark}; this table holds {', '.join(BENCHMARKS)}")
        summaries.append(summary)
    return tuple(summaries)


def retention_table(summaries: Sequence[Summary]) -> Table:
    """The paper's rows, then per checkpoint and protocol the model with adapters off and on.

    In brackets the change relative to the backbone, as the paper prints it.

    Raises:
        ValueError: Two runs of one benchmark would stand in one place, or were asked different items.
    """
    quoted = load_quoted_retention()
    base = next(row for row in quoted if row.method == QUOTED_BASE)
    rows = [_format(row, None if row is base else base, "paper (quoted)") for row in quoted]
    for key, runs in _by_row(summaries).items():
        plain, adapted = (_row(runs, key, is_base) for is_base in (True, False))
        rows += [_format(plain, None, "runs")] if plain.values else []
        rows += [_format(adapted, plain, "runs")] if adapted.values else []
    overlaps = [f"{run.benchmark} {overlap_words(run.provenance)}" for run in summaries if not run.is_base]
    note = (
        "In brackets: change relative to the backbone (adapters off). Rows compare only under one protocol; the "
        "paper's are nearest to partonomy_compat. POPE under llava_official is the mean F1 of its categories."
    )
    if overlaps:
        note += f" Images that the model was trained on: {', '.join(dict.fromkeys(overlaps))}."
    columns = (ColumnGroup("", ("Method", "Protocol", *(LABELS[name] for name in BENCHMARKS))),)
    return Table("Text retention (%), as the paper's Table 5", columns, tuple(rows), note)


def _by_row(summaries: Sequence[Summary]) -> dict[_Key, list[Summary]]:
    groups: dict[_Key, list[Summary]] = {}
    for summary in summaries:
        config = summary.provenance["config"]
        # TextVQA's label says more than the protocol's name
        key = _Key(config["checkpoint_hash"], summary.protocol.split(",")[0], config["limit"])
        groups.setdefault(key, []).append(summary)
    return groups


def _row(runs: Sequence[Summary], key: _Key, is_base: bool) -> RetentionRow:
    chosen = [run for run in runs if run.is_base == is_base]
    values: dict[str, float] = {}
    labels = {key.protocol}
    for run in chosen:
        if run.benchmark in values:
            raise ValueError(f"two runs of {run.benchmark} under {run.protocol} belong to one row; give one of them")
        others = {other.provenance["config"]["content_hash"] for other in runs if other.benchmark == run.benchmark}
        if len(others) > 1:
            raise ValueError(f"the runs of {run.benchmark} were asked different items and do not compare")
        value = run.metrics[run.headline].value
        assert value is not None, "a finished run has its headline"
        values[run.benchmark] = 100 * value
        labels.add(run.protocol)
    cut = "" if key.limit is None else f", first {key.limit}"
    protocol = max(labels, key=len) + cut
    name = next((run.model_label for run in chosen), "")
    return RetentionRow(name, protocol, values)


def _format(row: RetentionRow, base: RetentionRow | None, group: str) -> TableRow:
    cells = []
    for name in BENCHMARKS:
        if name not in row.values:
            cells.append("-")
            continue
        value = row.values[name]
        reference = None if base is None else base.values.get(name)
        change = f" ({100 * (value / reference - 1):+.1f}%)" if reference else ""
        cells.append(f"{value:.2f}{change}")
    return TableRow((row.method, row.protocol, *cells), group)
