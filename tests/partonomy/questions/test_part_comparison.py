"""Synonyms of parts."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from partonomy.questions.part_comparison import CallbackComparator, ExactComparator, LemmaComparator, lemmatize


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
