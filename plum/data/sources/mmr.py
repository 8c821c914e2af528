"""MMR: implicit questions about several objects and parts at once (MMR paper, section 3), one conversation each.

Question, answer and masks belong together. M2SA's loader draws three questions of an image but takes answers and masks
in the file's order, so that for an image with n questions only one pair in n is right; `is_unaligned` reproduces this.
"""

import logging
from collections import Counter
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from partonomy.datasets.sources.mmr import MmrImage, MmrQuestion, ground_answer, mmr_image_path
from partonomy.images import load_image
from partonomy.masks import rle_area
from partonomy.progress import counted, progress
from plum.data.sources.base import draw_indices, draw_one, longest_text
from plum.data.sources.wordings import REASON
from plum.inputs.conversation import CONTROL_TOKENS
from plum.structures import Exchange, Sample

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pairing:
    """A question, and the question whose answer and masks it is trained with: the same, unless `is_unaligned`."""

    question: MmrQuestion
    answered: MmrQuestion


class MmrSource:
    """One image's questions per sample.

    Args:
        root: root of the MMR layout.
        images: records of its training file.
        conversations_per_image: maximum number of questions per sample.
        excluded: image files that may not be trained on.
        has_marks: whether the system writes marks such as [SEG] into answers, which then replace the file's `{seg}`.
            Otherwise targets are their phrases, and a question with a target that its answer does not name is left out.
        is_unaligned: pair questions and answers as M2SA's loader does (see the module's docstring).

    Raises:
        ValueError: nothing is left, or a text holds a control token.
    """

    name = "mmr"

    def __init__(
        self,
        root: Path,
        images: Sequence[MmrImage],
        conversations_per_image: int,
        excluded: Container[Path] = (),
        *,
        has_marks: bool = False,
        is_unaligned: bool = False,
    ) -> None:
        self.root = root
        self.conversations_per_image = conversations_per_image
        self.has_marks = has_marks
        self.is_unaligned = is_unaligned
        kept = [image for image in images if mmr_image_path(root, image) not in excluded]
        self.images, self.questions = self._choose(kept)
        logger.info("%s: %d images, %d excluded", self.name, len(images), len(images) - len(kept))
        if not self.images:
            raise ValueError(f"{self.name} has nothing to train on ({len(images) - len(kept)} images excluded)")

    def __len__(self) -> int:
        return len(self.images)

    def sample(self, index: int, generator: np.random.Generator) -> Sample:
        """Ask up to `conversations_per_image` different questions of image `index`."""
        record = self.images[index]
        name = f"{self.name}/{record.image_id}"
        try:
            image = load_image(mmr_image_path(self.root, record), record.height, record.width)
        except (OSError, ValueError) as error:
            raise ValueError(f"source {self.name}, image {name}: {error}") from error
        return Sample(name, self.name, image, self._converse(index, generator))

    def text_length(self, index: int, generator: np.random.Generator) -> int:
        """Return the characters of the longest conversation of the same sample; no image is read."""
        return longest_text(self._converse(index, generator))

    def exchanges(self) -> Iterator[Exchange]:
        """Yield every question once, cycling through the wordings."""
        questions = [question for of_image in self.questions for question in of_image]
        for number, question in enumerate(questions):
            yield Exchange(
                REASON[number % len(REASON)].format(sentence=question.question), ground_answer(question).text
            )

    def draw_pairings(self, index: int, generator: np.random.Generator) -> tuple[Pairing, ...]:
        """Draw the questions of a sample, each with the answer it gets."""
        questions = self.questions[index]
        drawn = draw_indices(len(questions), self.conversations_per_image, generator)
        if not self.is_unaligned:
            return tuple(Pairing(questions[place], questions[place]) for place in drawn)
        if len(questions) < self.conversations_per_image:
            drawn = list(range(len(questions)))  # M2SA's loader only draws if there is a choice
        return tuple(Pairing(questions[place], questions[turn]) for turn, place in enumerate(drawn))

    def _converse(self, index: int, generator: np.random.Generator) -> tuple[tuple[Exchange, ...], ...]:
        pairings = self.draw_pairings(index, generator)
        return tuple((self._exchange(pairing, draw_one(REASON, generator)),) for pairing in pairings)

    def _exchange(self, pairing: Pairing, wording: str) -> Exchange:
        answer = ground_answer(pairing.answered)
        spans = tuple(span for span in (answer.marked_words if self.has_marks else answer.spans) if span is not None)
        masks = tuple(target.mask for target in pairing.answered.targets)
        assert len(spans) == len(masks), "questions with a target that has no span are left out"
        return Exchange(wording.format(sentence=pairing.question.question.strip()), answer.text, spans, masks)

    def _choose(self, images: Sequence[MmrImage]) -> tuple[tuple[MmrImage, ...], tuple[tuple[MmrQuestion, ...], ...]]:
        """Return images with the questions that can be trained on; the others are counted by reason."""
        reasons: Counter[str] = Counter()
        chosen: list[MmrImage] = []
        questions: list[tuple[MmrQuestion, ...]] = []
        with progress(len(images), self.name, "image") as shown:
            for image in counted(images, shown):
                kept = []
                for question in image.questions:
                    reason = self._find_reason(question)
                    reasons.update([reason] if reason else [])
                    kept += [] if reason else [question]
                if kept:
                    chosen.append(image)
                    questions.append(tuple(kept))
        total = sum(len(image.questions) for image in images)
        listed = "; ".join(f"{count} {reason}" for reason, count in sorted(reasons.items())) or "none"
        logger.info("%s: of %d questions left out: %s", self.name, total, listed)
        return tuple(chosen), tuple(questions)

    def _find_reason(self, question: MmrQuestion) -> str | None:
        """Return why a question cannot be trained on; None if it can."""
        if any(token in text for token in CONTROL_TOKENS for text in (question.question, question.text_answer)):
            raise ValueError(f"{self.name}, question {question.question_id}: it holds a control token; remove it there")
        if not question.targets or question.num_marks != len(question.targets):
            return "with more or fewer {seg} than targets"
        if not all(rle_area(target.mask) for target in question.targets):
            return "with an empty mask"
        answer = ground_answer(question)
        if None in (answer.marked_words if self.has_marks else answer.spans):
            return "with a {seg} after no word" if self.has_marks else "with a target that the answer does not name"
        return None
