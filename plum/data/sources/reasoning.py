"""Reasoning segmentation (ReasonSeg): questions that do not name their target, some with an explanation.

The answer is the target's name or, in the former form, "It is the target."; the items say which (see
`partonomy.benchmarks.reason_seg.TargetNames`).
"""

from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import replace
from enum import Enum
from pathlib import Path

import numpy as np

from partonomy.benchmarks.segmentation import SegmentationItem
from partonomy.masks import decode_mask
from plum.data.sources.base import draw_indices, draw_one, longest_text
from plum.data.sources.part_images import NamedMask
from plum.data.sources.referring import group_items, load_item_image, target_answer
from plum.data.sources.wordings import PLUM_WORDINGS, Answer, Wordings, exchange_about
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
        wordings: of questions and answers.

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
        wordings: Wordings = PLUM_WORDINGS,
    ) -> None:
        self.wordings = wordings
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
            wording = draw_one(question_wordings(items[position], form, self.wordings), generator)
            answer = target_answer(items[position])
            if self.wordings.marked is not None:
                answer = self.wordings.marked.draw([items[position].text], generator)
            conversations.append((ask(items[position], wording, form, explanation or "", answer),))
        return tuple(conversations)

    def exchanges(self) -> Iterator[Exchange]:
        """Yield every instruction with its first wording in every answer form that its image allows."""
        for item in (item for items in self.images for item in items):
            explanation = self.explanations.get(item.image_path.name)
            for form in (AnswerForm.MASK,) if explanation is None else AnswerForm:
                wording = question_wordings(item, form, self.wordings)[0]
                exchange = ask(item, wording, form, explanation or "", target_answer(item))
                yield Exchange(exchange.question, exchange.answer)

    def _draw_form(self, generator: np.random.Generator) -> AnswerForm:
        if generator.random() < self.WORDS_SHARE:
            return AnswerForm.WORDS
        return AnswerForm.MASK_AND_REASON if generator.integers(2) else AnswerForm.MASK


def question_wordings(item: SegmentationItem, form: AnswerForm, wordings: Wordings) -> tuple[str, ...]:
    """Return the wordings of an item's question, with `{sentence}` or `{expression}` for its text."""
    if form is AnswerForm.WORDS:
        return ("{sentence}",)
    if form is AnswerForm.MASK_AND_REASON:
        return wordings.explain
    return wordings.reason if item.is_sentence else wordings.refer_expression


def ask(item: SegmentationItem, wording: str, form: AnswerForm, explanation: str, answer: Answer) -> Exchange:
    """Return one question and its answer.

    Args:
        item: an instruction, or an expression that names its target.
        wording: of the question.
        form: what the answer consists of.
        explanation: why the target is the target; unused in the form `MASK`.
        answer: about the target; PLUM's is that of the benchmark's forced mode (`target_answer`). Unused in `WORDS`.
    """
    question = wording.format(sentence=item.text, expression=item.text.lower())
    if form is AnswerForm.WORDS:
        return Exchange(question, explanation, is_tagged=False)
    if form is AnswerForm.MASK_AND_REASON:
        answer = replace(answer, text=f"{answer.text} {explanation}")
    return exchange_about(question, answer, [NamedMask(item.text, item.mask)])
