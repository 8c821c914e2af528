"""Conversations that are longer than the run's limit: counted when the run starts, and cut when they are drawn.

The authors' loaders cut the token row, even inside an answer. Here whole exchanges are cut from the end of a
conversation until the rest fits, a conversation whose first exchange is too long is left out, and an image that has
none left is replaced by the next one of its source. What is supervised is never cut.
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from plum.data.sources.base import Source
from plum.inputs.conversation import render_conversation
from plum.inputs.encoding import ConversationEncoder
from plum.models.systems.target_notation import TargetNotation
from plum.structures import Exchange, Sample

logger = logging.getLogger(__name__)

NUM_CONTROL_TOKENS = 8
"""Upper bound of the tokens that a tokenizer adds to those of an ASCII text, of which no token is shorter than a
character."""
MAX_TRIES = 1000
"""Number of successive images that may be replaced; a source with more is broken."""


class FittingSource:
    """A source whose conversations fit into the run's limit.

    Args:
        source: any source.
        encoder: the run's encoder, which has the limit and counts the tokens.
        notation: how the run's system writes answers, which are longer for marks such as [SEG].

    Raises:
        ValueError: nothing of the source fits.
    """

    def __init__(self, source: Source, encoder: ConversationEncoder, notation: TargetNotation) -> None:
        self.source = source
        self.encoder = encoder
        self.notation = notation
        self.name = source.name
        self._report()

    def __len__(self) -> int:
        return len(self.source)

    def sample(self, index: int, generator: np.random.Generator) -> Sample:
        """Make a sample of record `index`, or of the first after it that has a conversation of the allowed length."""
        for step in range(min(len(self.source), MAX_TRIES)):
            sample = self.source.sample((index + step) % len(self.source), generator)
            num_images = len(sample.images)
            kept = [one[: self._count_fitting(one, num_images)] for one in sample.conversations]
            if fitting := tuple(one for one in kept if one):
                return sample if fitting == sample.conversations else replace(sample, conversations=fitting)
            logger.warning(
                "source %s: %s is replaced by the next record: its texts exceed max_text_tokens = %s",
                self.name,
                sample.sample_id,
                self.encoder.max_text_tokens,
            )
        raise ValueError(
            f"source {self.name}: no conversation of {min(len(self.source), MAX_TRIES)} records from number {index} on "
            f"fits into data.max_text_tokens = {self.encoder.max_text_tokens}; raise it, or remove the source"
        )

    def text_length(self, index: int, generator: np.random.Generator) -> int:
        """See Source; before anything is cut."""
        return self.source.text_length(index, generator)

    def exchanges(self) -> Iterator[Exchange]:
        """See Source."""
        return self.source.exchanges()

    def _report(self) -> None:
        """Log how many exchanges are too long on their own."""
        total, longest, example = 0, 0, ""
        num_long = 0
        for exchange in self.source.exchanges():
            total += 1
            length = self._measure((exchange,), num_images=1)
            if length is not None:
                num_long += 1
                longest, example = max((longest, example), (length, exchange.answer))
        limit = self.encoder.max_text_tokens
        if num_long and num_long == total:
            raise ValueError(
                f"source {self.name}: none of its {total} texts fits into data.max_text_tokens = {limit}; the "
                f"longest has {longest} tokens"
            )
        if num_long:
            logger.info(  # once, on the main rank; what is replaced is a warning on every rank
                "source %s: %d of %d texts exceed data.max_text_tokens = %s (the longest has %d tokens: %r...) and are "
                "left out when they are drawn",
                self.name,
                num_long,
                total,
                limit,
                longest,
                example[:60],
            )

    def _count_fitting(self, conversation: Sequence[Exchange], num_images: int) -> int:
        """Return how many exchanges from the start of a conversation fit."""
        count = len(conversation)
        while count and self._measure(conversation[:count], num_images) is not None:
            count -= 1
        return count

    def _measure(self, conversation: Sequence[Exchange], num_images: int) -> int | None:
        """Return the text tokens of a conversation that is too long; None for one that fits or cannot be written.

        The collator says what is wrong with the latter.
        """
        limit = self.encoder.max_text_tokens
        assert limit is not None, "without a limit nothing is too long"
        try:
            written = [self.notation.write(exchange).exchange for exchange in conversation]
            text = render_conversation(written, self.encoder.template, num_images).text
        except ValueError:
            return None
        if text.isascii() and len(text) + NUM_CONTROL_TOKENS <= limit:
            return None
        length = len(self.encoder.tokenizer(text)["input_ids"]) - num_images
        return length if length > limit else None
