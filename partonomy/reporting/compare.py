"""Compares two runs on the same questions: paired differences with intervals, and outcomes that changed."""

import csv
import io
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np

from partonomy.benchmarks.partonomy.metrics import metric_names, metric_ratios, unsupported_capabilities
from partonomy.benchmarks.partonomy.records import Capability, ChoiceRecord, QuestionRecord
from partonomy.benchmarks.partonomy.steps import Subject
from partonomy.files import write_text_atomically
from partonomy.metrics.bootstrap import Estimate, ImageRatio, paired_differences
from partonomy.metrics.multiple_choice import DEFAULT_SELECTOR
from partonomy.reporting.breakdown import mean_paired_iou
from partonomy.reporting.loaded_run import LoadedRun
from partonomy.structures import QuestionType
from partonomy.table_format import ColumnGroup, Table, TableFormat, TableRow, format_percent, render_table


class Outcome(StrEnum):
    """A multiple-choice question under the first and the second run."""

    BOTH_RIGHT = "both right"
    LOST = "right -> wrong"
    GAINED = "wrong -> right"
    BOTH_WRONG = "both wrong"


@dataclass(frozen=True)
class RecordPair:
    """The records of one question in the first and in the second run."""

    first: QuestionRecord
    second: QuestionRecord

    def requested(self, capability: Capability) -> bool:
        """Whether both runs asked this of their model."""
        return capability in self.first.requested and capability in self.second.requested


@dataclass(frozen=True)
class ChoiceChange:
    """A multiple-choice question: the names in the correct answer and in either run's choice.

    `first` and `second` are empty where the question failed.
    """

    question_id: str
    question_type: str
    image_path: str
    object_label: str
    subject: Subject
    outcome: Outcome
    correct: tuple[str, ...]
    first: tuple[str, ...]
    second: tuple[str, ...]


@dataclass(frozen=True)
class IouChange:
    """The mean paired IoU over a question's parts in either run, missing masks as 0."""

    question_id: str
    question_type: str
    image_path: str
    object_label: str
    first: float
    second: float

    @property
    def change(self) -> float:
        """Second minus first."""
        return self.second - self.first


def type_name(record: QuestionRecord) -> str:
    """The record's question type as a summary names it."""
    return record.group


def choice_changes(pairs: Sequence[RecordPair]) -> tuple[ChoiceChange, ...]:
    """The multiple-choice questions that both runs asked, in order, also those that did not flip."""
    changes = []
    for pair in pairs:
        if not pair.requested(Capability.CHOICES):
            continue
        record = pair.first
        for subject in Subject:
            before, after = _choice(pair.first, subject), _choice(pair.second, subject)
            if before is None or after is None:  # an unreadable question, or a type without object question
                continue
            changes.append(
                ChoiceChange(
                    record.item_id,
                    type_name(record),
                    record.image_path,
                    record.object_label,
                    subject,
                    _outcome(_is_right(before), _is_right(after)),
                    before.labels[before.correct_index],
                    _chosen(before),
                    _chosen(after),
                )
            )
    return tuple(changes)


def iou_changes(pairs: Sequence[RecordPair]) -> tuple[IouChange, ...]:
    """The questions whose mean paired IoU differs, largest change first."""
    changes = []
    for pair in pairs:
        record = pair.first
        if not pair.requested(Capability.MASKS) or not record.true_parts:
            continue
        before, after = mean_paired_iou(pair.first), mean_paired_iou(pair.second)
        if before != after:
            kind, path = type_name(record), record.image_path
            changes.append(IouChange(record.item_id, kind, path, record.object_label, before, after))
    return tuple(sorted(changes, key=lambda entry: (-abs(entry.change), entry.question_id)))


def _choice(record: QuestionRecord, subject: Subject) -> ChoiceRecord | None:
    return record.parts_choice if subject is Subject.PARTS else record.object_choice


def _is_right(choice: ChoiceRecord) -> bool:
    return choice.selection is not None and choice.selection.index(DEFAULT_SELECTOR) == choice.correct_index


def _chosen(choice: ChoiceRecord) -> tuple[str, ...]:
    return () if choice.selection is None else choice.labels[choice.selection.index(DEFAULT_SELECTOR)]


def _outcome(was_right: bool, is_right: bool) -> Outcome:
    if was_right:
        return Outcome.BOTH_RIGHT if is_right else Outcome.LOST
    return Outcome.GAINED if is_right else Outcome.BOTH_WRONG


DEFAULT_METRICS = (
    "giou_micro_paired",
    "giou_macro_paired",
    "parts_accuracy",
    "objects_accuracy",
    "generated_parts_f1",
)
KNOWN_METRICS = frozenset(metric_names(QuestionType.WHOLE_TO_PART))
"""Every metric of a summary: the part-whole types have them all."""
_MAX_NAMED = 3
"""Differing questions named in an error."""


