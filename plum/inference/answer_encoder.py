"""Conversations that end with an answer, written and encoded as their system writes them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from partonomy.models.contract import Role, Turn
from partonomy.structures import CharSpan
from plum.inputs.bio_labels import TokenSpan, phrase_tokens
from plum.inputs.encoding import ConversationEncoder, EncodedConversation, EncodedText
from plum.models.systems.target_notation import TargetNotation
from plum.structures import Exchange


@dataclass(frozen=True)
class ForcedAnswer:
    """A conversation that ends with a given answer, and what is to be segmented of it.

    spans: tokens of the targets (the phrases, or their [SEG] tokens), in reading order
    places: for each phrase in the caller's order, its target's place among them
    """

    row: EncodedConversation
    spans: tuple[TokenSpan, ...]
    places: np.ndarray


@dataclass(frozen=True)
class AnswerEncoder:
    """Encodes conversations for one model: `encoder` its text, `notation` how its answers say what is segmented."""

    encoder: ConversationEncoder
    notation: TargetNotation

    def prompt(self, turns: Sequence[Turn], has_image: bool) -> EncodedText:
        """Encode a conversation that waits for its answer."""
        history, question = self._read_turns(turns)
        return self.encoder.encode_prompt(history, question, has_image)

    def own(self, has_image: bool, turns: Sequence[Turn], answer: str) -> EncodedConversation:
        """Encode a conversation that ends with an answer as the model wrote it."""
        history, question = self._read_turns(turns)
        return self.encoder.encode([*history, Exchange(question, answer)], has_image, "generated answer")

    def given(
        self, has_image: bool, turns: Sequence[Turn], answer: str, name: str, phrases: Sequence[CharSpan] = ()
    ) -> EncodedConversation:
        """Encode a conversation that ends with a given answer.

        Args:
            has_image: whether it has one.
            turns: the conversation up to the user's last words.
            answer: plain words.
            name: for errors.
            phrases: what the answer would segment, by start.
        """
        history, question = self._read_turns(turns)
        written = self.notation.write(Exchange(question, answer, tuple(phrases))).exchange
        return self.encoder.encode([*history, _untagged(written)], has_image, name)

    def forced(self, turns: Sequence[Turn], answer: str, spans: Sequence[CharSpan]) -> ForcedAnswer:
        """Encode a given answer about an image and find what is to be segmented of it.

        Args:
            turns: the conversation up to the user's last words.
            answer: plain words.
            spans: character ranges of the answer, in any order; they may overlap, which tags could not say.

        Raises:
            ValueError: a span lies outside of the answer or falls on no token.
        """
        for span in spans:
            if not 0 <= span.start < span.end <= len(answer):
                raise ValueError(f"the span {span.start}:{span.end} lies outside of the answer {answer!r}")
        history, question = self._read_turns(turns)
        order = sorted(range(len(spans)), key=lambda i: (spans[i].start, spans[i].end))
        written = self.notation.write(Exchange(question, answer, tuple(spans[i] for i in order)))
        row = self.encoder.encode([*history, _untagged(written.exchange)], True, "given answer")
        start = row.rendered.answers[-1].start
        targets = tuple(
            phrase_tokens(row.encoded.trimmed, CharSpan(target.start + start, target.end + start))
            for target in written.exchange.spans
        )
        places = np.zeros(len(spans), dtype=np.int64)
        places[order] = written.target_of_phrase
        return ForcedAnswer(row, targets, places)

    def _read_turns(self, turns: Sequence[Turn]) -> tuple[tuple[Exchange, ...], str]:
        """Finished exchanges, as the system writes them, and the open question."""
        history, question = split_turns(turns)
        self.notation.check_words(question)
        return tuple(map(self._write_earlier, history)), question

    def _write_earlier(self, exchange: Exchange) -> Exchange:
        """Write an earlier answer; one of the model's own, with its marks in it, stays as it is."""
        if self.notation.words(exchange.answer) != exchange.answer.strip():
            self.notation.check_words(exchange.question)
            return exchange
        return _untagged(self.notation.write(exchange).exchange)


def split_turns(turns: Sequence[Turn]) -> tuple[tuple[Exchange, ...], str]:
    """Turns to finished exchanges and the open question.

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
    """Drop the spans, which nobody tags here."""
    return replace(exchange, spans=())
