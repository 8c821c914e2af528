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


class ConversationTooLong(ValueError):
    """A conversation has more text tokens than allowed.

    Args:
        message: names both numbers.
        num_tokens: text tokens of the conversation.
        limit: maximum number of text tokens.
    """

    def __init__(self, message: str, num_tokens: int, limit: int) -> None:
        super().__init__(message)
        self.num_tokens = num_tokens
        self.limit = limit


@dataclass(frozen=True)
class EncodedText:
    """Token ids of a text with `<image>` expanded.

    trimmed: per token, the range of its visible characters in `text` (image patches: empty)
    images: positions of each image's patches, in order
    prompt_end: position of the first prompt's last token: the model's first answer begins after it
    """

    text: str
    input_ids: tuple[int, ...]
    offsets: tuple[tuple[int, int], ...]
    trimmed: tuple[tuple[int, int], ...]
    images: tuple[TokenSpan, ...]
    prompt_end: int

    @property
    def num_text_tokens(self) -> int:
        """Number of tokens that are not image patches."""
        return len(self.input_ids) - sum(image.end - image.start for image in self.images)

    def is_patch(self, position: int) -> bool:
        """Return whether a token is an image patch."""
        return any(image.start <= position < image.end for image in self.images)


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
        num_image_tokens: patches of one image, where the caller does not give the images' lengths.
        max_text_tokens: maximum length of a conversation, image patches not counted; None: no limit.
        max_tokens: maximum length of a conversation, image patches included; None: no limit.
    """

    tokenizer: PreTrainedTokenizerBase
    template: TemplateName
    num_image_tokens: int
    max_text_tokens: int | None = None
    max_tokens: int | None = None

    def encode(
        self, exchanges: Sequence[Exchange], image_lengths: Sequence[int] | None = None, name: str = "conversation"
    ) -> EncodedConversation:
        """Encode finished exchanges.

        Args:
            exchanges: questions and answers in order.
            image_lengths: number of patches of each image; empty: no image. None: one image of `num_image_tokens`.
            name: name of the sample, for error messages.

        Raises:
            ValueError: a phrase falls on no token, two phrases share a token, phrases are not in reading order, the
                tokenizer merges the prompt's end with the answer, or the conversation is too long (a supervised phrase
                is never truncated). The message names the sample.
        """
        try:
            lengths = self._lengths(image_lengths)
            rendered = render_conversation(exchanges, self.template, len(lengths))
            encoded = self._encode_text(rendered.text, lengths, rendered.prompt_ends[0])
            answers = tuple(
                _answer_tokens(encoded, start, end)
                for start, end in zip(rendered.prompt_ends, rendered.answer_ends, strict=True)
            )
            spans, tags = _tag(encoded, rendered, answers, exchanges)
        except ConversationTooLong as error:
            raise ConversationTooLong(f"{name}: {error}", error.num_tokens, error.limit) from error
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
        labels = [IGNORE_INDEX] * len(encoded.input_ids)
        for answer in answers:
            labels[answer.start : answer.end] = encoded.input_ids[answer.start : answer.end]
        return EncodedConversation(encoded, rendered, tuple(labels), tuple(tags), answers, tuple(spans))

    def encode_prompt(
        self, history: Sequence[Exchange], question: str, image_lengths: Sequence[int] | None = None
    ) -> EncodedText:
        """Encode a conversation up to an open question.

        Args:
            history: earlier exchanges; may be empty.
            question: the user's last message.
            image_lengths: as in `encode`.
        """
        lengths = self._lengths(image_lengths)
        text = render_prompt(history, question, self.template, len(lengths))
        first = render_prompt((), history[0].question, self.template, len(lengths)) if history else text
        return self._encode_text(text, lengths, len(first))

    def text_limit(self, image_lengths: Sequence[int]) -> int | None:
        """Return the maximum number of text tokens of a conversation about images of these lengths; None: no limit."""
        in_all = None if self.max_tokens is None else self.max_tokens - sum(image_lengths)
        return min((limit for limit in (self.max_text_tokens, in_all) if limit is not None), default=None)

    def _lengths(self, image_lengths: Sequence[int] | None) -> Sequence[int]:
        return (self.num_image_tokens,) if image_lengths is None else image_lengths

    def _encode_text(self, text: str, image_lengths: Sequence[int], first_prompt: int) -> EncodedText:
        """Encode a text whose first prompt has `first_prompt` characters."""
        output = self.tokenizer(text, return_offsets_mapping=True)
        ids: list[int] = output["input_ids"]
        offsets: list[tuple[int, int]] = [(int(start), int(end)) for start, end in output["offset_mapping"]]
        trimmed = trim_offsets(text, offsets)
        image_id = token_id(self.tokenizer, IMAGE_TOKEN)
        positions = [i for i, token in enumerate(ids) if token == image_id]
        assert len(positions) == len(image_lengths), "texts hold no <image>, and the template one for each image"
        images: list[TokenSpan] = []
        for at, length in zip(reversed(positions), reversed(image_lengths), strict=True):
            empty = [(offsets[at][0], offsets[at][0])] * length
            ids[at : at + 1] = [image_id] * length
            offsets[at : at + 1] = empty
            trimmed[at : at + 1] = empty
            later = [TokenSpan(image.start + length - 1, image.end + length - 1) for image in images]
            images = [TokenSpan(at, at + length), *later]
        after = (i for i, (start, end) in enumerate(offsets) if end > start and end > first_prompt)
        prompt_end = next(after, len(ids)) - 1
        encoded = EncodedText(text, tuple(ids), tuple(offsets), tuple(trimmed), tuple(images), prompt_end)
        limit = self.text_limit(image_lengths)
        if limit is not None and encoded.num_text_tokens > limit:
            raise ConversationTooLong(
                f"the conversation has {encoded.num_text_tokens} text tokens, more than max_text_tokens = {limit}; "
                f"raise the limit or shorten the text {text[:80]!r}...",
                encoded.num_text_tokens,
                limit,
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
        for number, phrase in enumerate(phrases):
            if number and phrase == phrases[number - 1]:  # a phrase in two images
                spans.append(spans[-1])
                continue
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