@dataclass(frozen=True)
class MetricDifference:
    """One metric of one question type under two runs.

    Attributes:
        question_type: Key of the summary.
        metric: Name of the metric.
        first: Its value in the first run, None where nothing was counted.
        second: In the second.
        difference: Second minus first with its 95% interval; `count` is the number of images.
    """

    question_type: str
    metric: str
    first: float | None
    second: float | None
    difference: Estimate

    @property
    def excludes_zero(self) -> bool | None:
        """Whether the interval lies on one side of 0; None where nothing can be compared."""
        if self.difference.low is None or self.difference.high is None:
            return None
        return self.difference.low > 0 or self.difference.high < 0


@dataclass(frozen=True)
class Comparison:
    """What `compare` finds.

    Attributes:
        first: Name of the first run.
        second: Name of the second run.
        differences: Per question type that both runs asked, and metric.
        choices: Every multiple-choice question that both runs asked, also those that did not flip.
        iou_changes: Questions whose mean paired IoU differs, largest change first.
        only_first: Question types that only the first run asked.
        only_second: Those that only the second run asked.
        warnings: Settings that differ between the runs.
    """

    first: str
    second: str
    differences: tuple[MetricDifference, ...]
    choices: tuple[ChoiceChange, ...]
    iou_changes: tuple[IouChange, ...]
    only_first: tuple[str, ...]
    only_second: tuple[str, ...]
    warnings: tuple[str, ...]

    @property
    def flips(self) -> tuple[ChoiceChange, ...]:
        """The multiple-choice questions that only one run answered correctly."""
        return tuple(choice for choice in self.choices if choice.outcome in (Outcome.LOST, Outcome.GAINED))


@dataclass(frozen=True)
class _RatioPair:
    """Every metric of one question type in either run, as sums over the same images."""

    first: Mapping[str, ImageRatio]
    second: Mapping[str, ImageRatio]


def compare_runs(first: LoadedRun, second: LoadedRun, metrics: Sequence[str], seed: int) -> Comparison:
    """Compare the second run with the first, from their records.

    Args:
        first: The run to start from.
        second: The other one; differences are second minus first.
        metrics: Names of metrics.
        seed: Of the bootstrap over images. Each type is resampled from it, with the same resamples for both runs and
            for every metric.

    Raises:
        ValueError: A metric is unknown, or the runs were not asked the same questions.
    """
    unknown = sorted(set(metrics) - KNOWN_METRICS)
    if unknown:
        raise ValueError(f"unknown metric {', '.join(unknown)}; known: {', '.join(sorted(KNOWN_METRICS))}")
    if first.dataset_hash != second.dataset_hash:
        raise ValueError(
            f"the runs were asked other questions: {first.path} those of {first.dataset_name} "
            f"({first.dataset_hash[:12]}), {second.path} those of {second.dataset_name} ({second.dataset_hash[:12]})"
        )
    mine, others = _by_type(first.records), _by_type(second.records)
    pairs = {name: _pair_up(name, first, second, mine[name], others[name]) for name in mine if name in others}
    every_pair = [pair for group in pairs.values() for pair in group]
    refused_first, refused_second = (unsupported_capabilities(run.records) for run in (first, second))
    refused = refused_first | refused_second
    ratios = {
        name: _RatioPair(
            metric_ratios([pair.first for pair in group], refused_first),
            metric_ratios([pair.second for pair in group], refused_second),
        )
        for name, group in pairs.items()
    }
    return Comparison(
        first.name,
        second.name,
        tuple(entry for name in pairs for entry in _differences(name, ratios[name], metrics, seed)),
        () if Capability.CHOICES in refused else choice_changes(every_pair),
        () if Capability.MASKS in refused else iou_changes(every_pair),
        tuple(name for name in mine if name not in others),
        tuple(name for name in others if name not in mine),
        _warnings(first, second),
    )


def _by_type(records: Sequence[QuestionRecord]) -> dict[str, list[QuestionRecord]]:
    groups: dict[str, list[QuestionRecord]] = {}
    for record in records:
        groups.setdefault(type_name(record), []).append(record)
    return groups


