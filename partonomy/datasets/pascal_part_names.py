"""Pascal-Part's class and part codes in words (`pascal_part_names.yaml`)."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import yaml

from partonomy.names import OBJECT_PART_SEPARATOR

TABLE = Path(__file__).with_suffix(".yaml")
TABLE_PATH = "partonomy/datasets/pascal_part_names.yaml"
NUMBER = re.compile(r"_\d+$")
NUMBERED = "_N"
SIDES = {"left", "right"}


@dataclass(frozen=True)
class PascalTable:
    """objects: class -> words, where they differ. parts: class -> code ("wheel_N" for wheel_1, ...) -> words."""

    objects: Mapping[str, str]
    parts: Mapping[str, Mapping[str, str]]


@cache
def load_table() -> PascalTable:
    """Read the packaged table."""
    content = yaml.safe_load(TABLE.read_text(encoding="utf-8"))
    return PascalTable(content["objects"], content["parts"])


def fold_number(code: str) -> str:
    """The code without its instance's number: "wheel_2" is "wheel"."""
    return NUMBER.sub("", code)


def name_part(class_name: str, code: str, name_map: Mapping[str, str], fold_sides: bool) -> str:
    """Return the words of a part code.

    Args:
        class_name: as the file names the object ("car").
        code: as the file names the part ("wheel_2", "fliplate").
        name_map: the user's words for "class:code" or "code", with or without the number; they win.
        fold_sides: leave out "left" and "right".

    Raises:
        ValueError: neither table knows the code; says where the table is.
    """
    folded = fold_number(code)
    for key in (code, folded):
        for name in (f"{class_name}{OBJECT_PART_SEPARATOR}{key}", key):
            if name in name_map:
                return name_map[name]
    codes = load_table().parts.get(class_name, {})
    words = codes.get(code) or (codes.get(folded + NUMBERED) if folded != code else None)
    if words is None:
        raise ValueError(
            f"the part code {code!r} of class {class_name!r} is not in the table of Pascal-Part's codes "
            f'({TABLE_PATH}); add it there, or pass --name_map with {{"{class_name}:{folded}": its name}}'
        )
    return without_sides(words) if fold_sides else words


def without_sides(words: str) -> str:
    """ "left front leg" becomes "front leg"; a name made of sides alone stays."""
    return " ".join(word for word in words.split() if word not in SIDES) or words
