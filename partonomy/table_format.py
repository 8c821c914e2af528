"""Renders a table as aligned text, Markdown, LaTeX or CSV."""

import csv
import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from partonomy.terminal import one_line, spreadsheet_cell

MAX_UNSCALED_COLUMNS = 8
"""A LaTeX table with more columns than this is scaled down to the text width."""
_LATEX_ESCAPES = str.maketrans(
    {
        "\\": "\\textbackslash{}",
        "{": "\\{",
        "}": "\\}",
        "$": "\\$",
        "&": "\\&",
        "#": "\\#",
        "_": "\\_",
        "%": "\\%",
        "~": "\\textasciitilde{}",
        "^": "\\textasciicircum{}",
        "<": "\\textless{}",
        ">": "\\textgreater{}",
        "|": "\\textbar{}",
        '"': "''",  # an opening quote cannot be told from a closing one
        "[": "{[}",  # after \\ a bare bracket would be read as a length
        "]": "{]}",
        "\n": " ",
    }
)


class TableFormat(StrEnum):
    """The output format of a table."""

    TEXT = "text"
    MARKDOWN = "markdown"
    LATEX = "latex"
    CSV = "csv"


@dataclass(frozen=True)
class ColumnGroup:
    """A heading over adjacent columns; an empty label means no heading."""

    label: str
    columns: tuple[str, ...]


@dataclass(frozen=True)
class TableRow:
    """One formatted row.

    Attributes:
        cells: Texts of the row.
        group: Heading of the group of rows that it belongs to ("" = none).
        intervals: Confidence interval of each cell, e.g. "34.0-38.5", or "" for a cell without one; empty if no cell
            has one.
        has_rule_above: Whether a rule separates it from the row above.
    """

    cells: tuple[str, ...]
    group: str = ""
    intervals: tuple[str, ...] = ()
    has_rule_above: bool = False


@dataclass(frozen=True)
class Table:
    """A table with two levels of headings and a note below."""

    title: str
    columns: tuple[ColumnGroup, ...]
    rows: tuple[TableRow, ...]
    note: str = ""

    def __post_init__(self) -> None:
        width = len(self.headings)
        for row in self.rows:
            assert len(row.cells) == width, f"{self.title}: {len(row.cells)} cells under {width} headings"
            assert len(row.intervals) in (0, width), f"{self.title}: {len(row.intervals)} intervals of {width} cells"

    @property
    def headings(self) -> tuple[str, ...]:
        """Column headings, each with its group's label as prefix."""
        return tuple(f"{group.label} {column}".strip() for group in self.columns for column in group.columns)


def render_table(table: Table, table_format: TableFormat) -> str:
    """Render a table in one of the formats, without a final newline.

    Names from files cannot break a row, move a terminal's cursor or start a spreadsheet's formula.
    """
    if table_format in (TableFormat.TEXT, TableFormat.MARKDOWN):
        table = _on_single_lines(table)
    renderers: dict[TableFormat, Callable[[Table], str]] = {
        TableFormat.TEXT: _render_text,
        TableFormat.MARKDOWN: _render_markdown,
        TableFormat.LATEX: _render_latex,
        TableFormat.CSV: _render_csv,
    }
    return renderers[table_format](table)


def _on_single_lines(table: Table) -> Table:
    """Return the table with every cell and heading on one line, without control characters."""
    columns = tuple(
        ColumnGroup(one_line(group.label), tuple(one_line(column) for column in group.columns))
        for group in table.columns
    )
    rows = tuple(replace(row, cells=tuple(map(one_line, row.cells)), group=one_line(row.group)) for row in table.rows)
    return replace(table, title=one_line(table.title), columns=columns, rows=rows)


def format_percent(value: float | None) -> str:
    """Format a fraction as a percentage with one decimal; a dash for None."""
    return "-" if value is None else f"{100 * value:.1f}"


def _render_text(table: Table) -> str:
    columns = [column for group in table.columns for column in group.columns]
    body = [cells for row in table.rows for cells in (row.cells, row.intervals) if cells]
    widths = [max(len(row[index]) for row in [columns, *body]) for index in range(len(columns))]
    start = 0
    for group in table.columns:  # a long group heading widens its last column
        span = range(start, start + len(group.columns))
        missing = len(group.label) - sum(widths[index] for index in span) - 2 * (len(group.columns) - 1)
        widths[span[-1]] += max(0, missing)
        start += len(group.columns)
    rule = "  ".join("-" * width for width in widths)
    lines = [table.title]
    if any(group.label for group in table.columns):
        lines.append(_group_line(table.columns, widths))
    lines += [_text_line(columns, widths), rule]
    previous = ""
    for row in table.rows:
        if row.has_rule_above:
            lines.append(rule)
        if row.group != previous:
            lines.append(f"[{row.group}]")
            previous = row.group
        lines.append(_text_line(row.cells, widths))
        if row.intervals:
            lines.append(_text_line(row.intervals, widths))
    return "\n".join([*(line.rstrip() for line in lines), *([table.note] if table.note else [])])


