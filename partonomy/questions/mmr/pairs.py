"""MMR-like question-answer pairs: the interface of their makers and the three filter criteria (paper, section 3.2)."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from partonomy.datasets.sources.mmr import TARGET_MARK, Kind, MmrQuestion, MmrTarget, ground_answer
from partonomy.questions.mmr.scene import Scene, says_name, word_keys
from partonomy.structures import AnnotatedImage

MAX_QUESTION_WORDS = 60
MAX_ANSWER_WORDS = 150

_COORDINATES = re.compile(r"[\[(]\s*-?\d+(?:\.\d+)?\s*,\s*-?\d+|\bcoordinates?\b|\bbounding box", re.IGNORECASE)
_NUMBERED_NAME = re.compile(r"\b[a-z]\w*_\d+\b", re.IGNORECASE)
_ASKS_FUNCTION = re.compile(r"\bwhat (?:is|are|does|do)\b.*\b(?:function|purpose|role)s?\b.*\bof\b", re.IGNORECASE)
_SPEAKS_OF_SOURCE = re.compile(
    r"\b(?:annotations?|annotated|(?:text|global) (?:description|caption)|(?:given|provided) (?:information|names?))\b",
    re.IGNORECASE,
)
_FINISHED = (".", "!", "?", '"', "'", ")", "”")
UNANSWERED = "not answered"
"""Criterion of a rejection for want of a reply; asking again may help."""


class Criterion(StrEnum):
    """The paper's filter criteria, by their headings."""

    LOGIC = "logicality and reasoning"
    COHERENCE = "coherence and relevance"
    CLARITY = "clarity and precision"


@dataclass(frozen=True)
class Fault:
    """The fault for which a pair is rejected. `reason` is one of a few, for counting; `detail` quotes the text."""

    criterion: Criterion
    reason: str
    detail: str


def find_faults(question: MmrQuestion, scene: Scene) -> tuple[Fault, ...]:
    """Check a question-answer pair against its image's annotations; a pair without faults is kept."""
    return (
        *logic_faults(question.question, [name for target in question.targets for name in _names(target)]),
        *coherence_faults(question, scene),
        *clarity_faults(question),
    )


def logic_faults(question: str, names: Sequence[str]) -> tuple[Fault, ...]:
    """Check logicality and reasoning: no coordinates and no strong hints, such as a target's name.

    Args:
        question: the question's text.
        names: the targets' cleaned names.
    """
    faults = []
    if found := _COORDINATES.search(question):
        faults.append(Fault(Criterion.LOGIC, "the question has coordinates", found[0]))
    if found := _NUMBERED_NAME.search(question):
        faults.append(Fault(Criterion.LOGIC, "the question names an annotation", found[0]))
    keys = word_keys(question)
    said = [name for name in dict.fromkeys(names) if says_name(keys, name)]
    if said:
        faults.append(Fault(Criterion.LOGIC, "the question names a target", ", ".join(said)))
    return tuple(faults)


def coherence_faults(question: MmrQuestion, scene: Scene) -> tuple[Fault, ...]:
    """Check coherence and relevance: every target is annotated, named and marked once; nothing else is mentioned."""
    faults = []
    if not question.targets:
        faults.append(Fault(Criterion.COHERENCE, "the answer has no target", question.text_answer))
    if question.num_marks != len(question.targets):
        detail = f"{question.num_marks} {TARGET_MARK}, {len(question.targets)} targets"
        faults.append(Fault(Criterion.COHERENCE, f"{TARGET_MARK} and targets differ in number", detail))
    annotated = {one.target for one in scene.targets}
    unknown = [target.category_name for target in question.targets if target not in annotated]
    if unknown:
        faults.append(Fault(Criterion.COHERENCE, "a target is not annotated in the image", ", ".join(unknown)))
    if len(set(question.targets)) < len(question.targets):
        faults.append(Fault(Criterion.COHERENCE, "a target stands in the answer twice", question.text_answer))
    spans = ground_answer(question).spans
    unnamed = [target.category_name for target, span in zip(question.targets, spans, strict=True) if span is None]
    if unnamed:
        detail = ", ".join(unnamed)
        faults.append(Fault(Criterion.COHERENCE, "the answer does not name a target before its mark", detail))
    categories = {target.category_name for target in question.targets}
    idle = {one.phrase for one in scene.targets if one.part_name and one.target.category_name not in categories}
    if beside := sorted(phrase for phrase in idle if _says_phrase(question.text_answer, phrase)):
        faults.append(Fault(Criterion.COHERENCE, "the answer speaks of a part that is no target", ", ".join(beside)))
    return tuple(faults)


def clarity_faults(question: MmrQuestion) -> tuple[Fault, ...]:
    """Check clarity and precision: complete, concise, about visible things, and not about a thing's function."""
    faults = []
    answer = question.text_answer.strip()
    if not question.question.strip() or not answer:
        faults.append(Fault(Criterion.CLARITY, "question or answer is empty", question.question))
    elif not answer.endswith(_FINISHED):
        faults.append(Fault(Criterion.CLARITY, "the answer breaks off", answer[-40:]))
    if _ASKS_FUNCTION.search(question.question):
        faults.append(Fault(Criterion.CLARITY, "the question asks what something is for", question.question))
    for text, limit, what in (
        (question.question, MAX_QUESTION_WORDS, "question"),
        (answer, MAX_ANSWER_WORDS, "answer"),
    ):
        if len(text.split()) > limit:
            faults.append(Fault(Criterion.CLARITY, f"the {what} has more than {limit} words", text[:40]))
    if found := _SPEAKS_OF_SOURCE.search(f"{question.question}\n{answer}"):
        faults.append(Fault(Criterion.CLARITY, "the pair speaks of the annotations", found[0]))
    if found := _COORDINATES.search(answer) or _NUMBERED_NAME.search(answer):
        faults.append(Fault(Criterion.CLARITY, "the answer has coordinates or numbered names left", found[0]))
    return tuple(faults)


def _names(target: MmrTarget) -> tuple[str, ...]:
    """Return the names that a question must not mention: the object's and the part's."""
    category = target.category
    return (category.object_name,) if category.part_name is None else (category.object_name, category.part_name)


def _says_phrase(text: str, phrase: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(phrase)}", text, re.IGNORECASE) is not None


@dataclass(frozen=True)
class Rejection:
    """A rejected pair: `criterion` and `reason` are counted, `detail` and `text` are listed."""

    criterion: str
    reason: str
    detail: str
    text: str


@dataclass(frozen=True)
class MadePairs:
    """The pairs of an image.

    Attributes:
        questions: the accepted pairs, numbered from 0.
        rejections: the rejected pairs.
        not_askable: categories of the annotations that no question can ask for, one entry per annotation.
        withheld: purposes that no question asks for, because the answer could be incomplete or would be too long.
    """

    questions: tuple[MmrQuestion, ...] = ()
    rejections: tuple[Rejection, ...] = ()
    not_askable: tuple[str, ...] = ()
    withheld: tuple[str, ...] = ()


class PairMaker(Protocol):
    """Makes the pairs of one image at a time; the same image always gives the same pairs."""

    @property
    def settings(self) -> Mapping[str, object]:
        """Everything except the image that the pairs depend on, as JSON values."""
        ...

    def make(self, image: AnnotatedImage, kind: Kind | None) -> MadePairs:
        """Make pairs whose targets are of a kind; None allows all kinds."""
        ...


def reject(question: str, answer: str, fault: Fault) -> Rejection:
    """Return the rejection of a pair for its fault."""
    return Rejection(fault.criterion.value, fault.reason, fault.detail, f"{question} | {answer}")
