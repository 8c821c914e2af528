"""Question and answer wordings of the sources; answers come with the spans of their phrases.

PLUM has no segmentation token, so every answer names its targets in words, and these words are tagged. The answers of
LISA and M2SA hold a mark for each target and often nothing else; `LISA_WORDINGS` has such answers.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from partonomy.benchmarks.segmentation import EXPRESSION_WORDINGS, SENTENCE_WORDINGS, Wording
from partonomy.structures import RLE, CharSpan
from plum.data.sources.base import draw_one
from plum.data.sources.part_images import NamedMask
from plum.structures import Exchange

REFER_PART = (
    "Can you segment the {part} of the {object}?",
    "Where is the {part} of the {object}?",
    "Please segment the {part} of the {object} in this image.",
    "Show me the {object}'s {part}.",
)
REFER_OBJECT = (
    "Can you segment the {object}?",
    "Where is the {object}?",
    "Please segment the {object} in this image.",
    "Show me the {object}.",
)
SEGMENT_NAMED = (
    "Segment the {names}.",
    "Can you segment the {names} in this image?",
    "Where do you see the {names}?",
    "Please show the {names}.",
)
SEGMENT_ALL = (
    "Segment all parts of the {object}.",
    "Which parts of the {object} do you see? Segment them.",
    "Can you segment every visible part of the {object}?",
)
HAS_PART = (
    "Does the {object} have {a_part}?",
    "Can you see {a_part} on the {object}?",
    "Is the {part} of the {object} visible?",
)
WHICH_VISIBLE = (
    "Which of these parts are visible: {names}?",
    "Are these parts of the {object} visible: {names}?",
)
REFER_EXPRESSION = (
    "Can you segment {expression}?",
    "Where is {expression}?",
    "Please segment {expression} in this image.",
    "Show me {expression}.",
)
REASON = (
    "{sentence} Please segment it.",
    "{sentence} Show it in the image.",
    "{sentence} Answer with a segmentation.",
)
EXPLAIN = (
    "{sentence} Please segment it and explain why.",
    "{sentence} Show it in the image and give the reason.",
    "{sentence} Answer with a segmentation and an explanation.",
)
MARK = "{seg}"
"""Stands for a system's mark in an answer, as in MMR's files; see `Exchange.is_marked`."""


@dataclass(frozen=True)
class Answer:
    """A text and the character ranges of its phrases (of its marks if `is_marked`), in reading order."""

    text: str
    spans: tuple[CharSpan, ...]
    is_marked: bool = False


@dataclass(frozen=True)
class MarkedAnswers:
    """Answers that hold a mark for each target.

    Attributes:
        single: answers about one target, with `MARK`.
        clauses: what several targets' answers join, one for each target, with `{name}` and `MARK` and without a stop.
        joint: answers about several targets at once, with `{names}` and `{marks}`.
    """

    single: tuple[str, ...]
    clauses: tuple[str, ...]
    joint: tuple[str, ...]

    def draw(self, names: Sequence[str], generator: np.random.Generator) -> Answer:
        """Draw an answer; for several targets, joined clauses and joint answers are equally likely (M2SA)."""
        if len(names) == 1:
            return mark_answer(draw_one(self.single, generator))
        if generator.integers(2):
            return mark_answer(
                draw_one(self.joint, generator).format(names=join_names(names), marks=_marks(len(names)))
            )
        clauses = [draw_one(self.clauses, generator).format(name=name, seg=MARK) for name in names]
        return mark_answer(_capitalize(join_names(clauses)) + ".")


@dataclass(frozen=True)
class Wordings:
    """The wordings of questions about named targets, and of their answers.

    Attributes:
        segment_named: questions about classes, with `{names}`.
        refer_expression: questions about expressions, with `{expression}`.
        reason: instructions, with `{sentence}`.
        explain: instructions that request an explanation, too.
        marked: answers with marks; None: answers name their targets.
    """

    segment_named: tuple[str, ...]
    refer_expression: tuple[str, ...]
    reason: tuple[str, ...]
    explain: tuple[str, ...]
    marked: MarkedAnswers | None = None


PLUM_WORDINGS = Wordings(SEGMENT_NAMED, REFER_EXPRESSION, REASON, EXPLAIN)
LISA_WORDINGS = Wordings(
    segment_named=(
        "Could you segment the {names} in this image?",
        "Segment the {names} in this image, please.",
        "Which region of this image is the {names}? Give its segmentation mask.",
        EXPRESSION_WORDINGS[Wording.LISA].format(expression="the {names}"),
    ),
    refer_expression=(
        "Could you segment {expression} in this image?",
        "Segment {expression} in this image, please.",
        "Which region of this image is {expression}? Give its segmentation mask.",
        EXPRESSION_WORDINGS[Wording.LISA],
    ),
    reason=("{sentence} Give the segmentation mask.", SENTENCE_WORDINGS[Wording.LISA]),
    explain=(
        "{sentence} Give the segmentation mask and say why.",
        "{sentence} Give the segmentation mask and the reason for it.",
        "{sentence} Give the segmentation mask with an explanation.",
    ),
    marked=MarkedAnswers(
        single=(
            "This is it: {seg}.",
            "Of course: {seg}.",
            "Of course, this is it: {seg}.",
            "Of course, the mask that you asked for is {seg}.",
            "{seg}.",
        ),
        clauses=("{name} is {seg}", "the mask of {name} is {seg}", "{seg}"),
        joint=(
            "The masks of {names} are {marks}.",
            "{names}: {marks}.",
            "Of course, {names} are {marks}.",
            "{marks}.",
        ),
    ),
)
"""The *kinds* of questions and answers of LISA's and M2SA's loaders, in our own words: requests for a mask; answers
that hold marks, and of several targets either a clause each or one sentence. The last question of each kind is that of
LISA's validation, which the benchmarks ask, too. M2SA's 14 further questions about classes and 5 about instructions are
left out."""
WORDINGS = {"plum": PLUM_WORDINGS, "lisa": LISA_WORDINGS}


def join_names(names: Sequence[str], separator: str = ", ", last: str = " and ") -> str:
    """Return 'wheel', 'wheel and door', 'wheel, door and roof'."""
    return last.join([separator.join(names[:-1]), names[-1]]) if len(names) > 1 else names[0]


def compose_answer(pieces: Sequence[str], phrase_positions: Sequence[int]) -> Answer:
    """Join pieces into a text.

    Args:
        pieces: pieces of the text, joined in order without a separator.
        phrase_positions: indices of the pieces that are phrases to segment.
    """
    text, spans = "", []
    for position, piece in enumerate(pieces):
        if position in phrase_positions:
            spans.append(CharSpan(len(text), len(text) + len(piece)))
        text += piece
    return Answer(text, tuple(spans))


def name_target(target: str) -> Answer:
    """Return 'It is the front wheel.' with the target as its phrase (the forced answer of referring segmentation)."""
    return compose_answer(["It is the ", target, "."], [1])


def list_targets(targets: Sequence[str], opening: str = "They are the ") -> Answer:
    """Return 'They are the wheel, door and roof.' with every target as a phrase; for one target 'It is the wheel.'."""
    if len(targets) == 1:
        return name_target(targets[0])
    pieces = [opening, targets[0]]
    for target in targets[1:-1]:
        pieces += [", ", target]
    pieces += [" and ", targets[-1], "."]
    return compose_answer(pieces, range(1, len(pieces) - 1, 2))


def mark_answer(text: str) -> Answer:
    """Return an answer whose targets are its marks."""
    places = [index for index in range(len(text)) if text.startswith(MARK, index)]
    return Answer(text, tuple(CharSpan(place, place + len(MARK)) for place in places), is_marked=True)


def list_expressions(targets: Sequence[str]) -> Answer:
    """Return 'They are the man, a cup and the dog on the left.', which adds no article; for one target 'It is ...'."""
    if len(targets) == 1:
        return compose_answer(["It is ", targets[0], "."], [1])
    return list_targets(targets, opening="They are ")


def answer_named(names: Sequence[str], wordings: Wordings, generator: np.random.Generator) -> Answer:
    """Return an answer about classes or parts, which get an article."""
    return list_targets(names) if wordings.marked is None else wordings.marked.draw(names, generator)


def exchange_about(question: str, answer: Answer, targets: Sequence[NamedMask]) -> Exchange:
    """Return question, answer, and the masks of the answer's phrases, in the same order."""
    masks: tuple[RLE, ...] = tuple(target.mask for target in targets)
    assert len(masks) == len(answer.spans)
    return Exchange(question, answer.text, answer.spans, masks, is_marked=answer.is_marked)


def _marks(count: int) -> str:
    return join_names([MARK] * count)


def _capitalize(text: str) -> str:
    return text if text.startswith(MARK) else text[:1].upper() + text[1:]
