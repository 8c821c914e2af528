"""Encoding of conversations that end with an answer, in the target notation of their system."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np

from partonomy.models.contract import Role, Turn
from partonomy.structures import CharSpan
from plum.inputs.bio_labels import TokenSpan, phrase_tokens
from plum.inputs.encoding import (
    ConversationEncoder,
    ConversationTooLong,
    EncodedConversation,
    EncodedText,
    ImageSlot,
)
from plum.models.systems.target_notation import TargetNotation
from plum.structures import Exchange

MAX_TOKENS_PER_CHARACTER = 4
"""Tokens of a character that the vocabulary lacks: one for each byte in UTF-8."""


MIN_ANSWER_TOKENS = 2
"""A word and the end token."""


@dataclass(frozen=True)
class ForcedAnswer:
    """A conversation that ends with a given answer, and the targets to segment in it.

    spans: tokens of the targets (the phrases, or their [SEG] tokens), in reading order
    places: for each phrase in the caller's order, the index of its target in `spans`
    """

    row: EncodedConversation
    spans: tuple[TokenSpan, ...]
    places: np.ndarray


@dataclass(frozen=True)
class AnswerEncoder:
    """Encodes conversations for one model: `encoder` encodes text, `notation` writes targets into answers."""

    encoder: ConversationEncoder
    notation: TargetNotation

    def prompt(self, turns: Sequence[Turn], images: Sequence[ImageSlot]) -> EncodedText:
        """Encode a conversation about images up to an open question.

        Raises:
            ConversationTooLong: the conversation leaves the model no room for an answer.
        """
        history, question = self._read_turns(turns)
        with _explaining_full_context():
            prompt = self.encoder.encode_prompt(history, question, images)
        limit = self._text_limit(prompt)
        if limit is not None and limit - prompt.num_text_tokens < MIN_ANSWER_TOKENS:
            raise ConversationTooLong(_describe_full(prompt.num_text_tokens, limit), prompt.num_text_tokens, limit)
        return prompt

    def limit_new_tokens(self, prompt: EncodedText, max_new_tokens: int) -> int:
        """Return the maximum length of an answer, end token not counted, given the room that its prompt leaves."""
        limit = self._text_limit(prompt)
        return max_new_tokens if limit is None else min(max_new_tokens, limit - prompt.num_text_tokens - 1)

    def _text_limit(self, prompt: EncodedText) -> int | None:
        return self.encoder.text_limit(sum(image.end - image.start for image in prompt.images))

    def own(self, images: Sequence[ImageSlot], turns: Sequence[Turn], answer: str) -> EncodedConversation:
        """Encode a conversation that ends with an answer as the model wrote it.

        Raises:
            ConversationTooLong: the answer does not fit; see `cut_to_fit`.
        """
        history, question = self._read_turns(turns)
        return self.encoder.encode([*history, Exchange(question, answer)], images, "generated answer")

    def cut_to_fit(self, images: Sequence[ImageSlot], turns: Sequence[Turn], answer: str) -> str:
        """Return the answer, or its longest beginning with which the conversation fits into the model's context.

        The limit on new tokens makes almost every answer fit. Bytes that are no text are the exception: as text, each
        becomes a replacement character of several tokens.
        """
        while answer:
            try:
                self.own(images, turns, answer)
            except ConversationTooLong as error:
                num_cut = -(-(error.num_tokens - error.limit) // MAX_TOKENS_PER_CHARACTER)
                answer = answer[:-num_cut].rstrip()
            else:
                return answer
        return answer

    def given(
        self,
        images: Sequence[ImageSlot],
        turns: Sequence[Turn],
        answer: str,
        name: str,
        phrases: Sequence[CharSpan] = (),
    ) -> EncodedConversation:
        """Encode a conversation that ends with a given answer.

        Args:
            images: slots of the images that the conversation shows.
            turns: the conversation up to the user's last message.
            answer: plain words.
            name: name in error messages.
            phrases: the phrases to segment, sorted by start.
        """
        history, question = self._read_turns(turns)
        written = self.notation.write(Exchange(question, answer, tuple(phrases))).exchange
        with _explaining_full_context(name):
            return self.encoder.encode([*history, _untagged(written)], images, name)

    def forced(
        self,
        slots: Sequence[ImageSlot],
        turns: Sequence[Turn],
        answer: str,
        spans: Sequence[CharSpan],
        images: Sequence[int] | None = None,
    ) -> ForcedAnswer:
        """Encode a given answer about one image or several, and locate its targets.

        Args:
            slots: slots of the images that the conversation shows.
            turns: the conversation up to the user's last message.
            answer: plain words.
            spans: character ranges of the answer, in any order; they may overlap, which tags could not express.
            images: per span, the number of its image, which the answer then names; None: there is one image.

        Raises:
            ValueError: a span lies outside of the answer or falls on no token.
        """
        for span in spans:
            if not 0 <= span.start < span.end <= len(answer):
                raise ValueError(f"the span {span.start}:{span.end} lies outside of the answer {answer!r}")
        history, question = self._read_turns(turns)
        numbers = tuple(images or (0,) * len(spans))
        order = sorted(range(len(spans)), key=lambda i: (spans[i].start, spans[i].end, numbers[i]))
        named = () if images is None else tuple(numbers[i] for i in order)
        exchange = Exchange(question, answer, tuple(spans[i] for i in order), images=named)
        written = self.notation.write(exchange)
        with _explaining_full_context("given answer"):
            row = self.encoder.encode([*history, _untagged(written.exchange)], slots, "given answer")
        start = row.rendered.answers[-1].start
        targets = tuple(
            phrase_tokens(row.encoded.trimmed, CharSpan(target.start + start, target.end + start))
            for target in written.exchange.spans
        )
        places = np.zeros(len(spans), dtype=np.int64)
        places[order] = written.target_of_phrase
        return ForcedAnswer(row, targets, places)

    def _read_turns(self, turns: Sequence[Turn]) -> tuple[tuple[Exchange, ...], str]:
        """Return the finished exchanges, as the system writes them, and the open question."""
        history, question = split_turns(turns)
        self.notation.check_words(question)
        return tuple(map(self._write_earlier, history)), question

    def _write_earlier(self, exchange: Exchange) -> Exchange:
        """Write an earlier answer; an answer of the model's own that contains its marks is unchanged."""
        if self.notation.words(exchange.answer) != exchange.answer.strip():
            self.notation.check_words(exchange.question)
            return exchange
        return _untagged(self.notation.write(exchange).exchange)


