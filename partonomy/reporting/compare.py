"""Compares two runs of one benchmark on the same items: paired differences with intervals, and changed outcomes."""

import csv
import io
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, overload

import numpy as np

from partonomy.benchmarks.cases import Verdict
from partonomy.benchmarks.task import ALL, Group, Record, Words
from partonomy.files import write_text_atomically
from partonomy.metrics.bootstrap import Estimate, paired_differences
from partonomy.reporting.loaded_run import AnyRun, check_same_items
from partonomy.table_format import ColumnGroup, Table, TableFormat, TableRow, format_percent, render_table
from partonomy.terminal import one_line, spreadsheet_cell


class Outcome(StrEnum):
    """Whether an answer is right in the first and in the second run.

    An answer that ties with others in one of the runs and so counts in part is neither right nor wrong there.
    """

    BOTH_RIGHT = "both right"
    LOST = "right -> wrong"
    GAINED = "wrong -> right"
    BOTH_WRONG = "both wrong"
    TIED = "tied"


@dataclass(frozen=True)
class ChoiceChange:
    """An answer that is right or wrong in each run: the names in the correct answer and in both runs' answers.

    `first` and `second` are empty if the item failed.
    """

    item_id: str
    group: str
    image_path: str
    object_label: str
    subject: str
    outcome: Outcome
    correct: tuple[str, ...]
    first: tuple[str, ...]
    second: tuple[str, ...]


@dataclass(frozen=True)
class QualityChange:
    """An item whose quality (`Record.quality`) differs between the runs; `*_said` are the model's own words."""

    item_id: str
    group: str
    image_path: str
    object_label: str
    first: float
    second: float
    first_said: str = ""
    second_said: str = ""

    @property
    def change(self) -> float:
        """Second minus first."""
        return self.second - self.first


@dataclass(frozen=True)
class MetricDifference:
    """One metric of one group under two runs.

    Attributes:
        group: Key of the summary.
        metric: Name of the metric.
        first: Value in the first run; None if nothing was counted.
        second: Value in the second run; None if nothing was counted.
        difference: Second minus first with its 95% interval; `count` is the number of images.
    """

    group: str
    metric: str
    first: float | None
    second: float | None
    difference: Estimate

    @property
    def excludes_zero(self) -> bool | None:
        """Whether the interval excludes 0; None if nothing can be compared."""
        if self.difference.low is None or self.difference.high is None:
            return None
        return self.difference.low > 0 or self.difference.high < 0


@dataclass(frozen=True)
class Comparison:
    """The result of `compare`.

    Attributes:
        first: Name of the first run.
        second: Name of the second run.
        words: The benchmark's words for its items.
        differences: One entry per metric and group that both runs asked.
        choices: Every scored answer that both runs have, including those that are right or wrong in both.
        quality_changes: Items whose quality differs, largest change first.
        only_first: Groups that only the first run asked.
        only_second: Groups that only the second run asked.
        warnings: Settings that differ between the runs.
    """

    first: str
    second: str
    words: Words
    differences: tuple[MetricDifference, ...]
    choices: tuple[ChoiceChange, ...]
    quality_changes: tuple[QualityChange, ...]
    only_first: tuple[str, ...]
    only_second: tuple[str, ...]
    warnings: tuple[str, ...]

    @property
    def flips(self) -> tuple[ChoiceChange, ...]:
        """The answers that exactly one run got right."""
        return tuple(choice for choice in self.choices if choice.outcome in (Outcome.LOST, Outcome.GAINED))


_MAX_NAMED = 3
"""Maximum number of differing items that an error names."""


@dataclass(frozen=True)
class _Answer:
    """The part of a record that a comparison keeps: everything except its masks."""

    item_id: str
    group: str
    image_id: int | str
    image_path: str
    subject: str
    quality: float | None
    said: str
    verdicts: tuple[Verdict, ...]


