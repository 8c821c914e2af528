"""The three criteria by which MMR's question-answer pairs were filtered (paper, section 3.2), as checks.

Paper: four inspectors judge, two of them must agree, and answers of the second criterion are corrected; here: what can
be decided from annotations and text, and a pair with any fault is rejected. The limits of length are ours: the paper
only says "concise".
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from partonomy.datasets.mmr import TARGET_MARK, MmrQuestion, MmrTarget
from partonomy.datasets.mmr_answers import ground_answer
from partonomy.datasets.mmr_names import parse_category
from partonomy.questions.mmr_scene import Scene, says_name, word_keys

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


class Criterion(StrEnum):
    """The paper's headings."""

    LOGIC = "logicality and reasoning"
    COHERENCE = "coherence and relevance"
    CLARITY = "clarity and precision"


@dataclass(frozen=True)
class Fault:
    """Why a pair is rejected: `reason` is one of a few, for counting; `detail` says where it shows."""

    criterion: Criterion
    reason: str
    detail: str


def find_faults(question: MmrQuestion, scene: Scene) -> tuple[Fault, ...]:
    """Check a question-answer pair against its image's annotations; no fault: it is kept."""
    return (
        *logic_faults(question.question, [name for target in question.targets for name in _names(target)]),
        *coherence_faults(question, scene),
        *clarity_faults(question),
    )


def logic_faults(question: str, names: Sequence[str]) -> tuple[Fault, ...]:
    """Logicality and reasoning: no coordinates and no strong hint, which a target's name is.

    Args:
        question: its text.
        names: of the targets, in clean words.
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
    """Coherence and relevance: every target annotated, named and marked once; nothing else is spoken of."""
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
    """Clarity and precision: whole, concise, about what is seen, and not about what something is for."""
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
    """What a question must not say: the object's name and the part's."""
    category = parse_category(target.category_name)
    return (category.object_name,) if category.part_name is None else (category.object_name, category.part_name)


def _says_phrase(text: str, phrase: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(phrase)}", text, re.IGNORECASE) is not None
