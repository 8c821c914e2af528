"""An agent-style baseline: a chat endpoint names the parts, and an open-vocabulary segmenter segments the names.

It gives masks to chat models that have none of their own. Choices are made by the endpoint alone (`listwise`). Masks of
a given answer are the segmenter's masks of its phrases, as for `open_vocabulary`. For an own answer, `NAMING_PROMPT`
follows the question, and `find_phrases` finds the part names in the reply; a refusal fails the answer.
"""

import re
import threading
from collections.abc import Sequence
from typing import Final

import numpy as np

from partonomy.models.chat_endpoint import ChatEndpointModel
from partonomy.models.contract import Generation, Role, Turn
from partonomy.models.open_vocabulary import OpenVocabularyModel
from partonomy.structures import CharSpan, ChoiceScore

NAMING_PROMPT: Final = (
    "Name the visible parts that answer the question, one per line, in a few words each, and write nothing else. If "
    'there is no such part, write "none".'
)
"""Default of `--naming_prompt`."""
MAX_WORDS: Final = 6
"""A longer phrase is prose, not a part name."""
_REASONING: Final = re.compile(r"<think>.*?(?:</think>|\Z)", re.DOTALL | re.IGNORECASE)
_FENCE: Final = re.compile(r"^[ \t]*```.*$", re.MULTILINE)
_PIECE: Final = re.compile(r"[^\n,;]+")
_HEADING: Final = re.compile(r"^[^:]*:\s*")
_MARKER: Final = re.compile(r"^[\s\-*+•#>\"'`_()\[\]{}]*(?:\d+[.)]\s+)?[\s*\"'`_(\[{]*")
_LEAD: Final = re.compile(
    r"^(?:(?:and|or)\s+)?(?:(?:it|there|the object)\s+(?:has|is|are|shows)\s+)?(?:(?:a|an|the)\s+)?", re.IGNORECASE
)
_TAIL: Final = re.compile(r"(?:\s*\([^()]*\))?[\s.!?\"'`*_)\]}]*$")
_NOTHING: Final = frozenset({"none", "nothing", "n/a", "no parts", "no visible parts"})


def find_phrases(reply: str) -> tuple[CharSpan, ...]:
    """Find the part names in a reply, in reading order.

    Reasoning in <think> tags and the fences of code blocks are ignored. Line breaks, commas and semicolons separate
    names. Text up to a colon is a heading. List markers, numbers, quotes, brackets, emphasis, a leading "and", "it has"
    or article, a closing remark in brackets and closing punctuation do not belong to a name. A name that is repeated
    (in any case), longer than `MAX_WORDS` words, without a letter, or "none" is dropped.

    Args:
        reply: What the endpoint said.

    Returns:
        The positions of the names in `reply`.
    """
    text = _blank(_FENCE, _blank(_REASONING, reply))
    spans: list[CharSpan] = []
    seen: set[str] = set()
    for piece in _PIECE.finditer(text):
        start, end = piece.span()
        for pattern in (_HEADING, _MARKER, _LEAD, _MARKER):
            found = pattern.match(text[start:end])
            start += 0 if found is None else found.end()
        tail = _TAIL.search(text[start:end])
        end = end if tail is None else start + tail.start()
        name = " ".join(text[start:end].casefold().split())
        if not any(letter.isalpha() for letter in name) or len(name.split()) > MAX_WORDS:
            continue
        if name not in seen | _NOTHING:
            seen.add(name)
            spans.append(CharSpan(start, end))
    return tuple(spans)


def naming_turns(turns: Sequence[Turn], prompt: str) -> tuple[Turn, ...]:
    """Return the conversation with the prompt added to its last question."""
    return (*turns[:-1], Turn(Role.USER, f"{turns[-1].text}\n{prompt}"))


class ChatSegmenterModel:
    """Adapts a chat endpoint and a segmenter to the model contract.

    Several threads may ask it at once: requests to the endpoint run side by side, the segmenter works on one at a time.

    Args:
        chat: The endpoint.
        segmenter: The segmenter.
        prompt: Follows the question when the endpoint names the parts.
    """

    def __init__(self, chat: ChatEndpointModel, segmenter: OpenVocabularyModel, prompt: str = NAMING_PROMPT) -> None:
        self.name = f"chat_segmenter:{chat.name.partition(':')[2]}+{segmenter.name.partition(':')[2]}"
        self.max_concurrent = chat.max_concurrent
        self.device = segmenter.device
        self.dtype = getattr(segmenter, "dtype", None)
        self._chat = chat
        self._segmenter = segmenter
        self._prompt = prompt
        self._lock = threading.Lock()

    def score_choices(self, image: np.ndarray, turns: Sequence[Turn], choices: Sequence[str]) -> list[ChoiceScore]:
        """Not supported; raises NotImplementedError."""
        return self._chat.score_choices(image, turns, choices)

    def reply(self, image: np.ndarray, turns: Sequence[Turn]) -> str:
        """Return the endpoint's answer in words; see `ChatEndpointModel.reply`."""
        return self._chat.reply(image, turns)

    def stop(self) -> None:
        """See `ChatEndpointModel.stop`."""
        self._chat.stop()

    def segment(self, image: np.ndarray, turns: Sequence[Turn], answer: str, spans: Sequence[CharSpan]) -> np.ndarray:
        """Return the segmenter's mask of each phrase of the given answer."""
        with self._lock:
            return self._segmenter.segment(image, turns, answer, spans)

    def generate(self, image: np.ndarray, turns: Sequence[Turn]) -> Generation:
        """Let the endpoint name the parts and segment the names; every confidence is 1.

        Raises:
            ReplyRefused, EndpointError, ModelUnavailable: See `ChatEndpointModel.reply`.
        """
        text = self._chat.reply(image, naming_turns(turns, self._prompt))
        spans = find_phrases(text)
        return Generation(text, spans, self.segment(image, turns, text, spans), (1.0,) * len(spans))


def _blank(pattern: re.Pattern[str], text: str) -> str:
    """Replace matches by line breaks of the same length, so that positions stay."""
    return pattern.sub(lambda found: "\n" * len(found[0]), text)