@dataclass(frozen=True)
class _AnswerPair:
    """One item in the first and in the second run."""

    first: _Answer
    second: _Answer


class _InOrder(Sequence[Record]):
    """A view of records in another order."""

    def __init__(self, records: Sequence[Record], places: Sequence[int]) -> None:
        self._records, self._places = records, places

    def __len__(self) -> int:
        return len(self._places)

    @overload
    def __getitem__(self, index: int) -> Record: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Record, ...]: ...
    def __getitem__(self, index: int | slice) -> Record | tuple[Record, ...]:
        if isinstance(index, slice):
            return tuple(self._records[place] for place in self._places[index])
        return self._records[self._places[index]]


def compare_runs(first: AnyRun, second: AnyRun, metrics: Sequence[str] = (), seed: int = 0) -> Comparison:
    """Compare the second run with the first, from their records.

    Args:
        first: The run to start from.
        second: The other run; differences are second minus first.
        metrics: Names of metrics; empty means `Task.COMPARED` of the benchmark.
        seed: Seed of the bootstrap over images. Each group is resampled from it, with the same resamples for both runs
            and for every metric.

    Raises:
        ValueError: A metric is unknown, or the runs have different benchmarks or items.
    """
    check_same_items(first, second)
    mine, others = _answers(first), _answers(second)
    groups = list(dict.fromkeys(answer.group for answer in mine))
    other_groups = list(dict.fromkeys(answer.group for answer in others))
    shared = [name for name in groups if name in other_groups]
    pairs = [pair for name in shared for pair in _pair_up(name, first, second, mine, others)]
    return Comparison(
        first.name,
        second.name,
        first.task.WORDS,
        _differences(first, _like(second, mine, others), metrics, seed),
        _choice_changes(pairs),
        _quality_changes(pairs),
        tuple(name for name in groups if name not in shared),
        tuple(name for name in other_groups if name not in shared),
        _warnings(first, second),
    )


def compare_groups(
    first: Sequence[Group], second: Sequence[Group], metrics: Sequence[str], seed: int
) -> tuple[MetricDifference, ...]:
    """Compute paired differences of the groups of two runs on the same items, second minus first.

    Args:
        first: Groups of one run.
        second: Groups of the other run, with the images in the same order.
        metrics: Names of metrics; empty means all.
        seed: Seed of the bootstrap; each group is resampled from it.

    Returns:
        One entry per group and metric that both runs have.
    """
    found = {group.name: group for group in second if group.num_expected}
    differences = []
    for group in first:
        other = found.get(group.name)
        if other is None or not group.num_expected:
            continue
        names, before, after = [], [], []
        for name in metrics or group.metrics:
            one, another = group.metrics.get(name), other.metrics.get(name)
            if one is not None and another is not None:
                names.append(name)
                before.append(one)
                after.append(another)
        estimates = paired_differences(after, before, np.random.default_rng(seed))
        differences += [
            MetricDifference(group.name, name, one.value, another.value, estimate)
            for name, one, another, estimate in zip(names, before, after, estimates, strict=True)
        ]
    return tuple(differences)


def _answers(run: AnyRun) -> list[_Answer]:
    return [
        _Answer(
            record.item_id,
            record.group,
            record.image_id,
            record.image_path,
            record.subject,
            record.quality,
            record.said,
            record.verdicts(),
        )
        for record in run.task.settle(run.records)
    ]


@dataclass(frozen=True)
class _Ordered:
    """A run's groups, counted over its records in the order of another run."""

    run: AnyRun
    records: Sequence[Record]


def _like(run: AnyRun, wanted: Sequence[_Answer], found: Sequence[_Answer]) -> _Ordered:
    """Order a run's records as another run's, because metrics index images in record order."""
    rank = {answer.item_id: place for place, answer in enumerate(wanted)}
    places = sorted(range(len(found)), key=lambda place: (rank.get(found[place].item_id, len(rank)), place))
    is_same = places == list(range(len(found)))
    return _Ordered(run, run.records if is_same else _InOrder(run.records, places))


