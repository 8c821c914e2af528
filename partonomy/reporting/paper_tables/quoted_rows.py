"""Rows quoted from tables 2, 3, 9, 10 and 11 of the Partonomy/PLUM paper; they are never results of this code."""

from dataclasses import dataclass

from partonomy.reporting.paper_tables.paper_table import SOURCE_COLUMN, read_quoted

SEGMENTATION_TABLES = {"paco": 9, "partimagenet": 10, "pascal": 11}
"""Table of segmentation results by a word in the dataset's name; any other name gets table 2 (Core)."""
TEXT_TABLE = 3
TABLE_SUBSETS = {
    2: "Partonomy-Core",
    3: "Partonomy-Core",
    9: "Partonomy-PACO_LVIS",
    10: "Partonomy-PartImageNet",
    11: "Partonomy-PascalParts",
}
_FINE_TUNED = "(ft): fine-tuned on Partonomy."
_PART_PREDICTION = "Part2Whole and Whole2Part: the masks of the parts."
TABLE_LEGENDS = {
    2: f"{_FINE_TUNED} (gt): open-vocabulary segmenters given the true part names. {_PART_PREDICTION}",
    3: f"{_FINE_TUNED} P, R: precision and recall of part names; A, PA: accuracy of the parts; OA: of the object. "
    "GPT-4o is gpt-4o-2024-08-06, shown all choices at once.",
    9: f"{_FINE_TUNED} {_PART_PREDICTION}",
    10: f"{_FINE_TUNED} {_PART_PREDICTION}",
    11: f"{_FINE_TUNED} {_PART_PREDICTION}",
}


@dataclass(frozen=True)
class ReferenceRow:
    """One row of a table of the paper.

    Attributes:
        method: Name as printed, "(ft)" included.
        group: Heading under which the row is printed; empty in tables without such headings.
        block: Id of a block of adjacent rows; the paper draws a rule between blocks.
        is_fine_tuned: Whether the method was fine-tuned on Partonomy.
        extra_segmentation_data: yes, no, or "-" as printed; empty in table 3, which has no such column.
        values: Percentages; None for a dash in the paper.
    """

    method: str
    group: str
    block: int
    is_fine_tuned: bool
    extra_segmentation_data: str
    values: tuple[float | None, ...]


@dataclass(frozen=True)
class ReferenceTable:
    """A table of the paper; `columns` are "<question type>_<metric>"."""

    number: int
    subset: str
    columns: tuple[str, ...]
    rows: tuple[ReferenceRow, ...]


def segmentation_table(dataset_name: str) -> int:
    """Return the number of the paper's table whose data is closest to a dataset, by name."""
    name = dataset_name.lower().replace("_", "").replace("-", "")
    return next((number for word, number in SEGMENTATION_TABLES.items() if word in name), 2)


def load_reference(number: int) -> ReferenceTable:
    """Read `paper_rows/table<number>.csv`.

    Raises:
        ValueError: A row is not marked as quoted.
    """
    quoted = read_quoted(f"table{number}")
    fixed = {"method", "group", "block", "fine_tuned", "extra_segmentation_data", SOURCE_COLUMN}
    columns = tuple(name for name in quoted.columns if name not in fixed)
    rows = [
        ReferenceRow(
            row["method"],
            row["group"],
            int(row["block"]),
            row["fine_tuned"] == "yes",
            row.get("extra_segmentation_data", ""),
            tuple(float(row[name]) if row[name] else None for name in columns),
        )
        for row in quoted.rows
    ]
    return ReferenceTable(number, TABLE_SUBSETS[number], columns, tuple(rows))
