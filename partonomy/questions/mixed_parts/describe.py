"""Describes a folder of pairs: samples and targets as in CALICO's Table 4, and the most frequent labels and classes."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from partonomy.datasets.mixed_parts import SPLITS, PairTask, TargetCounts, read_sources, split_file
from partonomy.table_format import ColumnGroup, Table, TableRow

NUM_NAMED = 20
"""Labels and pairs of classes that a table names."""


class _Thing(msgspec.Struct):
    """An object or part of a line, without its mask."""

    label: str
    image: int


class _Line(msgspec.Struct):
    """A line, without its masks."""

    task: PairTask
    source: str
    objects: list[_Thing]
    parts: list[_Thing]


@dataclass
class PairsDescription:
    """Counts of a folder of pairs.

    Attributes:
        targets: Counts by split, source and task.
        labels: Occurrences of target labels, by task.
        classes: Samples by source and pair of classes, in the part tasks.
    """

    targets: dict[tuple[str, str, PairTask], TargetCounts] = field(default_factory=dict)
    labels: dict[PairTask, Counter[str]] = field(default_factory=lambda: {task: Counter() for task in PairTask})
    classes: Counter[tuple[str, str, str]] = field(default_factory=Counter)


def describe_pairs(folder: Path) -> PairsDescription:
    """Count the samples of all splits, line by line.

    Args:
        folder: A folder of pairs.

    Raises:
        FileNotFoundError: The folder has no samples.
        ValueError: A line is damaged; the message names it.
    """
    read_sources(folder)  # refuses other folders
    found = PairsDescription()
    for split, line in _lines(folder):
        things = line.objects if line.task is PairTask.COMMON_OBJECTS else line.parts
        labels = [one.label for one in things if one.image == 0 or line.task is PairTask.UNIQUE_PARTS]
        found.targets.setdefault((split, line.source, line.task), TargetCounts()).by_number[len(labels)] += 1
        found.labels[line.task].update(labels)
        if line.task is not PairTask.COMMON_OBJECTS:
            first, second = sorted(one.label for one in line.objects)
            found.classes[line.source, first, second] += 1
    if not found.targets:
        raise FileNotFoundError(f"{folder}: no file of samples; build the pairs again")
    return found


def _lines(folder: Path) -> Iterator[tuple[str, _Line]]:
    decoder = msgspec.json.Decoder(_Line)
    for split in SPLITS:
        path = split_file(folder, split)
        if not path.is_file():
            continue
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                try:
                    yield split, decoder.decode(line)
                except msgspec.MsgspecError as error:
                    raise ValueError(f"{path}, line {number}: not a sample of MixedParts ({error})") from error


def description_tables(found: PairsDescription) -> tuple[Table, ...]:
    """Return the tables of a description."""
    headings = ("Split", "Source", "Task", "Samples", "Targets", "Mean", "Median", "Max")
    rows = []
    for (split, source, task), counts in found.targets.items():
        numbers = (str(counts.num_samples), str(counts.num_targets), f"{counts.mean:.2f}", str(counts.median))
        rows.append(TableRow((split, source, task.value, *numbers, str(counts.largest)), ""))
    tables = [Table("Samples", (ColumnGroup("", headings),), tuple(rows), "")]
    for task, labels in found.labels.items():
        if labels:
            named = tuple(TableRow((label, str(count)), "") for label, count in labels.most_common(NUM_NAMED))
            title = f"Labels of {task}: {len(labels)}, the most frequent ones"
            tables.append(Table(title, (ColumnGroup("", ("Label", "Targets")),), named, ""))
    if found.classes:
        named = tuple(TableRow((*pair, str(count)), "") for pair, count in found.classes.most_common(NUM_NAMED))
        columns = ("Source", "First class", "Second class", "Samples")
        title = f"Pairs of classes in the part tasks: {len(found.classes)}, the most frequent ones"
        tables.append(Table(title, (ColumnGroup("", columns),), named, ""))
    return tuple(tables)
