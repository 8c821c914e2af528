from pathlib import Path

import pytest

from partonomy.datasets.synthetic.dataset import class_names, parts_of
from partonomy.questions.mmr.templates import load_functions
from tests.partonomy.questions.mmr_world import FUNCTIONS, make_table, write_functions


def test_everything_of_the_embedded_dataset_has_a_function() -> None:
    table = load_functions()
    assert [label for label in class_names() if not table.find(label, None)] == []
    missing = [f"{label}:{part}" for label in class_names() for part in parts_of(label) if not table.find(label, part)]
    assert missing == []


def test_an_entry_of_one_object_counts_instead_of_the_general_one(tmp_path: Path) -> None:
    table = make_table(tmp_path)
    assert table.find("dog", "tail") == ("show joy",)
    assert table.find("bird", "tail") == ("fly straight",)
    assert table.find("dog", None) == ("guard a house",)
    assert table.find("car", "door") == table.find("cat", None) == ()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("objects:", "things:", "exactly the keys parts, objects"),
        ("show joy: dog:tail", "wag tails: dog:tail", "'wag tails': the entry 'dog:tail' is empty or named"),
        ("show joy: dog:tail", "keep the front clean: front", "named by the purpose"),
        ("listen to a sound: ear", "listen to a sound: ear,,", "the entry '' is empty"),
        ("listen to a sound: ear", "listen to a sound: [ear]", "names with commas between, got \\['ear'\\]"),
        ("parts:", "parts: [\n", "not YAML"),
        ("parts:", "groups: [car]\nparts:", "groups: expected lines 'name: object, object', got list"),
        ("parts:", "groups:\n  cars: car,,bus\nparts:", "groups, 'cars': expected other names"),
        ("parts:", "unasked: tail\nparts:", "unasked: expected object:part, object:part, got 'tail'"),
        ("parts:", "unasked: dog:tail\nparts:", "unasked: 'dog:tail' has a purpose in parts"),
        ("show joy: dog:tail", "show joy: dog/:tail", "the entry ':tail' is empty"),
    ],
)
def test_a_wrong_table_is_refused_by_name(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in FUNCTIONS
    with pytest.raises(ValueError, match=message) as error:
        load_functions(write_functions(tmp_path, FUNCTIONS.replace(old, new)))
    assert str(tmp_path) in str(error.value)


def test_groups_and_alternatives_are_written_out(tmp_path: Path) -> None:
    text = """
groups:
  cars: car, van
unasked: cars/lamp:horn
parts:
  get in: cars/bus:door/step, chair:step
  sit: seat
objects:
  ride: cars, bus/tram
"""
    table = load_functions(write_functions(tmp_path, text))
    doors = {f"{name}:{part}" for name in ("car", "van", "bus") for part in ("door", "step")}
    assert set(table.parts) == doors | {"chair:step", "seat"}
    assert {table.find(name, None) for name in ("car", "van", "bus", "tram")} == {("ride",)}
    assert table.unasked == {"car:horn", "van:horn", "lamp:horn"}


def test_the_packaged_table_knows_every_part_by_its_object() -> None:
    assert [entry for entry in load_functions().parts if entry.count(":") != 1] == []


@pytest.mark.parametrize(
    ("name", "part", "misleading"),
    [
        ("cabinet", "door", "get in and out"),
        ("refrigerator", "door", "get in and out"),
        ("chandelier", "canopy", "keep the rain off from above"),
        ("trash can", "pedal", "set it in motion"),
        ("car", "handle", "hold it in the hand"),
        ("bottle", "heel", "touch the ground with every pace"),
        ("guitar", "key", "type a message"),
        ("fan", "blade", "cut something"),
        ("toilet", "lid", "keep what is inside from falling out"),
        ("clock", "frame", "hold two wheels and a rider together"),
        ("elephant", "trunk", "stow luggage or goods during a ride"),
    ],
)
def test_parts_of_one_name_have_purposes_of_their_own(name: str, part: str, misleading: str) -> None:
    table = load_functions()
    assert misleading in {purpose for purposes in table.parts.values() for purpose in purposes}
    assert misleading not in table.find(name, part)


def test_a_missing_table_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nothing\.yaml: the file of functions does not exist"):
        load_functions(tmp_path / "nothing.yaml")
