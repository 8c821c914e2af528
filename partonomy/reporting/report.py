"""One self-contained HTML page about a run: tables, intervals, loss curves, cases, breakdowns, provenance."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup

from partonomy.benchmarks.partonomy.metrics import (
    PROTOCOL_METRICS,
    MetricProtocol,
    accuracy_name,
    metric_names,
    metric_of,
    metric_ratios,
    unsupported_capabilities,
)
from partonomy.benchmarks.partonomy.records import Capability, QuestionRecord
from partonomy.benchmarks.partonomy.steps import Subject
from partonomy.benchmarks.partonomy.task import PartonomyOptions
from partonomy.files import write_text_atomically
from partonomy.harness.provenance import overlap_line
from partonomy.harness.summary import GroupSummary
from partonomy.metrics.bootstrap import Estimate, paired_differences
from partonomy.metrics.multiple_choice import Selector
from partonomy.reporting.blind_tables import BlindReport, report_on_run, run_table
from partonomy.reporting.breakdown import BreakdownRow, by_object, by_part
from partonomy.reporting.cases import BEST, RANDOM, WORST, CaseGroup, choose_cases, load_case_questions, make_case
from partonomy.reporting.loaded_run import LoadedRun, random_objects, random_parts
from partonomy.reporting.loss_curves import draw_curves, find_metrics, read_curves
from partonomy.reporting.overview import MAX_REASONS
from partonomy.reporting.paper_tables import PaperTableStyle, segmentation_results, text_results
from partonomy.reporting.quoted_rows import segmentation_table
from partonomy.reporting.tables import format_estimate, length_table
from partonomy.structures import TABLE_TYPES, QuestionType
from partonomy.table_format import Table


@dataclass(frozen=True)
class MetricFamily:
    """Metrics that stand in one table; `headings` are aligned with `metrics`.

    Seven columns of values with intervals are what fits a page of 1,240 pixels. `has_protocols`: whether the run has a
    row under the authors' protocol too.
    """

    title: str
    explanation: str
    metrics: tuple[str, ...]
    headings: tuple[str, ...]
    has_protocols: bool = False


@dataclass(frozen=True)
class ReportCell:
    """A value with its interval, and for another run how much this run is above it; None = not applicable."""

    estimate: Estimate | None
    advantage: Estimate | None = None


@dataclass(frozen=True)
class ReportRow:
    """One model's metrics on one question type."""

    label: str
    kind: str
    cells: tuple[ReportCell, ...]


@dataclass(frozen=True)
class TypeBlock:
    """The rows of one question type."""

    question_type: str
    num_expected: int
    num_failed: int
    rows: tuple[ReportRow, ...]


@dataclass(frozen=True)
class FamilyTable:
    """One family over all question types: those of the paper's tables, in its order, and the others."""

    family: MetricFamily
    blocks: tuple[TypeBlock, ...]
    other_blocks: tuple[TypeBlock, ...]


FAMILIES = (
    MetricFamily(
        "Masks, phrases given",
        "One mask per part phrase of the correct answer, paired by position; a missing prediction scores 0. "
        "This is the protocol of the paper's segmentation tables.",
        ("giou_micro_paired", "giou_macro_paired", "ciou_paired", "giou_micro_hungarian", "giou_micro_union"),
        ("micro-gIoU", "macro-gIoU", "cIoU", "micro-gIoU, Hungarian", "gIoU of unions"),
        has_protocols=True,
    ),
    MetricFamily(
        "Multiple choice",
        "Answer with the highest sequence probability; precision, recall and F1 compare the part names of the chosen "
        "answer with the correct ones. The random row is the exact expectation of a uniform guess.",
        ("parts_accuracy", "parts_precision", "parts_recall", "parts_f1", "objects_accuracy"),
        ("parts acc.", "precision", "recall", "F1", "object acc."),
        has_protocols=True,
    ),
    MetricFamily(
        "Multiple choice by selector",
        "Accuracy when the answer is chosen by the summed log-probability of its tokens (sequence), by their mean, or "
        "by the mean over all tokens of the conversation, which is what the authors' code does.",
        tuple(accuracy_name(subject, selector) for subject in Subject for selector in Selector),
        ("parts: sequence", "answer mean", "conv. mean", "object: sequence", "answer mean", "conv. mean"),
    ),
    MetricFamily(
        "Own answers",
        "The model's own text, tags and masks. Masks are paired with the true ones by position, matched one to one "
        "(Hungarian) or compared as unions; part names are the texts of the tagged spans.",
        (
            "generated_giou_micro_paired",
            "generated_giou_micro_hungarian",
            "generated_giou_micro_union",
            "generated_parts_accuracy",
            "generated_parts_precision",
            "generated_parts_recall",
            "generated_parts_f1",
        ),
        (
            "micro-gIoU, paired",
            "micro-gIoU, Hungarian",
            "gIoU of unions",
            "exact part set",
            "precision",
            "recall",
            "F1",
        ),
    ),
)