def _differences(first: AnyRun, second: _Ordered, metrics: Sequence[str], seed: int) -> tuple[MetricDifference, ...]:
    before, after = tuple(first.task.groups(first.records)), tuple(second.run.task.groups(second.records))
    known = {name for group in (*before, *after) for name in group.metrics}
    unknown = sorted(set(metrics) - known)
    if unknown:
        raise ValueError(f"unknown metric {', '.join(unknown)}; known: {', '.join(sorted(known))}")
    return compare_groups(before, after, metrics or first.task.COMPARED, seed)


def _pair_up(
    name: str, first: AnyRun, second: AnyRun, mine: Sequence[_Answer], others: Sequence[_Answer]
) -> list[_AnswerPair]:
    """Pair the answers of one group by item, in the order of the first run.

    Raises:
        ValueError: One run lacks an item of the other, or assigns it to another image.
    """
    by_id = {answer.item_id: answer for answer in others if answer.group == name}
    asked = {answer.item_id: answer for answer in mine if answer.group == name}
    of_type = f"of type {name}, " if name else ""
    for run, missing in (
        (first, [item_id for item_id in asked if item_id not in by_id]),
        (second, [item_id for item_id in by_id if item_id not in asked]),
    ):
        if missing:
            more = f" and {len(missing) - _MAX_NAMED} more" if len(missing) > _MAX_NAMED else ""
            raise ValueError(
                f"the runs cover different {first.task.WORDS.items}: {of_type}only {run.path} has "
                f"{', '.join(missing[:_MAX_NAMED])}{more}; was the other run started with another --limit, or "
                "without some images (its summary.json counts the reasons)?"
            )
    pairs = [_AnswerPair(answer, by_id[item_id]) for item_id, answer in asked.items()]
    moved = [pair.first.item_id for pair in pairs if pair.first.image_id != pair.second.image_id]
    if moved:
        raise ValueError(f"the item {moved[0]} is about different images in {first.path} and {second.path}")
    return pairs


def _choice_changes(pairs: Sequence[_AnswerPair]) -> tuple[ChoiceChange, ...]:
    """Return the answers that both runs asked for, in order, except those of capabilities that one model never had."""
    changes = []
    for pair in pairs:
        after = {verdict.subject: verdict for verdict in pair.second.verdicts}
        for before in pair.first.verdicts:
            if before.subject in after:
                now, answer = after[before.subject], pair.first
                changes.append(
                    ChoiceChange(
                        answer.item_id,
                        answer.group,
                        answer.image_path,
                        answer.subject,
                        before.subject,
                        _outcome(before.credit, now.credit),
                        before.correct,
                        before.given,
                        now.given,
                    )
                )
    return tuple(changes)


def _quality_changes(pairs: Sequence[_AnswerPair]) -> tuple[QualityChange, ...]:
    """Return the items whose quality differs, largest change first."""
    changes = []
    for pair in pairs:
        answer, before, after = pair.first, pair.first.quality, pair.second.quality
        if before is not None and after is not None and before != after:
            said = (pair.first.said, pair.second.said)
            changes.append(
                QualityChange(answer.item_id, answer.group, answer.image_path, answer.subject, before, after, *said)
            )
    return tuple(sorted(changes, key=lambda entry: (-abs(entry.change), entry.item_id)))


def _outcome(before: float, after: float) -> Outcome:
    """Return the outcome of an answer by its credit in both runs (`Verdict.credit`)."""
    if not {before, after} <= {0.0, 1.0}:
        return Outcome.TIED
    if before:
        return Outcome.BOTH_RIGHT if after else Outcome.LOST
    return Outcome.GAINED if after else Outcome.BOTH_WRONG


