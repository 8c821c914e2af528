"""Reasoning segmentation (ReasonSeg): questions that do not name their target, some with an explanation."""

from collections.abc import Container, Iterator, Mapping, Sequence
from enum import Enum
from pathlib import Path

import numpy as np

from partonomy.benchmarks.segmentation import SegmentationItem
from partonomy.masks import decode_mask
from plum.data.sources.base import draw_indices, draw_one, longest_text
from plum.data.sources.part_images import NamedMask
from plum.data.sources.referring import group_items, load_item_image, target_answer
from plum.data.sources.wordings import (
    EXPLAIN,
    REASON,
    REFER_EXPRESSION,
    Answer,
    exchange_about,
)
from plum.inputs.conversation import CONTROL_TOKENS
from plum.structures import Exchange, Sample


class AnswerForm(Enum):
    """How all questions of a sample are answered."""

    MASK = "mask"
    MASK_AND_REASON = "mask and reason"
    WORDS = "words"


class ReasoningSource:
    """One image's instructions per sample; ignored regions are excluded from mask losses (LISA: background).

    Images with an explanation are answered in words only with probability `WORDS_SHARE`, otherwise with the mask, which
    the explanation follows half of the time (LISA's shares).

    Args:
        items: all instructions of the training split.
        explanations: explanations by image file name.
        conversations_per_image: maximum number of instructions per sample.
        excluded: image files that may not be trained on.

    Raises:
        ValueError: nothing is left, or a text holds a control token.
    """

    WORDS_SHARE = 0.1
    name = "reason_seg"

    def __init__(
        self,
        items: Sequence[SegmentationItem],
        explanations: Mapping[str, str],
        conversations_per_image: int,
        excluded: Container[Path] = (),
    ) -> None:
        self.conversations_per_image = conversations_per_image
        self.explanations = explanations
        self.images = group_items(self.name, items, excluded)
        for name, text in explanations.items():
            if any(token in text for token in CONTROL_TOKENS):
                raise ValueError(f"the explanation of {name} holds a control token: {text!r}; remove it there")

    def __len__(self) -> int:
        return len(self.images)

    def sample(self, index: int, generator: np.random.Generator) -> Sample:
        """Ask up to `conversations_per_image` different instructions of image `index`."""
        first = self.images[index][0]
        image = load_item_image(self.name, first)
        ignored = None if first.ignore_mask is None else decode_mask(first.ignore_mask)
        return Sample(first.image_id, self.name, image, self._converse(index, generator), ignore_mask=ignored)

    def text_length(self, index: int, generator: np.random.Generator) -> int:
        """Return the characters of the longest conversation of the same sample; no image is read."""
        return longest_text(self._converse(index, generator))

    def _converse(self, index: int, generator: np.random.Generator) -> tuple[tuple[Exchange, ...], ...]:
        items = self.images[index]
        explanation = self.explanations.get(items[0].image_path.name)
        form = AnswerForm.MASK if explanation is None else self._draw_form(generator)
        conversations: list[tuple[Exchange, ...]] = []
        for position in draw_indices(len(items), self.conversations_per_image, generator):
            wording = draw_one(wordings(items[position], form), generator)
            conversations.append((ask(items[position], wording, form, explanation or ""),))
        return tuple(conversations)

    def exchanges(self) -> Iterator[Exchange]:
        """Yield every instruction with its first wording in every answer form that its image allows."""
        for item in (item for items in self.images for item in items):
            explanation = self.explanations.get(item.image_path.name)
            for form in (AnswerForm.MASK,) if explanation is None else AnswerForm:
                exchange = ask(item, wordings(item, form)[0], form, explanation or "")
                yield Exchange(exchange.question, exchange.answer)

    def _draw_form(self, generator: np.random.Generator) -> AnswerForm:
        if generator.random() < self.WORDS_SHARE:
            return AnswerForm.WORDS
        return AnswerForm.MASK_AND_REASON if generator.integers(2) else AnswerForm.MASK


def wordings(item: SegmentationItem, form: AnswerForm) -> tuple[str, ...]:
    """Return the wordings of an item's question, with `{sentence}` or `{expression}` for its text."""
    if form is AnswerForm.WORDS:
        return ("{sentence}",)
    if form is AnswerForm.MASK_AND_REASON:
        return EXPLAIN
    return REASON if item.is_sentence else REFER_EXPRESSION


def ask(item: SegmentationItem, wording: str, form: AnswerForm, explanation: str) -> Exchange:
    """Return one question and its answer.

    An instruction that is a sentence does not name its target, so the answer calls it "the target"; other instructions
    are expressions, which the answer repeats.
    """
    question = wording.format(sentence=item.text, expression=item.text.lower())
    if form is AnswerForm.WORDS:
        return Exchange(question, explanation, is_tagged=False)
    answer = target_answer(item)
    if form is AnswerForm.MASK_AND_REASON:
        answer = Answer(f"{answer.text} {explanation}", answer.spans)
    return exchange_about(question, answer, [NamedMask(item.text, item.mask)])
