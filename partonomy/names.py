"""Cleaning and comparison of object and part names (paper, appendix B).

Depending on the comparator, two names mean the same part if their texts are equal, if they differ only in case,
hyphens or the plural, or if a file or a callback (such as an LLM) says so.
"""

import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, Protocol

from partonomy.files import parse_json, read_json_as, shorten, write_text_atomically

OBJECT_PART_SEPARATOR = ":"
LEVEL_SEPARATOR = "--"
IRREGULAR_PLURALS = {"feet": "foot", "teeth": "tooth", "leaves": "leaf", "knives": "knife", "shelves": "shelf"}
SIBILANT_ENDINGS = ("ses", "xes", "zes", "ches", "shes")
SIBILANT_E_ENDINGS = ("se", "xe", "ze", "che", "she")
SINGULAR_S_ENDINGS = ("ss", "us", "is")
SINGULAR_S_WORDS = {"lens", "gas", "canvas"}
NUM_PAIRS_PER_CALL = 100
FILE_PREFIX = "file:"


def clean_name(raw: str, keep_qualifier: bool = False) -> str:
    """Turn one raw name into words.

    Args:
        raw: the name as the annotation file writes it.
        keep_qualifier: keep a qualifier in parentheses ("mouse (animal)").

    Returns:
        The name in lower case, without `category--object--part:` prefixes and with spaces for underscores.

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

    If cleaning would give two raw names the same natural name, they keep what cleaning drops: the qualifier in
    parentheses ("mouse_(animal)" and "mouse_(computer_equipment)"), or the level above ("airplanes--attack" and
    "helicopter--attack" become "attack (airplanes)" and "attack (helicopter)"). Raw names that the name map gives the
    same natural name are merged on purpose.

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
    """Return the groups of raw names that share a natural name."""
    raw_by_name: dict[str, list[str]] = defaultdict(list)
    for raw, name in names.items():
        raw_by_name[name].append(raw)
    return [same for same in raw_by_name.values() if len(same) > 1]


def _level_above(raw: str) -> str | None:
    """Return the natural name of a raw object's super-category; None for a part, because objects may share parts."""
    above, _, last = raw.rpartition(LEVEL_SEPARATOR)
    level = above.rsplit(LEVEL_SEPARATOR, 1)[-1]
    return clean_name(level) if level.strip(" _") and not last.startswith("part:") else None