def _warnings(first: AnyRun, second: AnyRun) -> tuple[str, ...]:
    """Report differing settings that change the meaning of a number."""
    before = {"protocol version": first.summary.protocol_version, **first.task.settings}
    after = {"protocol version": second.summary.protocol_version, **second.task.settings}
    return tuple(
        f"the runs differ in the {name}: {before[name]} and {after[name]}"
        for name in before
        if before[name] != after.get(name, before[name])
    )


OUTPUT_SUFFIXES = (".json", ".csv")
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
_REPLY_COLUMNS = ("reply_a", "reply_b")
_MAX_SAID = 40
"""Maximum characters of a reply in a table."""


def render_comparison(comparison: Comparison, num_shown: int) -> str:
    """Format differences, counts of outcomes, the first flips and the largest changes of quality as text.

    Args:
        comparison: The comparison to print.
        num_shown: Number of changes of each kind to list; the rest are only counted.
    """
    lost = [flip for flip in comparison.flips if flip.outcome is Outcome.LOST]
    gained = [flip for flip in comparison.flips if flip.outcome is Outcome.GAINED]
    sections = [render_table(_difference_table(comparison), TableFormat.TEXT)]
    if comparison.choices:
        sections.append(render_table(_outcome_table(comparison), TableFormat.TEXT))
        sections += [
            _flip_list(Outcome.LOST, lost, comparison.words, num_shown),
            _flip_list(Outcome.GAINED, gained, comparison.words, num_shown),
        ]
    sections.append(render_table(_quality_table(comparison, num_shown), TableFormat.TEXT))
    lines = [f"A: {comparison.first}", f"B: {comparison.second}", *(f"note: {text}" for text in comparison.warnings)]
    for name, types in (("A", comparison.only_first), ("B", comparison.only_second)):
        if types:
            lines.append(f"note: asked only in {name} and not compared: {', '.join(types)}")
    return "\n\n".join(["\n".join(lines), *sections]) + "\n"


def write_comparison(comparison: Comparison, output: Path) -> None:
    """Write differences and all changes (.json), or one line per changed question (.csv).

    Raises:
        ValueError: The suffix is another one.
    """
    check_output(output)
    text = _to_json(comparison) if output.suffix == ".json" else _to_csv(comparison)
    output.parent.mkdir(parents=True, exist_ok=True)
    write_text_atomically(output, text)


def check_output(output: Path) -> None:
    """Check that a file name has a known suffix.

    Raises:
        ValueError: The suffix is neither .json nor .csv.
    """
    if output.suffix not in OUTPUT_SUFFIXES:
        raise ValueError(f"{output}: choose a name that ends in {' or '.join(OUTPUT_SUFFIXES)}")


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
            "" if entry.group == ALL else entry.group,
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
    counts = Counter((choice.group, choice.subject, choice.outcome) for choice in comparison.choices)
    keys = dict.fromkeys((choice.group, choice.subject) for choice in comparison.choices)
    has_ties = any(choice.outcome is Outcome.TIED for choice in comparison.choices)
    shown = [outcome for outcome in Outcome if has_ties or outcome is not Outcome.TIED]
    rows = [
        TableRow((kind, subject, *(str(counts[kind, subject, outcome]) for outcome in shown))) for kind, subject in keys
    ]
    ties = "Tied: in A or B the right answer shares the best score with others and counts 1/k." if has_ties else ""
    return Table(
        "Multiple-choice questions by outcome in A -> B (a failed question is wrong)",
        (ColumnGroup("", (comparison.words.group, "asked for", *(outcome.value for outcome in shown))),),
        tuple(rows),
        ties,
    )


