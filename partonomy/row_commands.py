"""Reads the commands that would make the rows of the papers' tables (`partonomy/paper_rows/commands.yaml`).

They stand beside the quotations (`partonomy.quoted_rows`) and are no results: none of the rows has been made here.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from importlib import resources
from pathlib import Path

import msgspec

from partonomy.yaml_files import read_yaml

COMMANDS_FILE = "paper_rows/commands.yaml"


class Origin(StrEnum):
    """Where the answers of a row come from."""

    WEIGHTS = "weights"
    TRAIN = "train"
    MODEL = "model"
    COMPUTED = "computed"
    IMPORT = "import"
    UNPUBLISHED = "unpublished"


ORIGIN_WORDS = {
    Origin.WEIGHTS: "published weights",
    Origin.TRAIN: "weights not published; trained by this code's recipe",
    Origin.MODEL: "runs as it is",
    Origin.COMPUTED: "computed",
    Origin.IMPORT: "import only",
    Origin.UNPUBLISHED: "weights not published",
}


@dataclass(frozen=True)
class RowCommands:
    """How a row of a paper's table would be made.

    Attributes:
        method: The row's name, as quoted.
        origin: Where its answers come from.
        source: Names of the published weights; empty if there are none.
        protocols: Names of the protocols under which the paper measured it, as far as they are known.
        note: What else has to be known; may be empty.
        prepared: The commands that make the model.
        runs: The commands that make the runs, each template once for every split of the table.
        show: The command that prints the row; empty if the weights are not published and this code has no recipe.
    """

    method: str
    origin: Origin
    source: str
    protocols: tuple[str, ...]
    note: str
    prepared: tuple[str, ...] = ()
    runs: tuple[str, ...] = ()
    show: str = ""

    @property
    def commands(self) -> tuple[str, ...]:
        """All commands, in order."""
        return (*self.prepared, *self.runs, self.show) if self.show else ()

    @property
    def words(self) -> str:
        """Where the answers come from, in words."""
        named = f"{ORIGIN_WORDS[self.origin]}: {self.source}" if self.source else ORIGIN_WORDS[self.origin]
        protocols = f"; protocol: {', '.join(self.protocols)}" if self.protocols else ""
        return f"{named}{protocols}"


@dataclass(frozen=True)
class TableCommands:
    """The rows of one table of a paper.

    Attributes:
        name: The value of `tables --table`.
        paper: The paper's name.
        quoted: Name of the file with its quoted rows.
        data: The data that it was measured on.
        splits: The splits that a row needs a run of, "SPLIT" or "BENCHMARK SPLIT"; empty if one run is enough.
        rows: Its rows, in the order of the quotations.
    """

    name: str
    paper: str
    quoted: str
    data: str
    splits: tuple[str, ...]
    rows: tuple[RowCommands, ...]


@dataclass(frozen=True)
class CommandFile:
    """The content of the file: what the names of protocols mean, and the tables."""

    protocols: Mapping[str, str]
    tables: Mapping[str, TableCommands]


class _Strict(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A mapping of the file, whose misspelt keys are errors."""


class _Model(_Strict, frozen=True):
    """A model's folder, the commands that make it, the published weights, and the models that it needs."""

    folder: str
    commands: tuple[str, ...]
    source: str = ""
    after: tuple[str, ...] = ()


class _Row(_Strict, frozen=True):
    """A row; the head of the file explains the keys."""

    method: str
    how: Origin
    model: str = ""
    protocols: tuple[str, ...] = ()
    note: str = ""
    run: tuple[str, ...] = ()


class _Table(_Strict, frozen=True, rename={"import_": "import"}):
    """A table; the head of the file explains the keys."""

    paper: str
    quoted: str
    data: str
    run: tuple[str, ...]
    import_: tuple[str, ...]
    show: str
    rows: tuple[_Row, ...]
    splits: tuple[str, ...] = ()
    shown: str = ""


class _Content(_Strict, frozen=True):
    """The whole file."""

    protocols: dict[str, str]
    models: dict[str, _Model]
    tables: dict[str, _Table]


@cache
def read_row_commands() -> CommandFile:
    """Read the packaged file.

    Raises:
        ValueError: A key is unknown or missing, a row names a model or a protocol that the file does not have, or it
            lacks what its origin needs.
    """
    with resources.as_file(resources.files("partonomy").joinpath(COMMANDS_FILE)) as path:
        try:
            content = msgspec.convert(read_yaml(Path(path)), _Content)
        except msgspec.ValidationError as error:
            raise ValueError(f"{path}: {error}") from error
    tables = {}
    for name, table in content.tables.items():
        rows = tuple(_expand(table, row, content) for row in table.rows)
        tables[name] = TableCommands(name, table.paper, table.quoted, table.data, table.splits, rows)
    return CommandFile(content.protocols, tables)


