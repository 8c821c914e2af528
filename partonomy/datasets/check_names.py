"""Names and categories of a data set for `check`: what cleaning unites, what differs only in form, what conflicts."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from partonomy.datasets import check_problems as problems
from partonomy.datasets.check_problems import Finding
from partonomy.datasets.check_records import CheckedCategory
from partonomy.names import clean_name, clean_names
from partonomy.questions.part_comparison import LemmaComparator


def check_names(categories: Sequence[CheckedCategory], name_map: Mapping[str, str]) -> Iterator[Finding]:
    """Check the two vocabularies, objects and parts; names that the map unites are united on purpose."""
    vocabularies = {
        "object": {one.raw_object for one in categories if one.raw_object is not None},
        "part": {one.raw_part for one in categories if one.raw_part is not None},
    }
    for kind, raw_names in vocabularies.items():
        usable, empty = _split_empty(raw_names, name_map)
        for raw in empty:
            yield Finding(problems.EMPTY_NAME, f"{kind} {raw!r}", "only prefixes, underscores or spaces")
        names = clean_names(usable, name_map)
        raw_of: dict[str, list[str]] = defaultdict(list)
        for raw, name in sorted(names.items()):
            raw_of[name].append(raw)
        for name, same in sorted(raw_of.items()):
            if len(same) > 1 and not all(raw in name_map for raw in same):
                yield Finding(problems.COLLAPSED_NAMES, f"{kind} {name!r}", f"from {_quote(same)}")
        for group in find_similar_names(raw_of):
            yield Finding(problems.SIMILAR_NAMES, f"{kind}s {_quote(group)}", "one name in several forms")


def find_similar_names(names: Iterable[str]) -> tuple[tuple[str, ...], ...]:
    """Groups of names that are one but for plural, hyphens and case (`part_comparison`), sorted."""
    synonyms = LemmaComparator().find_synonyms(sorted(set(names)))
    groups = {tuple(sorted(group)) for group in synonyms.values() if len(group) > 1}
    return tuple(sorted(groups))


def check_categories(
    categories: Sequence[CheckedCategory],
    name_map: Mapping[str, str],
    table: Mapping[str, str],
    table_path: Path | None,
) -> Iterator[Finding]:
    """Check that every object has one category.

    Args:
        categories: of the annotation file; those of the project's own form say the objects' categories themselves.
        name_map: raw name -> natural name.
        table: object (raw or natural name) -> category.
        table_path: file of the table; None when there is none.
    """
    raw_objects = {one.raw_object for one in categories if one.raw_object is not None}
    names = clean_names(_split_empty(raw_objects, name_map)[0], name_map)
    found: dict[str, set[str]] = defaultdict(set)
    for one in categories:
        if one.raw_object in names and one.raw_part is None and one.object_category is not None:
            found[names[one.raw_object]].add(one.object_category)
    for raw, name in sorted(names.items()) if table_path is not None else []:
        given = next((table[key] for key in (raw, name) if key in table), None)
        if given is None:
            yield Finding(problems.NO_CATEGORY, f"object {name!r}", f"raw name {raw!r} is not in {table_path}")
        else:
            found[name].add(given)
    for name, group in sorted(found.items()):
        if len(group) > 1:
            yield Finding(problems.TWO_CATEGORIES, f"object {name!r}", f"in {_quote(sorted(group))}")


def _split_empty(raw_names: Iterable[str], name_map: Mapping[str, str]) -> tuple[list[str], list[str]]:
    """Names that cleaning leaves something of, and those it does not."""
    usable: list[str] = []
    empty: list[str] = []
    for raw in sorted(raw_names):
        try:
            usable.append(raw if raw in name_map or clean_name(raw) else raw)
        except ValueError:
            empty.append(raw)
    return usable, empty


def _quote(names: Sequence[str]) -> str:
    return ", ".join(repr(name) for name in names)
