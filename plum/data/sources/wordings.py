"""Question and answer wordings of the sources; answers come with the spans of their phrases.

PLUM has no segmentation token, so every answer names its targets in words, and these words are tagged.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from partonomy.structures import RLE, CharSpan
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


@dataclass(frozen=True)
class Answer:
    """A text and the character ranges of its phrases, in reading order."""

    text: str
    spans: tuple[CharSpan, ...]


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


def exchange_about(question: str, answer: Answer, targets: Sequence[NamedMask]) -> Exchange:
    """Return question, answer, and the masks of the answer's phrases, in the same order."""
    masks: tuple[RLE, ...] = tuple(target.mask for target in targets)
    assert len(masks) == len(answer.spans)
    return Exchange(question, answer.text, answer.spans, masks)
