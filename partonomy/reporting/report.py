"""A self-contained HTML page about a run of any benchmark: results, loss curves, cases, paper rows, provenance."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup

from partonomy.benchmarks.partonomy.metrics import MetricProtocol
from partonomy.benchmarks.partonomy.records import QuestionRecord
from partonomy.benchmarks.task import ALL, Group, Record, Words
from partonomy.files import write_text_atomically
from partonomy.harness.provenance import imported_lines, overlap_line
from partonomy.metrics.bootstrap import Estimate
from partonomy.reporting import partonomy_report
from partonomy.reporting.compare import compare_groups
from partonomy.reporting.loaded_run import AnyRun, check_same_items
from partonomy.reporting.loss_curves import draw_curves, find_metrics, read_curves
from partonomy.reporting.overview import MAX_REASONS, find_estimate
from partonomy.reporting.paper_tables.catalogue import tables_of
from partonomy.reporting.paper_tables.paper_table import PaperTableStyle
from partonomy.reporting.paper_tables.partonomy_tables import BENCHMARK
from partonomy.reporting.report_bars import BarPanel, PaperRows, metric_panel, split_rows
from partonomy.reporting.report_browser import MAX_PICTURES, Browser, make_browser
from partonomy.reporting.report_cases import (
    BEST,
    RANDOM,
    WORST,
    CaseItems,
    DrawnCase,
    choose_cases,
    css_colour,
    draw_case,
    load_case_items,
)
from partonomy.reporting.report_parts import Tile, interval, percent
from partonomy.reporting.tables import format_estimate, further_tables
from partonomy.table_format import ColumnGroup, Table, TableRow

NUM_CASES = 6
"""Cases under each heading; this bounds the number of pictures on the page, however large the run."""
NUM_TILES = 4
PAPER_STYLE = PaperTableStyle(tuple(MetricProtocol), has_intervals=False)
"""Both protocols without intervals: the result tables have them, and paper tables would become too wide for a page."""
TEMPLATE = "report.html.j2"
CASE_EXPLANATIONS = {
    RANDOM: "Drawn from all {items}, including failed ones; one per image.",
    BEST: "Scored {items} with the highest {quality}; one per image.",
    WORST: "Scored {items} with the lowest {quality}; one per image.",
}


@dataclass(frozen=True)
class OwnSections:
    """A benchmark's additions to the page: a template that extends the common one, and its content `own`."""

    template: str
    make: Callable[[AnyRun, Sequence[AnyRun]], Any]


OWN_SECTIONS: Mapping[type[Record], OwnSections] = {
    QuestionRecord: OwnSections(partonomy_report.TEMPLATE, partonomy_report.make_sections)
}
"""Own sections by type of record; every other benchmark has the common page."""


@dataclass(frozen=True)
class CaseGroup:
    """Cases under one heading."""

    title: str
    explanation: str
    cases: tuple[DrawnCase, ...]


@dataclass(frozen=True)
class TrainingChart:
    """Loss curves of one training run as inline SVG."""

    title: str
    svg: Markup


@dataclass(frozen=True)
class Failure:
    """A reason for failure, and the number of a group's items that failed or were not asked because of it."""

    group: str
    reason: str
    count: int
    is_failure: bool


@dataclass(frozen=True)
class ReportPage:
    """Everything that the template shows for any benchmark."""

    run: AnyRun
    words: Words
    protocol: str
    tiles: tuple[Tile, ...]
    results: tuple[Table, ...]
    paper_tables: tuple[PaperRows, ...]
    bars: tuple[BarPanel, ...]
    has_baselines: bool
    charts: tuple[TrainingChart, ...]
    case_groups: tuple[CaseGroup, ...]
    case_problem: str
    browser: Browser
    failures: tuple[Failure, ...]
    overlap: str
    provenance: str


