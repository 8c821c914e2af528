"""docs/fidelity.md names only switches, values and defaults that exist."""

import re
import types
import typing
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path

import pytest

from partonomy.__main__ import main
from plum.train_config import TrainConfig
from tests.test_configs import FULL_SIZE, load

PAGE = Path(__file__).resolve().parents[1] / "docs" / "fidelity.md"
WORDS = {"none", "see the rows above"}
"""What the switch column may hold instead of a switch."""


def rows() -> list[list[str]]:
    """Cells of every row of the page's tables, without headings."""
    lines = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [row for row in cells if row[0] != "what" and not row[0].startswith("---")]


def switches() -> list[tuple[str, tuple[str, ...]]]:
    """Every switch of the page with the values that it lists."""
    found = []
    for row in rows():
        if row[-1] in WORDS:
            continue
        for part in row[-1].split("; "):
            head, _, values = part.partition(": ")
            spans = re.findall(r"`([^`]+)`", head)
            assert spans, part
            found += [(name, tuple(re.findall(r"`([^`]+)`", values))) for name in spans]
    return found


def strip_optional(declared: object) -> list[object]:
    """Alternatives of a type, None left out; the items' type of a tuple."""
    options = typing.get_args(declared) if typing.get_origin(declared) is not typing.Literal else (declared,)
    is_union = typing.get_origin(declared) in (typing.Union, types.UnionType)
    if is_union:
        return [one for one in options if one is not type(None)]
    return [options[0]] if typing.get_origin(declared) is tuple else [declared]


def declared_type(key: str) -> object:
    """Type of a dotted key of a run's configuration."""
    declared: object = TrainConfig
    for name in key.split("."):
        declared = next(one for one in strip_optional(declared) if is_dataclass(one))
        hints = typing.get_type_hints(declared)
        assert name in hints, f"{PAGE.name} names {key}, but {declared} has no {name}"
        declared = hints[name]
    return declared


def test_every_row_has_five_cells_and_a_switch_or_says_none() -> None:
    assert len(rows()) > 20
    assert all(len(row) == 5 and all(row) for row in rows())
    assert len(switches()) > 15


@pytest.mark.parametrize(("key", "values"), [one for one in switches() if " " not in one[0]])
def test_the_key_exists_with_its_values(key: str, values: tuple[str, ...]) -> None:
    declared = declared_type(key)
    if not values:
        return
    allowed = {"true", "false"} if declared is bool else set()
    for one in strip_optional(declared):
        allowed |= {str(value) for value in typing.get_args(one)} if typing.get_origin(one) is typing.Literal else set()
    assert set(values) <= allowed, f"{key} takes {sorted(allowed)}"


@pytest.mark.parametrize(("flag", "values"), [one for one in switches() if " " in one[0]])
def test_the_flag_exists_with_its_values(
    flag: str, values: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    package, *command, name = flag.split()
    assert package == "partonomy"
    with pytest.raises(SystemExit):
        main([*command, "--help"])
    text = capsys.readouterr().out
    found = re.search(rf"{name} (?:{{([^}}]*)}}|[A-Z_]+)", text)
    assert found is not None, f"{flag} does not exist"
    if found[1] is not None:  # the flag takes one of a list; otherwise its help names the values
        assert not values or set(values) <= set(found[1].split(","))
    else:
        assert all(re.search(rf"\b{value}\b", text) for value in values)


def test_defaults_and_full_size_choices_are_those_of_the_page() -> None:
    """A row that says "default `x`" or "full size: `x`" says what is computed."""
    checked = 0
    for row in rows():
        key = re.match(r"`([a-z_.]+)`", row[-1])
        default, full = (re.search(rf"{word} `([a-z_]+)`", row[3]) for word in ("default", "full size:"))
        if key is None:
            continue
        if default is not None and key[1] != "model.llava.vision.fit":
            assert default_of(key[1]) == default[1], row[0]
            checked += 1
        if full is not None:
            own = [path for path in FULL_SIZE if "kl" not in key[1] or path.stem.startswith("plum")]
            starts = [path for path in own if key[1] != "new_token_rows" or not path.stem.endswith("ft")]
            assert {value_of(path, key[1]) for path in starts} == {full[1]}, row[0]
            checked += 1
    assert checked >= 6


def default_of(key: str) -> object:
    owner, _, name = key.rpartition(".")
    holder = next(one for one in strip_optional(declared_type(owner) if owner else TrainConfig) if is_dataclass(one))
    default = next(field.default for field in fields(holder) if field.name == name)  # type: ignore[arg-type]
    assert default is not MISSING
    return default


def value_of(path: Path, key: str) -> object:
    value: object = load(path)
    for name in key.split("."):
        value = getattr(value, name)
    return value


@pytest.mark.parametrize("path", FULL_SIZE, ids=lambda path: path.stem)
def test_full_size_configurations_follow_the_authors(path: Path) -> None:
    config = load(path)
    model = config.model
    assert model.llava.vision.fit == "crop"
    assert model.llava.conversation == "llava_v1_im_start_end"
    assert config.trainable.embeddings
    assert model.lora is not None
    assert model.lora.train_embeddings
    text = path.read_text(encoding="utf-8")
    assert "docs/fidelity.md" in text
    if model.system == "plum":
        assert config.losses.kl_reduction == "authors"
        assert "# embeddings: " in text
        assert "# kl_reduction: " in text