def _flip_list(outcome: Outcome, flips: Sequence[ChoiceChange], words: Words, num_shown: int) -> str:
    """List the first flips; a wrong choice is printed as its additional and missing names."""
    run = "B" if outcome is Outcome.LOST else "A"
    lines = [f"{outcome.value}: {len(flips)} {words.items}"]
    for flip in flips[:num_shown]:
        chosen = flip.second if outcome is Outcome.LOST else flip.first
        right = f"{flip.item_id} ({flip.subject}; {flip.object_label}): {', '.join(flip.correct)}"
        lines += [f"  {one_line(right)}", f"    {run} chose: {one_line(_wrong_choice(flip.correct, chosen))}"]
    return "\n".join([*lines, *_rest(len(flips), num_shown)])


def _wrong_choice(correct: Sequence[str], chosen: Sequence[str]) -> str:
    if not chosen:
        return "nothing, it failed"
    added = [f"+ {name}" for name in chosen if name not in correct]
    missing = [f"- {name}" for name in correct if name not in chosen]
    return ", ".join([*added, *missing])


def _quality_table(comparison: Comparison, num_shown: int) -> Table:
    """Tabulate the largest changes, with the models' replies if the benchmark scores words."""
    changes, words = comparison.quality_changes, comparison.words
    has_words = any(entry.first_said or entry.second_said for entry in changes)
    rows = [
        TableRow(
            (
                entry.item_id,
                shorten_text(entry.object_label),
                format_percent(entry.first),
                format_percent(entry.second),
                _signed(entry.change),
                *((shorten_text(entry.first_said), shorten_text(entry.second_said)) if has_words else ()),
            )
        )
        for entry in changes[:num_shown]
    ]
    columns = (words.item.capitalize(), words.subject, "A", "B", "B - A", *(("A said", "B said") if has_words else ()))
    return Table(
        f"{words.quality_title} differs on {len(changes)} {words.items}; largest change",
        (ColumnGroup("", columns),),
        tuple(rows),
        "".join(_rest(len(changes), num_shown)),
    )


def shorten_text(text: str) -> str:
    """Put text on one line and truncate it."""
    line = " ".join(text.split())
    return line if len(line) <= _MAX_SAID else f"{line[: _MAX_SAID - 3]}..."


def _rest(count: int, num_shown: int) -> list[str]:
    return [f"  ... and {count - num_shown} more; --output FILE.csv lists all"] if count > num_shown else []


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
                "question_type": entry.group,
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
        f"{comparison.words.quality_key}_changes": [_of_runs(asdict(entry)) for entry in comparison.quality_changes],
    }
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def _of_runs(entry: dict[str, Any]) -> dict[str, Any]:
    """Rename the fields as in the files; include replies only if there are any."""
    names = {
        "item_id": "question_id",
        "group": "question_type",
        "first": "run_a",
        "second": "run_b",
        "first_said": "reply_a",
        "second_said": "reply_b",
    }
    is_empty = not (entry.get("first_said") or entry.get("second_said"))
    kept = {key: value for key, value in entry.items() if not (is_empty and key.endswith("_said"))}
    return {names.get(key, key): value for key, value in kept.items()}


def _to_csv(comparison: Comparison) -> str:
    has_words = any(entry.first_said or entry.second_said for entry in comparison.quality_changes)
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow([*_CSV_COLUMNS, *(_REPLY_COLUMNS if has_words else ())])
    for flip in comparison.flips:
        row = [flip.outcome.value, flip.item_id, flip.group, flip.image_path, flip.object_label, flip.subject]
        row += [", ".join(names) for names in (flip.correct, flip.first, flip.second)]
        writer.writerow(map(spreadsheet_cell, [*row, *(("", "") if has_words else ())]))
    key = comparison.words.quality_key
    subject = "masks" if key == "iou" else "answer"
    for entry in comparison.quality_changes:
        row = [key, entry.item_id, entry.group, entry.image_path, entry.object_label, subject, ""]
        row += [f"{entry.first:.6f}", f"{entry.second:.6f}"]
        writer.writerow(map(spreadsheet_cell, [*row, *((entry.first_said, entry.second_said) if has_words else ())]))
    return buffer.getvalue()
