"""Report sections of Partonomy: metrics by family, blind guesses, accuracy by length, parts and objects."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

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
from partonomy.benchmarks.partonomy.showing import length_table
from partonomy.harness.summary import GroupSummary
from partonomy.metrics.bootstrap import Estimate, paired_differences
from partonomy.metrics.multiple_choice import Selector
from partonomy.reporting.blind_tables import BlindReport, report_on_run, run_table
from partonomy.reporting.breakdown import BreakdownRow, by_object, by_part
from partonomy.reporting.paper_tables.partonomy_tables import (
    TABLE_SUBSETS,
    TEXT_TABLE,
    PartonomyTable,
    QuestionRun,
    random_objects,
    random_parts,
    segmentation_metrics,
    segmentation_table,
)
from partonomy.reporting.report_bars import GUESS, Bar, BarPanel, metric_panel, quoted_groups
from partonomy.reporting.report_parts import Tile, interval, percent
from partonomy.structures import TABLE_TYPES, QuestionType, Subject
from partonomy.table_format import Table

TEMPLATE = "partonomy_report.html.j2"
PAPER_MODEL = ("PLUM-13B", "PLUM-13B (ft)", "PLUM", "PLUM (ft)")
"""Rows of the paper next to the bars, as tables 2, 9 to 11 and 3 print the names."""


@dataclass(frozen=True)
class MetricFamily:
    """The metrics of one table; `headings` are aligned with `metrics`.

    A page of 1,240 pixels fits seven columns of values with intervals. `has_protocols` says whether the run also has a
    row under the authors' protocol.
    """

    title: str
    explanation: str
    metrics: tuple[str, ...]
    headings: tuple[str, ...]
    has_protocols: bool = False


@dataclass(frozen=True)
class ReportCell:
    """A value with its interval and, for another run, this run's advantage over it; None if not applicable."""

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
    """One family over all question types: those of the paper's tables in the paper's order, then the others."""

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


def family_tables(run: QuestionRun, baselines: Sequence[QuestionRun]) -> tuple[FamilyTable, ...]:
    """Return all result tables of a report without types and families that have no value.

    Args:
        run: The run to report on.
        baselines: Other runs on the same questions.
    """
    advantages = [_advantages(run, baseline) for baseline in baselines]
    random_of = {name: _random_values(run.of_group(name)) for name in run.summary.groups}
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
        blocks = tuple(_type_block(run, others_of, family, name, random_of[name]) for name in main_names)
        other_blocks = tuple(_type_block(run, others_of, family, name, random_of[name]) for name in others)
        if blocks:
            tables.append(FamilyTable(family, blocks, other_blocks))
    return tuple(tables)


@dataclass(frozen=True)
class _Baseline:
    """Another run, and the advantage of the report's run over it by question type and metric."""

    run: QuestionRun
    advantages: Mapping[str, Mapping[str, Estimate]]


def _type_block(
    run: QuestionRun,
    baselines: Sequence[_Baseline],
    family: MetricFamily,
    name: str,
    random_values: Mapping[str, float],
) -> TypeBlock:
    entry = run.summary.groups[name]
    rows = [ReportRow(run.name, "own", tuple(ReportCell(entry.metrics.get(metric)) for metric in family.metrics))]
    rows += _authors_rows(entry, family)
    for baseline in baselines:
        other = baseline.run.summary.groups.get(name)
        if other is not None and other.num_expected:
            advantages = baseline.advantages[name]
            cells = tuple(ReportCell(other.metrics.get(metric), advantages.get(metric)) for metric in family.metrics)
            rows.append(ReportRow(baseline.run.name, "other", cells))
    if random_values and "parts_accuracy" in family.metrics:
        rows.append(ReportRow("random guess (exact expectation)", "bound", _exact_cells(family, random_values)))
    if not any(baseline.run.summary.config["model"]["model"] == "oracle" for baseline in baselines):
        rows.append(_oracle_row(name, family))
    return TypeBlock(name, entry.num_expected, entry.num_failed, tuple(rows))


def _authors_rows(entry: GroupSummary, family: MetricFamily) -> list[ReportRow]:
    """Return the run's row under the authors' protocol, if it was counted."""
    if not family.has_protocols:
        return []
    cells = [
        ReportCell(entry.metrics.get(metric_of(MetricProtocol.AUTHORS, metric)) if metric in PROTOCOL_METRICS else None)
        for metric in family.metrics
    ]
    is_counted = any(cell.estimate is not None and cell.estimate.value is not None for cell in cells)
    return [ReportRow("the same, authors' protocol", "authors", tuple(cells))] if is_counted else []


def _advantages(run: QuestionRun, baseline: QuestionRun) -> dict[str, dict[str, Estimate]]:
    """Return run minus baseline with a paired interval for every question type and metric that both answered."""
    unsupported = unsupported_capabilities(run.records), unsupported_capabilities(baseline.records)
    shown = {metric for family in FAMILIES for metric in family.metrics}
    advantages: dict[str, dict[str, Estimate]] = {}
    for name in (name for name, entry in run.summary.groups.items() if entry.num_expected):
        mine, others = run.of_group(name), baseline.of_group(name)
        if {record.item_id for record in mine} != {record.item_id for record in others}:
            advantages[name] = {}
            continue
        first, second = metric_ratios(mine, unsupported[0]), metric_ratios(others, unsupported[1])
        metrics = [metric for metric in first if metric in second and metric in shown]
        differences = paired_differences(
            [first[metric] for metric in metrics],
            [second[metric] for metric in metrics],
            np.random.default_rng(run.config.seed),
        )
        advantages[name] = dict(zip(metrics, differences, strict=True))
    return advantages


