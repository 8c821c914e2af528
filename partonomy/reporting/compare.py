"""Compares two runs of one benchmark on the same items: paired differences with intervals, and changed outcomes."""

import csv
import io
import json
import sys
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any, overload

import numpy as np

from partonomy.benchmarks.task import ALL, ChangedRecords, Group, Record, Words
from partonomy.files import open_atomically
from partonomy.metrics.bootstrap import Estimate, paired_differences
from partonomy.reporting.loaded_run import AnyRun, check_same_items
from partonomy.suggestions import unknown_names
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
        choices: Every scored answer that both runs have, including those that are right or wrong in both; read from the
            runs' files on each access, as `quality_changes` are.
        quality_changes: Items whose quality differs, largest change first.
        only_first: Groups that only the first run asked.
        only_second: Groups that only the second run asked.
        warnings: Settings that differ between the runs.
    """

    first: str
    second: str
    words: Words
    differences: tuple[MetricDifference, ...]
    choices: "ChoiceChanges"
    quality_changes: "QualityChanges"
    only_first: tuple[str, ...]
    only_second: tuple[str, ...]
    warnings: tuple[str, ...]

    @property
    def flips(self) -> "ChoiceChanges":
        """The answers that exactly one run got right."""
        return self.choices.of(Outcome.LOST, Outcome.GAINED)


_MAX_NAMED = 3
"""Maximum number of differing items that an error names."""


@dataclass(frozen=True)
class _Pair:
    """One item in the first and in the second run, as the metrics count it."""

    first: Record
    second: Record


class _Pairs(Sequence[_Pair]):
    """The items that both runs have, in the order of the first run and its groups; read on each access."""

    def __init__(self, first: Sequence[Record], second: Sequence[Record], places: Sequence[tuple[int, int]]) -> None:
        self._first, self._second = first, second
        self._places = array("q", [place for pair in places for place in pair])

    def __len__(self) -> int:
        return len(self._places) // 2

    @overload
    def __getitem__(self, index: int) -> _Pair: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[_Pair, ...]: ...
    def __getitem__(self, index: int | slice) -> _Pair | tuple[_Pair, ...]:
        if isinstance(index, slice):
            return tuple(self[place] for place in range(*index.indices(len(self))))
        if not 0 <= index < len(self):
            raise IndexError(index)
        return _Pair(self._first[self._places[2 * index]], self._second[self._places[2 * index + 1]])


OUTCOMES = tuple(Outcome)


class ChoiceChanges(Sequence[ChoiceChange]):
    """Answers that both runs asked for, in order; only their outcomes are held.

    Attributes:
        counts: Number of answers by group, subject and outcome.
    """

    def __init__(self, pairs: Sequence[_Pair]) -> None:
        self._pairs = pairs
        self._places, self._verdicts, self._outcomes = array("q"), array("h"), array("b")
        self.counts = Counter[tuple[str, str, Outcome]]()

    def add(self, place: int, pair: _Pair) -> None:
        """Add the answers of a pair, except those of capabilities that one model never had."""
        after = {verdict.subject: verdict for verdict in pair.second.verdicts()}
        for number, before in enumerate(pair.first.verdicts()):
            if before.subject in after:
                outcome = _outcome(before.credit, after[before.subject].credit)
                self._places.append(place)
                self._verdicts.append(number)
                self._outcomes.append(OUTCOMES.index(outcome))
                self.counts[pair.first.group, before.subject, outcome] += 1

    def of(self, *outcomes: Outcome) -> "ChoiceChanges":
        """Return the answers with one of these outcomes."""
        kept = ChoiceChanges(self._pairs)
        for place, number, outcome in zip(self._places, self._verdicts, self._outcomes, strict=True):
            if OUTCOMES[outcome] in outcomes:
                kept._places.append(place)
                kept._verdicts.append(number)
                kept._outcomes.append(outcome)
        kept.counts = Counter({key: count for key, count in self.counts.items() if key[-1] in outcomes})
        return kept

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ChoiceChanges) and tuple(self) == tuple(other)

    __hash__ = None  # type: ignore[assignment]  # as of any sequence that is compared by its entries

    def __len__(self) -> int:
        return len(self._places)

    @overload
    def __getitem__(self, index: int) -> ChoiceChange: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[ChoiceChange, ...]: ...
    def __getitem__(self, index: int | slice) -> ChoiceChange | tuple[ChoiceChange, ...]:
        if isinstance(index, slice):
            return tuple(self[place] for place in range(*index.indices(len(self))))
        pair = self._pairs[self._places[index]]
        record, before = pair.first, pair.first.verdicts()[self._verdicts[index]]
        now = {verdict.subject: verdict for verdict in pair.second.verdicts()}[before.subject]
        return ChoiceChange(
            record.item_id,
            record.group,
            record.image_path,
            record.subject,
            before.subject,
            OUTCOMES[self._outcomes[index]],
            before.correct,
            before.given,
            now.given,
        )


class QualityChanges(Sequence[QualityChange]):
    """Items whose quality differs, largest change first; only their places are held.

    Args:
        pairs: The items that both runs have.
        places: The places of those whose quality differs, in order.
        has_words: Whether one of them has a reply.
    """

    def __init__(self, pairs: Sequence[_Pair], places: Sequence[int], has_words: bool) -> None:
        self._pairs, self._places = pairs, places
        self.has_words = has_words

    def __eq__(self, other: object) -> bool:
        return isinstance(other, QualityChanges) and tuple(self) == tuple(other)

    __hash__ = None  # type: ignore[assignment]  # as of any sequence that is compared by its entries

    def __len__(self) -> int:
        return len(self._places)

    @overload
    def __getitem__(self, index: int) -> QualityChange: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[QualityChange, ...]: ...
    def __getitem__(self, index: int | slice) -> QualityChange | tuple[QualityChange, ...]:
        if isinstance(index, slice):
            return tuple(self[place] for place in range(*index.indices(len(self))))
        pair = self._pairs[self._places[index]]
        record, before, after = pair.first, pair.first.quality, pair.second.quality
        assert before is not None
        assert after is not None
        return QualityChange(
            *(record.item_id, record.group, record.image_path, record.subject, before, after),
            *(pair.first.said, pair.second.said),
        )


@dataclass(frozen=True)
class _Asked:
    """The items of a run's records: their ids, groups and images, in order."""

    item_ids: Sequence[str]
    groups: Sequence[str]
    image_ids: Sequence[int | str]


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
    settled = first.task.settle(first.records), second.task.settle(second.records)
    mine, others = map(_asked, settled)
    groups, other_groups = list(dict.fromkeys(mine.groups)), list(dict.fromkeys(others.groups))
    shared = [name for name in groups if name in other_groups]
    pairs = _Pairs(*settled, [pair for name in shared for pair in _pair_up(name, first, second, mine, others)])
    choices, quality_changes = _changes(pairs)
    return Comparison(
        first.name,
        second.name,
        first.task.WORDS,
        _differences(first, second, _like(second, mine, others), metrics, seed),
        choices,
        quality_changes,
        tuple(name for name in groups if name not in shared),
        tuple(name for name in other_groups if name not in shared),
        _warnings(first, second),
    )


