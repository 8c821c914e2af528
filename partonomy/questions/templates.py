"""Wording of questions and answers, read from a YAML file so that it can be replaced.

The default file, `templates.yaml`, has the wording of the published Partonomy-Core file (paper, Figures 1 and 7, and
the authors' code), so that a model meets the same words in training, in data of one's own, and in Core.
`templates_plain.yaml` has the wording that this project used before: lists without "and", and objects named in a whole
sentence."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path

from partonomy.structures import CharSpan, Choice, ObjectChoice, QuestionType
from partonomy.yaml_files import read_yaml

DEFAULT_TEMPLATES = Path(__file__).with_name("templates.yaml")
NAMED_TEMPLATES: Mapping[str, Path] = {
    "core": DEFAULT_TEMPLATES,
    "plain": Path(__file__).with_name("templates_plain.yaml"),
}
"""The packaged wordings, by the name that `--templates` takes instead of a path."""
FORMS = ("identification", "positive", "negative", "difference")
PARTS_SLOT = "{parts}"
SEPARATOR_KEYS = ("between", "last", "two")
# Words whose first letter misleads: a vowel that sounds like a consonant, and the reverse.
CONSONANT_SOUND = re.compile(
    r"(uni([^nm]|$)|us[aeiu]|ut[eio]|eu|ew|one\b|once|ufo|uk|ur[aeio]n|u-|ubiq)", flags=re.IGNORECASE
)
VOWEL_SOUND = re.compile(
    r"(hour|honest|heir|honou?r|8|11\b|18\b|(suv|rv|mp3|x-ray|atv|led|lcd|fm|f-|x-)\b)", re.IGNORECASE
)


@dataclass(frozen=True)
class Wording:
    """The content of a question: the object, whether a box marks it, and the concepts that it is compared with."""

    question_type: QuestionType
    object_label: str
    is_marked: bool
    concept: str | None = None
    other: str | None = None


@dataclass(frozen=True)
class PartSeparator:
    """What stands between the parts of a list.

    Attributes:
        between: between two parts that are not the last two.
        last: before the last of three or more parts.
        two: between the parts of a list of two.
    """

    between: str
    last: str
    two: str

    def gaps(self, num_parts: int) -> tuple[str, ...]:
        """Return the text before each part of a list; the first is empty."""
        if num_parts == 2:
            return "", self.two
        return ("", *(self.between,) * (num_parts - 2), self.last)[:num_parts]


@dataclass(frozen=True)
class AnswerForm:
    """The text of an answer before, between and after its parts."""

    before: str
    separator: PartSeparator
    after: str

    def choice(self, parts: Sequence[str], is_correct: bool) -> Choice:
        """Return an answer that lists `parts` in the given order, with the span of each in its text."""
        text, spans = self.before, []
        for gap, part in zip(self.separator.gaps(len(parts)), parts, strict=True):
            start = len(text) + len(gap)
            text += gap + part
            spans.append(_span(start, start + len(part)))
        return Choice(text + self.after, tuple(parts), tuple(spans), is_correct)


@dataclass(frozen=True)
class QuestionTexts:
    """The question about parts, the frame of its answers, and the question about the object."""

    question: str
    form: AnswerForm
    object_question: str


@dataclass(frozen=True)
class Templates:
    """The texts of a template file; see `templates.yaml` for the slots."""

    the_object: Mapping[str, str]
    place: Mapping[str, str]
    part_separator: PartSeparator
    questions: Mapping[str, str]
    answers: Mapping[str, str]
    object_question: str
    object_answer: str

    def __post_init__(self) -> None:
        for name, texts in (("questions", self.questions), ("answers", self.answers)):
            if set(texts) != set(FORMS):
                raise ValueError(f"the templates' {name} must be exactly {list(FORMS)}, got {sorted(texts)}")
        for form, text in self.answers.items():
            if text.count(PARTS_SLOT) != 1:
                raise ValueError(f"the answer template {form!r} must contain {PARTS_SLOT} exactly once: {text!r}")

    def texts(self, wording: Wording) -> QuestionTexts:
        """Return the questions and the frame of the answers."""
        form, slots = question_form(wording.question_type), self._slots(wording)
        before, after = (half.format_map(slots) for half in self.answers[form].split(PARTS_SLOT))
        return QuestionTexts(
            _capitalize(self.questions[form].format_map(slots)),
            AnswerForm(_capitalize(before), self.part_separator, after),
            _capitalize(self.object_question.format_map(slots)),
        )

    def object_choices(self, wording: Wording, labels: Sequence[str]) -> list[ObjectChoice]:
        """Return one answer per label; the first label is the correct one."""
        slots = self._slots(wording)
        choices: list[ObjectChoice] = []
        for label in labels:
            slots["a_object"] = with_article(label)
            choices.append(ObjectChoice(_capitalize(self.object_answer.format_map(slots)), label, not choices))
        return choices

    def _slots(self, wording: Wording) -> dict[str, str]:
        # The part question of whole_to_part comes after the object's name, so it uses it (as the authors' code does).
        names_object = wording.question_type.names_object or wording.question_type is QuestionType.WHOLE_TO_PART
        form = self.the_object["with_label" if names_object else "without_label"]
        return {
            "the_object": form.format(object=wording.object_label),
            "place": self.place["marked" if wording.is_marked else "unmarked"],
            "a_concept": with_article(wording.concept) if wording.concept else "",
            "a_other": with_article(wording.other) if wording.other else "",
        }


def load_templates(path: Path = DEFAULT_TEMPLATES) -> Templates:
    """Read a template file.

    Raises:
        ValueError: a key is unknown or missing, or an answer lacks its parts.
    """
    content = read_yaml(path)
    expected = set(Templates.__dataclass_fields__)
    if not isinstance(content, dict) or set(content) != expected:
        raise ValueError(f"{path}: the template file must have exactly the keys {sorted(expected)}")
    separator = _read_separator(path, content["part_separator"])
    return Templates(**(content | {"part_separator": separator}))


@cache
def packaged_templates() -> Templates:
    """Return the default wording, read once."""
    return load_templates()


def find_templates(name: str) -> Path:
    """Return the file that a `--templates` value names: a key of `NAMED_TEMPLATES`, or a path."""
    return NAMED_TEMPLATES.get(name, Path(name))


def _read_separator(path: Path, value: object) -> PartSeparator:
    """Read `part_separator`: one text for all gaps of a list, or a text for each kind of gap."""
    if isinstance(value, str):
        value = dict.fromkeys(SEPARATOR_KEYS, value)
    if not isinstance(value, dict) or set(value) != set(SEPARATOR_KEYS):
        raise ValueError(
            f"{path}: part_separator must be one text or have exactly the keys {list(SEPARATOR_KEYS)}, got {value!r}"
        )
    for key, text in value.items():
        if not isinstance(text, str) or not text.strip():
            raise ValueError(f"{path}: part_separator's {key!r} must be a text that keeps parts apart, got {text!r}")
    return PartSeparator(**value)


@cache
def question_form(question_type: QuestionType) -> str:
    """Return which of the four forms of part question a type asks; part-whole types ask an identification."""
    form = question_type.value.removesuffix("_with_label")
    return form if form in FORMS else "identification"


@lru_cache(maxsize=4096)
def with_article(noun: str) -> str:
    """Put "a" or "an" before a noun phrase, depending on its first sound: "an airplane", "a unicycle", "an SUV"."""
    if VOWEL_SOUND.match(noun):
        return f"an {noun}"
    if CONSONANT_SOUND.match(noun):
        return f"a {noun}"
    return f"an {noun}" if noun[:1].lower() in "aeiou" else f"a {noun}"


@lru_cache(maxsize=1 << 16)
def _span(start: int, end: int) -> CharSpan:
    """Return a cached span: all answers use the same few thousand, and a look-up takes a tenth of the time."""
    return CharSpan(start, end)


def _capitalize(text: str) -> str:
    return text[:1].upper() + text[1:]
