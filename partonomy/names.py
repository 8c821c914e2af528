"""Natural-language names of objects and parts from the raw names of annotation files (paper, appendix B).

`airplanes--attack--part:jet_engine` becomes "jet engine", `car_(automobile)` becomes "car". A name map (raw -> natural)
overrides the rules where they are not enough, such as `airplanes--attack` -> "attack aircraft".
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path

from partonomy.datasets.files import parse_json

OBJECT_PART_SEPARATOR = ":"
LEVEL_SEPARATOR = "--"


def clean_name(raw: str, keep_qualifier: bool = False) -> str:
    """Turn one raw name into words.

    Args:
        raw: as the annotation file writes it.
        keep_qualifier: keep what stands in parentheses ("mouse (animal)").

    Returns:
        Lower case, without `category--object--part:` prefixes, underscores as spaces.

    Raises:
        ValueError: nothing is left of the name.
    """
    name = raw.rsplit(LEVEL_SEPARATOR, 1)[-1]
    name = name.removeprefix("part:").replace("_", " ").lower()
    if not keep_qualifier:
        name = re.sub(r"\([^)]*\)", " ", name) if re.sub(r"\([^)]*\)", "", name).strip() else name
    name = " ".join(name.split())
    if not name:
        raise ValueError(f"the name {raw!r} is empty once cleaned; give it one in the name map")
    return name


def clean_names(raw_names: Iterable[str], name_map: Mapping[str, str]) -> dict[str, str]:
    """Clean the names of one vocabulary (all objects, or all parts) together.

    What the rules drop of a name comes back where two raw names would otherwise become one: the qualifier in
    parentheses ("mouse_(animal)" and "mouse_(computer_equipment)"), or the level above ("airplanes--attack" and
    "helicopter--attack" become "attack (airplanes)" and "attack (helicopter)"). Two raw names that the name map gives
    the same natural name are merged on purpose.

    Returns:
        raw name -> natural name.
    """
    unique = sorted(set(raw_names))
    names = {raw: clean_name(raw) for raw in unique if raw not in name_map}
    for same in _collisions(names):
        if any("(" in raw for raw in same):
            names.update({raw: clean_name(raw, keep_qualifier=True) for raw in same})
    for same in _collisions(names):
        levels = {raw: _level_above(raw) for raw in same}
        if len(set(levels.values())) > 1:
            names.update({raw: f"{names[raw]} ({level})" for raw, level in levels.items() if level})
    names.update({raw: name_map[raw] for raw in unique if raw in name_map})
    return names


def _collisions(names: Mapping[str, str]) -> list[list[str]]:
    """The raw names that share a natural name."""
    raw_by_name: dict[str, list[str]] = defaultdict(list)
    for raw, name in names.items():
        raw_by_name[name].append(raw)
    return [same for same in raw_by_name.values() if len(same) > 1]


def _level_above(raw: str) -> str | None:
    """The natural name of a raw object's super-category; None for a part, which several objects may share."""
    above, _, last = raw.rpartition(LEVEL_SEPARATOR)
    level = above.rsplit(LEVEL_SEPARATOR, 1)[-1]
    return clean_name(level) if level.strip(" _") and not last.startswith("part:") else None


def split_part_name(raw: str) -> tuple[str | None, str]:
    """Split a raw category name into its object's raw name and the part's: `car:wheel`, `airplanes--attack--part:nose`.

    Returns:
        (object or None where the name does not say it, part).
    """
    if f"{LEVEL_SEPARATOR}part:" in raw:
        object_name, part = raw.split(f"{LEVEL_SEPARATOR}part:", 1)
        return object_name, part
    if OBJECT_PART_SEPARATOR in raw:
        object_name, part = raw.split(OBJECT_PART_SEPARATOR, 1)
        return object_name, part
    return None, raw


def read_text_map(path: Path, what: str) -> dict[str, str]:
    """Read a JSON object of strings: a name map (raw -> natural) or an object -> category table.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is something else, naming it.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: {what} file not found")
    table = parse_json(path.read_bytes(), f"{path}: the {what} file is not JSON")
    if not isinstance(table, dict) or not all(isinstance(value, str) and value.strip() for value in table.values()):
        raise ValueError(f"{path}: the {what} file must be one JSON object with a non-empty text for every key")
    return table
