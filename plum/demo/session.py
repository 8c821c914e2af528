"""A user's conversation on the demo page: photos, turns, and the answer whose phrases are shown."""

import threading
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from difflib import SequenceMatcher
from enum import StrEnum
from pathlib import Path

import numpy as np

from partonomy.models.contract import Role, Turn
from partonomy.structures import CharSpan
from plum.inference.api import QUESTION, read_image
from plum.inference.highlight import Highlight, answer_about
from plum.inference.predictor import Prediction, Predictor
from plum.inputs.encoding import ConversationTooLong

_EDGES = "'’-"
"""Characters that belong to a word only between others, such as the hyphen of "tail-plane"."""


class Source(StrEnum):
    """Origin of the phrases that are shown."""

    MODEL = "model"
    """The model wrote the answer and tagged its phrases."""
    SELECTION = "selection"
    """The user selected words of the model's answer."""
    SENTENCE = "sentence"
    """The user wrote the sentence and selects words of it."""


@dataclass(frozen=True, eq=False)
class Photo:
    """A photo of the conversation.

    Attributes:
        name: name of the user's file, without folders.
        pixels: uint8 RGB (H, W, 3).
    """

    name: str
    pixels: np.ndarray


@dataclass(frozen=True, eq=False)
class Answer:
    """An answer and its segmented phrases.

    Attributes:
        turns: the conversation up to the question that it answers.
        text: the answer; the spans of the predictions are character ranges of it.
        predictions: one per photo; empty if nothing is segmented yet.
        source: origin of the phrases.
    """

    turns: tuple[Turn, ...]
    text: str
    predictions: tuple[Prediction, ...]
    source: Source

    @property
    def question(self) -> str:
        """The question that it answers."""
        return self.turns[-1].text


@dataclass(frozen=True)
class Session:
    """State of one user's page; every action returns a new state, so that a failed action changes nothing.

    Attributes:
        photos: photos of the conversation, in the order in which texts name them.
        turns: finished turns, user and assistant alternating.
        own: the model's last answer with the phrases that it tagged; None before the first question.
        shown: the answer on the page: `own`, or one with the user's selection.
        notice: one sentence about the action that led to this state; empty if there is nothing to say.
    """

    photos: tuple[Photo, ...] = ()
    turns: tuple[Turn, ...] = ()
    own: Answer | None = None
    shown: Answer | None = None
    notice: str = ""


class Demo:
    """Runs the actions of the page with one model. Several users take turns: a model answers one at a time.

    Args:
        predictor: the model.
        max_new_tokens: maximum length of an answer; None: `default_new_tokens`.
    """

    def __init__(self, predictor: Predictor, max_new_tokens: int | None = None) -> None:
        self.predictor = predictor
        self.max_new_tokens = max_new_tokens
        self._model_in_use = threading.Lock()

    def add_photos(self, session: Session, paths: Sequence[Path]) -> Session:
        """Add photos; a new conversation begins, because earlier answers do not know them.

        Args:
            session: the user's state.
            paths: image files.

        Raises:
            ValueError: a file is no readable image; the message names it without its folder.
        """
        if not paths:
            raise ValueError("Choose at least one photo.")
        photos = (*session.photos, *map(_read_photo, paths))
        return Session(photos, notice="The photos changed, so a new conversation begins." if session.turns else "")

    def ask(self, session: Session, question: str) -> Session:
        """Answer a question in the context of all earlier turns.

        An empty answer is shown, but it and its question do not become part of the conversation.

        Raises:
            ValueError: there is no photo or no question, or the conversation fills the model's context.
        """
        _require_photos(session)
        if not question.strip():
            raise ValueError("Type a question first.")
        turns = (*session.turns, Turn(Role.USER, question.strip()))
        with self._model_in_use, _explaining_full_context():
            predictions = self.predictor.generate_about(_images(session), turns, self.max_new_tokens)
        text = predictions[0].text
        answer = Answer(turns, text, predictions, Source.MODEL)
        if not text:
            return replace(session, own=answer, shown=answer, notice="The model ended its answer at once.")
        return replace(session, turns=(*turns, Turn(Role.ASSISTANT, text)), own=answer, shown=answer, notice="")

    def use_sentence(self, session: Session, sentence: str) -> Session:
        """Show the user's own sentence in place of the answer; words of it can then be selected.

        The sentence answers the last question, or a general one, and does not become part of the conversation.

        Raises:
            ValueError: there is no photo or no sentence, or the sentence contains a mark of the model's notation.
        """
        _require_photos(session)
        if not sentence.strip():
            raise ValueError("Type a sentence first.")
        self.predictor.notation.check_words(sentence)
        turns = (Turn(Role.USER, QUESTION),) if session.own is None else session.own.turns
        return replace(session, shown=Answer(turns, sentence.strip(), (), Source.SENTENCE), notice="")

    def segment(self, session: Session, start: int, end: int) -> Session:
        """Segment selected words of the shown answer, together with those selected before, in every photo.

        The masks of all selected phrases are predicted anew in reading order, because each mask sees the earlier ones.

        Args:
            session: the user's state.
            start: first character of the selection in the shown text.
            end: the character after the last one.

        Raises:
            ValueError: nothing is shown, the selection holds no word, or the conversation fills the model's context.
        """
        shown = session.shown
        if shown is None or not shown.text:
            raise ValueError("There is no answer yet: ask a question, or type your own sentence.")
        text, chosen = select_words(shown.text, CharSpan(start, end), self.predictor.notation.words)
        # A prediction of the user's selection holds the same spans for every photo.
        earlier = () if shown.source is Source.MODEL or not shown.predictions else shown.predictions[0].spans
        if chosen in earlier:
            return replace(session, notice=f"“{text[chosen.start : chosen.end]}” is segmented already.")
        highlight = Highlight(char_ranges=(*earlier, chosen), answer=text)
        with self._model_in_use, _explaining_full_context():
            predictions = answer_about(self.predictor, _images(session), shown.turns, highlight)
        source = Source.SENTENCE if shown.source is Source.SENTENCE else Source.SELECTION
        return replace(session, shown=Answer(shown.turns, text, predictions, source), notice="")

    def show_own_phrases(self, session: Session) -> Session:
        """Show the model's last answer again, with the phrases that the model tagged."""
        return replace(session, shown=session.own, notice="")

    def start_again(self, session: Session) -> Session:
        """Begin a new conversation about the same photos."""
        return Session(session.photos)