def _pair_up(
    name: str, first: LoadedRun, second: LoadedRun, mine: Sequence[QuestionRecord], others: Sequence[QuestionRecord]
) -> list[RecordPair]:
    """The records of one type by question, in the order of the first run.

    Raises:
        ValueError: One run has a question that the other has not, or places it in another image.
    """
    by_id = {record.item_id: record for record in others}
    known = {record.item_id for record in mine}
    for run, missing in (
        (first, [record.item_id for record in mine if record.item_id not in by_id]),
        (second, [question_id for question_id in by_id if question_id not in known]),
    ):
        if missing:
            more = f" and {len(missing) - _MAX_NAMED} more" if len(missing) > _MAX_NAMED else ""
            raise ValueError(
                f"the runs were asked other questions: of type {name}, {run.path} alone has "
                f"{', '.join(missing[:_MAX_NAMED])}{more}; was the other run with another --limit, or "
                "without some images (its summary.json counts the reasons)?"
            )
    pairs = [RecordPair(record, by_id[record.item_id]) for record in mine]
    moved = [pair.first.item_id for pair in pairs if pair.first.image_id != pair.second.image_id]
    if moved:
        raise ValueError(f"question {moved[0]} of type {name} is about another image in {second.path}")
    return pairs


def _differences(name: str, ratios: _RatioPair, metrics: Sequence[str], seed: int) -> list[MetricDifference]:
    before, after = ratios.first, ratios.second
    names = [metric for metric in metrics if metric in before and metric in after]
    differences = paired_differences(
        [after[metric] for metric in names], [before[metric] for metric in names], np.random.default_rng(seed)
    )
    return [
        MetricDifference(name, metric, before[metric].value, after[metric].value, difference)
        for metric, difference in zip(names, differences, strict=True)
    ]


def _warnings(first: LoadedRun, second: LoadedRun) -> tuple[str, ...]:
    """Settings that change what a number means."""
    settings = {
        "protocol version": (first.summary.protocol_version, second.summary.protocol_version),
        "first answer of part-whole questions (--part_whole)": (
            first.summary.provenance["config"]["options"]["part_whole"],
            second.summary.provenance["config"]["options"]["part_whole"],
        ),
    }
    return tuple(
        f"the runs differ in the {name}: {before} and {after}"
        for name, (before, after) in settings.items()
        if before != after
    )


OUTPUT_SUFFIXES = (".json", ".csv")
_IOU_CHANGE = "iou"
_CSV_COLUMNS = (
    "change",
    "question_id",
    "question_type",
    "image_path",
    "object_label",
    "subject",
    "correct",
    "run_a",
    "run_b",
)


def render_comparison(comparison: Comparison, num_shown: int) -> str:
    """Differences, counts of outcomes, and the first flips and largest IoU changes, as text.

    Args:
        comparison: What to print.
        num_shown: How many of each kind of change to list; the rest are counted.
    """
    lost = [flip for flip in comparison.flips if flip.outcome is Outcome.LOST]
    gained = [flip for flip in comparison.flips if flip.outcome is Outcome.GAINED]
    sections = [render_table(_difference_table(comparison), TableFormat.TEXT)]
    if comparison.choices:
        sections.append(render_table(_outcome_table(comparison), TableFormat.TEXT))
        sections += [_flip_list(Outcome.LOST, lost, num_shown), _flip_list(Outcome.GAINED, gained, num_shown)]
    sections.append(render_table(_iou_table(comparison, num_shown), TableFormat.TEXT))
    lines = [f"A: {comparison.first}", f"B: {comparison.second}", *(f"note: {text}" for text in comparison.warnings)]
    for name, types in (("A", comparison.only_first), ("B", comparison.only_second)):
        if types:
            lines.append(f"note: asked in {name} alone and not compared: {', '.join(types)}")
    return "\n\n".join(["\n".join(lines), *sections]) + "\n"


def write_comparison(comparison: Comparison, output: Path) -> None:
    """Write differences and all changes (.json), or one line per changed question (.csv).

    Raises:
        ValueError: Another suffix.
    """
    check_output(output)
    text = _to_json(comparison) if output.suffix == ".json" else _to_csv(comparison)
    output.parent.mkdir(parents=True, exist_ok=True)
    write_text_atomically(output, text)


def check_output(output: Path) -> None:
    """Refuse a name that tells no format.

    Raises:
        ValueError: It ends neither in .json nor in .csv.
    """
    if output.suffix not in OUTPUT_SUFFIXES:
        raise ValueError(f"{output}: give a name that ends in {' or '.join(OUTPUT_SUFFIXES)}")


def _difference_table(comparison: Comparison) -> Table:
    rows = [
        TableRow(
            (
                entry.metric,
                format_percent(entry.first),
                format_percent(entry.second),
                _signed(entry.difference.value),
                _interval(entry),
                {True: "yes", False: "no", None: "-"}[entry.excludes_zero],
                str(entry.difference.count) if entry.difference.value is not None else "-",
            ),
            entry.question_type,
        )
        for entry in comparison.differences
    ]
    return Table(
        "B minus A (percentage points), with the 95% interval of a paired bootstrap over images",
        (ColumnGroup("", ("Metric", "A", "B", "B - A", "95% interval", "excludes 0", "images")),),
        tuple(rows),
        "A dash: one of the runs has no such number. An interval that excludes 0 is a difference at the 5% level for "
        "that line alone; of 20 such lines one does so by chance.",
    )


