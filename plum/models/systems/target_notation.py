"""How a system's answers say what is to be segmented: the seam between PLUM's tagged phrases and [SEG] tokens.

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

    exchange: its spans are the answer's targets, in reading order, and its masks are theirs
    target_of_phrase: per phrase of the exchange it was made from, the target whose mask is the phrase's own
    """

    exchange: Exchange
    target_of_phrase: tuple[int, ...]


@dataclass(frozen=True)
class Target:
    """What a generated answer says is to be segmented.

    tokens: in the expanded sequence, as `GroundedLMM.decode_masks` takes them
    chars: the phrase in the answer
    confidence: probability of what marks it
    """

    tokens: TokenSpan
    chars: CharSpan
    confidence: float


class TargetNotation(Protocol):
    """One system's way of writing targets into answers and of finding them there."""

    @property
    def protocol_note(self) -> str:
        """What a reader of the scores has to know; empty where answers are plain text with a mask per phrase."""
        ...

    @property
    def has_mask_per_phrase(self) -> bool:
        """False where all phrases of an answer share one mask: it can only be scored as their union."""
        ...

    def check_words(self, text: str) -> None:
        """Check that a text from outside holds none of the notation's marks.

        Raises:
            ValueError: it does.
        """
        ...

    def write(self, exchange: Exchange) -> WrittenExchange:
        """Put the marks into an answer whose phrases (`spans`, by start) are to be segmented.

        Raises:
            ValueError: question or answer hold a mark already.
        """
        ...

    def tidy(self, answer: str) -> str:
        """Bring a decoded answer to the form that `write` would give it."""
        ...

    def words(self, answer: str) -> str:
        """Return an answer without the marks."""
        ...

    def read(self, row: EncodedConversation, hidden_states: Tensor, model: GroundedLMM) -> list[Target]:
        """Find the targets of the last answer of a conversation, in reading order.

        Args:
            row: the conversation, its last answer as the model wrote it.
            hidden_states: [1, T, D], its states.
            model: whose states they are.
        """
        ...
