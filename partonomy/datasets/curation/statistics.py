"""Computes sizes of data sets in the columns of the paper's Tables 1 and 8, next to rows quoted from the paper."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from partonomy.quoted_rows import read_quoted
from partonomy.structures import PartDataset, QuestionType
from partonomy.table_format import ColumnGroup, Table, TableRow


@dataclass(frozen=True)
class DatasetStatistics:
    """Counts of a data set. `num_objects`, `num_parts` and `num_object_parts` count labels, the others annotations.

    `num_object_centric` images show exactly one annotated object.
    """

    num_objects: int
    num_parts: int
    num_object_parts: int
    num_images: int
    num_masks: int
    num_instances: int
    num_object_centric: int


def compute_statistics(dataset: PartDataset) -> DatasetStatistics:
    """Count labels, images and part masks. An object counts if any of its instances has an annotated part."""
    return compute_joint_statistics((dataset,))


def compute_joint_statistics(datasets: Sequence[PartDataset]) -> DatasetStatistics:
    """Count over several data sets like the last row of the paper's Table 8: labels once, everything else summed."""
    images = [image for dataset in datasets for image in dataset.images]
    instances = [instance for image in images for instance in image.objects]
    pairs = {(instance.label, part.label) for instance in instances for part in instance.parts}
    return DatasetStatistics(
        num_objects=len({label for label, _ in pairs}),
        num_parts=len({part for _, part in pairs}),
        num_object_parts=len(pairs),
        num_images=len(images),
        num_masks=sum(len(instance.parts) for instance in instances),
        num_instances=len(instances),
        num_object_centric=sum(len(image.objects) == 1 for image in images),
    )


TABLE_1_COLUMNS = (
    "Datasets",
    "# Object Labels",
    "# Part Labels",
    "# Object-Part Labels",
    "# Images",
    "# Seg. Masks",
    "Object-Centric Images",
    "Object Domain",
)
"""Columns of Table 1; Table 8 has the first six."""
YES, NO, UNKNOWN = "✓", "×", "-"
OWN_GROUP = "counted here"
QUOTED_TABLES = (1, 8)


@dataclass(frozen=True)
class DatasetEntry:
    """One data set in the output of `stats`.

    Attributes:
        name: name that is unique among the entries.
        statistics: its sizes.
        left_out: what its build left out, with the reason, one line each.
        num_asked: number of questions by type; None if no questions were built.
        not_asked: questions that could not be asked, with the reason, one line each.
    """

    name: str
    statistics: DatasetStatistics
    left_out: tuple[str, ...]
    num_asked: Mapping[QuestionType, int] | None
    not_asked: tuple[str, ...]


def size_table(entries: Sequence[DatasetEntry], joint: DatasetStatistics | None, is_quoted: bool) -> Table:
    """Make the table of sizes, one row per data set.

    Args:
        entries: the data sets.
        joint: statistics of all data sets together for the last row; None for no such row.
        is_quoted: whether to put the paper's own rows above, marked as quoted.
    """
    rows = [row for number in QUOTED_TABLES for row in quoted_rows(number)] if is_quoted else []
    group = OWN_GROUP if is_quoted else ""
    rows += [_size_row(entry.name, entry.statistics, group) for entry in entries]
    rows += [] if joint is None else [_size_row("together", joint, group)]
    centric = [
        f"- {entry.name}: {entry.statistics.num_object_centric} of {entry.statistics.num_images} images show exactly "
        "one annotated object"
        for entry in entries
    ]
    notes = [*centric, *(f"- {entry.name}: {line}" for entry in entries for line in entry.left_out)]
    if joint is not None:
        notes.append("- together: labels are counted once, images, masks and instances are added up")
    notes.append(
        "- Object Domain is the paper's judgement (common, organisms, specialized); annotations do not say it."
    )
    groups = (ColumnGroup("", TABLE_1_COLUMNS), ColumnGroup("not in the paper", ("# Object Instances",)))
    return Table("Data sets, columns of the paper's Tables 1 and 8", groups, tuple(rows), "\n".join(notes))


def question_table(entries: Sequence[DatasetEntry]) -> Table:
    """Make the table of the numbers of questions, one row per type and one column per data set."""
    rows = []
    has_questions = any(entry.num_asked is not None for entry in entries)
    for question_type in QuestionType if has_questions else ():
        counts = (UNKNOWN if one.num_asked is None else str(one.num_asked.get(question_type, 0)) for one in entries)
        rows.append(TableRow((question_type.value, *counts)))
    notes = [f"- {entry.name}: questions: none built" for entry in entries if entry.num_asked is None]
    notes += [f"- {entry.name}: not asked: {line}" for entry in entries for line in entry.not_asked]
    columns = (ColumnGroup("", ("Question type", *(entry.name for entry in entries))),)
    return Table("Questions asked", columns, tuple(rows), "\n".join(notes))


def quoted_rows(number: int) -> tuple[TableRow, ...]:
    """Return the rows of `paper_rows/table<number>.csv`; an empty cell, or a column that the table lacks, is a dash.

    Raises:
        ValueError: a row is not marked as quoted.
    """
    rows = []
    for row in read_quoted(f"table{number}").rows:
        cells = tuple(row.get(column) or UNKNOWN for column in TABLE_1_COLUMNS)
        rows.append(TableRow((*cells, UNKNOWN), f"quoted from the paper, Table {number}"))
    return tuple(rows)


def _size_row(name: str, counts: DatasetStatistics, group: str) -> TableRow:
    numbers = (counts.num_objects, counts.num_parts, counts.num_object_parts, counts.num_images, counts.num_masks)
    is_centric = counts.num_images > 0 and counts.num_object_centric == counts.num_images
    cells = (name, *(f"{value:,}" for value in numbers), YES if is_centric else NO, UNKNOWN)
    return TableRow((*cells, f"{counts.num_instances:,}"), group)
