"""ReasonSeg runs together with the rows quoted from Table 4 of the Partonomy/PLUM paper."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from partonomy.benchmarks.task import ALL
from partonomy.harness.provenance import overlap_words
from partonomy.quoted_rows import QUOTED, read_quoted
from partonomy.reporting.loaded_run import AnyRun
from partonomy.reporting.paper_tables.paper_table import (
    OURS,
    PAPER_PROTOCOL,
    PaperTable,
    PaperTableStyle,
    TidyRow,
    format_interval,
)
from partonomy.table_format import ColumnGroup, Table, TableRow, format_percent

BENCHMARK = "reasonseg"
METRIC = "giou"
NOTE = (
    f'Source "{QUOTED}": quoted from the Partonomy/PLUM paper, Table 4, which does not name the split (the rows of '
    "LISA are those of its validation split). (ft): fine-tuned on ReasonSeg's training images. Rows compare only under "
    'one protocol; the authors\' code gives the answer, as "forced" does, with a label of the target ("target named").'
)


@dataclass(frozen=True)
class ReasonSegTable(PaperTable):
    """Table 4 of the Partonomy/PLUM paper."""

    name: str = "4"
    is_automatic: bool = True

    def holds(self, run: AnyRun) -> bool:
        """Whether the run is on ReasonSeg."""
        return run.summary.benchmark == BENCHMARK

    def render(self, runs: Sequence[AnyRun], style: PaperTableStyle) -> Table:
        """See PaperTable."""
        rows = list(_quoted_rows())
        rows += [_own_row(run, style) for run in runs]
        overlaps = [
            f"{run.name}: images that the model was trained on: {overlap_words(run.summary.provenance)}."
            for run in runs
        ]
        headings = ("Method", "Source", "Protocol", "Split", "gIoU")
        title = "ReasonSeg (gIoU, %), layout of the paper's Table 4"
        return Table(title, (ColumnGroup("", headings),), tuple(rows), " ".join([NOTE, *overlaps]))

    def quoted(self) -> Iterator[TidyRow]:
        """See PaperTable; the group is empty."""
        for row in read_quoted("table4").rows:
            yield TidyRow(self.name, row["method"], "ReasonSeg", QUOTED, PAPER_PROTOCOL, "", METRIC, row[METRIC])

    def metrics(self, run: AnyRun) -> Mapping[str, Sequence[str]]:
        """See PaperTable."""
        return {ALL: (METRIC,)}


def _quoted_rows() -> Iterator[TableRow]:
    """Generate the paper's rows, with a rule between its blocks."""
    rows = read_quoted("table4").rows
    block = rows[0]["block"]
    for row in rows:
        cells = (row["method"], QUOTED, PAPER_PROTOCOL, "", row[METRIC])
        yield TableRow(cells, "quoted from the paper", has_rule_above=row["block"] != block)
        block = row["block"]


def _own_row(run: AnyRun, style: PaperTableStyle) -> TableRow:
    summary, limit = run.summary, run.config.limit
    estimate = summary.metrics[METRIC]
    cut = "" if limit is None else f", first {limit}"
    labels = (run.name, OURS, summary.protocol + cut, summary.split)
    interval = format_interval(estimate)
    below = ("",) * len(labels) + (interval,) if style.has_intervals and interval else ()
    return TableRow((*labels, format_percent(estimate.value)), "measured here", below)