def write_report(
    run: AnyRun,
    baselines: Sequence[AnyRun],
    training_metrics: Sequence[Path],
    output: Path,
    max_pictures: int = MAX_PICTURES,
) -> None:
    """Write the page and, for a large run, the folder of its cases beside it.

    Args:
        run: The run to report on.
        baselines: Other runs on the same items, shown for comparison with the paired difference.
        training_metrics: metrics.jsonl files; if empty, those that the run recorded, otherwise those of its checkpoint.
        output: HTML file.
        max_pictures: Number of images that the browser of all items draws.

    Raises:
        FileExistsError: The place of the folder is taken by something else.
        ValueError: A baseline was run on other items, or a metrics file is damaged.
    """
    for baseline in baselines:
        check_same_items(run, baseline)
    own = OWN_SECTIONS.get(run.task.RECORD)
    sections = None if own is None else own.make(run, baselines)
    output.parent.mkdir(parents=True, exist_ok=True)
    items = load_case_items(run)
    browser = make_browser(run, items, output, max_pictures)
    page = _make_page(run, baselines, training_metrics, items, browser, has_own=own is not None)
    environment = Environment(
        loader=PackageLoader("partonomy.reporting", "."),
        autoescape=select_autoescape(default=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = percent
    environment.filters["interval"] = interval
    environment.filters["css"] = css_colour
    template = environment.get_template(TEMPLATE if own is None else own.template)
    write_text_atomically(output, template.render(page=page, own=sections))


def metric_tables(run: AnyRun, baselines: Sequence[AnyRun]) -> tuple[Table, ...]:
    """Return one table per group, with a metric in each row and a run in each column.

    Args:
        run: The run to report on.
        baselines: Other runs on the same items; each is followed by this run's advantage with a paired interval.
    """
    others = [_Baseline(baseline, _advantages(run, baseline)) for baseline in baselines]
    tables = []
    for entry in run.summary.groups.values():
        if not entry.num_expected:
            continue
        headline = run.summary.headline
        rows = []
        for name in sorted(entry.metrics, key=lambda name: name != headline):
            own = entry.metrics[name]
            cells = [name, format_estimate(own), str(own.count)]
            for other in others:
                estimate = find_estimate(other.run.summary.groups.get(entry.name), name)
                cells += [format_estimate(estimate), _signed(other.advantages.get((entry.name, name)))]
            rows.append(TableRow(tuple(cells)))
        headings = ["Metric", run.name, "counted"]
        for other in others:
            headings += [other.run.name, "this run above it"]
        name = "All metrics" if entry.name == ALL else entry.name
        note = (
            f"Percent, with 95% intervals of a bootstrap over images; {entry.num_expected} {run.task.WORDS.items}, "
            f"{entry.num_failed} failed. {' '.join(f'{line}.' for line in run.summary.notes)}"
        )
        tables.append(Table(name, (ColumnGroup("", tuple(headings)),), tuple(rows), note.strip()))
    return tuple(tables)


@dataclass(frozen=True)
class _Baseline:
    """Another run, and the advantage of the report's run over it by group and metric."""

    run: AnyRun
    advantages: Mapping[tuple[str, str], Estimate]


def _advantages(run: AnyRun, baseline: AnyRun) -> dict[tuple[str, str], Estimate]:
    before: Sequence[Group] = tuple(baseline.task.groups(baseline.records))
    after: Sequence[Group] = tuple(run.task.groups(run.records))
    seed = run.config.seed
    return {(entry.group, entry.metric): entry.difference for entry in compare_groups(before, after, (), seed)}


def _make_page(  # noqa: PLR0917
    run: AnyRun,
    baselines: Sequence[AnyRun],
    training_metrics: Sequence[Path],
    items: CaseItems,
    browser: Browser,
    has_own: bool,
) -> ReportPage:
    words = run.task.WORDS
    generator = np.random.default_rng(run.config.seed)
    groups = tuple(
        CaseGroup(
            title,
            CASE_EXPLANATIONS[title].format(items=words.items, quality=words.quality_of or words.quality),
            tuple(draw_case(run, record, items.by_id.get(record.item_id)) for record in records),
        )
        for title, records in choose_cases(run, NUM_CASES, generator)
    )
    return ReportPage(
        run=run,
        words=words,
        protocol="" if has_own else run.summary.protocol,
        tiles=() if has_own else _tiles(run),
        results=() if has_own else (*metric_tables(run, baselines), *further_tables(run)),
        paper_tables=tuple(
            split_rows(
                table.render([run, *baselines] if table.is_automatic else [run], PAPER_STYLE), _paper_warning(run)
            )
            for table in tables_of(run)
        ),
        bars=() if has_own else tuple(_headline_bars(run, baselines)),
        has_baselines=bool(baselines),
        charts=tuple(
            TrainingChart(curves.title, Markup(draw_curves(curves)))  # noqa: S704  (matplotlib's own SVG)
            for curves in (read_curves(path) for path in _metrics_files(run, training_metrics))
            if curves.losses
        ),
        case_groups=tuple(group for group in groups if group.cases),
        case_problem=items.problem,
        browser=browser,
        failures=_failures(run),
        overlap=". ".join((overlap_line(run.summary.provenance), *imported_lines(run.summary.provenance))),
        provenance=json.dumps(dict(run.summary.provenance), indent=2, ensure_ascii=False),
    )


def _headline_bars(run: AnyRun, baselines: Sequence[AnyRun]) -> list[BarPanel]:
    panel = metric_panel(run, baselines, run.summary.headline, run.summary.headline)
    return [] if panel is None else [panel]


def _paper_warning(run: AnyRun) -> str:
    """Say whether the run compares with quoted rows."""
    if run.summary.benchmark == BENCHMARK:
        return partonomy_report.quoted_warning(run)
    return (
        "Measured by the papers' authors. They compare only with runs on the complete published split under the same "
        "protocol."
    )


def _tiles(run: AnyRun) -> tuple[Tile, ...]:
    """Return the headline and the metrics after it for the first group that has them."""
    headline = run.summary.headline
    for entry in run.summary.groups.values():
        names = [name for name in sorted(entry.metrics, key=lambda name: name != headline) if entry.metrics[name].count]
        if names:
            suffix = "" if entry.name == ALL else f", {entry.name}"
            shown = [(name, entry.metrics[name]) for name in names[:NUM_TILES]]
            return tuple(Tile(f"{name}{suffix}", percent(one), interval(one)) for name, one in shown)
    return ()


def _failures(run: AnyRun) -> tuple[Failure, ...]:
    """Return each group's most frequent reasons and one line for the rest, as each lost image has its own reason."""
    failures = []
    for entry in run.summary.groups.values():
        name = run.task.WORDS.items if entry.name == ALL else entry.name
        reasons = list(entry.reasons.items())
        is_failure = entry.num_failed > 0
        failures += [Failure(name, reason, count, is_failure) for reason, count in reasons[:MAX_REASONS]]
        rest = reasons[MAX_REASONS:]
        if rest:
            text = f"{len(rest)} more reasons, see summary.json"
            failures.append(Failure(name, text, sum(count for _, count in rest), is_failure))
    return tuple(failures)


def _metrics_files(run: AnyRun, given: Sequence[Path]) -> tuple[Path, ...]:
    """Find metrics files; given ones must exist, recorded ones (option `training_metrics`) may have been deleted."""
    if given:
        return tuple(given)
    named = str(run.config.options.get("training_metrics", "")).split(",")
    recorded = tuple(Path(path) for path in named if path and Path(path).is_file())
    checkpoint = run.config.model.checkpoint
    return recorded if recorded or checkpoint is None else find_metrics(Path(checkpoint))


def _signed(difference: Estimate | None) -> str:
    """Format a difference in percentage points with its interval."""
    if difference is None or difference.value is None or difference.low is None or difference.high is None:
        return "–"
    value, low, high = (f"{100 * one:+.1f}" for one in (difference.value, difference.low, difference.high))
    return f"{value} [{low}, {high}]"