def select_words(text: str, selection: CharSpan, to_words: Callable[[str], str]) -> tuple[str, CharSpan]:
    """Return the whole words that a selection touches.

    Args:
        text: the answer, as the model writes it.
        selection: character range of the text, as a browser reports it.
        to_words: removes the marks of the model's notation, such as [SEG]; see `TargetNotation.words`.

    Returns:
        The answer without marks, and the selected words as a character range of it.

    Raises:
        ValueError: the selection holds no word.
    """
    plain = to_words(text)
    kept = [place for index, place in _align(text, plain).items() if selection.start <= index < selection.end]
    letters = [place for place in kept if _is_letter(plain[place])]
    if not letters:
        raise ValueError("Select words of the answer first.")
    start, end = min(letters), max(letters) + 1
    while start > 0 and _continues_word(plain[start - 1]) and _continues_word(plain[start]):
        start -= 1
    while end < len(plain) and _continues_word(plain[end]) and _continues_word(plain[end - 1]):
        end += 1
    while plain[start] in _EDGES:
        start += 1
    while plain[end - 1] in _EDGES:
        end -= 1
    return plain, CharSpan(start, end)


def _align(text: str, plain: str) -> dict[int, int]:
    """Return the place in `plain` of each character of a text from which marks were removed; marks have none."""
    if text == plain:
        return {index: index for index in range(len(text))}
    blocks = SequenceMatcher(None, text, plain, autojunk=False).get_matching_blocks()
    return {block.a + offset: block.b + offset for block in blocks for offset in range(block.size)}


def _is_letter(character: str) -> bool:
    """Return whether a character is a letter, a digit or a combining mark."""
    return unicodedata.category(character)[0] in "LNM"


def _continues_word(character: str) -> bool:
    """Return whether a selection that cuts a word here is extended; Chinese and Japanese write no spaces."""
    is_wide = unicodedata.east_asian_width(character) in ("W", "F")
    return not is_wide and (_is_letter(character) or character in _EDGES)


def _read_photo(path: Path) -> Photo:
    try:
        return Photo(path.name, read_image(path))
    except (OSError, ValueError) as error:
        raise ValueError(str(error).replace(str(path), path.name)) from error


def _images(session: Session) -> tuple[np.ndarray, ...]:
    return tuple(photo.pixels for photo in session.photos)


def _require_photos(session: Session) -> None:
    if not session.photos:
        raise ValueError("Send a photo first.")


@contextmanager
def _explaining_full_context() -> Iterator[None]:
    """Replace the advice for the terminal by advice for the page."""
    try:
        yield
    except ConversationTooLong as error:
        raise ValueError(
            f"The conversation is full: it has {error.num_tokens} text tokens, and the model takes {error.limit}, "
            "answer included. Press “New conversation”, or shorten the text."
        ) from error
