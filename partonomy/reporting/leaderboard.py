"""A self-contained HTML page over many runs: one sortable table for each benchmark and data set."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from partonomy.benchmarks.partonomy.metrics import mask_metric_names
from partonomy.benchmarks.task import ALL
from partonomy.files import write_text_atomically
from partonomy.harness.provenance import imported_lines, overlap_line, read_marks
from partonomy.metrics.bootstrap import Estimate
from partonomy.reporting.compare import compare_groups
from partonomy.reporting.loaded_run import AnyRun
from partonomy.reporting.overview import PARTS_ACCURACY, find_estimate
from partonomy.reporting.paper_tables.partonomy_tables import BENCHMARK
from partonomy.reporting.report_parts import interval, percent
from partonomy.structures import TABLE_TYPES

TEMPLATE = "leaderboard.html.j2"


@dataclass(frozen=True)
class Column:
    """A metric of a group; `group` is empty if the benchmark has only one."""

    group: str
    metric: str


@dataclass(frozen=True)
class Cell:
    """A run's value, and its difference from the reference; None if there is none."""

    estimate: Estimate
    difference: Estimate | None

    @property
    def is_significant(self) -> bool:
        """Whether the interval of the difference excludes 0."""
        found = self.difference
        return (
            found is not None and found.low is not None and found.high is not None and (found.low > 0 or found.high < 0)
        )


@dataclass(frozen=True)
class Row:
    """One run.

    Attributes:
        run: The run.
        is_reference: Whether the differences of the other rows are to this one.
        origin: "measured" or "imported".
        protocol: The run's protocol, and that of imported predictions.
        cells: Aligned with the columns.
        remark: Why there are no differences; empty if there are, and for the reference.
        facts: Lines about where the numbers come from.
    """

    run: AnyRun
    is_reference: bool
    origin: str
    protocol: str
    cells: tuple[Cell, ...]
    remark: str
    facts: tuple[str, ...]


@dataclass(frozen=True)
class Board:
    """The runs on the same items of one benchmark."""

    title: str
    dataset: str
    num_items: int
    items: str
    content_hash: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]


def write_leaderboard(runs: Sequence[AnyRun], reference: AnyRun | None, output: Path) -> None:
    """Write the page.

    Args:
        runs: Finished runs of any benchmarks.
        reference: The run that others on the same items are compared with; where it is None or has other items, the
            first run of a table.
        output: HTML file.
    """
    environment = Environment(
        loader=PackageLoader("partonomy.reporting", "."),
        autoescape=select_autoescape(default=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = percent
    environment.filters["interval"] = interval
    boards = make_boards(runs, reference)
    output.parent.mkdir(parents=True, exist_ok=True)
    write_text_atomically(output, environment.get_template(TEMPLATE).render(boards=boards))


def make_boards(runs: Sequence[AnyRun], reference: AnyRun | None) -> tuple[Board, ...]:
    """Return one table for each set of items, in the order of the runs.

    Args:
        runs: Finished runs; runs on different items never share a table.
        reference: See `write_leaderboard`.

    Raises:
        ValueError: There are no runs, or two have the same folder.
    """
    if not runs:
        raise ValueError("there are no runs to list; name their folders")
    paths = [run.path.resolve() for run in runs]
    for path in paths:
        if paths.count(path) > 1:
            raise ValueError(f"{path} is named twice")
    members: dict[tuple[str, str, str], list[AnyRun]] = {}
    for run in runs:
        members.setdefault((run.summary.benchmark, run.summary.split, run.dataset_hash), []).append(run)
    return tuple(_board(group, reference if reference in group else group[0]) for group in members.values())


def _board(runs: Sequence[AnyRun], reference: AnyRun) -> Board:
    columns = _columns(runs)
    first = runs[0]
    return Board(
        title=first.config.registered.title,
        dataset=first.dataset_name,
        num_items=len(first.records),
        items=first.task.WORDS.items,
        content_hash=first.dataset_hash,
        columns=columns,
        rows=tuple(_row(run, reference, columns) for run in runs),
    )


def _columns(runs: Sequence[AnyRun]) -> tuple[Column, ...]:
    """Return the shown metrics: those that some run has a value of."""
    if runs[0].summary.benchmark == BENCHMARK:
        masks = dict.fromkeys(mask_metric_names(read_marks(run.summary.provenance).matching)[0] for run in runs)
        metrics = [*masks, PARTS_ACCURACY]
        groups = _kept(runs, [kind.value for kind in TABLE_TYPES])
        wanted = [Column(group, metric) for metric in metrics for group in groups]
    elif all(set(run.summary.groups) == {ALL} for run in runs):
        names = dict.fromkeys(name for run in runs for name in (run.summary.headline, *run.summary.metrics))
        wanted = [Column(ALL, name) for name in names]
    else:
        headline = runs[0].summary.headline
        wanted = [Column(group, headline) for group in dict.fromkeys(g for run in runs for g in run.summary.groups)]
    return tuple(column for column in wanted if any(_estimate(run, column).value is not None for run in runs))


def _kept(runs: Sequence[AnyRun], preferred: Sequence[str]) -> list[str]:
    """Return the preferred groups that were asked, or all groups if none of these was."""
    asked = dict.fromkeys(name for run in runs for name, one in run.summary.groups.items() if one.num_expected)
    return [name for name in preferred if name in asked] or list(asked)


def _estimate(run: AnyRun, column: Column) -> Estimate:
    return find_estimate(run.summary.groups.get(column.group), column.metric)


def _row(run: AnyRun, reference: AnyRun, columns: Sequence[Column]) -> Row:
    remark = "" if run is reference else _obstacle(run, reference)
    differences: Mapping[tuple[str, str], Estimate] = {}
    if run is not reference and not remark:
        names = tuple(dict.fromkeys(column.metric for column in columns))
        pairs = compare_groups(
            reference.task.groups(reference.records), run.task.groups(run.records), names, run.config.seed
        )
        differences = {(one.group, one.metric): one.difference for one in pairs}
    provenance = run.summary.provenance
    imported: Mapping[str, Any] = provenance["config"].get("imported") or {}
    protocol = "; ".join(filter(None, [run.summary.protocol, run.summary.protocol_version, imported.get("protocol")]))
    return Row(
        run=run,
        is_reference=run is reference,
        origin="imported" if run.summary.is_imported else "measured",
        protocol=protocol,
        cells=tuple(Cell(_estimate(run, column), differences.get((column.group, column.metric))) for column in columns),
        remark=remark,
        facts=tuple(_facts(run)),
    )


def _obstacle(run: AnyRun, reference: AnyRun) -> str:
    """Say which settings keep a run from being compared with the reference; empty if none does."""
    own, other = dict(run.task.settings), dict(reference.task.settings)
    own["version"], other["version"] = run.summary.protocol_version, reference.summary.protocol_version
    names = [name for name in own if own[name] != other.get(name)]
    return f"other {', '.join(names)} than the reference: not compared" if names else ""


def _facts(run: AnyRun) -> Iterable[str]:
    provenance = run.summary.provenance
    commit = (provenance.get("code_commit") or "unknown")[:10]
    yield f"Folder {run.path}; model {run.summary.model_label}"
    yield f"Code {commit}{' (modified)' if provenance.get('code_is_modified') else ''}, {provenance.get('created', '')}"
    yield overlap_line(provenance)
    yield from imported_lines(provenance)
    if run.summary.num_failed:
        yield f"{run.summary.num_failed} of {run.summary.num_expected} {run.task.WORDS.items} failed and count as 0"
    yield from run.summary.notes
