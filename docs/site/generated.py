"""A hook of MkDocs that makes the front page, the change log and the references of keys, commands and functions."""

import argparse
import json
import os
import re
import sys
import typing
from collections.abc import Iterator
from dataclasses import MISSING, Field, fields, is_dataclass
from pathlib import Path

from docstring_parser import parse_from_object
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # the checkout that is documented, wherever mkdocs is started

from partonomy.__main__ import COMMANDS as PARTONOMY_COMMANDS  # noqa: E402
from partonomy.__main__ import build_parser as partonomy_parser  # noqa: E402
from partonomy.benchmarks.registry import BENCHMARKS  # noqa: E402
from partonomy.cli.run import benchmark_parser  # noqa: E402
from plum.cli.main import build_parser as plum_parser  # noqa: E402
from plum.train_config import TrainConfig  # noqa: E402

HELP_WIDTH = "100"
"""Columns of the help texts."""
MORE = "More"
"""Section of the navigation for pages that mkdocs.yml does not name."""
STYLES = """
.md-grid { max-width: 76rem }
.md-typeset table:not([class]) { font-size: .68rem }
.md-typeset table:not([class]) td:first-child code { white-space: nowrap }
"""
API = {
    "Use a model": (
        "plum.load",
        "plum.inference.api.Plum",
        "plum.inference.api.AnyImage",
        "plum.inference.predictor.Prediction",
        "partonomy.structures.CharSpan",
    ),
    "Add a model": (
        "partonomy.models.contract.GroundedModel",
        "partonomy.models.contract.BatchedModel",
        "partonomy.models.contract.SeveralImagesModel",
        "partonomy.models.contract.Turn",
        "partonomy.models.contract.Generation",
        "partonomy.structures.ChoiceScore",
        "partonomy.models.open_vocabulary.OpenVocabularySegmenter",
    ),
    "Add a benchmark": (
        "partonomy.benchmarks.task.Task",
        "partonomy.benchmarks.task.Benchmark",
        "partonomy.benchmarks.task.Record",
        "partonomy.benchmarks.task.Picture",
    ),
    "Read data": (
        "partonomy.datasets.store.load_dataset",
        "partonomy.datasets.store.load_questions",
        "partonomy.structures.PartDataset",
        "partonomy.structures.RLE",
    ),
}
"""The functions and classes that a user of the packages imports, by task."""


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Add pages that the navigation does not name under `MORE`, so that a new page needs no entry."""
    named = set(re.findall(r"[\w/]+\.md", str(config.nav)))
    docs = Path(config.docs_dir)
    pages = (path.relative_to(docs).as_posix() for path in sorted(docs.rglob("*.md")))
    others = [page for page in pages if page not in named]
    if others and config.nav is not None:
        config.nav.append({MORE: others})
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages."""
    pages = {
        "index.md": front_page(),
        "changelog.md": change_log(),
        "config.md": configuration_page(),
        "cli.md": command_page(),
        "api.md": api_page(),
        "site.css": STYLES,
    }
    for name, content in pages.items():
        files.append(File.generated(config, name, content=content))
    return files


def front_page() -> str:
    """Return the README with the links of a page inside docs/; files outside are named without a link."""
    text = (ROOT / "README.md").read_text(encoding="utf-8").replace("](docs/", "](")
    text = text.replace("](CHANGELOG.md)", "](changelog.md)")
    return re.sub(r"\[([^\]]+)\]\((LICENSE|CITATION\.cff)\)", r"\1", text)


def change_log() -> str:
    """Return the change log with the links of a page inside docs/."""
    return (ROOT / "CHANGELOG.md").read_text(encoding="utf-8").replace("](docs/", "](")


def configuration_page() -> str:
    """Return the reference of a run's configuration, a table for each block."""
    lines = [
        "# Configuration of a run",
        "",
        "Every key can be set in YAML (`--config FILE`, several files are merged in order) or on the command line "
        "(`--optimizer.learning_rate 1e-4`). Unknown keys are refused. This page is generated from the dataclasses in "
        "`plum/train_config.py` and `plum/config.py`.",
        "",
    ]
    for prefix, block in walk_blocks(TrainConfig):
        lines += [f"## {f'`{prefix}`' if prefix else 'The run'}", "", _summary(block), ""]
        lines += ["| key | type | default | meaning |", "|---|---|---|---|"]
        lines += [_row(prefix, field, block) for field in fields(block)]
        lines.append("")
    return "\n".join(lines)


