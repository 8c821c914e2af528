"""Interface for how a system's answers mark what to segment: PLUM's tagged phrases or [SEG] tokens.

Everything else (data, batches, forward, losses, prediction, scoring) is the same for every system.
"""

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from partonomy.structures import CharSpan
from plum.inputs.bio_labels import TokenSpan
from plum.inputs.encoding import EncodedConversation
from plum.models.grounded_lmm import GroundedLMM
from plum.structures import Exchange


@dataclass(frozen=True)
class WrittenExchange:
    """An exchange as the model reads and writes it.

    exchange: its spans are the answer's targets in reading order, and its masks are the targets' masks
    target_of_phrase: for each phrase of the original exchange, the index of the target whose mask is the phrase's
    """

    exchange: Exchange
    target_of_phrase: tuple[int, ...]


@dataclass(frozen=True)
class Target:
    """A phrase that a generated answer marks for segmentation.

    tokens: in the expanded sequence, as `GroundedLMM.decode_masks` takes them
    chars: the phrase in the answer
    confidence: probability of its mark
    image: number, from 0, of the conversation's image that it is in
    """

    tokens: TokenSpan
    chars: CharSpan
    confidence: float
    image: int = 0


class TargetNotation(Protocol):
    """A system's way of writing targets into answers and of finding them in answers."""

    @property
    def protocol_note(self) -> str:
        """Note for readers of the scores; empty if answers are plain text with one mask per phrase."""
        ...

    @property
    def has_mask_per_phrase(self) -> bool:
        """False if all phrases of an answer share one mask, which can only be scored as their union."""
        ...

    @property
    def marks(self) -> tuple[str, ...]:
        """Tokens that answers carry besides their words."""
        ...

    def check_words(self, text: str) -> None:
        """Check that an external text contains none of the notation's marks.

        Raises:
            ValueError: the text contains a mark.
        """
        ...

    def write(self, exchange: Exchange) -> WrittenExchange:
        """Insert the marks into an answer whose phrases (`spans`, sorted by start) are to be segmented.

        A phrase that is to be segmented in two images occurs twice among the spans. If the exchange names the images
        of its targets, so does the answer: "(IMAGE1)" follows a target in the first image.

        Raises:
            ValueError: the question or the answer already contains a mark.
        """
        ...

    def tidy(self, answer: str) -> str:
        """Normalise a decoded answer to the form that `write` produces."""
        ...

    def words(self, answer: str) -> str:
        """Return an answer without the marks."""
        ...

    def read(
        self, row: EncodedConversation, hidden_states: Tensor, model: GroundedLMM, image_tokens: Tensor
    ) -> list[Target]:
        """Find the targets of the last answer of a conversation, in reading order.

        In a conversation about several images, a target is in the image that is named after it.

        Args:
            row: the conversation, its last answer as the model wrote it.
            hidden_states: [1, T, D], its states.
            model: the model that computed the states.
            image_tokens: [I, image tokens, D], LLaVA's tokens of the conversation's images.
        """
        ...
