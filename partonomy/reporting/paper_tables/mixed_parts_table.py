"""MixedParts runs together with the rows quoted from the CALICO paper.

The rows are those of the paper's second version (CVPR 2025). The first version is a differently trained model, and the
headings of its mIoU and AP50 columns are evidently swapped: VLPart, which was not trained again, has mIoU 12.4 and AP50
42.0 there, AP50 13.4 and mIoU 42.8 in the second version; and a recall of r at IoU 0.5 forces a mean IoU over the true
masks of about r/2, which the printed mIoU violates. `mixedparts_v1.csv` keeps its numbers under the printed headings;
no table shows them.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from partonomy.benchmarks.mixed_parts import NAME
from partonomy.benchmarks.task import ALL
from partonomy.datasets.mixed_parts import PairTask
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

MEAN = "mean"
GROUP = "quoted from the paper"
TASKS = (MEAN, *(task.value for task in PairTask))
METRICS = {"ap50": "AP50", "miou": "mIoU", "recall": "Recall", "ss": "SS", "siou": "S-IoU"}
NOTE = (
    f'Source "{QUOTED}": quoted from the second version of the CALICO paper, whose test pairs are others than those '
    "of a run here: the rows show where the paper stands, and do not compare with the runs. The paper does not say how "
    "labels are paired for SS and S-IoU. mean: mean of the three tasks."
)


@dataclass(frozen=True)
class MixedPartsTable(PaperTable):
    """The results on MixedParts."""

    name: str = NAME
    is_automatic: bool = True

    def holds(self, run: AnyRun) -> bool:
        """Whether the run is on MixedParts."""
        return run.summary.benchmark == NAME

    def render(self, runs: Sequence[AnyRun], style: PaperTableStyle) -> Table:
        """See PaperTable."""
        rows = [
            TableRow((row["method"], QUOTED, PAPER_PROTOCOL, row["task"], *(row[key] for key in METRICS)), GROUP)
            for row in read_quoted(NAME).rows
        ]
        rows += [row for run in runs for row in _own_rows(run, style)]
        overlaps = [
            f"{run.name}: images that the model was trained on: {overlap_words(run.summary.provenance)}."
            for run in runs
        ]
        headings = ("Method", "Source", "Protocol", "Task", *METRICS.values())
        return Table("MixedParts (%)", (ColumnGroup("", headings),), tuple(rows), " ".join([NOTE, *overlaps]))

    def quoted(self) -> Iterator[TidyRow]:
        """See PaperTable; the group is empty, and the metric's name begins with the task as in a summary."""
        for row in read_quoted(NAME).rows:
            for key in METRICS:
                metric = _metric_name(row["task"], key)
                yield TidyRow(self.name, row["method"], "MixedParts", QUOTED, PAPER_PROTOCOL, "", metric, row[key])

    def metrics(self, run: AnyRun) -> Mapping[str, Sequence[str]]:
        """See PaperTable."""
        names = [_metric_name(task, key) for task in TASKS for key in METRICS]
        return {ALL: [name for name in names if name in run.summary.metrics]}


def _metric_name(task: str, metric: str) -> str:
    return metric if task == MEAN else f"{task}_{metric}"


def _own_rows(run: AnyRun, style: PaperTableStyle) -> Iterator[TableRow]:
    """Generate a run's rows: the mean of the tasks, and each task that it has."""
    summary, limit = run.summary, run.config.limit
    cut = "" if limit is None else f", first {limit}"
    for task in TASKS:
        if _metric_name(task, "ap50") not in summary.metrics:
            continue
        estimates = [summary.metrics[_metric_name(task, key)] for key in METRICS]
        labels = (run.name, OURS, summary.protocol + cut, task)
        intervals = [format_interval(estimate) for estimate in estimates]
        below = ("",) * len(labels) + tuple(intervals) if style.has_intervals and any(intervals) else ()
        values = (format_percent(estimate.value) for estimate in estimates)
        yield TableRow((*labels, *values), "measured here", below)