def compare_groups(
    first: Iterable[Group], second: Iterable[Group], metrics: Sequence[str], seed: int
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


def _asked(records: Iterable[Record]) -> _Asked:
    item_ids, groups, image_ids = [], [], []
    for record in records:
        item_ids.append(record.item_id)
        groups.append(sys.intern(record.group))
        image_ids.append(record.image_id)
    return _Asked(item_ids, groups, image_ids)


def _like(run: AnyRun, wanted: _Asked, found: _Asked) -> Sequence[Record]:
    """Order a run's records as another run's, because metrics index images in record order."""
    rank = {item_id: place for place, item_id in enumerate(wanted.item_ids)}
    ranks = np.array([rank.get(item_id, len(rank)) for item_id in found.item_ids], dtype=np.int64)
    places = np.argsort(ranks, kind="stable")
    is_same = bool((places == np.arange(len(places))).all())
    return run.records if is_same else ChangedRecords(run.records, places=places.tolist())


def _differences(
    first: AnyRun, second: AnyRun, in_order: Sequence[Record], metrics: Sequence[str], seed: int
) -> tuple[MetricDifference, ...]:
    """Return the differences of the metrics.

    Args:
        first, second: The runs.
        in_order: The second run's records in the order of the first run's.
        metrics, seed: See `compare_runs`.
    """
    wanted, known = metrics or first.task.COMPARED, set[str]()
    before = _with_metrics(first.task.groups(first.records), wanted, known)
    after = _with_metrics(second.task.groups(in_order), wanted, known)
    unknown = sorted(set(metrics) - known)
    if unknown:
        raise ValueError(unknown_names("metric", unknown, sorted(known)))
    return compare_groups(before, after, wanted, seed)


def _with_metrics(groups: Iterable[Group], wanted: Sequence[str], known: set[str]) -> list[Group]:
    """Keep the wanted metrics of groups, and note the names of all; those of a large run take much memory."""
    kept = []
    for group in groups:
        known.update(group.metrics)
        metrics = {name: one for name, one in group.metrics.items() if not wanted or name in wanted}
        kept.append(replace(group, metrics=metrics))
    return kept


def _pair_up(name: str, first: AnyRun, second: AnyRun, mine: _Asked, others: _Asked) -> list[tuple[int, int]]:
    """Pair the places of the items of one group in both runs, in the order of the first run.

    Raises:
        ValueError: One run lacks an item of the other, or assigns it to another image.
    """
    asked, by_id = (
        {one.item_ids[place]: place for place, group in enumerate(one.groups) if group == name}
        for one in (mine, others)
    )
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
    for item_id, place in asked.items():
        if mine.image_ids[place] != others.image_ids[by_id[item_id]]:
            raise ValueError(f"the item {item_id} is about different images in {first.path} and {second.path}")
    return [(place, by_id[item_id]) for item_id, place in asked.items()]


def _changes(pairs: _Pairs) -> tuple[ChoiceChanges, QualityChanges]:
    """Return the answers that both runs asked for, and the items whose quality differs, in one pass over the pairs."""
    choices, places, item_ids, sizes, has_words = ChoiceChanges(pairs), array("q"), [], array("d"), False
    for place, pair in enumerate(pairs):
        choices.add(place, pair)
        before, after = pair.first.quality, pair.second.quality
        if before is not None and after is not None and before != after:
            places.append(place)
            item_ids.append(pair.first.item_id)
            sizes.append(abs(after - before))
            has_words = has_words or bool(pair.first.said or pair.second.said)
    order = sorted(range(len(places)), key=lambda number: (-sizes[number], item_ids[number]))
    return choices, QualityChanges(pairs, array("q", [places[number] for number in order]), has_words)


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
    lost, gained = comparison.choices.of(Outcome.LOST), comparison.choices.of(Outcome.GAINED)
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
    output.parent.mkdir(parents=True, exist_ok=True)
    with open_atomically(output) as file:
        for text in _json_texts(comparison) if output.suffix == ".json" else _csv_texts(comparison):
            file.write(text.encode("utf-8", errors="backslashreplace"))


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
    counts = comparison.choices.counts
    keys = dict.fromkeys((group, subject) for group, subject, _ in counts)
    has_ties = any(outcome is Outcome.TIED for _, _, outcome in counts)
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
    has_words = changes.has_words
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


def _json_texts(comparison: Comparison) -> Iterator[str]:
    """Yield the JSON object, with the entries of its long lists one by one."""
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
    }
    yield json.dumps(content, indent=2, ensure_ascii=False).removesuffix("\n}")
    lists: dict[str, Sequence[ChoiceChange | QualityChange]] = {
        "flips": comparison.flips,
        f"{comparison.words.quality_key}_changes": comparison.quality_changes,
    }
    for name, entries in lists.items():
        yield f",\n  {json.dumps(name)}: ["
        for number, entry in enumerate(entries):
            text = json.dumps(_of_runs(asdict(entry)), indent=2, ensure_ascii=False)
            yield ("," if number else "") + f"\n{text}".replace("\n", "\n    ")
        yield "\n  ]" if entries else "]"
    yield "\n}\n"


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


def _csv_texts(comparison: Comparison) -> Iterator[str]:
    """Yield the lines of the CSV file."""
    has_words = comparison.quality_changes.has_words
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")

    def line(*cells: str) -> str:
        buffer.seek(0)
        buffer.truncate()
        writer.writerow(map(spreadsheet_cell, cells))
        return buffer.getvalue()

    yield line(*_CSV_COLUMNS, *(_REPLY_COLUMNS if has_words else ()))
    for flip in comparison.flips:
        row = [flip.outcome.value, flip.item_id, flip.group, flip.image_path, flip.object_label, flip.subject]
        row += [", ".join(names) for names in (flip.correct, flip.first, flip.second)]
        yield line(*row, *(("", "") if has_words else ()))
    key = comparison.words.quality_key
    subject = "masks" if key == "iou" else "answer"
    for entry in comparison.quality_changes:
        row = [key, entry.item_id, entry.group, entry.image_path, entry.object_label, subject, ""]
        row += [f"{entry.first:.6f}", f"{entry.second:.6f}"]
        yield line(*row, *((entry.first_said, entry.second_said) if has_words else ()))