def family_tables(run: LoadedRun, baselines: Sequence[LoadedRun]) -> tuple[FamilyTable, ...]:
    """All result tables of a report; types and families without any value are left out.

    Raises:
        ValueError: A baseline was run on other questions.
    """
    for baseline in baselines:
        if baseline.dataset_hash != run.dataset_hash:
            raise ValueError(
                f"baseline {baseline.path} was run on other questions ({baseline.dataset_name}) than {run.path}"
            )
    advantages = [
        {name: _advantages(run, baseline, name) for name, entry in run.summary.groups.items() if entry.num_expected}
        for baseline in baselines
    ]
    others_of = [_Baseline(baseline, entry) for baseline, entry in zip(baselines, advantages, strict=True)]
    tables = []
    for family in FAMILIES:
        names = [
            name
            for name, entry in run.summary.groups.items()
            if any(entry.metrics[metric].count for metric in family.metrics if metric in entry.metrics)
        ]
        in_paper = [kind.value for kind in TABLE_TYPES if kind.value in names]
        main_names = in_paper or names
        others = [name for name in names if name not in main_names]
        blocks = tuple(_type_block(run, others_of, family, name) for name in main_names)
        other_blocks = tuple(_type_block(run, others_of, family, name) for name in others)
        if blocks:
            tables.append(FamilyTable(family, blocks, other_blocks))
    return tuple(tables)


@dataclass(frozen=True)
class _Baseline:
    """Another run, and by question type and metric how much the report's run is above it."""

    run: LoadedRun
    advantages: Mapping[str, Mapping[str, Estimate]]


def _type_block(run: LoadedRun, baselines: Sequence[_Baseline], family: MetricFamily, name: str) -> TypeBlock:
    entry = run.summary.groups[name]
    rows = [ReportRow(run.name, "own", tuple(ReportCell(entry.metrics.get(metric)) for metric in family.metrics))]
    rows += _authors_rows(entry, family)
    for baseline in baselines:
        other = baseline.run.summary.groups.get(name)
        if other is not None and other.num_expected:
            advantages = baseline.advantages[name]
            cells = tuple(ReportCell(other.metrics.get(metric), advantages.get(metric)) for metric in family.metrics)
            rows.append(ReportRow(baseline.run.name, "other", cells))
    expected = _random_row(run.of_type(name), family)
    if expected is not None:
        rows.append(expected)
    if not any(baseline.run.summary.config["model"]["model"] == "oracle" for baseline in baselines):
        rows.append(_oracle_row(name, family))
    return TypeBlock(name, entry.num_expected, entry.num_failed, tuple(rows))


def _authors_rows(entry: GroupSummary, family: MetricFamily) -> list[ReportRow]:
    """The run once more as the authors' code counts, where that was counted."""
    if not family.has_protocols:
        return []
    cells = [
        ReportCell(entry.metrics.get(metric_of(MetricProtocol.AUTHORS, metric)) if metric in PROTOCOL_METRICS else None)
        for metric in family.metrics
    ]
    is_counted = any(cell.estimate is not None and cell.estimate.value is not None for cell in cells)
    return [ReportRow("the same, authors' protocol", "authors", tuple(cells))] if is_counted else []


