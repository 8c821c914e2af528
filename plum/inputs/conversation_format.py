"""What every form of conversation gives: exchanges as text, with the character ranges of answers and phrases."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

from partonomy.structures import CharSpan
from plum.structures import Exchange


@dataclass(frozen=True)
class RenderedConversation:
    """Text of a conversation, image placeholders not yet expanded.

    prompt_ends: per exchange, where the prompt ends and the model's own tokens begin (white space before the answer is
        the model's: it is part of the first answer token for most tokenizers)
    answers: per exchange, the answer's characters
    answer_ends: per exchange, the end of the end token
    spans: per exchange, the phrases to segment
    """

    text: str
    prompt_ends: tuple[int, ...]
    answers: tuple[CharSpan, ...]
    answer_ends: tuple[int, ...]
    spans: tuple[tuple[CharSpan, ...], ...]


class ConversationFormat(Protocol):
    """Renders conversations: a template of LLaVA's kind, or a stock model's chat template."""

    @property
    def placeholder(self) -> str:
        """Token that stands for an image in a text."""

    def adds_begin_token(self, text: str) -> bool:
        """Return whether the tokenizer has to put its begin token before a rendered text."""

    def render_conversation(self, exchanges: Sequence[Exchange], num_images: int = 1) -> RenderedConversation:
        """Render finished exchanges, for training and scoring.

        Args:
            exchanges: one or more, with non-empty answers; their spans are character ranges of the answers.
            num_images: number of images that precede the first question.

        Raises:
            ValueError: there is no exchange, a question or answer is empty or contains a control token, or a span lies
                outside its answer.
        """

    def render_prompt(self, history: Sequence[Exchange], question: str, num_images: int = 1) -> str:
        """Render a conversation up to an open question: a prefix of the finished conversation's text.

        Args:
            history: earlier exchanges; may be empty.
            question: the user's last message.
            num_images: number of images that precede the first question.
        """


def check_text(what: str, text: str, control_tokens: Collection[str]) -> None:
    """Check that a question or an answer can be rendered.

    Raises:
        ValueError: it is empty, or contains a control token.
    """
    if not text.strip():
        raise ValueError(f"the {what} is empty")
    for token in control_tokens:
        if token in text:
            raise ValueError(f"the {what} {text!r} contains the control token {token}; remove it from the text")


def shift_spans(exchange: Exchange, start: int) -> tuple[CharSpan, ...]:
    """Return an exchange's phrases as characters of the conversation, in which its answer begins at `start`.

    Raises:
        ValueError: a span lies outside of the answer.
    """
    for span in exchange.spans:
        if not 0 <= span.start < span.end <= len(exchange.answer):
            raise ValueError(f"the span {span.start}:{span.end} lies outside of the answer {exchange.answer!r}")
    return tuple(CharSpan(span.start + start, span.end + start) for span in exchange.spans)
