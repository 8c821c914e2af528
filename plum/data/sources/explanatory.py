"""Explanatory part segmentation: Partonomy's questions with correct answers and masks (paper, sections 3 and 5)."""

import logging
from collections import defaultdict
from collections.abc import Collection, Container, Iterator, Sequence
from pathlib import Path

import numpy as np

from partonomy.benchmarks.partonomy.steps import question_steps
from partonomy.images import draw_box, load_image
from partonomy.structures import Question, QuestionSet, QuestionType, Subject
from partonomy.suggestions import unknown_names
from plum.data.sources.base import draw_indices, draw_one, longest_text
from plum.data.sources.part_images import PartImages
from plum.structures import Exchange, Sample

logger = logging.getLogger(__name__)


class ExplanatorySource:
    """One picture's questions per sample; the part-whole types become conversations of two exchanges.

    Args:
        questions: questions of a training split, read one at a time, so that large files stay compact.
        question_types: the types to use; empty for all.
        conversations_per_image: maximum number of questions per sample, each of a different type.
        part_images: the annotations behind the questions, for part maps; None for published records, which have none.
        excluded: image files that may not be trained on.

    Raises:
        ValueError: a question type is unknown, or no question is left.
    """

    name = "explanatory"

    def __init__(
        self,
        questions: QuestionSet,
        question_types: Sequence[str],
        conversations_per_image: int,
        part_images: PartImages | None = None,
        excluded: Container[Path] = (),
    ) -> None:
        self.questions = questions
        self.conversations_per_image = conversations_per_image
        self.pictures = group_by_picture(questions, check_types(question_types), excluded)
        self.part_images = part_images
        records = () if part_images is None else part_images.dataset.images
        self.records = {record.image_id: record for record in records}

    def __len__(self) -> int:
        return len(self.pictures)

    def sample(self, index: int, generator: np.random.Generator) -> Sample:
        """Ask up to `conversations_per_image` questions about picture `index`, at most one of each type."""
        asked = self._draw(index, generator)
        first = asked[0]
        name = f"{self.questions.name}/{first.image_id}"
        try:
            image = load_image(first.image_path, first.height, first.width)
            conversations = tuple(question_conversation(question) for question in asked)
        except (OSError, ValueError) as error:
            raise ValueError(f"source {self.name}, image {name}: {error}") from error
        if first.box is not None:
            image = draw_box(image, first.box)
        record = self.records.get(first.image_id)
        part_map = None if record is None or self.part_images is None else self.part_images.part_map(record)
        return Sample(name, self.name, image, conversations, part_map=part_map)

    def text_length(self, index: int, generator: np.random.Generator) -> int:
        """Return the characters of the longest conversation of the same sample; no image is read."""
        return longest_text([question_conversation(question) for question in self._draw(index, generator)])

    def _draw(self, index: int, generator: np.random.Generator) -> list[Question]:
        types = self.pictures[index]
        drawn = [types[i] for i in draw_indices(len(types), self.conversations_per_image, generator)]
        positions = [one[0] if len(one) == 1 else draw_one(one, generator) for one in drawn]
        return [self.questions.questions[position] for position in positions]

    def exchanges(self) -> Iterator[Exchange]:
        """Yield every question with each of its answers, right and wrong."""
        for position in sorted(position for types in self.pictures for one in types for position in one):
            for step in question_steps(self.questions.questions[position]):
                for choice in step.choices:
                    yield Exchange(step.text, choice)


def question_conversation(question: Question) -> tuple[Exchange, ...]:
    """Return a question and its correct answer; for part-whole types also the object question, in benchmark order.

    The object's answer has no mask and does not enter the BIO loss.
    """
    exchanges = []
    for step in question_steps(question):
        answer = step.choices[step.correct_index]
        if step.subject is Subject.PARTS:
            masks = tuple(part.mask for part in question.masks)
            exchanges.append(Exchange(step.text, answer, question.correct_choice.part_spans, masks))
        else:
            exchanges.append(Exchange(step.text, answer, is_tagged=False))
    return tuple(exchanges)


def check_types(question_types: Sequence[str]) -> frozenset[str]:
    """Return the named question types, or all if none is named.

    Raises:
        ValueError: a type is unknown.
    """
    known = [str(question_type) for question_type in QuestionType]
    if unknown := sorted(set(question_types) - set(known)):
        raise ValueError(unknown_names("question type", unknown, known))
    return frozenset(question_types or known)


def group_by_picture(
    questions: QuestionSet, question_types: Collection[str], excluded: Container[Path]
) -> tuple[tuple[tuple[int, ...], ...], ...]:
    """Group positions of questions about the same picture (same image file, same marked instance), by their type.

    Questions of large files are parsed on every read, so their types are collected here once.

    Raises:
        ValueError: no question is left.
    """
    groups: defaultdict[tuple[Path, tuple[int, ...]], dict[QuestionType, list[int]]] = defaultdict(dict)
    is_excluded: dict[Path, bool] = {}
    for position, question in enumerate(questions.questions):
        path = question.image_path
        if path not in is_excluded:
            is_excluded[path] = path in excluded
        if question.question_type in question_types and not is_excluded[path]:
            groups[path, question.box or ()].setdefault(question.question_type, []).append(position)
    num_excluded = sum(is_excluded.values())
    logger.info("questions of %s: %d images, %d of them excluded", questions.name, len(is_excluded), num_excluded)
    if not groups:
        raise ValueError(
            f"question set {questions.name} has no question of the types {sorted(question_types)} to train on "
            f"({num_excluded} of its {len(is_excluded)} images are excluded)"
        )
    return tuple(tuple(tuple(one) for one in groups[key].values()) for key in sorted(groups))