@contextmanager
def _explaining_full_context(name: str = "") -> Iterator[None]:
    """Replace the advice for training data, to raise a limit: the model's own context cannot be raised."""
    try:
        yield
    except ConversationTooLong as error:
        message = _describe_full(error.num_tokens, error.limit)
        raise ConversationTooLong(f"{name}: {message}" if name else message, error.num_tokens, error.limit) from error


def _describe_full(num_tokens: int, limit: int) -> str:
    return (
        f"the conversation is full: it has {num_tokens} text tokens, and the model takes {limit}, answer included; "
        "begin a new one (in chat: /reset) or shorten the text"
    )


def split_turns(turns: Sequence[Turn]) -> tuple[tuple[Exchange, ...], str]:
    """Split turns into finished exchanges and the open question.

    Raises:
        ValueError: turns do not alternate user, assistant, ..., user.
    """
    expected = [Role.USER if i % 2 == 0 else Role.ASSISTANT for i in range(len(turns))]
    if len(turns) % 2 == 0 or [turn.role for turn in turns] != expected:
        roles = ", ".join(str(turn.role) for turn in turns)
        raise ValueError(f"turns must alternate user, assistant, ... and end with the user's, got: {roles or 'none'}")
    asked, answered = turns[:-1:2], turns[1::2]
    history = tuple(Exchange(q.text, a.text, a.phrases) for q, a in zip(asked, answered, strict=True))
    return history, turns[-1].text


def _untagged(exchange: Exchange) -> Exchange:
    """Drop the spans, which are not tagged here."""
    return replace(exchange, spans=(), images=())
