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
        ("parts:", "parts: [\n", "not a YAML file"),
    ],
)
def test_a_wrong_table_is_refused_by_name(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in FUNCTIONS
    with pytest.raises(ValueError, match=message) as error:
        load_functions(write_functions(tmp_path, FUNCTIONS.replace(old, new)))
    assert str(tmp_path) in str(error.value)


def test_a_missing_table_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nothing\.yaml: the file of functions does not exist"):
        load_functions(tmp_path / "nothing.yaml")
