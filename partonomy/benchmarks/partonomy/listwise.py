"""Multiple choice with all choices shown at once: their order, the prompt, and the parsing of replies.

The paper asks GPT-4o and SegLLM in this way (section 4, Table 3) but does not give the wording or the order of the
choices. Here, a seed shuffles the choices, which have letters; only the last question of a conversation shows its
choices; and a reply may name a letter or repeat a choice's text. A reply that names no choice, or several, is wrong,
and the record says why.
"""

import hashlib
import re
import string
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from partonomy.benchmarks.partonomy.records import ListwiseAnswer
from partonomy.metrics.multiple_choice import ChoiceSelection, select_only
from partonomy.models.contract import Gold, ReplyRefused, ReplyRequest, Request, Role, Turn

LETTERS = string.ascii_uppercase
INSTRUCTION = "Answer with the letter of the one correct choice."

EMPTY = "the reply is empty"
REFUSED = "the reply is a refusal"
SEVERAL = "the reply names several choices"
NOTHING = "the reply names no choice"

_REFUSAL = re.compile(
    r"\bi(?:'m| am) (?:sorry|unable|not able)\b|\bi (?:can't|cannot|can not|won't|will not)\b|\bas an ai\b"
    r"|\b(?:unable|not able) to (?:assist|help|answer|determine|view|see)\b"
)
_REASONING = re.compile(r"<think>.*?(?:</think>|\Z)", re.DOTALL | re.IGNORECASE)
_BOXED = re.compile(r"\\boxed\{(?:\\text\{)?([^{}]*)\}?\}")
_ARTICLE = r"(?!\s+(?!(?:because|since|as|is|and|for|which)\b)[a-z])"
"""Negative lookahead after the letter A: a following word would make it an article ("A wheel is visible")."""


@dataclass(frozen=True)
class ParsedReply:
    """Position of the named choice among those shown; None, with the problem, if the reply names none."""

    position: int | None
    problem: str = ""


def order_key(seed: int, question_id: str, subject: str) -> str:
    """Return the key that determines the order of a question's choices.

    Args:
        seed: Seed of the run.
        question_id: The question.
        subject: Its step: parts or object.
    """
    return f"{seed}:{question_id}:{subject}"


def shuffled_order(key: str, num_choices: int) -> tuple[int, ...]:
    """Return the order in which choices are shown; entry i is the index of the choice with letter i.

    Args:
        key: See `order_key`.
        num_choices: At most 26.

    Raises:
        ValueError: There are more choices than letters.
    """
    if num_choices > len(LETTERS):
        raise ValueError(f"{num_choices} choices cannot be lettered, at most {len(LETTERS)} can")
    seed = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big")
    return tuple(int(index) for index in np.random.default_rng(seed).permutation(num_choices))


def listwise_turns(turns: Sequence[Turn], shown: Sequence[str]) -> tuple[Turn, ...]:
    """Return the conversation with the choices added to its last question.

    Args:
        turns: The conversation up to the question.
        shown: The choices in the order of their letters.
    """
    lines = [f"{letter}. {choice}" for letter, choice in zip(LETTERS, shown, strict=False)]
    return (*turns[:-1], Turn(Role.USER, "\n".join([turns[-1].text, *lines, INSTRUCTION])))


def parse_reply(reply: str, shown: Sequence[str]) -> ParsedReply:
    """Find the choice that a reply names.

    Readings are tried in this order: a letter alone; the last "answer is B"; "option B"; lines that begin with a letter
    ("B. It has ..."); the text of a choice; a letter in brackets; a refusal; a letter anywhere.

    Args:
        reply: What the model said.
        shown: The choices in the order of their letters.
    """
    text = _clean(reply)
    if not text:
        return ParsedReply(None, EMPTY)
    letter = _letter_pattern(len(shown))
    for find in _readers(letter):
        found = find(text, shown)
        if found:
            return _only(found)
    if _REFUSAL.search(_fold(text)):
        return ParsedReply(None, REFUSED)
    alone = {LETTERS.index(name) for name in re.findall(rf"(?<![\w'])({letter})(?![\w'])", text)}
    return _only(alone) if alone else ParsedReply(None, NOTHING)