def walk_blocks(block: type, prefix: str = "") -> Iterator[tuple[str, type]]:
    """Yield a dataclass and every dataclass below it, each with its dotted key."""
    yield prefix, block
    hints = typing.get_type_hints(block)
    for field in fields(block):
        for inner in _dataclasses(hints[field.name]):
            yield from walk_blocks(inner, f"{prefix}.{field.name}".lstrip("."))


def _dataclasses(declared: object) -> list[type]:
    """Return the dataclasses in a type: itself, an alternative, or the items of a tuple."""
    if isinstance(declared, type) and is_dataclass(declared):
        return [declared]
    return [found for inner in typing.get_args(declared) for found in _dataclasses(inner)]


def _summary(block: type) -> str:
    """Return a dataclass's docstring without its list of attributes."""
    parsed = parse_from_object(block)
    parts = [parsed.short_description, parsed.long_description]
    return "\n\n".join(part for part in parts if part)


def _row(prefix: str, field: "Field[object]", block: type) -> str:
    """Return the table row of a key."""
    described = {param.arg_name: param.description or "" for param in parse_from_object(block).params}
    declared = typing.get_type_hints(block)[field.name]
    key = f"{prefix}.{field.name}".lstrip(".")
    meaning = " ".join(described.get(field.name, "").split())
    if _dataclasses(declared):
        meaning = f"{meaning} See [`{key}`](#{re.sub(r'[^a-z_0-9]', '', key.lower())}).".strip()
    cells = [f"`{field.name}`", f"`{_type_name(declared)}`", _default(field), meaning]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _type_name(declared: object) -> str:
    """Return a type as a user writes it: the values of a choice, otherwise the names of classes without modules."""
    if typing.get_origin(declared) is typing.Literal:
        return " or ".join(map(str, typing.get_args(declared)))
    if declared is type(None):
        return "null"
    if isinstance(declared, type) and not typing.get_args(declared):
        return "block" if is_dataclass(declared) else declared.__name__
    inner = [_type_name(one) for one in typing.get_args(declared) if one is not Ellipsis]
    if typing.get_origin(declared) is tuple:
        return f"list of {' or '.join(dict.fromkeys(inner))}"
    return " or ".join(inner)


def _default(field: "Field[object]") -> str:
    """Return a key's default as YAML shows it."""
    if field.default is not MISSING:
        value = field.default
        value = list(value) if isinstance(value, tuple) else value
        return f"`{json.dumps(value)}`" if not isinstance(value, str) or not value else f"`{value}`"
    return "see its keys" if field.default_factory is not MISSING else "**required**"


def command_page() -> str:
    """Return the help texts of every command."""
    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = HELP_WIDTH
    try:
        lines = [
            "# Commands",
            "",
            "The help texts of all commands, as `--help` prints them. `plum train` and `train.py` take the keys of "
            "[the configuration](config.md).",
            "",
            "## plum",
            "",
        ]
        for name, parser in subparsers(plum_parser()).items():
            lines += _help(f"plum {name}", parser)
        lines += ["## partonomy", ""]
        for name in (command.name for command in PARTONOMY_COMMANDS if command.name != "run"):
            lines += _help(f"partonomy {name}", subparsers(partonomy_parser(name))[name])
        lines += [
            "## partonomy run",
            "",
            "`python validate_partonomy.py` is `partonomy run partonomy`; `plum validate BENCHMARK` is `partonomy run "
            "BENCHMARK --model plum`.",
            "",
        ]
        for name in BENCHMARKS:
            lines += _help(f"partonomy run {name}", benchmark_parser(name))
    finally:
        if before is None:
            del os.environ["COLUMNS"]
        else:
            os.environ["COLUMNS"] = before
    return "\n".join(lines)


def subparsers(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """Return the parsers of a parser's commands by name."""
    (action,) = (one for one in parser._actions if isinstance(one, argparse._SubParsersAction))
    return dict(action.choices)


def _help(title: str, parser: argparse.ArgumentParser) -> list[str]:
    """Return a section with a command's help text."""
    return [f"### {title}", "", "```text", re.sub(r"[\x00-\x08]", "", parser.format_help()).strip(), "```", ""]


def api_page() -> str:
    """Return the directives from which mkdocstrings makes the reference of functions and classes."""
    lines = [
        "# Functions and classes",
        "",
        "Masks are bool arrays (masks, height, width) in original-image pixels. Images are uint8 RGB arrays (height, "
        "width, 3).",
        "",
    ]
    for title, names in API.items():
        lines += [f"## {title}", ""]
        for name in names:
            lines += [f"::: {name}", ""]
    return "\n".join(lines)
