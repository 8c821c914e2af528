"""Encoding of conversations: token ids with image patches expanded, labels, BIO tags and phrase positions.

`<image>` is expanded to one id per image patch *here*, before the model (the convention of transformers' LLaVA). All
indices refer to the expanded sequence. The correspondence between text and tokens always comes from the tokenizer's
character offsets.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from partonomy.structures import CharSpan
from plum.inputs.bio_labels import Tag, TokenSpan, phrase_tokens, trim_offsets, write_tags
from plum.inputs.conversation import IMAGE_TOKEN, RenderedConversation, TemplateName, render_conversation, render_prompt
from plum.structures import IGNORE_INDEX, Exchange


@dataclass(frozen=True)
class EncodedText:
    """Token ids of a text with `<image>` expanded.

    trimmed: per token, the range of its visible characters in `text` (image patches: empty)
    image_tokens: positions of the image patches, None without an image
    """

    text: str
    input_ids: tuple[int, ...]
    offsets: tuple[tuple[int, int], ...]
    trimmed: tuple[tuple[int, int], ...]
    image_tokens: TokenSpan | None

    @property
    def num_text_tokens(self) -> int:
        """Number of tokens that are not image patches."""
        image = self.image_tokens
        return len(self.input_ids) - (image.end - image.start if image else 0)


@dataclass(frozen=True)
class EncodedConversation:
    """One row of a batch before padding.

    labels, tags: per token; IGNORE_INDEX where the losses ignore them
    answers: per exchange, its answer tokens, end token included
    spans: the phrases to segment, in reading order over all exchanges
    """

    encoded: EncodedText
    rendered: RenderedConversation
    labels: tuple[int, ...]
    tags: tuple[int, ...]
    answers: tuple[TokenSpan, ...]
    spans: tuple[TokenSpan, ...]


@dataclass(frozen=True)
class ConversationEncoder:
    """Encodes conversations for one tokenizer, template and image size.

    Attributes:
        tokenizer: a fast tokenizer with `<image>` as one token (see `plum.inputs.tokenizer`).
        template: conversation template.
        num_image_tokens: patches of one image.
        max_text_tokens: maximum length of a conversation, image patches not counted; None: no limit.
    """

    tokenizer: PreTrainedTokenizerBase
    template: TemplateName
    num_image_tokens: int
    max_text_tokens: int | None = None

    def encode(
        self, exchanges: Sequence[Exchange], has_image: bool = True, name: str = "conversation"
    ) -> EncodedConversation:
        """Encode finished exchanges.

        Args:
            exchanges: questions and answers in order.
            has_image: False for conversations without an image.
            name: name of the sample, for error messages.

        Raises:
            ValueError: a phrase falls on no token, two phrases share a token, phrases are not in reading order, the
                tokenizer merges the prompt's end with the answer, or the conversation is too long (a supervised phrase
                is never truncated). The message names the sample.
        """
        try:
            rendered = render_conversation(exchanges, self.template, has_image)
            encoded = self._encode_text(rendered.text)
            answers = tuple(
                _answer_tokens(encoded, start, end)
                for start, end in zip(rendered.prompt_ends, rendered.answer_ends, strict=True)
            )
            spans, tags = _tag(encoded, rendered, answers, exchanges)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
        labels = [IGNORE_INDEX] * len(encoded.input_ids)
        for answer in answers:
            labels[answer.start : answer.end] = encoded.input_ids[answer.start : answer.end]
        return EncodedConversation(encoded, rendered, tuple(labels), tuple(tags), answers, tuple(spans))

    def encode_prompt(self, history: Sequence[Exchange], question: str, has_image: bool = True) -> EncodedText:
        """Encode a conversation up to an open question.

        Args:
            history: earlier exchanges; may be empty.
            question: the user's last message.
            has_image: False for conversations without an image.
        """
        return self._encode_text(render_prompt(history, question, self.template, has_image))

    def _encode_text(self, text: str) -> EncodedText:
        output = self.tokenizer(text, return_offsets_mapping=True)
        ids: list[int] = output["input_ids"]
        offsets: list[tuple[int, int]] = [(int(start), int(end)) for start, end in output["offset_mapping"]]
        trimmed = trim_offsets(text, offsets)
        image_id = token_id(self.tokenizer, IMAGE_TOKEN)
        positions = [i for i, token in enumerate(ids) if token == image_id]
        if not positions:
            encoded = EncodedText(text, tuple(ids), tuple(offsets), tuple(trimmed), None)
        else:
            at, n = positions[0], self.num_image_tokens
            empty = [(offsets[at][0], offsets[at][0])] * n
            encoded = EncodedText(
                text,
                (*ids[:at], *[image_id] * n, *ids[at + 1 :]),
                (*offsets[:at], *empty, *offsets[at + 1 :]),
                (*trimmed[:at], *empty, *trimmed[at + 1 :]),
                TokenSpan(at, at + n),
            )
        if self.max_text_tokens is not None and encoded.num_text_tokens > self.max_text_tokens:
            raise ValueError(
                f"the conversation has {encoded.num_text_tokens} text tokens, more than max_text_tokens = "
                f"{self.max_text_tokens}; raise the limit or shorten the text {text[:80]!r}..."
            )
        return encoded


def token_id(tokenizer: PreTrainedTokenizerBase, token: str) -> int:
    """Return the id of one token of the vocabulary."""
    found = tokenizer.convert_tokens_to_ids(token)
    assert isinstance(found, int)
    return found


def token_chars(encoded: EncodedText, span: TokenSpan) -> CharSpan:
    """Return the characters of a token span without surrounding white space, a range of the rendered text."""
    visible = [(start, end) for start, end in encoded.trimmed[span.start : span.end] if end > start]
    if not visible:
        start = encoded.trimmed[span.start][0]
        return CharSpan(start, start)
    return CharSpan(visible[0][0], visible[-1][1])


def _answer_tokens(encoded: EncodedText, prompt_end: int, answer_end: int) -> TokenSpan:
    """Return the answer's tokens, white space before its first word included, since the model has to generate it."""
    inside = [
        i for i, (start, end) in enumerate(encoded.offsets) if end > start and end > prompt_end and start < answer_end
    ]
    if encoded.offsets[inside[0]][0] < prompt_end:
        start, end = encoded.offsets[inside[0]]
        raise ValueError(
            f"the tokenizer merges the prompt's end with the answer in the token {encoded.text[start:end]!r}; "
            "generation could not continue this prompt"
        )
    return TokenSpan(inside[0], inside[-1] + 1)


def _tag(
    encoded: EncodedText,
    rendered: RenderedConversation,
    answers: Sequence[TokenSpan],
    exchanges: Sequence[Exchange],
) -> tuple[list[TokenSpan], list[int]]:
    """Return the phrase positions of all exchanges, and tags of the answers whose exchange is tagged."""
    spans: list[TokenSpan] = []
    tags = [int(IGNORE_INDEX)] * len(encoded.input_ids)
    for exchange, answer, phrases in zip(exchanges, answers, rendered.spans, strict=True):
        row = [int(Tag.O)] * len(encoded.input_ids)
        for phrase in phrases:
            try:
                span = phrase_tokens(encoded.trimmed, phrase)
                write_tags(row, span)
            except ValueError as error:
                text = encoded.text[phrase.start : phrase.end]
                raise ValueError(f"phrase {text!r} of the answer {exchange.answer!r}: {error}") from error
            if spans and span.start < spans[-1].end:
                raise ValueError(f"the phrases of the answer {exchange.answer!r} are not in reading order")
            spans.append(span)
        if exchange.is_tagged:
            tags[answer.start : answer.end] = row[answer.start : answer.end]
    return spans, tags
