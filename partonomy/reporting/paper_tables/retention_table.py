"""Text retention: VQA scores of a segmenting model with and without its adapters (paper, Table 5)."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from partonomy.benchmarks.task import ALL
from partonomy.harness.provenance import overlap_words
from partonomy.harness.run_folder import SUMMARY_FILE
from partonomy.harness.summary import Summary, read_summary
from partonomy.quoted_rows import QUOTED, read_quoted
from partonomy.reporting.loaded_run import AnyRun
from partonomy.reporting.paper_tables.paper_table import PAPER_PROTOCOL, PaperTable, PaperTableStyle, TidyRow
from partonomy.table_format import ColumnGroup, Table, TableRow

BENCHMARKS = ("textvqa", "gqa", "pope")
LABELS = {"textvqa": "TextVQA", "gqa": "GQA", "pope": "POPE"}
QUOTED_BASE = "LLaVA-13B"


@dataclass(frozen=True)
class RetentionRow:
    """One model under one protocol; values are percentages by benchmark, absent if there is no run."""

    method: str
    protocol: str
    values: Mapping[str, float]


@dataclass(frozen=True)
class _Key:
    """The key shared by the runs of one row."""

    checkpoint_hash: str | None
    protocol: str
    limit: int | None


@dataclass(frozen=True)
class RetentionTable(PaperTable):
    """Table 5 of the Partonomy/PLUM paper."""

    name: str = "5"

    def holds(self, run: AnyRun) -> bool:
        """Whether the run is on one of the three benchmarks."""
        return run.summary.benchmark in BENCHMARKS

    def render(self, runs: Sequence[AnyRun], style: PaperTableStyle) -> Table:
        """Return the paper's rows and then the runs, without intervals, as in the paper."""
        return retention_table([run.summary for run in runs])

    def quoted(self) -> Iterator[TidyRow]:
        """Generate the paper's numbers with an empty group; the metric is a benchmark's headline."""
        for row in load_quoted_retention():
            for name, value in row.values.items():
                yield TidyRow(self.name, row.method, LABELS[name], QUOTED, PAPER_PROTOCOL, "", "", f"{value:.2f}")

    def metrics(self, run: AnyRun) -> Mapping[str, Sequence[str]]:
        """Return the benchmark's headline, under the only group."""
        return {ALL: (run.summary.headline,)}


def load_quoted_retention() -> tuple[RetentionRow, ...]:
    """Return the quoted rows of Table 5.

    Raises:
        ValueError: A row is not marked as quoted.
    """
    return tuple(
        RetentionRow(row["method"], QUOTED, {name: float(row[name]) for name in BENCHMARKS})
        for row in read_quoted("table5").rows
    )


def load_retention_runs(paths: Sequence[Path]) -> tuple[Summary, ...]:
    """Read the summaries of finished runs.

    Raises:
        FileNotFoundError: A run has not finished.
        ValueError: A run belongs to another benchmark.
    """
    summaries = []
    for path in paths:
        summary = read_summary(path / SUMMARY_FILE)
        if summary.benchmark not in BENCHMARKS:
            raise ValueError(f"{path} is a run on {summary.benchmark}; this table includes {', '.join(BENCHMARKS)}")
        summaries.append(summary)
    return tuple(summaries)


def retention_table(summaries: Sequence[Summary]) -> Table:
    """Return the paper's rows and then, per checkpoint and protocol, the model with adapters off and on.

    Brackets hold the change relative to the backbone, as in the paper.

    Raises:
        ValueError: Two runs of one benchmark would share a cell, or were asked different items.
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
        config = summary.config
        # TextVQA's label says more than the protocol's name
        model = config["checkpoint_hash"] or summary.model_label  # imported runs have no checkpoint
        key = _Key(model, summary.protocol.split(",")[0], config["limit"])
        groups.setdefault(key, []).append(summary)
    return groups


def _row(runs: Sequence[Summary], key: _Key, is_base: bool) -> RetentionRow:
    chosen = [run for run in runs if run.is_base == is_base]
    values: dict[str, float] = {}
    labels = {key.protocol}
    for run in chosen:
        if run.benchmark in values:
            raise ValueError(
                f"two runs report the same results ({run.benchmark}, {run.protocol}); pass only one of them"
            )
        others = {other.config["content_hash"] for other in runs if other.benchmark == run.benchmark}
        if len(others) > 1:
            raise ValueError(f"the runs of {run.benchmark} cover different items and are not comparable")
        value = run.metrics[run.headline].value
        if value is not None:  # a model that refused every question has no score
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
