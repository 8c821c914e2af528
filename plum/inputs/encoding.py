"""Encoding of conversations: token ids with images expanded, labels, BIO tags and phrase positions.

An image's placeholder is expanded *here*, before the model (transformers' convention), to one id per image token, or to
what the model's processor writes for the image. All indices refer to the expanded sequence. The correspondence between
text and tokens always comes from the tokenizer's character offsets.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from transformers import PreTrainedTokenizerBase

from partonomy.structures import CharSpan
from plum.inputs.bio_labels import Tag, TokenSpan, phrase_tokens, trim_offsets, write_tags
from plum.inputs.conversation import RenderedConversation, TemplateName, find_template
from plum.inputs.conversation_format import ConversationFormat
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


AXES_OF_RECTANGLES = 3
"""Axes of a token's position in models in whose sequences an image takes up a rectangle: time, row and column."""


@dataclass(frozen=True)
class ImageSlot:
    """What takes the place of an image's placeholder.

    ids: token ids; the model puts the image's tokens where they are the placeholder's, and reads the others as text
    num_tokens: number of the image's own tokens among them
    grid: rows and columns of the rectangle that they take up; None: they take up one position each
    """

    ids: tuple[int, ...]
    num_tokens: int
    grid: tuple[int, int] | None = None


@dataclass(frozen=True)
class EncodedText:
    """Token ids of a text with images expanded.

    trimmed: per token, the range of its visible characters in `text` (tokens of images: empty)
    images: the tokens of each image's slot, in order
    patches: positions of each image's own tokens
    prompt_end: position of the first prompt's last token: the model's first answer begins after it
    grids: rows and columns of each image, if images take up rectangles; None: a token's position is its index
    """

    text: str
    input_ids: tuple[int, ...]
    offsets: tuple[tuple[int, int], ...]
    trimmed: tuple[tuple[int, int], ...]
    images: tuple[TokenSpan, ...]
    patches: tuple[tuple[int, ...], ...]
    prompt_end: int
    grids: tuple[tuple[int, int], ...] | None = None

    @property
    def num_text_tokens(self) -> int:
        """Number of tokens outside of images' slots."""
        return len(self.input_ids) - sum(image.end - image.start for image in self.images)

    def is_patch(self, position: int) -> bool:
        """Return whether a token belongs to an image's slot."""
        return any(image.start <= position < image.end for image in self.images)

    def positions(self) -> np.ndarray | None:
        """Return each token's position, int64 [AXES_OF_RECTANGLES, T]; None: its index."""
        if self.grids is None:
            return None
        return rectangle_positions(len(self.input_ids), [patches[0] for patches in self.patches], self.grids)


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
    """Encodes conversations for one tokenizer, template and kind of image.

    Attributes:
        tokenizer: a fast tokenizer with the image placeholder as one token.
        template: conversation template, by name or of a stock model.
        num_image_tokens: tokens of an image, if all have the same number; None: they differ.
        max_text_tokens: maximum length of a conversation, images' slots not counted; None: no limit.
        max_tokens: maximum length of a conversation, images' slots included; None: no limit.
        has_rectangles: images take up rectangles; see `ImageSlot.grid`.
    """

    tokenizer: PreTrainedTokenizerBase
    template: TemplateName | ConversationFormat
    num_image_tokens: int | None
    max_text_tokens: int | None = None
    max_tokens: int | None = None
    has_rectangles: bool = False

    @property
    def image_id(self) -> int:
        """Id of the image placeholder."""
        return token_id(self.tokenizer, find_template(self.template).placeholder)

    def slot(self, num_tokens: int | None = None) -> ImageSlot:
        """Return the slot of an image that is nothing but its tokens.

        Args:
            num_tokens: their number; None: `num_image_tokens`.
        """
        length = self.num_image_tokens if num_tokens is None else num_tokens
        assert length is not None, "where images differ in size, their slots come from the image processor"
        return ImageSlot((self.image_id,) * length, length)

    def encode(
        self, exchanges: Sequence[Exchange], images: Sequence[ImageSlot] | None = None, name: str = "conversation"
    ) -> EncodedConversation:
        """Encode finished exchanges.

        Args:
            exchanges: questions and answers in order.
            images: slot of each image; empty: no image. None: one image of `num_image_tokens`.
            name: name of the sample, for error messages.

        Raises:
            ValueError: a phrase falls on no token, two phrases share a token, phrases are not in reading order, the
                tokenizer merges the prompt's end with the answer, or the conversation is too long (a supervised phrase
                is never truncated). The message names the sample.
        """
        try:
            slots = self._slots(images)
            rendered = find_template(self.template).render_conversation(exchanges, len(slots))
            encoded = self._encode_text(rendered.text, slots, rendered.prompt_ends[0])
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
        self, history: Sequence[Exchange], question: str, images: Sequence[ImageSlot] | None = None
    ) -> EncodedText:
        """Encode a conversation up to an open question.

        Args:
            history: earlier exchanges; may be empty.
            question: the user's last message.
            images: as in `encode`.
        """
        slots, template = self._slots(images), find_template(self.template)
        text = template.render_prompt(history, question, len(slots))
        first = template.render_prompt((), history[0].question, len(slots)) if history else text
        return self._encode_text(text, slots, len(first))

    def text_limit(self, num_in_images: int) -> int | None:
        """Return the maximum number of text tokens beside images whose slots have so many; None: no limit."""
        in_all = None if self.max_tokens is None else self.max_tokens - num_in_images
        return min((limit for limit in (self.max_text_tokens, in_all) if limit is not None), default=None)

    def _slots(self, images: Sequence[ImageSlot] | None) -> Sequence[ImageSlot]:
        return (self.slot(),) if images is None else images

    def _encode_text(self, text: str, slots: Sequence[ImageSlot], first_prompt: int) -> EncodedText:
        """Encode a text whose first prompt has `first_prompt` characters."""
        adds_begin = find_template(self.template).adds_begin_token(text)
        output = self.tokenizer(text, return_offsets_mapping=True, add_special_tokens=adds_begin)
        ids: list[int] = output["input_ids"]
        offsets: list[tuple[int, int]] = [(int(start), int(end)) for start, end in output["offset_mapping"]]
        trimmed = trim_offsets(text, offsets)
        positions = [i for i, token in enumerate(ids) if token == self.image_id]
        assert len(positions) == len(slots), "texts hold no image placeholder, and the template one for each image"
        images: list[TokenSpan] = []
        for at, slot in zip(reversed(positions), reversed(slots), strict=True):
            length = len(slot.ids)
            empty = [(offsets[at][0], offsets[at][0])] * length
            ids[at : at + 1] = slot.ids
            offsets[at : at + 1] = empty
            trimmed[at : at + 1] = empty
            later = [TokenSpan(image.start + length - 1, image.end + length - 1) for image in images]
            images = [TokenSpan(at, at + length), *later]
        patches = tuple(tuple(i for i in range(one.start, one.end) if ids[i] == self.image_id) for one in images)
        grids = tuple(slot.grid for slot in slots if slot.grid is not None) if self.has_rectangles else None
        after = (i for i, (start, end) in enumerate(offsets) if end > start and end > first_prompt)
        prompt_end = next(after, len(ids)) - 1
        encoded = EncodedText(
            text, tuple(ids), tuple(offsets), tuple(trimmed), tuple(images), patches, prompt_end, grids
        )
        limit = self.text_limit(sum(len(slot.ids) for slot in slots))
        if limit is not None and encoded.num_text_tokens > limit:
            raise ConversationTooLong(
                f"the conversation has {encoded.num_text_tokens} text tokens, more than max_text_tokens = {limit}; "
                f"raise the limit or shorten the text {text[:80]!r}...",
                encoded.num_text_tokens,
                limit,
            )
        return encoded


def rectangle_positions(length: int, starts: Sequence[int], grids: Sequence[tuple[int, int]]) -> np.ndarray:
    """Return token positions where images take up rectangles (M-RoPE; transformers' `get_rope_index`).

    Text advances all axes by one. An image's tokens, row by row, have the image's time, and their row and column after
    it; the text goes on after the longer side.

    Args:
        length: number of tokens.
        starts: first token of each image.
        grids: rows and columns of each image.

    Returns:
        int64 [AXES_OF_RECTANGLES, length]: time, row and column.
    """
    positions = np.zeros((AXES_OF_RECTANGLES, length), dtype=np.int64)
    done, place = 0, 0
    for start, (rows, columns) in zip(starts, grids, strict=True):
        positions[:, done:start] = place + np.arange(start - done)
        place += start - done
        done = start + rows * columns
        positions[:, start:done] = place
        positions[1:, start:done] += np.indices((rows, columns)).reshape(2, -1)
        place += max(rows, columns)
    positions[:, done:] = place + np.arange(length - done)
    return positions


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
            "generation could not continue this prompt: remove white space before the answer"
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
