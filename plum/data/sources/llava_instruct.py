"""Text-only dialogues (LLaVA-Instruct-150k), which preserve the language model's abilities (paper, A.1, stage 0)."""

import logging
from collections.abc import Iterator

import numpy as np

from partonomy.images import image_size, load_image
from partonomy.progress import progress
from plum.data.readers.llava_instruct import Dialogue, Dialogues
from plum.data.sources.base import longest_text
from plum.inputs.conversation import render_conversation
from plum.inputs.encoding import ConversationEncoder
from plum.structures import Exchange, Sample

logger = logging.getLogger(__name__)

BATCH = 512
"""Number of dialogues that are tokenized at once when lengths are counted."""


class LlavaInstructSource:
    """One dialogue per sample, cut to the run's `max_text_tokens` when the run starts, never within an exchange.

    Whole exchanges are cut from the end until the rest fits. A dialogue whose first exchange is already too long is
    left out. Both are counted in the log. LISA cuts the token row, even inside an answer.

    Args:
        dialogues: all of them.
        encoder: the run's encoder, which counts the tokens.

    Raises:
        ValueError: no dialogue fits.
    """

    name = "llava_instruct"

    def __init__(self, dialogues: Dialogues, encoder: ConversationEncoder) -> None:
        self.dialogues = dialogues
        counts = np.fromiter(count_fitting(dialogues, encoder), dtype=np.int32, count=len(dialogues))
        totals = np.asarray(dialogues.num_exchanges, dtype=np.int32)
        self.kept = np.flatnonzero(counts)
        self.num_exchanges = counts[self.kept]
        logger.info(
            "%s: of %d dialogues %d lose exchanges at their end and %d are left out: more than %s text tokens",
            self.name,
            len(dialogues),
            int((counts < totals)[self.kept].sum()),
            len(dialogues) - len(self.kept),
            encoder.max_text_tokens,
        )
        if not len(self.kept):
            raise ValueError(f"{self.name}: no dialogue fits into max_text_tokens = {encoder.max_text_tokens}")

    def __len__(self) -> int:
        return len(self.kept)

    def sample(self, index: int, generator: np.random.Generator) -> Sample:
        """Return the dialogue, cut to what fits; nothing is random."""
        dialogue = self.dialogues.read(int(self.kept[index]))
        name = f"{self.name}/{dialogue.dialogue_id}"
        image = None
        if dialogue.image_path is not None:
            try:
                image = load_image(dialogue.image_path, *image_size(dialogue.image_path))
            except (OSError, ValueError) as error:
                raise ValueError(f"source {self.name}, dialogue {name}: {error}") from error
        return Sample(name, self.name, image, (dialogue.exchanges[: int(self.num_exchanges[index])],))

    def text_length(self, index: int, generator: np.random.Generator) -> int:
        """Return the characters of the longest conversation of the same sample; no image is read."""
        dialogue = self.dialogues.read(int(self.kept[index]))
        return longest_text([dialogue.exchanges[: int(self.num_exchanges[index])]])

    def exchanges(self) -> Iterator[Exchange]:
        """Yield every exchange that is trained on."""
        for number, count in zip(self.kept, self.num_exchanges, strict=True):
            yield from self.dialogues.read(int(number)).exchanges[: int(count)]


def count_fitting(dialogues: Dialogues, encoder: ConversationEncoder) -> Iterator[int]:
    """Yield how many exchanges of each dialogue, from its start, fit into `encoder.max_text_tokens` text tokens."""
    with progress(len(dialogues), "lengths of dialogues", "dialogue") as shown:
        for first in range(0, len(dialogues), BATCH):
            chunk = [dialogues.read(number) for number in range(first, min(first + BATCH, len(dialogues)))]
            yield from _count_chunk(chunk, encoder)
            shown.update(len(chunk))


def _count_chunk(chunk: list[Dialogue], encoder: ConversationEncoder) -> Iterator[int]:
    """Tokenize each dialogue once: exchanges end with a control token, which no other token crosses."""
    limit = encoder.max_text_tokens
    if limit is None:
        yield from (len(dialogue.exchanges) for dialogue in chunk)
        return
    rendered = [render_conversation(one.exchanges, encoder.template, one.image_path is not None) for one in chunk]
    output = encoder.tokenizer([one.text for one in rendered], return_offsets_mapping=True)
    for dialogue, text, offsets in zip(chunk, rendered, output["offset_mapping"], strict=True):
        num_placeholders = int(dialogue.image_path is not None)
        starts = np.array([start for start, _ in offsets])
        lengths = [int(np.count_nonzero(starts < end)) - num_placeholders for end in text.answer_ends]
        yield sum(length <= limit for length in lengths)
