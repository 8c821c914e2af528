"""Sizes of data sets, alone and together, in the paper's columns."""

from pathlib import Path

from partonomy.datasets.curation.statistics import (
    DatasetEntry,
    compute_joint_statistics,
    compute_statistics,
    question_table,
    quoted_rows,
    size_table,
)
from partonomy.structures import PartDataset, QuestionType
from partonomy.table_format import TableFormat, render_table
from tests.partonomy.tiny_world import make_image, make_instance

TRAIN = PartDataset(
    "train",
    Path("."),
    (
        make_image(1, make_instance(1, "car", ("wheel", "door")), make_instance(2, "cat", ())),
        make_image(2, make_instance(3, "car", ("wheel",))),
    ),
)
VAL = PartDataset("val", Path("."), (make_image(1, make_instance(1, "jet", ("wheel", "wing"))),))


def test_together_labels_count_once() -> None:
    joint = compute_joint_statistics((TRAIN, VAL))
    # Objects car, jet; parts door, wheel, wing; pairs 2 + 2; masks 3 + 2; one of two images and one of one is centric.
    assert (joint.num_objects, joint.num_parts, joint.num_object_parts) == (2, 3, 4)
    assert (joint.num_images, joint.num_masks, joint.num_instances, joint.num_object_centric) == (3, 5, 4, 2)


def test_rows() -> None:
    entries = [
        DatasetEntry("train", compute_statistics(TRAIN), ("left out: 1 annotation",), {}, ("positive, 2 images: why",)),
        DatasetEntry("val", compute_statistics(VAL), (), None, ()),
    ]
    table = size_table(entries, compute_joint_statistics((TRAIN, VAL)), is_quoted=False)
    assert [row.cells for row in table.rows] == [
        ("train", "1", "2", "2", "2", "3", "×", "-", "3"),
        ("val", "1", "2", "2", "1", "2", "✓", "-", "1"),
        ("together", "2", "3", "4", "3", "5", "×", "-", "4"),
    ]
    assert "- train: 1 of 2 images show exactly one annotated object" in table.note
    assert "- train: left out: 1 annotation" in table.note
    questions = question_table(entries)
    assert questions.rows[0].cells == ("identification", "0", "-")
    assert len(questions.rows) == len(QuestionType)
    assert "- val: questions: none built" in questions.note
    assert "- train: not asked: positive, 2 images: why" in questions.note
    for table_format in TableFormat:
        assert "train" in render_table(table, table_format)


def test_quoted_rows_are_marked() -> None:
    entry = DatasetEntry("mine", compute_statistics(VAL), (), None, ())
    table = size_table([entry], None, is_quoted=True)
    groups = [row.group for row in table.rows]
    assert groups == ["quoted from the paper, Table 1"] * 6 + ["quoted from the paper, Table 8"] * 3 + ["counted here"]
    core = next(row for row in quoted_rows(1) if row.cells[0] == "PARTONOMY-Core")
    assert core.cells == ("PARTONOMY-Core", "534", "862", "1,976", "1,068", "4,968", "✓", "C, O, S", "-")