def _random_values(records: Sequence[QuestionRecord]) -> dict[str, float]:
    """Return a uniform guess's expected scores by metric; none if no parts were asked for."""
    parts, objects = random_parts(records), random_objects(records)
    if parts is None:
        return {}
    values = {"parts_precision": parts.precision, "parts_recall": parts.recall, "parts_f1": parts.f1}
    for selector in Selector:
        values[accuracy_name(Subject.PARTS, selector)] = parts.accuracy
        if objects is not None:
            values[accuracy_name(Subject.OBJECT, selector)] = objects.accuracy
    return values


def _oracle_row(name: str, family: MetricFamily) -> ReportRow:
    known = [kind for kind in QuestionType if kind.value == name]
    names = metric_names(known[0] if known else None)
    return ReportRow("oracle (by definition)", "bound", _exact_cells(family, dict.fromkeys(names, 1.0)))


def _exact_cells(family: MetricFamily, values: Mapping[str, float]) -> tuple[ReportCell, ...]:
    return tuple(
        ReportCell(Estimate(values[metric], None, None, 1) if metric in values else None) for metric in family.metrics
    )


@dataclass(frozen=True)
class PartonomySections:
    """The template's content in addition to the sections of every benchmark."""

    tiles: tuple[Tile, ...]
    bars: tuple[BarPanel, ...]
    families: tuple[FamilyTable, ...]
    lengths: Table
    blind: Table | None
    parts: tuple[BreakdownRow, ...]
    objects: tuple[BreakdownRow, ...]


def make_sections(run: QuestionRun, baselines: Sequence[QuestionRun]) -> PartonomySections:
    """Compute the content of Partonomy's sections."""
    blind = report_on_run(run)
    has_masks = Capability.MASKS not in unsupported_capabilities(run.records)
    return PartonomySections(
        tiles=partonomy_tiles(run, blind),
        bars=partonomy_bars(run, baselines, blind),
        families=family_tables(run, baselines),
        lengths=length_table(run.records),
        blind=None if blind is None else run_table(run, blind),
        parts=by_part(run.records, has_masks),
        objects=by_object(run.records, has_masks),
    )


def partonomy_bars(
    run: QuestionRun, baselines: Sequence[QuestionRun], blind: BlindReport | None
) -> tuple[BarPanel, ...]:
    """Return the bars of masks and of the choice of parts by question type, with the paper's own model apart.

    Args:
        run: The run.
        baselines: Other runs on the same questions.
        blind: Guesses from the choices alone; None if the run asked for no choices.
    """
    segmentation = segmentation_metrics(run)[0]
    panels = (
        ("Masks: micro-gIoU", segmentation, segmentation_table(run.dataset_name)),
        ("Choice of parts: accuracy", "parts_accuracy", TEXT_TABLE),
    )
    kinds = [kind.value for kind in TABLE_TYPES]
    made = []
    for title, metric, number in panels:
        guesses = {
            name: _guesses(run, name, blind) if metric == "parts_accuracy" else () for name in run.summary.groups
        }
        panel = metric_panel(run, baselines, title, metric, guesses, kinds)
        if panel is not None:
            groups = quoted_groups(PartonomyTable(number), metric, PAPER_MODEL, kinds)
            made.append(dataclasses.replace(panel, quoted=tuple(groups), quoted_note=quoted_warning(run)))
    return tuple(made)


def quoted_warning(run: QuestionRun) -> str:
    """Say on what the paper's rows were measured; the name of a question set does not prove that it is the paper's."""
    subset = TABLE_SUBSETS[segmentation_table(run.dataset_name)]
    if subset == TABLE_SUBSETS[TEXT_TABLE] and "core" in run.dataset_name.lower():
        return (
            f"The paper measured on {subset}. This run is on {run.dataset_name}: comparable only if these are the "
            "published questions."
        )
    if subset == TABLE_SUBSETS[TEXT_TABLE]:
        return f"Other data: not comparable. The paper measured on {subset}, this run on {run.dataset_name}."
    return (
        f"The paper measured segmentation on {subset} and text on {TABLE_SUBSETS[TEXT_TABLE]}. This run is on "
        f"{run.dataset_name}: segmentation is comparable only if these are the published questions; text is not."
    )


def _guesses(run: QuestionRun, name: str, blind: BlindReport | None) -> tuple[Bar, ...]:
    """Return a uniform guess and the guess from the choices alone on one question type."""
    bars = []
    values = _random_values(run.of_group(name))
    if "parts_accuracy" in values:
        bars.append(Bar("random guess (exact)", GUESS, values["parts_accuracy"]))
    guess = None if blind is None else blind.central_choice(name, "parts_accuracy")
    if guess is not None and guess.value is not None:
        bars.append(Bar("blind: choices alone", GUESS, guess.value, guess.low, guess.high))
    return tuple(bars)


def partonomy_tiles(run: QuestionRun, blind: BlindReport | None) -> tuple[Tile, ...]:
    """Return the headline numbers of the first question type with masks and of the first that asks for an object."""
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
                guessed = "" if guess is None else percent(guess)
                tiles.append(Tile(f"{label}, {entry.name}", percent(estimate), interval(estimate), guessed))
                break
    return tuple(tiles)