def _readers(letter: str) -> tuple[Callable[[str, Sequence[str]], set[int]], ...]:
    """Return functions that read a reply, the most explicit first; each returns the positions that it finds."""
    is_so = r"(?i:\s+(?:is|would be|should be|must be))?[\s:=\"'({\[-]{0,4}(?:(?i:option|choice|letter)\s+[\"'(\[]?)?"
    stated = re.compile(rf"(?i:answer|correct (?:choice|option)){is_so}({letter})(?![\w'])")
    option = re.compile(rf"(?i:option|choice)\s*[:\"'(\[]?\s*({letter})(?![\w'])")
    leading = re.compile(rf"^[(\[]?({letter})(?:[)\].:](?=\s|$)|\s+-\s|\s*$)", re.MULTILINE)

    def read_bare(text: str, shown: Sequence[str]) -> set[int]:
        match = re.fullmatch(r"[\s(\[\"']*([a-zA-Z])[\s)\]\"'.:,]*", text)
        position = LETTERS.index(match[1].upper()) if match else len(shown)
        return {position} if position < len(shown) else set()

    def read_stated(text: str, shown: Sequence[str]) -> set[int]:
        return {LETTERS.index(name) for name in stated.findall(text)[-1:]}

    def read_option(text: str, shown: Sequence[str]) -> set[int]:
        return {LETTERS.index(name) for name in option.findall(text)}

    def read_leading(text: str, shown: Sequence[str]) -> set[int]:
        return {LETTERS.index(name) for name in leading.findall(text)}

    def read_bracketed(text: str, shown: Sequence[str]) -> set[int]:
        return {LETTERS.index(name) for name in re.findall(rf"[(\[]({letter})[)\]]", text)}

    return read_bare, read_stated, read_option, read_leading, _quoted, read_bracketed


def _quoted(text: str, shown: Sequence[str]) -> set[int]:
    """Find choices whose whole text the reply repeats; "It has a wing" does not match "It has a wing, a tail"."""
    folded = _fold(text)
    return {
        position
        for position, choice in enumerate(shown)
        if re.search(rf"(?<!\w){re.escape(_fold(choice).rstrip('.'))}(?=\s*(?:[.;!?\"')\]]|$))", folded)
    }


def _only(found: set[int]) -> ParsedReply:
    return ParsedReply(next(iter(found))) if len(found) == 1 else ParsedReply(None, SEVERAL)


def _letter_pattern(num_choices: int) -> str:
    others = LETTERS[1:num_choices]
    return rf"A{_ARTICLE}|[{others}]" if others else rf"A{_ARTICLE}"


def _clean(reply: str) -> str:
    """Strip reasoning and emphasis from the reply and replace typographic quotes."""
    text = _BOXED.sub(r" answer is \1 ", _REASONING.sub("", reply))
    text = re.sub(r"[*`]", "", text)
    return re.sub("[‘’]", "'", re.sub("[“”]", '"', text)).strip()


def _fold(text: str) -> str:
    return " ".join(_clean(text).casefold().split())


@dataclass(frozen=True)
class ListwiseChoice:
    """The model's answer and the index of the choice that it names, in the question's own order."""

    answer: ListwiseAnswer
    index: int | None

    @property
    def selection(self) -> ChoiceSelection | None:
        """The choice, the same under every selector; None if the reply names no choice."""
        return None if self.index is None else select_only(self.index)


def ask_listwise(
    turns: Sequence[Turn], choices: Sequence[str], order_key: str, gold: Gold
) -> Generator[Sequence[Request], Sequence[Any], ListwiseChoice]:
    """Show the choices in a shuffled order and read the reply; see `partonomy.benchmarks.task.Asking`.

    Args:
        turns: The conversation up to the question.
        choices: The answers to choose from.
        order_key: Determines the order; see `shuffled_order`.
        gold: The right answer.
    """
    order = shuffled_order(order_key, len(choices))
    shown = [choices[index] for index in order]
    try:
        (reply,) = yield [ReplyRequest(0, listwise_turns(turns, shown), gold)]
        parsed = parse_reply(reply, shown)
    except ReplyRefused as refusal:
        reply, parsed = str(refusal), ParsedReply(None, REFUSED)
    index = None if parsed.position is None else order[parsed.position]
    return ListwiseChoice(ListwiseAnswer(order, reply, parsed.problem), index)