def split_part_name(raw: str) -> tuple[str | None, str]:
    """Split a raw category name into its object's raw name and the part's: `car:wheel`, `airplanes--attack--part:nose`.

    Returns:
        (object, part); object is None if the name does not contain it.
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
        ValueError: the file holds something else; the message names it.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: {what} file not found; correct the path")
    table = parse_json(path.read_bytes(), f"{path}: the {what} file is not JSON")
    if not isinstance(table, dict) or not all(isinstance(value, str) and value.strip() for value in table.values()):
        raise ValueError(f"{path}: the {what} file must be a JSON object with a non-empty string for every key")
    return table


class PartComparator(Protocol):
    """Decides whether two part names are synonyms."""

    @property
    def name(self) -> str:
        """The name that is recorded with the questions."""
        ...

    def find_synonyms(self, parts: Sequence[str]) -> Mapping[str, frozenset[str]]:
        """Return, for every part of a sorted vocabulary, the set of parts that mean the same, itself included."""
        ...


@dataclass(frozen=True)
class ExactComparator:
    """Treats two names as the same part only if their texts are equal."""

    name: str = "exact"

    def find_synonyms(self, parts: Sequence[str]) -> Mapping[str, frozenset[str]]:
        """Return, for every part, the set of parts that mean the same, itself included."""
        return {part: frozenset((part,)) for part in parts}


@dataclass(frozen=True)
class LemmaComparator:
    """Compares names regardless of case, hyphens and plurals: "tail-fins" equals "tail fin"."""

    name: str = "lemma"

    def find_synonyms(self, parts: Sequence[str]) -> Mapping[str, frozenset[str]]:
        """Return, for every part, the set of parts that mean the same, itself included."""
        groups: dict[str, set[str]] = {}
        for part in parts:
            groups.setdefault(lemmatize(part), set()).add(part)
        return {part: frozenset(groups[lemmatize(part)]) for part in parts}


class CallbackComparator:
    """Asks a callback about pairs of names and caches the answers on disk, so that each pair is asked only once.

    Args:
        callback: takes at most 100 pairs of names and returns, for each pair, whether both mean the same part.
        cache_path: JSON file of answers, read if it exists and written after every call. Delete it to ask again.
        name: the name recorded with the questions; use the name of the model that answers.

    Raises:
        ValueError: the file of answers is damaged.
    """

    def __init__(
        self, callback: Callable[[Sequence[tuple[str, str]]], Sequence[bool]], cache_path: Path, name: str
    ) -> None:
        self.name = name
        self._callback = callback
        self._cache_path = cache_path
        self._answers: dict[str, bool] = {}
        if cache_path.is_file():
            self._answers = read_json_as(cache_path, dict[str, bool], "delete it to ask all pairs again")

    def find_synonyms(self, parts: Sequence[str]) -> Mapping[str, frozenset[str]]:
        """Return, for every part, the set of parts that mean the same, itself included.

        Raises:
            ValueError: the callback did not return one answer per pair.
        """
        pairs = list(combinations(sorted(set(parts)), 2))
        unknown = [pair for pair in pairs if _pair_key(pair) not in self._answers]
        for start in range(0, len(unknown), NUM_PAIRS_PER_CALL):
            self._ask(unknown[start : start + NUM_PAIRS_PER_CALL])
        synonyms: dict[str, set[str]] = {part: {part} for part in parts}
        for first, second in pairs:
            if self._answers[_pair_key((first, second))]:
                synonyms[first].add(second)
                synonyms[second].add(first)
        return {part: frozenset(group) for part, group in synonyms.items()}

    def _ask(self, pairs: Sequence[tuple[str, str]]) -> None:
        answers = list(self._callback(pairs))
        if len(answers) != len(pairs):
            raise ValueError(f"the part comparison callback answered {len(answers)} of {len(pairs)} pairs")
        self._answers.update({_pair_key(pair): bool(answer) for pair, answer in zip(pairs, answers, strict=True)})
        write_text_atomically(self._cache_path, json.dumps(self._answers, sort_keys=True, indent=0) + "\n")


class SynonymFileComparator:
    """Treats two names as the same part if a file lists them together.

    Args:
        path: JSON list of groups, [["tire", "tyre"], ["wing", "main wing"]], or the cache file of a
            `CallbackComparator`. Case does not matter; names that do not occur in the data set are allowed.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it has another form; the message names the file and the group.
    """

    def __init__(self, path: Path) -> None:
        self.name = f"{FILE_PREFIX}{path}"
        if not path.is_file():
            raise FileNotFoundError(f"{path}: the file of synonyms does not exist; correct the path after file:")
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            groups: Any = _cached_pairs(content) if isinstance(content, Mapping) else content
        except ValueError as error:
            raise ValueError(f"{path}: not a JSON file of synonyms ({error})") from error
        if not isinstance(groups, list):
            raise ValueError(f"{path}: expected a list of groups of names, got {type(content).__name__}")
        for number, group in enumerate(groups):
            if not isinstance(group, list) or len(group) < 2 or not all(isinstance(name, str) for name in group):
                raise ValueError(f"{path}, group {number}: expected two or more names, got {group!r}")
        self._groups = [frozenset(name.strip().casefold() for name in group) for group in groups]

    def find_synonyms(self, parts: Sequence[str]) -> Mapping[str, frozenset[str]]:
        """Return, for every part, the set of parts that mean the same, itself included."""
        named: dict[str, set[str]] = {}
        for part in parts:
            named.setdefault(part.casefold(), set()).add(part)
        synonyms: dict[str, set[str]] = {part: {part} for part in parts}
        for group in self._groups:
            present = set[str]().union(*(named.get(name, ()) for name in group))
            for part in present:
                synonyms[part] |= present
        return {part: frozenset(others) for part, others in synonyms.items()}


COMPARATORS: Mapping[str, PartComparator] = {"exact": ExactComparator(), "lemma": LemmaComparator()}


def find_comparator(specification: str) -> PartComparator:
    """Return the comparator that a configuration names.

    Args:
        specification: "exact", "lemma" or "file:PATH" (see `SynonymFileComparator`).
    """
    path = synonym_file(specification)
    return COMPARATORS[specification] if path is None else SynonymFileComparator(path)


def synonym_file(specification: str) -> Path | None:
    """Return the path of a "file:PATH" specification; None for the comparators that need no file.

    Raises:
        ValueError: the specification is neither a known comparator nor "file:PATH".
    """
    if specification in COMPARATORS:
        return None
    if not specification.startswith(FILE_PREFIX) or specification == FILE_PREFIX:
        raise ValueError(f"part_comparison must be one of {sorted(COMPARATORS)} or file:PATH, got {specification!r}")
    return Path(specification.removeprefix(FILE_PREFIX))


def lemmatize(name: str) -> str:
    """Fold case, hyphens and the last word's plural into a key for comparison, not a word: "nose" becomes "nos"."""
    words = name.lower().replace("-", " ").split()
    return " ".join([*words[:-1], _singular(words[-1])]) if words else ""


def _singular(word: str) -> str:
    if word in IRREGULAR_PLURALS or word in SINGULAR_S_WORDS:
        return IRREGULAR_PLURALS.get(word, word)
    if word.endswith("ies") and len(word) > 4:
        return word[:-3] + "y"
    if word.endswith(SIBILANT_ENDINGS):
        return word[:-2]
    if word.endswith(SIBILANT_E_ENDINGS):  # "noses" may be the plural of "nos" or "nose": both get the same key
        return word[:-1]
    if word.endswith("s") and not word.endswith(SINGULAR_S_ENDINGS) and len(word) > 3:
        return word[:-1]
    return word


def _pair_key(pair: tuple[str, str]) -> str:
    return json.dumps(sorted(pair), ensure_ascii=False)


def _cached_pairs(answers: Mapping[str, object]) -> list[object]:
    for key, is_same in answers.items():
        if not isinstance(is_same, bool):
            raise ValueError(f"the answer about {key} must be true or false, got {shorten(is_same)}")
    return [json.loads(key) for key, is_same in answers.items() if is_same]
