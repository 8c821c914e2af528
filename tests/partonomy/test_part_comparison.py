"""Synonyms of parts."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from partonomy.names import (
    CallbackComparator,
    ExactComparator,
    LemmaComparator,
    SynonymFileComparator,
    find_comparator,
    lemmatize,
)


def test_exact_and_lemma() -> None:
    parts = ("tail fin", "tail-fins", "wing")
    assert ExactComparator().find_synonyms(parts)["tail fin"] == {"tail fin"}
    synonyms = LemmaComparator().find_synonyms(parts)
    assert synonyms["tail fin"] == synonyms["tail-fins"] == {"tail fin", "tail-fins"}
    assert synonyms["wing"] == {"wing"}


@pytest.mark.parametrize(
    ("singular", "plural"),
    [("nose", "noses"), ("hose", "hoses"), ("base", "bases"), ("axe", "axes"), ("lens", "lenses"), ("box", "boxes")],
)
def test_singular_and_plural_are_one_part(singular: str, plural: str) -> None:
    assert LemmaComparator().find_synonyms((singular, plural))[singular] == {singular, plural}


@pytest.mark.parametrize(
    ("name", "lemma"),
    [
        ("wheels", "wheel"), ("glass", "glass"), ("Glasses", "glass"), ("batteries", "battery"), ("feet", "foot"),
        ("chassis", "chassis"), ("torches", "torch"), ("front-wheels", "front wheel"), ("gas", "gas"), ("bus", "bus"),
    ],
)  # fmt: skip
def test_lemmas(name: str, lemma: str) -> None:
    assert lemmatize(name) == lemma


def test_callback_is_asked_once_per_pair(tmp_path: Path) -> None:
    asked: list[tuple[str, str]] = []

    def same_first_letter(pairs: Sequence[tuple[str, str]]) -> list[bool]:
        asked.extend(pairs)
        return [first[0] == second[0] for first, second in pairs]

    cache = tmp_path / "cache.json"
    synonyms = CallbackComparator(same_first_letter, cache, "letters").find_synonyms(("wheel", "wing", "tire"))
    assert synonyms == {"wheel": {"wheel", "wing"}, "wing": {"wheel", "wing"}, "tire": {"tire"}}
    assert asked == [("tire", "wheel"), ("tire", "wing"), ("wheel", "wing")]
    again = CallbackComparator(same_first_letter, cache, "letters").find_synonyms(("wheel", "wing", "tire"))
    assert again == synonyms
    assert len(asked) == 3
    CallbackComparator(same_first_letter, cache, "letters").find_synonyms(("wheel", "tail"))
    assert asked[3:] == [("tail", "wheel")]


def test_callback_must_answer_every_pair(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="answered 1 of 3 pairs"):
        CallbackComparator(lambda pairs: [True], tmp_path / "cache.json", "lazy").find_synonyms(("a", "b", "c"))


def test_a_file_names_groups_of_synonyms(tmp_path: Path) -> None:
    path = tmp_path / "synonyms.json"
    path.write_text('[["Tire", "tyre", "rubber"], ["wing", "main wing"], ["main wing", "airfoil"]]')
    synonyms = SynonymFileComparator(path).find_synonyms(("airfoil", "main wing", "tire", "tyre", "wheel", "wing"))
    assert synonyms["tire"] == synonyms["tyre"] == {"tire", "tyre"}
    # Only names that stand in one group are synonyms: a wing is a main wing, a main wing an airfoil, no more.
    assert synonyms["wing"] == {"wing", "main wing"}
    assert synonyms["main wing"] == {"airfoil", "main wing", "wing"}
    assert synonyms["wheel"] == {"wheel"}


def test_what_a_callback_has_cached_is_such_a_file(tmp_path: Path) -> None:
    cache = tmp_path / "cache.json"
    parts = ("tail", "tire", "wheel", "wing")
    asked = CallbackComparator(lambda pairs: [a[0] == b[0] for a, b in pairs], cache, "letters").find_synonyms(parts)
    assert find_comparator(f"file:{cache}").find_synonyms(parts) == asked
    assert asked["tail"] == {"tail", "tire"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not a JSON file of synonyms"),
        ("5", "expected a list of groups of names, got int"),
        ('[["a", "b"], ["c"]]', r"group 1: expected two or more names, got \['c'\]"),
        ('[["a", 5]]', "group 0: expected two or more names"),
        ('{"not a pair": true}', "not a JSON file of synonyms"),
    ],
)
def test_a_broken_file_of_synonyms_is_named(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "synonyms.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=message) as caught:
        SynonymFileComparator(path)
    assert "synonyms.json" in str(caught.value)


def test_comparators_by_name(tmp_path: Path) -> None:
    assert find_comparator("lemma").name == "lemma"
    with pytest.raises(FileNotFoundError, match="nothing.json: the file of synonyms does not exist"):
        find_comparator(f"file:{tmp_path / 'nothing.json'}")
    for unknown in ("magic", "file:"):
        with pytest.raises(ValueError, match="part_comparison must be one of"):
            find_comparator(unknown)