def _outcome_table(comparison: Comparison) -> Table:
    counts = Counter((choice.question_type, choice.subject, choice.outcome) for choice in comparison.choices)
    keys = dict.fromkeys((choice.question_type, choice.subject) for choice in comparison.choices)
    rows = [
        TableRow((kind, subject.value, *(str(counts[kind, subject, outcome]) for outcome in Outcome)))
        for kind, subject in keys
    ]
    return Table(
        "Multiple-choice questions by outcome in A -> B (a failed question is wrong)",
        (ColumnGroup("", ("Question type", "asked for", *(outcome.value for outcome in Outcome))),),
        tuple(rows),
    )


def _flip_list(outcome: Outcome, flips: Sequence[ChoiceChange], num_shown: int) -> str:
    """The first flips; the wrong choice is printed as what it has beyond the correct one, and what it lacks."""
    run = "B" if outcome is Outcome.LOST else "A"
    lines = [f"{outcome.value}: {len(flips)} questions"]
    for flip in flips[:num_shown]:
        chosen = flip.second if outcome is Outcome.LOST else flip.first
        lines.append(f"  {flip.question_id} ({flip.subject}; {flip.object_label}): {', '.join(flip.correct)}")
        lines.append(f"    {run} chose: {_wrong_choice(flip.correct, chosen)}")
    return "\n".join([*lines, *_rest(len(flips), num_shown)])


def _wrong_choice(correct: Sequence[str], chosen: Sequence[str]) -> str:
    if not chosen:
        return "nothing, it failed"
    added = [f"+ {name}" for name in chosen if name not in correct]
    missing = [f"- {name}" for name in correct if name not in chosen]
    return ", ".join([*added, *missing])


def _iou_table(comparison: Comparison, num_shown: int) -> Table:
    rows = [
        TableRow(
            (
                entry.question_id,
                entry.object_label,
                format_percent(entry.first),
                format_percent(entry.second),
                _signed(entry.change),
            )
        )
        for entry in comparison.iou_changes[:num_shown]
    ]
    return Table(
        f"Mean IoU of the parts (phrases given, %) differs on {len(comparison.iou_changes)} questions; largest change",
        (ColumnGroup("", ("Question", "object", "A", "B", "B - A")),),
        tuple(rows),
        "".join(_rest(len(comparison.iou_changes), num_shown)),
    )


def _rest(count: int, num_shown: int) -> list[str]:
    return [f"  ... and {count - num_shown} more; --output FILE.csv holds all"] if count > num_shown else []


def _signed(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:+.1f}"


def _interval(entry: MetricDifference) -> str:
    low, high = entry.difference.low, entry.difference.high
    return "-" if low is None or high is None else f"[{_signed(low)}, {_signed(high)}]"


def _to_json(comparison: Comparison) -> str:
    content: dict[str, Any] = {
        "run_a": comparison.first,
        "run_b": comparison.second,
        "warnings": list(comparison.warnings),
        "types_only_in_a": list(comparison.only_first),
        "types_only_in_b": list(comparison.only_second),
        "differences": [
            {
                "question_type": entry.question_type,
                "metric": entry.metric,
                "run_a": entry.first,
                "run_b": entry.second,
                "b_minus_a": entry.difference.value,
                "ci95": [entry.difference.low, entry.difference.high],
                "excludes_zero": entry.excludes_zero,
                "num_images": entry.difference.count,
            }
            for entry in comparison.differences
        ],
        "flips": [_of_runs(asdict(flip)) for flip in comparison.flips],
        "iou_changes": [_of_runs(asdict(entry)) for entry in comparison.iou_changes],
    }
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def _of_runs(entry: dict[str, Any]) -> dict[str, Any]:
    names = {"first": "run_a", "second": "run_b"}
    return {names.get(key, key): value for key, value in entry.items()}


def _to_csv(comparison: Comparison) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(_CSV_COLUMNS)
    for flip in comparison.flips:
        writer.writerow(
            [
                flip.outcome.value,
                flip.question_id,
                flip.question_type,
                flip.image_path,
                flip.object_label,
                flip.subject.value,
                ", ".join(flip.correct),
                ", ".join(flip.first),
                ", ".join(flip.second),
            ]
        )
    for entry in comparison.iou_changes:
        writer.writerow(
            [
                _IOU_CHANGE,
                entry.question_id,
                entry.question_type,
                entry.image_path,
                entry.object_label,
                "masks",
                "",
                f"{entry.first:.6f}",
                f"{entry.second:.6f}",
            ]
        )
    return buffer.getvalue()
