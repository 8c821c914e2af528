"""One table, four renderings: aligned text, Markdown, LaTeX and CSV."""

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum


class TableFormat(StrEnum):
    """How a table is written."""

    TEXT = "text"
    MARKDOWN = "markdown"
    LATEX = "latex"
    CSV = "csv"


@dataclass(frozen=True)
class ColumnGroup:
    """A heading over several neighbouring columns; empty label = no heading."""

    label: str
    columns: tuple[str, ...]


@dataclass(frozen=True)
class TableRow:
    """The cells of one row, already formatted; `group` is the heading under which it stands ("" = none)."""

    cells: tuple[str, ...]
    group: str = ""


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

    @property
    def headings(self) -> tuple[str, ...]:
        """Column headings, group and column in one."""
        return tuple(f"{group.label} {column}".strip() for group in self.columns for column in group.columns)


def render_table(table: Table, table_format: TableFormat) -> str:
    """Write a table in one of the formats, without a final newline."""
    renderers: dict[TableFormat, Callable[[Table], str]] = {
        TableFormat.TEXT: _render_text,
        TableFormat.MARKDOWN: _render_markdown,
        TableFormat.LATEX: _render_latex,
        TableFormat.CSV: _render_csv,
    }
    return renderers[table_format](table)


def format_percent(value: float | None) -> str:
    """A share as percent with one decimal; a dash for none."""
    return "-" if value is None else f"{100 * value:.1f}"


def _render_text(table: Table) -> str:
    columns = [column for group in table.columns for column in group.columns]
    body = [row.cells for row in table.rows]
    widths = [max(len(row[index]) for row in [columns, *body]) for index in range(len(columns))]
    start = 0
    for group in table.columns:  # a long group heading widens its last column
        span = range(start, start + len(group.columns))
        missing = len(group.label) - sum(widths[index] for index in span) - 2 * (len(group.columns) - 1)
        widths[span[-1]] += max(0, missing)
        start += len(group.columns)
    lines = [table.title]
    if any(group.label for group in table.columns):
        lines.append(_group_line(table.columns, widths))
    lines.append(_text_line(columns, widths))
    lines.append("  ".join("-" * width for width in widths))
    previous = ""
    for row in table.rows:
        if row.group != previous:
            lines.append(f"[{row.group}]")
            previous = row.group
        lines.append(_text_line(row.cells, widths))
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
        lines.append(line(row.cells))
    return "\n".join([*lines, *(["", table.note] if table.note else [])])


def _render_latex(table: Table) -> str:
    width = len(table.headings)
    lines = ["\\begin{table}", "\\centering", f"\\caption{{{_latex(table.title)}}}"]
    lines += [f"\\begin{{tabular}}{{l{'r' * (width - 1)}}}", "\\toprule"]
    if any(group.label for group in table.columns):
        spans = [f"\\multicolumn{{{len(group.columns)}}}{{c}}{{{_latex(group.label)}}}" for group in table.columns]
        lines.append(" & ".join(spans) + " \\\\")
    lines.append(" & ".join(_latex(column) for group in table.columns for column in group.columns) + " \\\\")
    lines.append("\\midrule")
    previous = ""
    for row in table.rows:
        if row.group != previous:
            lines.append(f"\\multicolumn{{{width}}}{{l}}{{\\emph{{{_latex(row.group)}}}}} \\\\")
            previous = row.group
        lines.append(" & ".join(_latex(cell) for cell in row.cells) + " \\\\")
    lines += ["\\bottomrule", "\\end{tabular}"]
    if table.note:
        lines.append(f"\\par\\small {_latex(table.note)}")
    return "\n".join([*lines, "\\end{table}"])


def _latex(text: str) -> str:
    for character, escaped in (("\\", "\\textbackslash{}"), ("_", "\\_"), ("%", "\\%"), ("&", "\\&"), ("#", "\\#")):
        text = text.replace(character, escaped)
    return text


def _render_csv(table: Table) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["table", "group", *table.headings])
    for row in table.rows:
        writer.writerow([table.title, row.group, *row.cells])
    return buffer.getvalue().rstrip("\n")
