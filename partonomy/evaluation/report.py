"""One self-contained HTML page about a run: tables, intervals, loss curves, cases, breakdowns, provenance."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup

from partonomy.evaluation.aggregate import unsupported_capabilities
from partonomy.evaluation.blind_tables import BlindReport, report_on_run, run_table
from partonomy.evaluation.breakdown import BreakdownRow, by_object, by_part
from partonomy.evaluation.cases import BEST, RANDOM, WORST, CaseGroup, choose_cases, load_case_questions, make_case
from partonomy.evaluation.files import write_text_atomically
from partonomy.evaluation.loaded_run import LoadedRun
from partonomy.evaluation.loss_curves import draw_curves, find_metrics, read_curves
from partonomy.evaluation.paper_tables import PaperTableStyle, segmentation_results, text_results
from partonomy.evaluation.protocols import MetricProtocol
from partonomy.evaluation.records import Capability
from partonomy.evaluation.reference import segmentation_table
from partonomy.evaluation.report_tables import FamilyTable, family_tables
from partonomy.evaluation.table_format import Table
from partonomy.evaluation.tables import MAX_REASONS, format_estimate, length_table
from partonomy.evaluation.training_overlap import overlap_line
from partonomy.metrics.bootstrap import Estimate

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
        loader=PackageLoader("partonomy", "evaluation"),
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
            tuple(make_case(record, questions.by_id.get(record.question_id)) for record in records),
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
    entries = sorted(run.summary.question_types.values(), key=lambda entry: entry.name != "identification_with_label")
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
    for entry in run.summary.question_types.values():
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
    recorded = tuple(Path(path) for path in config["training_metrics"] if Path(path).is_file())
    if recorded or config["checkpoint"] is None:
        return recorded
    return find_metrics(Path(config["checkpoint"]))


def _percent(estimate: Estimate | None) -> str:
    return "–" if estimate is None or estimate.value is None else f"{100 * estimate.value:.1f}"


def _interval(estimate: Estimate | None) -> str:
    if estimate is None or estimate.low is None or estimate.high is None:
        return ""
    return f"{100 * estimate.low:.1f} to {100 * estimate.high:.1f}"
