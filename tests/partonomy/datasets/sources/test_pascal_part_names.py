"""The table of Pascal-Part's code names."""

import csv
from pathlib import Path

import pytest

from partonomy.datasets.sources import pascal_part as pascal_part_names
from partonomy.datasets.sources.pascal_part import load_table, name_part

ROOT = Path(__file__).resolve().parents[4]


def test_the_table_holds_every_code_of_the_release() -> None:
    """The paper's Table 1 counts 20 objects and 193 object-part labels: sides apart, instance numbers folded."""
    table = load_table()
    classes = set(table.parts) - {"table"}  # the files' name of diningtable
    with (ROOT / "partonomy" / "paper_rows" / "table1.csv").open(encoding="utf-8") as file:
        (quoted,) = [row for row in csv.DictReader(file) if row["Datasets"] == "PASCAL-Part"]
    assert len(classes) == int(quoted["# Object Labels"]) == 20
    assert sum(len(table.parts[name]) for name in classes) == int(quoted["# Object-Part Labels"]) == 193
    assert {name for name in classes if not table.parts[name]} == {"boat", "chair", "diningtable", "sofa"}
    for codes in table.parts.values():
        assert all(word.isascii() and word.isalpha() for words in codes.values() for word in words.split())
        assert len(set(codes.values())) == len(codes), "no two codes of a class become one name"


@pytest.mark.parametrize(
    ("class_name", "code", "words", "folded"),
    [
        ("cow", "lfuleg", "left front upper leg", "front upper leg"),
        ("sheep", "rhorn", "right horn", "horn"),
        ("horse", "lbho", "left back hoof", "back hoof"),
        ("dog", "muzzle", "muzzle", "muzzle"),
        ("cat", "rear", "right ear", "ear"),
        ("person", "rebrow", "right eyebrow", "eyebrow"),
        ("bus", "window_20", "window", "window"),
        ("train", "cleftside_9", "coach left side", "coach side"),
        ("train", "hroofside", "head roof", "head roof"),
        ("tvmonitor", "screen", "screen", "screen"),
    ],
)
def test_codes_in_words(class_name: str, code: str, words: str, folded: str) -> None:
    assert name_part(class_name, code, {}, fold_sides=False) == words
    assert name_part(class_name, code, {}, fold_sides=True) == folded


@pytest.mark.parametrize(
    ("class_name", "code"), [("cat", "muzzle"), ("cow", "lfho"), ("car", "wheel"), ("sofa", "leg")]
)
def test_codes_of_other_classes_are_unknown(class_name: str, code: str) -> None:
    with pytest.raises(ValueError, match=f"the part code '{code}' of class '{class_name}' is not in the table"):
        name_part(class_name, code, {}, fold_sides=False)
    assert pascal_part_names.TABLE.relative_to(ROOT).as_posix() == pascal_part_names.TABLE_PATH
