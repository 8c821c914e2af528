"""Bars of a run's main metrics next to baselines and guesses, with the paper's rows apart, for the report's top."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from partonomy.benchmarks.task import ALL
from partonomy.metrics.bootstrap import Estimate
from partonomy.reporting.loaded_run import AnyRun
from partonomy.reporting.overview import find_estimate
from partonomy.reporting.paper_tables.paper_table import PaperTable
from partonomy.table_format import Table

OWN, OTHER, GUESS, QUOTED_BAR = "own", "other", "guess", "quoted"
"""Kinds of bars: the report's run, another run, a guess without an image, a row of the paper."""
MAX_GROUPS = 12
"""Groups that a panel shows."""


@dataclass(frozen=True)
class Bar:
    """One value in [0, 1] with its interval; `low` and `high` are None if it has none."""

    label: str
    kind: str
    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class BarGroup:
    """The bars of one group, such as a question type."""

    label: str
    bars: tuple[Bar, ...]


@dataclass(frozen=True)
class BarPanel:
    """The bars of one metric, and quoted ones, which are drawn in a frame of their own.

    Attributes:
        title: The metric.
        groups: This run, its baselines and guesses.
        quoted: Rows of the paper.
        quoted_note: What the quoted rows were measured on, and whether they compare.
    """

    title: str
    groups: tuple[BarGroup, ...]
    quoted: tuple[BarGroup, ...] = ()
    quoted_note: str = ""


@dataclass(frozen=True)
class PaperRows:
    """A paper's table in two parts, so that quoted numbers and numbers of runs never share a table."""

    title: str
    measured: Table
    quoted: Table
    warning: str


def metric_panel(  # noqa: PLR0917
    run: AnyRun,
    baselines: Sequence[AnyRun],
    title: str,
    metric: str,
    guesses: Mapping[str, Sequence[Bar]] | None = None,
    preferred: Sequence[str] = (),
) -> BarPanel | None:
    """Return the bars of one metric for each group; None if the run does not have the metric.

    Args:
        run: The report's run.
        baselines: Other runs on the same items.
        title: The panel's heading.
        metric: Name of the metric; its values are in [0, 1].
        guesses: Further bars by group.
        preferred: Groups to show; if the run has none of them, the first ones are shown.
    """
    groups = []
    entries = [entry for entry in run.summary.groups.values() if entry.metrics.get(metric) is not None]
    wanted = [entry for name in preferred for entry in entries if entry.name == name and entry.num_expected]
    for entry in (wanted or entries)[:MAX_GROUPS]:
        own = _bar(run.name, OWN, entry.metrics.get(metric))
        if own is None:
            continue
        others = (
            _bar(other.name, OTHER, find_estimate(other.summary.groups.get(entry.name), metric)) for other in baselines
        )
        bars = (own, *(one for one in others if one is not None), *(guesses or {}).get(entry.name, ()))
        groups.append(BarGroup(run.task.WORDS.items if entry.name == ALL else entry.name, bars))
    return BarPanel(title, tuple(groups)) if groups else None


def quoted_groups(table: PaperTable, metric: str, methods: Sequence[str], groups: Sequence[str]) -> list[BarGroup]:
    """Return the paper's values of one metric for each group.

    Args:
        table: The paper's table.
        metric: Name of the metric.
        methods: Names of methods as printed.
        groups: Names of groups, in order.
    """
    found: dict[str, list[Bar]] = {name: [] for name in groups}
    for row in table.quoted():
        if row.metric == metric and row.method in methods and row.question_type in found and row.value:
            found[row.question_type].append(Bar(row.method, QUOTED_BAR, float(row.value) / 100))
    return [BarGroup(name, tuple(bars)) for name, bars in found.items() if bars]


def split_rows(table: Table, warning: str) -> PaperRows:
    """Separate the quoted rows of a paper's table from the others.

    Args:
        table: A rendered table; the group of a quoted row, or one of its cells, says "quoted".
        warning: Whether the two parts compare.
    """
    quoted = tuple(row for row in table.rows if "quoted" in row.group or "quoted" in row.cells)
    measured = tuple(row for row in table.rows if row not in quoted)
    return PaperRows(
        table.title,
        Table(table.title, table.columns, measured, table.note),
        Table(table.title, table.columns, quoted),
        warning,
    )


def _bar(label: str, kind: str, estimate: Estimate | None) -> Bar | None:
    if estimate is None or estimate.value is None:
        return None
    return Bar(label, kind, estimate.value, estimate.low, estimate.high)
