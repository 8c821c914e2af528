"""Names of MMR's categories: which are parts of which object, and in which forms an answer's text writes them."""

import re
from dataclasses import dataclass
from functools import lru_cache

from partonomy.names import OBJECT_PART_SEPARATOR, clean_name, split_part_name
from partonomy.questions.part_comparison import IRREGULAR_PLURALS

_POSSESSIVE = re.compile(r"^(.+?)(?:[_\s]\d+)?['’]s?[_\s]+(.+)$")
_PART_OF = re.compile(r"^(.+?)[_\s]+of[_\s]+(?:(?:the|an?)[_\s]+)?(.+)$", re.IGNORECASE)
_BETWEEN = r"[\s_-]+"
_NUMBER = r"(?:[\s_]?\d+)?"
_QUALIFIER = r"(?:[\s_]*\([^()]*\))?"
_DETERMINER = r"(?:(?:the|an?|this|that|its|each|every|both)\s+)?"


@dataclass(frozen=True)
class CategoryName:
    """An object (`part_name` None) or a part of one, in clean words."""

    object_name: str
    part_name: str | None


def parse_category(raw: str) -> CategoryName:
    """Take a category name apart: "car:wheel", "car_1's wheel" and "wheel of the car" are parts, "car" is an object.

    Raises:
        ValueError: nothing is left of a name once it is cleaned.
    """
    object_name, part = split_part_name(raw)
    if object_name is not None:
        return CategoryName(clean_name(object_name), clean_name(part))
    if found := _POSSESSIVE.match(raw):
        return CategoryName(clean_name(found[1]), clean_name(found[2]))
    if found := _PART_OF.match(raw):
        return CategoryName(clean_name(found[2]), clean_name(found[1]))
    return CategoryName(clean_name(raw), None)


@lru_cache(maxsize=4096)  # a few hundred categories, asked for at every target
def phrase_pattern(raw: str) -> re.Pattern[str]:
    """The forms in which a text may name a category: in one or many, with a number ("knife_1's blades").

    A part: "car's wheel", "car wheel", "wheel of the car", or "wheel" alone. Longer forms come first.
    """
    category = parse_category(raw)
    whole = _words_pattern(category.object_name) + _QUALIFIER + _NUMBER
    if category.part_name is None:
        forms = [whole]
    else:
        part = _words_pattern(category.part_name) + _NUMBER
        forms = [
            rf"{whole}['’]s?\s+{part}",
            rf"{whole}[\s_{OBJECT_PART_SEPARATOR}-]+{part}",
            rf"{part}\s+(?:of|on|from)\s+{_DETERMINER}{whole}",
            part,
        ]
    return re.compile(rf"(?<!\w)(?:{'|'.join(forms)})(?!\w)", re.IGNORECASE)


def _words_pattern(name: str) -> str:
    *first, last = re.split(r"[\s_-]+", name.strip(" _-") or name)
    forms = sorted(_numbers_of(last), key=len, reverse=True)
    return _BETWEEN.join([*map(re.escape, first), f"(?:{'|'.join(map(re.escape, forms))})"])


def _numbers_of(word: str) -> set[str]:
    """A word with what may be its plural or singular; wrong ones do no harm, since no text has them."""
    forms = {word, word + "s", word + "es"}
    forms |= {plural for plural, singular in IRREGULAR_PLURALS.items() if singular == word}
    if word.endswith("y"):
        forms.add(word[:-1] + "ies")
    if word.endswith("s") and not word.endswith("ss"):
        forms.add(word[:-1])
    return forms - {""}
