import csv
import io
import re

import pytest

from partonomy.reporting.paper_tables.paper_table import PaperTableStyle
from partonomy.reporting.paper_tables.partonomy_tables import segmentation_results, text_results
from partonomy.table_format import ColumnGroup, Table, TableFormat, TableRow, format_percent, render_table

SMALL = Table("Title", (ColumnGroup("", ("Name",)), ColumnGroup("Group_1", ("a", "b"))), (TableRow(("x", "1", "20")),))
HARD = Table(
    'A 100% & "quoted" title\nof 2 lines',
    (ColumnGroup("", ("Name", "Kind")), ColumnGroup("G & H", ("a_1", "b^2"))),
    (
        TableRow(("[x]", "{y}", "1", "-"), "first #1", ("", "", "0.5-1.5", "")),
        TableRow(("a\\b", "$~$", "<1", "20"), "second", has_rule_above=True),
    ),
    "A note.",
)


def num_columns(row: str) -> int:
    """Columns that a LaTeX row fills: its cells, each multicolumn with its span."""
    cells = re.split(r"(?<!\\)&", row.removesuffix(" \\\\"))
    spans = [re.match(r"\s*\\multicolumn\{(\d+)\}", cell) for cell in cells]
    return sum(1 if span is None else int(span.group(1)) for span in spans)


def check_latex(text: str) -> None:
    """Balanced braces and environments, and as many columns in every row as the tabular declares."""
    assert text.count("{") - text.count("\\{") == text.count("}") - text.count("\\}")
    opened = re.findall(r"\\begin\{([a-z*]+)\}", text)
    assert re.findall(r"\\end\{([a-z*]+)\}", text) == opened[::-1]
    alignment = re.search(r"\\begin\{tabular\}\{([lr]+)\}", text)
    assert alignment is not None
    rows = [line for line in text.splitlines() if line.endswith("\\\\")]
    assert {num_columns(row) for row in rows} == {len(alignment.group(1))}
    for command in ("\\toprule", "\\midrule", "\\bottomrule", "\\caption{"):
        assert command in text
    body = text.split("\\midrule", 1)[1]
    assert not re.search(r"(?<!\\)[$#^~]|(?<!\\)_", body), "an unescaped special character"


def test_text_rendering() -> None:
    assert render_table(SMALL, TableFormat.TEXT).splitlines() == [
        "Title",
        "      Group_1",
        "Name  a     b",
        "----  -  ----",
        "x     1    20",
    ]


def test_intervals_stand_below_their_values() -> None:
    row = TableRow(("x", "1", "20"), intervals=("", "", "18.0-22.5"), has_rule_above=True)
    lines = render_table(Table("Title", SMALL.columns, (*SMALL.rows, row)), TableFormat.TEXT).splitlines()
    assert lines[3:] == [
        "----  -  ---------",
        "x     1         20",
        "----  -  ---------",
        "x     1         20",
        "         18.0-22.5",
    ]
    markdown = render_table(Table("Title", SMALL.columns, (row,)), TableFormat.MARKDOWN)
    assert "| x | 1 | 20 [18.0-22.5] |" in markdown


def test_markdown_and_csv_rendering() -> None:
    assert "| Name | Group_1 a | Group_1 b |" in render_table(SMALL, TableFormat.MARKDOWN)
    rows = list(csv.reader(io.StringIO(render_table(SMALL, TableFormat.CSV))))
    assert rows == [["table", "group", "Name", "Group_1 a", "Group_1 b"], ["Title", "", "x", "1", "20"]]


def test_latex_rendering() -> None:
    text = render_table(HARD, TableFormat.LATEX)
    check_latex(text)
    assert "% needs \\usepackage{booktabs} in the preamble" in text
    assert "\\caption{A 100\\% \\& ``quoted'' title of 2 lines}" in text
    assert "\\multicolumn{2}{c}{} & \\multicolumn{2}{c}{G \\& H} \\\\\n\\cmidrule(lr){3-4}" in text
    assert "Name & Kind & a\\_1 & b\\textasciicircum{}2 \\\\" in text
    assert "{[}x{]} & \\{y\\} & 1 & - \\\\\n &  & {\\scriptsize 0.5--1.5} &  \\\\\n\\midrule" in text
    assert "a\\textbackslash{}b & \\$\\textasciitilde{}\\$ & \\textless{}1 & 20 \\\\" in text
    assert "resizebox" not in text


@pytest.mark.parametrize("number", [2, 9, 10, 11])
def test_latex_of_the_segmentation_tables(number: int) -> None:
    text = render_table(segmentation_results((), number, PaperTableStyle()), TableFormat.LATEX)
    check_latex(text)
    assert "\\usepackage{booktabs,graphicx}" in text
    assert f"layout of the paper's Table {number}; protocol of our rows: ours}}" in text
    assert text.count("quoted & paper &") == (12 if number == 2 else 8)


def test_latex_of_the_text_table() -> None:
    text = render_table(text_results((), PaperTableStyle()), TableFormat.LATEX)
    check_latex(text)
    # Three blocks of quoted rows: one rule below the headings, one between each two blocks.
    assert text.count("\\midrule") == 3
    assert "\\multicolumn{4}{c}{Whole2Part}" in text


def test_format_percent() -> None:
    assert (format_percent(0.3625), format_percent(None), format_percent(1.0)) == ("36.2", "-", "100.0")