def _group_line(groups: Sequence[ColumnGroup], widths: Sequence[int]) -> str:
    cells, start = [], 0
    for group in groups:
        span = widths[start : start + len(group.columns)]
        cells.append(group.label.center(sum(span) + 2 * (len(span) - 1)))
        start += len(group.columns)
    return "  ".join(cells)


def _text_line(cells: Sequence[str], widths: Sequence[int]) -> str:
    first, *rest = cells
    aligned = [cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True)]
    return "  ".join([first.ljust(widths[0]), *aligned])


def _render_markdown(table: Table) -> str:
    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    alignment = ["---"] + ["---:"] * (len(table.headings) - 1)
    lines = [f"**{table.title}**", "", line(table.headings), "|" + "|".join(alignment) + "|"]
    previous = ""
    for row in table.rows:
        if row.group != previous:
            lines.append(line([f"*{row.group}*", *[""] * (len(row.cells) - 1)]))
            previous = row.group
        intervals = row.intervals or ("",) * len(row.cells)
        lines.append(line([_with_interval(*pair) for pair in zip(row.cells, intervals, strict=True)]))
    return "\n".join([*lines, *(["", table.note] if table.note else [])])


def _with_interval(cell: str, interval: str) -> str:
    return f"{cell} [{interval}]" if interval else cell


def _render_latex(table: Table) -> str:
    width = len(table.headings)
    is_wide = width > MAX_UNSCALED_COLUMNS
    lines = [
        f"% needs \\usepackage{{{'booktabs,graphicx' if is_wide else 'booktabs'}}} in the preamble",
        f"\\begin{{table{'*' if is_wide else ''}}}[t]",
        "\\centering",
        f"\\caption{{{_latex(table.title)}}}",
        *(["\\resizebox{\\textwidth}{!}{%"] if is_wide else []),
        f"\\begin{{tabular}}{{{_latex_alignment(table)}}}",
        "\\toprule",
        *_latex_headings(table),
        "\\midrule",
    ]
    previous = ""
    for index, row in enumerate(table.rows):
        if row.has_rule_above or (row.group != previous and index):
            lines.append("\\midrule")
        if row.group != previous:
            lines.append(f"\\multicolumn{{{width}}}{{l}}{{\\emph{{{_latex(row.group)}}}}} \\\\")
            previous = row.group
        lines.append(_latex_row([_latex(cell) for cell in row.cells]))
        if row.intervals:
            small = [f"{{\\scriptsize {_latex(cell).replace('-', '--')}}}" if cell else "" for cell in row.intervals]
            lines.append(_latex_row(small))
    lines += ["\\bottomrule", "\\end{tabular}" + ("}" if is_wide else "")]
    if table.note:
        lines.append(f"\\par\\smallskip{{\\footnotesize {_latex(table.note)}}}")
    return "\n".join([*lines, f"\\end{{table{'*' if is_wide else ''}}}"])


def _latex_alignment(table: Table) -> str:
    """Align the columns that name the row to the left and numbers to the right."""
    num_left = 1 if len(table.columns) == 1 else len(table.columns[0].columns)
    return "l" * num_left + "r" * (len(table.headings) - num_left)


def _latex_headings(table: Table) -> list[str]:
    lines = []
    if any(group.label for group in table.columns):
        spans, rules, start = [], [], 1
        for group in table.columns:
            end = start + len(group.columns) - 1
            spans.append(f"\\multicolumn{{{len(group.columns)}}}{{c}}{{{_latex(group.label)}}}")
            rules += [f"\\cmidrule(lr){{{start}-{end}}}"] if group.label else []
            start = end + 1
        lines = [_latex_row(spans), " ".join(rules)]
    return [*lines, _latex_row([_latex(column) for group in table.columns for column in group.columns])]


def _latex_row(cells: Sequence[str]) -> str:
    return " & ".join(cells) + " \\\\"


def _latex(text: str) -> str:
    return re.sub(r'"([^"]*)"', r"``\1''", text).translate(_LATEX_ESCAPES)


def _render_csv(table: Table) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(map(spreadsheet_cell, ["table", "group", *table.headings]))
    for row in table.rows:
        writer.writerow(map(spreadsheet_cell, [table.title, row.group, *row.cells]))
    return buffer.getvalue().rstrip("\n")
