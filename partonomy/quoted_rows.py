"""Reads the rows quoted from the papers' tables (`partonomy/paper_rows/*.csv`); they are never results of this code."""

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources

QUOTED = "quoted"
SOURCE_COLUMN = "source"
"""Column that marks every row of the files as quoted."""


@dataclass(frozen=True)
class QuotedRows:
    """The rows of a paper's table.

    Attributes:
        columns: Names of all columns, `SOURCE_COLUMN` included.
        rows: For each row, the cells as printed, by column; an empty cell is a dash in the paper.
    """

    columns: tuple[str, ...]
    rows: tuple[Mapping[str, str], ...]


def read_quoted(name: str) -> QuotedRows:
    """Read `paper_rows/<name>.csv`.

    Raises:
        ValueError: A row is not marked as quoted.
    """
    text = resources.files("partonomy").joinpath(f"paper_rows/{name}.csv").read_text(encoding="utf-8")
    reader = csv.DictReader(text.splitlines())
    columns = tuple(reader.fieldnames or ())
    rows = tuple(reader)
    for row in rows:
        if row[SOURCE_COLUMN] != QUOTED:
            raise ValueError(f"{name}.csv: the row of {row[columns[0]]} is not marked as quoted")
    return QuotedRows(columns, rows)