def _advantages(run: LoadedRun, baseline: LoadedRun, name: str) -> dict[str, Estimate]:
    """Run minus baseline with a paired interval for every metric, where both answered the same questions."""
    mine, others = run.of_type(name), baseline.of_type(name)
    if {record.item_id for record in mine} != {record.item_id for record in others}:
        return {}
    first = metric_ratios(mine, unsupported_capabilities(run.records))
    second = metric_ratios(others, unsupported_capabilities(baseline.records))
    seed = int(run.summary.provenance["seed"])
    shown = {metric for family in FAMILIES for metric in family.metrics}
    metrics = [metric for metric in first if metric in second and metric in shown]
    differences = paired_differences(
        [first[metric] for metric in metrics], [second[metric] for metric in metrics], np.random.default_rng(seed)
    )
    return dict(zip(metrics, differences, strict=True))


def _random_row(records: Sequence[QuestionRecord], family: MetricFamily) -> ReportRow | None:
    parts, objects = random_parts(records), random_objects(records)
    if parts is None or "parts_accuracy" not in family.metrics:
        return None
    values = {"parts_precision": parts.precision, "parts_recall": parts.recall, "parts_f1": parts.f1}
    for selector in Selector:
        values[accuracy_name(Subject.PARTS, selector)] = parts.accuracy
        if objects is not None:
            values[accuracy_name(Subject.OBJECT, selector)] = objects.accuracy
    return ReportRow("random guess (exact expectation)", "bound", _exact_cells(family, values))


def _oracle_row(name: str, family: MetricFamily) -> ReportRow:
    known = [kind for kind in QuestionType if kind.value == name]
    names = metric_names(known[0] if known else None)
    return ReportRow("oracle (by definition)", "bound", _exact_cells(family, dict.fromkeys(names, 1.0)))


def _exact_cells(family: MetricFamily, values: dict[str, float]) -> tuple[ReportCell, ...]:
    return tuple(
        ReportCell(Estimate(values[metric], None, None, 1) if metric in values else None) for metric in family.metrics
    )


NUM_CASES = 6
"""Cases under each heading: what bounds the page's pictures, whatever the size of the run."""
PAPER_STYLE = PaperTableStyle(tuple(MetricProtocol), has_intervals=False)
"""Both protocols; the intervals stand in the result tables, and would make the paper's tables too wide for a page."""
CASE_EXPLANATIONS = {
    RANDOM: "Drawn from all questions, failed ones too; one per image.",
    BEST: "Scored questions of the highest mean IoU over their parts (phrases given); one per image.",
    WORST: "Scored questions of the lowest mean IoU over their parts (phrases given); one per image.",
}


@dataclass(frozen=True)
class Tile:
    """A headline number: `value` in percent, its interval as text, and a guess's percent where it is a choice's."""

    label: str
    value: str
    interval: str
    blind: str


@dataclass(frozen=True)
class TrainingChart:
    """Loss curves of one training run as inline SVG."""

    title: str
    svg: Markup


@dataclass(frozen=True)
class Failure:
    """How often questions of a type failed, or could not be asked, for one reason."""

    question_type: str
    reason: str
    count: int
    is_failure: bool


@dataclass(frozen=True)
class ReportPage:
    """Everything the template shows."""

    run: LoadedRun
    tiles: tuple[Tile, ...]
    families: tuple[FamilyTable, ...]
    lengths: Table
    blind: Table | None
    paper_tables: tuple[Table, ...]
    charts: tuple[TrainingChart, ...]
    case_groups: tuple[CaseGroup, ...]
    case_problem: str
    parts: tuple[BreakdownRow, ...]
    objects: tuple[BreakdownRow, ...]
    failures: tuple[Failure, ...]
    overlap: str
    provenance: str


