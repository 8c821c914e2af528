"""A comparison of two runs as text tables, and all of it as JSON or CSV."""

import csv
import io
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from partonomy.evaluation.comparison import Comparison, MetricDifference
from partonomy.evaluation.files import write_text_atomically
from partonomy.evaluation.flips import ChoiceChange, Outcome
from partonomy.evaluation.table_format import ColumnGroup, Table, TableFormat, TableRow, format_percent, render_table

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