def _expand(table: _Table, row: _Row, content: _Content) -> RowCommands:
    unknown = [name for name in row.protocols if name not in content.protocols]
    if unknown:
        raise ValueError(f"{COMMANDS_FILE}: {row.method}: there is no protocol {unknown[0]!r}")
    needs_model = row.how in (Origin.WEIGHTS, Origin.TRAIN)
    if needs_model and not row.model:
        raise ValueError(f"{COMMANDS_FILE}: {row.method}: 'how: {row.how}' needs a model")
    sources: list[str] = []
    prepared: list[str] = []
    folder = ""
    if row.model:
        for model in _chain(row.model, content.models):
            prepared += [command for command in model.commands if command not in prepared]
            sources += [model.source] if model.source and row.how is Origin.WEIGHTS else []
        folder = content.models[row.model].folder
    templates = table.import_ if row.how is Origin.IMPORT else row.run or table.run
    if row.how is Origin.UNPUBLISHED:
        return RowCommands(row.method, row.how, "", row.protocols, row.note)
    values = {"model": folder, "row": slug(row.method), "method": row.method}
    runs = tuple(one for template in templates for one in _fill(template, values, table.splits))
    shown = " ".join(_fill(table.shown, values, table.splits))
    show = table.show.format(runs=shown, **values)
    source = ", ".join(sources)
    return RowCommands(row.method, row.how, source, row.protocols, row.note, tuple(prepared), runs, show)


def _chain(name: str, models: Mapping[str, _Model]) -> Iterator[_Model]:
    """Yield a model after those that it needs."""
    if name not in models:
        raise ValueError(f"{COMMANDS_FILE}: there is no model {name!r}")
    for before in models[name].after:
        yield from _chain(before, models)
    yield models[name]


def _fill(template: str, values: Mapping[str, str], splits: tuple[str, ...]) -> Iterator[str]:
    """Fill a template in, once for each split if there are any. Braces of JSON options stay."""
    for named in splits or ("",):
        benchmark, _, split = named.rpartition(" ")
        text = template
        for key, value in {**values, "benchmark": benchmark, "split": split}.items():
            text = text.replace(f"{{{key}}}", value)
        yield text


def slug(method: str) -> str:
    """Return a row's name as a file name: "LISA-13B (ft)" is "lisa_13b_ft"."""
    return re.sub(r"[^a-z0-9]+", "_", method.lower()).strip("_")


def command_lines(table: TableCommands) -> Iterator[str]:
    """Yield the rows of a table with their commands, as indented text."""
    yield f"Commands for the quoted rows of table {table.name} ({table.paper} paper; {table.data}). None was run here."
    for row in table.rows:
        yield f"{row.method}: {row.words}"
        if row.note:
            yield f"  ({row.note})"
        for command in row.commands:
            yield f"  {command}"


_PAGE_HEAD = """# The rows of the papers, and the commands that would make them

`python scripts/write_reproduce.py` writes this page from `partonomy/paper_rows/commands.yaml`; do not edit it.
`python -m partonomy tables --table 2 --commands` prints the same commands, below the table if it has runs. None of
these rows has been made here. A test gives every command to the parser that would read it.

Weights lie in `weights/`, data in `dataset/` and `data/`; name yours. A row is one of these:

- *published weights*: they are converted, then scored;
- *weights not published; trained by this code's recipe*: the method is compared, not its authors' weights;
- *runs as it is* and *computed*: nothing has to be converted;
- *import only*: this code does not run the model. Write its predictions in its own environment
  ([import_predictions.md](import_predictions.md)) and import them;
- *weights not published*: there are neither weights nor a recipe.

## Protocols

How the papers measured a row, as far as paper and code say.

| name | meaning |
|---|---|
"""


def render_page(content: CommandFile) -> str:
    """Return docs/reproduce.md."""
    lines = [f"| {name} | {meaning} |" for name, meaning in content.protocols.items()]
    for table in content.tables.values():
        lines += ["", f"## Table {table.name} of the {table.paper} paper", "", f"Data: {table.data}.", ""]
        if table.splits:
            lines += [f"A row needs a run of each of these; the first is shown: {', '.join(table.splits)}.", ""]
        lines += ["| row | how | protocol of the quotation | note |", "|---|---|---|---|"]
        for row in table.rows:
            how = f"{ORIGIN_WORDS[row.origin]}: {row.source}" if row.source else ORIGIN_WORDS[row.origin]
            lines.append(f"| {row.method} | {how} | {', '.join(row.protocols)} | {row.note} |")
        for row in table.rows:
            if row.commands:
                runs = row.runs[:: max(1, len(table.splits))]
                lines += ["", f"{row.method}:", "", "```bash", *row.prepared, *runs, row.show, "```"]
    return _PAGE_HEAD + "\n".join(lines) + "\n"
