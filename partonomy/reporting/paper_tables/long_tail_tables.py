"""MMR on questions about frequent and about rare categories (MMR paper, Tables 10 and 11)."""

from array import array
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from partonomy.benchmarks.mmr import MMR, mmr_ratios
from partonomy.benchmarks.records import AnswerRecord
from partonomy.benchmarks.task import ALL, ChangedRecords
from partonomy.metrics.bootstrap import Estimate, bootstrap_metrics
from partonomy.quoted_rows import QUOTED, read_quoted
from partonomy.reporting.loaded_run import AnyRun
from partonomy.reporting.paper_tables.paper_table import (
    OURS,
    PAPER_PROTOCOL,
    PaperTable,
    PaperTableStyle,
    TidyRow,
    format_interval,
    tidy_percent,
)
from partonomy.table_format import ColumnGroup, Table, TableRow, format_percent

SPLITS = {10: "test_obj_only", 11: "test_part_only"}
"""Number of the paper's table -> the split of its questions."""
NUM_CATEGORIES = 10
"""Number of categories in each subset."""
TOTAL, UPPER, LOWER = "total", "upper", "lower"
METRICS = ("giou", "ciou")


@dataclass(frozen=True)
class LongTailSubsets:
    """The ids of the questions about the most and about the least frequent categories, and those categories."""

    frequent: tuple[str, ...]
    rare: tuple[str, ...]
    ids: Mapping[str, frozenset[str]]


@dataclass(frozen=True)
class LongTailTable(PaperTable):
    """Table 10 (objects) or 11 (parts) of the MMR paper."""

    number: int
    is_by_name: bool = True
    name: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", f"mmr{self.number}")

    def holds(self, run: AnyRun) -> bool:
        """Whether the run is on the table's split of MMR."""
        return run.summary.benchmark == MMR and run.summary.split == SPLITS[self.number]

    def render(self, runs: Sequence[AnyRun], style: PaperTableStyle) -> Table:
        """See PaperTable."""
        quoted = read_quoted(f"mmr_table{self.number}")
        columns = [f"{subset}_{metric}" for subset in (TOTAL, UPPER, LOWER) for metric in METRICS]
        rows = [
            TableRow((row["method"], "", *(row[name] for name in columns)), "paper (quoted)") for row in quoted.rows
        ]
        notes = [
            f"Upper and lower: questions with a target among the {NUM_CATEGORIES} most and least frequent categories. "
            "The paper does not say where it counts them; here, among the targets of the run's own questions."
        ]
        for run in runs:
            subsets = find_subsets(run.records)
            found = subset_estimates(run)
            estimates = [found[name] for name in columns]
            below = ("", "", *map(format_interval, estimates))
            cut = "" if run.config.limit is None else f", first {run.config.limit}"
            labels = (run.name, run.summary.protocol + cut)
            cells = (*labels, *(format_percent(estimate.value) for estimate in estimates))
            rows.append(TableRow(cells, "runs", below if style.has_intervals and any(below) else ()))
            notes.append(
                f"{run.name}: upper {', '.join(subsets.frequent)} ({len(subsets.ids[UPPER])} questions); "
                f"lower {', '.join(subsets.rare)} ({len(subsets.ids[LOWER])} questions)."
            )
        kind = "object" if self.number == min(SPLITS) else "part"
        groups = [ColumnGroup(subset, METRICS) for subset in (TOTAL, UPPER, LOWER)]
        title = f"Frequent and rare {kind} categories of MMR (%), as the MMR paper's Table {self.number}"
        return Table(title, (ColumnGroup("", ("Method", "Protocol")), *groups), tuple(rows), " ".join(notes))

    def quoted(self) -> Iterator[TidyRow]:
        """See PaperTable; the group is the subset."""
        for row in read_quoted(f"mmr_table{self.number}").rows:
            for subset in (TOTAL, UPPER, LOWER):
                for metric in METRICS:
                    value = row[f"{subset}_{metric}"]
                    data = f"MMR {SPLITS[self.number]}"
                    yield TidyRow(self.name, row["method"], data, QUOTED, PAPER_PROTOCOL, subset, metric, value)

    def further(self, runs: Sequence[AnyRun]) -> Iterator[TidyRow]:
        """Generate the scores on the two subsets, which a summary does not hold."""
        for run in runs:
            for name, estimate in subset_estimates(run).items():
                subset, metric = name.split("_")
                if subset != TOTAL:
                    yield TidyRow(
                        self.name,
                        run.name,
                        run.dataset_name,
                        OURS,
                        run.summary.protocol,
                        subset,
                        metric,
                        tidy_percent(estimate.value),
                        tidy_percent(estimate.low),
                        tidy_percent(estimate.high),
                        str(estimate.count),
                    )

    def metrics(self, run: AnyRun) -> Mapping[str, Sequence[str]]:
        """See PaperTable."""
        return {ALL: METRICS}


def find_subsets(records: Sequence[AnswerRecord]) -> LongTailSubsets:
    """Divide questions by the frequency of their targets' categories; equally frequent ones go by name.

    Where there are fewer than twice `NUM_CATEGORIES` categories, each subset takes half of them at most, so that no
    category is both frequent and rare.
    """
    counts = Counter(name for record in records for name in record.truths)
    ordered = sorted(counts, key=lambda name: (-counts[name], name))
    size = min(NUM_CATEGORIES, len(ordered) // 2)
    chosen = {UPPER: ordered[:size], LOWER: ordered[len(ordered) - size :]}
    ids = {
        subset: frozenset(record.item_id for record in records if set(names) & set(record.truths))
        for subset, names in chosen.items()
    }
    return LongTailSubsets(tuple(chosen[UPPER]), tuple(chosen[LOWER]), ids)


def subset_estimates(run: AnyRun) -> dict[str, Estimate]:
    """Return gIoU and cIoU of all questions, of the frequent and of the rare ones, by "<subset>_<metric>"."""
    settled = run.task.settle(run.records)
    subsets = find_subsets(settled)
    found = {f"{TOTAL}_{metric}": run.summary.metrics[metric] for metric in METRICS}
    for subset, ids in subsets.ids.items():
        places = array("q", [place for place, record in enumerate(settled) if record.item_id in ids])
        ratios = mmr_ratios(ChangedRecords(settled, places=places), run.config.read_options().mode)
        generator = np.random.default_rng(run.config.seed)
        chosen = bootstrap_metrics({metric: ratios[metric] for metric in METRICS}, generator)
        found |= {f"{subset}_{metric}": estimate for metric, estimate in chosen.items()}
    return found