def write_report(
    run: LoadedRun, baselines: Sequence[LoadedRun], training_metrics: Sequence[Path], output: Path
) -> None:
    """Write the page.

    Args:
        run: The run it is about.
        baselines: Other runs on the same questions, shown as rows with the paired difference.
        training_metrics: metrics.jsonl files; when empty, those that the run recorded, else those at its checkpoint.
        output: HTML file.

    Raises:
        ValueError: A baseline was run on other questions, or a metrics file is damaged.
    """
    page = _make_page(run, baselines, training_metrics)
    environment = Environment(
        loader=PackageLoader("partonomy.reporting", "."),
        autoescape=select_autoescape(default=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = _percent
    environment.filters["interval"] = _interval
    environment.filters["estimate"] = format_estimate
    output.parent.mkdir(parents=True, exist_ok=True)
    write_text_atomically(output, environment.get_template("report.html.j2").render(page=page))


def _make_page(run: LoadedRun, baselines: Sequence[LoadedRun], training_metrics: Sequence[Path]) -> ReportPage:
    runs = [run, *baselines]
    questions = load_case_questions(run)
    generator = np.random.default_rng(int(run.summary.provenance["seed"]))
    groups = tuple(
        CaseGroup(
            title,
            CASE_EXPLANATIONS[title],
            tuple(make_case(record, questions.by_id.get(record.item_id)) for record in records),
        )
        for title, records in choose_cases(run.records, NUM_CASES, generator)
    )
    blind = report_on_run(run)
    has_masks = Capability.MASKS not in unsupported_capabilities(run.records)
    return ReportPage(
        run=run,
        tiles=_tiles(run, blind),
        families=family_tables(run, baselines),
        lengths=length_table(run),
        blind=None if blind is None else run_table(run, blind),
        paper_tables=(
            segmentation_results(runs, segmentation_table(run.dataset_name), PAPER_STYLE),
            text_results(runs, PAPER_STYLE),
        ),
        charts=tuple(
            TrainingChart(curves.title, Markup(draw_curves(curves)))  # noqa: S704  (matplotlib's own SVG)
            for curves in (read_curves(path) for path in _metrics_files(run, training_metrics))
            if curves.losses
        ),
        case_groups=tuple(group for group in groups if group.cases),
        case_problem=questions.problem,
        parts=by_part(run.records, has_masks),
        objects=by_object(run.records, has_masks),
        failures=_failures(run),
        overlap=overlap_line(run.summary.provenance),
        provenance=json.dumps(dict(run.summary.provenance), indent=2, ensure_ascii=False),
    )


def _tiles(run: LoadedRun, blind: BlindReport | None) -> tuple[Tile, ...]:
    """Headline numbers of the first question type that has masks, and of the first that asks for an object."""
    wanted = (
        ("micro-gIoU", "giou_micro_paired"),
        ("macro-gIoU", "giou_macro_paired"),
        ("parts accuracy", "parts_accuracy"),
        ("object accuracy", "objects_accuracy"),
    )
    tiles = []
    entries = sorted(run.summary.groups.values(), key=lambda entry: entry.name != "identification_with_label")
    for label, metric in wanted:
        for entry in entries:
            estimate = entry.metrics.get(metric)
            if estimate is not None and estimate.value is not None:
                guess = None if blind is None else blind.central_choice(entry.name, metric)
                guessed = "" if guess is None else _percent(guess)
                tiles.append(Tile(f"{label}, {entry.name}", _percent(estimate), _interval(estimate), guessed))
                break
    return tuple(tiles)


def _failures(run: LoadedRun) -> tuple[Failure, ...]:
    """The most frequent reasons of each type; the others in one line: every lost image has a reason of its own."""
    failures = []
    for entry in run.summary.groups.values():
        reasons = list(entry.reasons.items())
        is_failure = entry.num_failed > 0
        failures += [Failure(entry.name, reason, count, is_failure) for reason, count in reasons[:MAX_REASONS]]
        rest = reasons[MAX_REASONS:]
        if rest:
            text = f"{len(rest)} more reasons, see summary.json"
            failures.append(Failure(entry.name, text, sum(count for _, count in rest), is_failure))
    return tuple(failures)


def _metrics_files(run: LoadedRun, given: Sequence[Path]) -> tuple[Path, ...]:
    """Given files must exist; recorded ones may be gone with the training run."""
    if given:
        return tuple(given)
    config = run.summary.provenance["config"]
    recorded = tuple(
        Path(path)
        for path in PartonomyOptions(training_metrics=config["options"]["training_metrics"]).training_metrics_files
        if Path(path).is_file()
    )
    if recorded or config["model"]["checkpoint"] is None:
        return recorded
    return find_metrics(Path(config["model"]["checkpoint"]))


def _percent(estimate: Estimate | None) -> str:
    return "–" if estimate is None or estimate.value is None else f"{100 * estimate.value:.1f}"


def _interval(estimate: Estimate | None) -> str:
    if estimate is None or estimate.low is None or estimate.high is None:
        return ""
    return f"{100 * estimate.low:.1f} to {100 * estimate.high:.1f}"
