import csv
import io
from pathlib import Path

import pytest

from partonomy.cli.results import tables
from partonomy.evaluation.loaded_run import LoadedRun, length_accuracies, load_run
from partonomy.evaluation.reference import load_reference, segmentation_table
from partonomy.evaluation.results import Summary, TypeSummary
from partonomy.evaluation.table_format import ColumnGroup, Table, TableFormat, TableRow, format_percent, render_table
from partonomy.evaluation.tables import overview, render_tables, segmentation_results, text_results
from partonomy.metrics.multiple_choice import Selector
from validate_partonomy import main

SMALL = Table("Title", (ColumnGroup("", ("Name",)), ColumnGroup("Group_1", ("a", "b"))), (TableRow(("x", "1", "20")),))


@pytest.fixture
def runs(question_file: Path, tmp_path: Path) -> tuple[LoadedRun, ...]:
    """Finished runs of two built-in models."""
    for model in ("oracle", "empty"):
        main(["--model", model, "--questions", str(question_file), "--output", str(tmp_path / model)])
    return tuple(load_run(tmp_path / model) for model in ("oracle", "empty"))


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
def test_quoted_rows(number: int, num_rows: int, method: str, column: str, value: float | None) -> None:
    table = load_reference(number)
    assert len(table.rows) == num_rows
    row = next(row for row in table.rows if row.method == method)
    assert row.values[table.columns.index(column)] == value
    assert row.is_fine_tuned == method.endswith("(ft)")


def test_reference_table_goes_by_the_datasets_name() -> None:
    names = ("paco_lvis_val", "PartImageNet", "pascal_part", "partonomy_qa_pairs", "synthetic_val")
    assert [segmentation_table(name) for name in names] == [9, 10, 11, 2, 2]


def test_every_row_tells_its_source(runs: tuple[LoadedRun, ...]) -> None:
    segmentation, text = segmentation_results(runs), text_results(runs)
    assert [row.cells[1] for row in segmentation.rows] == ["paper"] * 12 + ["ours"] * 2
    assert [row.cells[1] for row in text.rows] == ["paper"] * 11 + ["exact"] + ["ours"] * 2
    oracle = next(row for row in text.rows if row.cells[0] == "oracle (oracle)")
    assert set(oracle.cells[2:]) == {"100.0"}
    assert text.note.startswith('Source "paper": quoted')
    assert text.headings[2:6] == ("Identification P", "Identification R", "Identification A", "Intersection P")


def test_random_row_is_the_exact_expectation(runs: tuple[LoadedRun, ...]) -> None:
    row = next(row for row in text_results(runs).rows if row.cells[1] == "exact")
    # Five choices everywhere: every accuracy is 20; columns 4, 7, 10, then PA and OA of the part-whole types.
    assert [row.cells[index] for index in (4, 7, 10, 13, 14, 17, 18)] == ["20.0"] * 7


def test_accuracy_by_length(runs: tuple[LoadedRun, ...]) -> None:
    rows = length_accuracies(runs[1].of_type("identification"), Selector.SEQUENCE)
    # The first choice is right for image 0 alone, whose answer has one part.
    assert [(row.num_parts, row.num_questions, row.num_correct) for row in rows] == [
        (1, 1, 1),
        (2, 1, 0),
        (3, 1, 0),
        (4, 1, 0),
    ]


def test_text_rendering() -> None:
    assert render_table(SMALL, TableFormat.TEXT).splitlines() == [
        "Title",
        "      Group_1",
        "Name  a     b",
        "----  -  ----",
        "x     1    20",
    ]


def test_markdown_latex_and_csv_rendering() -> None:
    assert "| Name | Group_1 a | Group_1 b |" in render_table(SMALL, TableFormat.MARKDOWN)
    latex = render_table(SMALL, TableFormat.LATEX)
    assert "\\multicolumn{2}{c}{Group\\_1}" in latex
    assert "x & 1 & 20 \\\\" in latex
    rows = list(csv.reader(io.StringIO(render_table(SMALL, TableFormat.CSV))))
    assert rows == [["table", "group", "Name", "Group_1 a", "Group_1 b"], ["Title", "", "x", "1", "20"]]


def test_format_percent() -> None:
    assert (format_percent(0.3625), format_percent(None), format_percent(1.0)) == ("36.2", "-", "100.0")


@pytest.mark.parametrize("table_format", list(TableFormat))
def test_command_writes_every_format(runs: tuple[LoadedRun, ...], tmp_path: Path, table_format: TableFormat) -> None:
    output = tmp_path / "tables.out"
    tables([str(run.path) for run in runs], table_format.value, str(output))
    assert output.read_text() == render_tables(runs, table_format)
    assert "oracle (oracle)" in output.read_text()


def test_unknown_format_and_missing_run_are_errors(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="known: text, markdown, latex, csv"):
        tables([], "html")
    with pytest.raises(FileNotFoundError, match="finished validation"):
        tables([str(tmp_path)])


def test_notes_name_what_sets_a_run_apart(question_file: Path, tmp_path: Path) -> None:
    output = tmp_path / "part"
    flags = ["--limit", "2", "--part_whole", "predicted"]
    main(["--model", "oracle", "--questions", str(question_file), "--output", str(output), *flags])
    note = text_results([load_run(output)]).note
    assert "oracle (part): at most 2 questions of each type (--limit)." in note
    assert "oracle (part): the second part-whole question follows the model's own first choice." in note
    assert "failed" not in note


def test_long_lists_of_reasons_are_cut_and_counted() -> None:
    reasons = {f"image{number}.jpg: lost": 1 for number in range(8)}
    entry = TypeSummary("positive", 9, 1, 8, reasons, {})
    text = overview(Summary("1", {}, 0.0, {"positive": entry}))
    assert text.count("positive: 1 failed: ") == 5
    assert "positive: 3 more reasons, see summary.json" in text


def test_full_run_has_no_caveat(runs: tuple[LoadedRun, ...]) -> None:
    assert text_results(runs).note.endswith("Random guess: exact expectation over the choices.")
    assert "oracle (oracle):" not in text_results(runs).note
