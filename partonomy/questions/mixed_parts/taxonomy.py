"""Which classes of a source are compared: candidates by shared part names, automatic rules, and a reviewed list.

Paper (A.2): 1,885 pairs of classes share a part name within their data set, and 964 of them were chosen by hand; that
list is not in the paper. Here a pair is chosen, in this order of precedence, by
1. the reviewed list, a table that `build-mixedparts` writes for every build and reads again after it was edited;
2. the groups of classes of `comparable.yaml`, which cover the paper's three sources: two classes that share a group are
   comparable, and no others of a source that has groups;
3. for sources without groups: a shared category (the super-category of PartImageNet, for example) or a Jaccard index of
   the two sets of part names of at least `min_overlap`.
A class is always comparable with itself.
"""

import csv
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import combinations
from pathlib import Path

from partonomy.files import shorten, write_text_atomically
from partonomy.yaml_files import read_yaml

GROUPS_FILE = Path(__file__).with_name("comparable.yaml")
COLUMNS = ("source", "first", "second", "decision", "reason", "shared_parts")
DEFAULT_MIN_OVERLAP = 0.5

Taxonomy = Mapping[str, frozenset[str]]
"""Object label -> part labels, of one source."""


class Decision(StrEnum):
    """Whether two classes are compared."""

    ACCEPT = "accept"
    REJECT = "reject"


@dataclass(frozen=True, order=True)
class ClassPair:
    """Two classes of a source, in the order of their labels; a class may be paired with itself."""

    source: str
    first: str
    second: str

    @classmethod
    def of(cls, source: str, one: str, other: str) -> "ClassPair":
        """Order two labels."""
        return cls(source, min(one, other), max(one, other))


@dataclass(frozen=True)
class JudgedPair:
    """A candidate, whether it is compared, why, and the part names that the classes share."""

    pair: ClassPair
    decision: Decision
    reason: str
    shared_parts: tuple[str, ...]


@dataclass(frozen=True)
class ComparableRules:
    """The rules by which classes are compared; see the module.

    Attributes:
        groups: Source -> group -> its classes.
        review: Decisions that precede the groups and the automatic rule.
        min_overlap: Smallest Jaccard index of the part names of two classes of a source without groups.
    """

    groups: Mapping[str, Mapping[str, Sequence[str]]]
    review: Mapping[ClassPair, Decision]
    min_overlap: float = DEFAULT_MIN_OVERLAP

    def __post_init__(self) -> None:
        if not 0 < self.min_overlap <= 1:
            raise ValueError(f"--min_overlap must be above 0 and at most 1, got {self.min_overlap:g}")


def candidate_pairs(source: str, taxonomy: Taxonomy) -> Iterator[ClassPair]:
    """Yield every pair of different classes of a source that share a part name, in order."""
    for first, second in combinations(sorted(taxonomy), 2):
        if taxonomy[first] & taxonomy[second]:
            yield ClassPair(source, first, second)


def judge_pairs(
    source: str, taxonomy: Taxonomy, categories: Mapping[str, str], rules: ComparableRules
) -> tuple[JudgedPair, ...]:
    """Decide which classes of a source are compared.

    Args:
        source: Name of the source.
        taxonomy: Its classes' part names.
        categories: Category of each class.
        rules: The rules.

    Returns:
        Every candidate, and every class with itself that has parts, in order.
    """
    judged = [_judge(pair, taxonomy, categories, rules) for pair in candidate_pairs(source, taxonomy)]
    for label, parts in taxonomy.items():
        pair = ClassPair(source, label, label)
        if parts:
            decision = rules.review.get(pair, Decision.ACCEPT)
            reason = "reviewed" if pair in rules.review else "same class"
            judged.append(JudgedPair(pair, decision, reason, tuple(sorted(parts))))
    return tuple(sorted(judged, key=lambda one: one.pair))


def _judge(pair: ClassPair, taxonomy: Taxonomy, categories: Mapping[str, str], rules: ComparableRules) -> JudgedPair:
    first, second = taxonomy[pair.first], taxonomy[pair.second]
    shared = tuple(sorted(first & second))
    if pair in rules.review:
        return JudgedPair(pair, rules.review[pair], "reviewed", shared)
    groups = rules.groups.get(pair.source)
    if groups is not None:
        common = [name for name, labels in groups.items() if {pair.first, pair.second} <= set(labels)]
        decision = Decision.ACCEPT if common else Decision.REJECT
        return JudgedPair(pair, decision, f"group {common[0]}" if common else "no common group", shared)
    if categories[pair.first] == categories[pair.second]:
        return JudgedPair(pair, Decision.ACCEPT, f"category {categories[pair.first]}", shared)
    overlap = len(shared) / len(first | second)
    decision = Decision.ACCEPT if overlap >= rules.min_overlap else Decision.REJECT
    return JudgedPair(pair, decision, f"overlap {overlap:.2f}", shared)


def read_groups(path: Path) -> Mapping[str, Mapping[str, Sequence[str]]]:
    """Read a file of groups: source -> group -> list of classes.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: The file has another form; the message names file and entry.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: the file of --groups does not exist")
    content = read_yaml(path)
    if not isinstance(content, dict):
        raise ValueError(f"{path}: must map sources to groups, got {shorten(content)}")
    for source, groups in content.items():
        if not isinstance(source, str) or not isinstance(groups, dict):
            raise ValueError(f"{path}: {shorten(source)} must map the names of groups to lists of classes")
        for name, labels in groups.items():
            is_list = isinstance(labels, list) and all(isinstance(label, str) for label in labels)
            if not is_list or len(set(labels)) != len(labels):
                raise ValueError(f"{path}: the group {shorten(name)} of {source} must be a list of different classes")
    return content


def read_review(path: Path) -> dict[ClassPair, Decision]:
    """Read a reviewed list: a table of tabs with the columns source, first, second and decision; others are ignored.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: A column is missing, or a row has another decision or contradicts an earlier one.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: the file of --review does not exist")
    decisions: dict[ClassPair, Decision] = {}
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, delimiter="\t")
        missing = [name for name in COLUMNS[:4] if name not in (reader.fieldnames or ())]
        if missing:
            raise ValueError(f"{path}: the table lacks the column {missing[0]!r}; columns are separated by tabs")
        for row in reader:
            where = f"{path}, line {reader.line_num}"
            if any(not row[name] for name in COLUMNS[:4]):
                raise ValueError(f"{where}: source, first, second and decision must not be empty")
            if row["decision"] not in set(Decision):
                raise ValueError(f"{where}: the decision must be accept or reject, got {shorten(row['decision'])}")
            pair, decision = ClassPair.of(row["source"], row["first"], row["second"]), Decision(row["decision"])
            if decisions.setdefault(pair, decision) is not decision:
                raise ValueError(f"{where}: an earlier line decides otherwise about {pair.first} and {pair.second}")
    return decisions


def write_judged(pairs: Iterable[JudgedPair], path: Path) -> None:
    """Write the table of all candidates, which `read_review` reads after it was edited."""
    lines = ["\t".join(COLUMNS)]
    for one in pairs:
        cells = (one.pair.source, one.pair.first, one.pair.second, one.decision, one.reason)
        lines.append("\t".join([*cells, ", ".join(one.shared_parts)]))
    write_text_atomically(path, "\n".join(lines) + "\n")
