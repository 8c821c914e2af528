import math

import pytest

from partonomy.quoted_rows import read_quoted
from partonomy.reporting.paper_tables.partonomy_tables import (
    TABLE_LEGENDS,
    TABLE_SUBSETS,
    load_reference,
    segmentation_table,
)

SEGMENTERS = ("LISA-13B", "PixelLM-13B", "GLaMM", "PLUM-13B")
FINE_TUNED = tuple(f"{name} (ft)" for name in SEGMENTERS)
OPEN_VOCABULARY = ("X-Decoder (gt)", "SEEM (gt)", "Grounded SAM 2 (gt)")


@pytest.mark.parametrize(
    ("number", "num_rows", "method", "column", "value"),
    [
        (2, 12, "PLUM-13B (ft)", "identification_with_label_giou_macro_paired", 41.6),
        (2, 12, "X-Decoder (gt)", "part_to_whole_giou_micro_paired", None),
        (3, 11, "Random", "positive_with_label_parts_precision", 44.1),
        (3, 11, "GPT-4o", "whole_to_part_objects_accuracy", 96.3),
        (3, 11, "PLUM (ft)", "negative_with_label_parts_accuracy", 30.2),
        (9, 8, "GLaMM (ft)", "whole_to_part_giou_macro_paired", 33.3),
        (10, 8, "PLUM-13B (ft)", "positive_with_label_giou_macro_paired", 77.4),
        (11, 8, "PixelLM-13B", "negative_with_label_giou_micro_paired", 3.7),
    ],
)
def test_quoted_numbers(number: int, num_rows: int, method: str, column: str, value: float | None) -> None:
    table = load_reference(number)
    assert len(table.rows) == num_rows
    row = next(row for row in table.rows if row.method == method)
    assert row.values[table.columns.index(column)] == value


@pytest.mark.parametrize(
    ("number", "num_numbers", "num_dashes", "total"),
    # Counts and sums of all numbers, taken from the text of the paper and not from the files.
    [(2, 108, 12, 2395.7), (3, 187, 0, 12077.2), (9, 72, 8, 1197.1), (10, 72, 8, 2464.2), (11, 72, 8, 1802.5)],
)
def test_every_number_is_quoted(number: int, num_numbers: int, num_dashes: int, total: float) -> None:
    values = [value for row in load_reference(number).rows for value in row.values]
    numbers = [value for value in values if value is not None]
    assert (len(numbers), len(values) - len(numbers)) == (num_numbers, num_dashes)
    assert math.fsum(numbers) == pytest.approx(total, abs=1e-6)


def test_table_4_is_the_papers() -> None:
    """The paper prints it in two columns of six rows; read down the left one, then down the right one."""
    rows = read_quoted("table4").rows
    printed = "28.5 22.6 25.5 26.0 38.2 37.9 44.4 52.9 48.9 56.2 53.5 57.3"
    assert " ".join(row["giou"] for row in rows) == printed
    assert [row["method"] for row in rows][6:] == [
        "LISA-7B",
        "LISA-7B (ft)",
        "LISA-13B",
        "LISA-13B (ft)",
        "PLUM-7B (ft)",
        "PLUM-13B (ft)",
    ]


@pytest.mark.parametrize("number", [9, 10, 11])
def test_rows_of_the_other_subsets(number: int) -> None:
    rows = load_reference(number).rows
    assert tuple(row.method for row in rows) == SEGMENTERS + FINE_TUNED
    assert [row.is_fine_tuned for row in rows] == [False] * 4 + [True] * 4
    assert [row.extra_segmentation_data for row in rows] == ["no", "yes", "yes", "no"] * 2
    assert {row.group for row in rows} == {""}  # the paper prints no headings in these tables
    # Part2Whole and Whole2Part of PLUM are dashes there.
    assert [row.method for row in rows if row.values[6:] == (None,) * 4] == ["PLUM-13B", "PLUM-13B (ft)"]


def test_rows_of_table_2() -> None:
    rows = load_reference(2).rows
    assert tuple(row.method for row in rows) == (*OPEN_VOCABULARY, "SegLLM", *SEGMENTERS, *FINE_TUNED)
    assert [row.group for row in rows] == [
        *["Open-Vocabulary Segmentation Models"] * 3,
        "LLaVAv1.5 + HIPIE",
        *["LLaVA + SAM-style Mask Decoder"] * 8,
    ]
    assert [row.extra_segmentation_data for row in rows] == ["-"] * 4 + ["no", "yes", "yes", "no"] * 2


def test_rows_of_table_3() -> None:
    rows = load_reference(3).rows
    names = ("LISA-13B", "PixelLM-13B", "GLaMM", "PLUM")
    fine_tuned = tuple(f"{name} (ft)" for name in names)
    assert tuple(row.method for row in rows) == (*names, *fine_tuned, "Random", "SegLLM", "GPT-4o")
    assert [row.block for row in rows] == [1] * 4 + [2] * 4 + [3] * 3
    assert [row.is_fine_tuned for row in rows] == [False] * 4 + [True] * 4 + [False] * 3
    # The random row: precision, recall and accuracy of each type, accuracy of the object last in the part-whole types.
    random = next(row for row in rows if row.method == "Random")
    assert random.values[:9] == (76.2, 76.7, 20.0, 44.1, 54.1, 20.0, 70.9, 73.3, 20.0)
    assert random.values[9:] == (75.3, 76.7, 20.0, 20.0, 75.5, 76.5, 20.0, 20.0)


def test_every_table_has_a_subset_and_a_legend() -> None:
    assert set(TABLE_SUBSETS) == set(TABLE_LEGENDS) == {2, 3, 9, 10, 11}


def test_reference_table_goes_by_the_datasets_name() -> None:
    names = ("paco_lvis_val", "PartImageNet", "pascal_part", "partonomy_qa_pairs", "synthetic_val")
    assert [segmentation_table(name) for name in names] == [9, 10, 11, 2, 2]
