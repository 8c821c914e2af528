"""Annotations and questions of Partonomy as frozen records (paper, section 3).

Masks are held as COCO run-length codes in original-image pixels; `partonomy.masks` turns them into arrays.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path


@dataclass(frozen=True)
class ChoiceScore:
    """Log-probabilities (nats) of one choice.

    `answer_*` covers the answer's tokens, end token included; `conversation_*` every text token of prompt and answer
    (what the authors' code averages).
    """

    answer_log_prob: float
    answer_tokens: int
    conversation_log_prob: float
    conversation_tokens: int


class QuestionType(StrEnum):
    """Value = the published record's `question_type`; `positive`: the paper's intersection, `negative`: difference."""

    IDENTIFICATION = "identification"
    IDENTIFICATION_WITH_LABEL = "identification_with_label"
    POSITIVE = "positive"
    POSITIVE_WITH_LABEL = "positive_with_label"
    NEGATIVE = "negative"
    NEGATIVE_WITH_LABEL = "negative_with_label"
    DIFFERENCE = "difference"
    DIFFERENCE_WITH_LABEL = "difference_with_label"
    WHOLE_TO_PART = "whole_to_part"
    PART_TO_WHOLE = "part_to_whole"

    @property
    def is_part_whole(self) -> bool:
        """Whether the type asks two questions in sequence, object and parts."""
        return self in (QuestionType.WHOLE_TO_PART, QuestionType.PART_TO_WHOLE)

    @property
    def names_object(self) -> bool:
        """Whether the question names the object ("the biplane") instead of saying "the object"."""
        return self.value.endswith("_with_label")

    @property
    def may_rename_parts(self) -> bool:
        """Whether published correct answers may name parts by other words than their masks (see `locate_listed`)."""
        return self in (QuestionType.POSITIVE, QuestionType.POSITIVE_WITH_LABEL)


TABLE_TYPES = (
    QuestionType.IDENTIFICATION_WITH_LABEL,
    QuestionType.POSITIVE_WITH_LABEL,
    QuestionType.NEGATIVE_WITH_LABEL,
    QuestionType.PART_TO_WHOLE,
    QuestionType.WHOLE_TO_PART,
)
"""The types of the paper's tables 2, 3, 9, 10 and 11, in their column order."""


@dataclass(frozen=True)
class RLE:
    """A COCO compressed run-length mask: Fortran order, ASCII counts."""

    height: int
    width: int
    counts: str


@dataclass(frozen=True)
class CharSpan:
    """A half-open character range [start, end) of a text."""

    start: int
    end: int


@dataclass(frozen=True)
class Part:
    """One visible part of an object instance: the union of all masks of its label."""

    label: str
    mask: RLE
    annotation_ids: tuple[int, ...] = ()


@dataclass(frozen=True)
class ObjectInstance:
    """One annotated object. `category` is the object's super-category ("airplanes" of "biplane").

    `box` (x, y, width, height; pixels) marks it where its image holds several instances of the class.
    """

    instance_id: int
    label: str
    category: str
    parts: tuple[Part, ...]
    mask: RLE | None = None
    box: tuple[int, int, int, int] | None = None

    def find_part(self, label: str) -> Part:
        """Return the part called `label`; KeyError names the instance when it has none."""
        for part in self.parts:
            if part.label == label:
                return part
        raise KeyError(f"instance {self.instance_id} ({self.label}) has no part {label!r}")


@dataclass(frozen=True)
class AnnotatedImage:
    """One image: `file_name` is relative to the dataset's image root, sizes are those of the annotations."""

    image_id: int
    file_name: str
    height: int
    width: int
    objects: tuple[ObjectInstance, ...]


@dataclass(frozen=True)
class PartDataset:
    """Part annotations of a set of images."""

    name: str
    image_root: Path
    images: tuple[AnnotatedImage, ...]


@dataclass(frozen=True)
class Choice:
    """One answer: its text and, aligned, its part labels and where each stands in the text (reading order)."""

    text: str
    parts: tuple[str, ...]
    part_spans: tuple[CharSpan, ...]
    is_correct: bool


@dataclass(frozen=True)
class ObjectChoice:
    """One answer to the object question of a part-whole type."""

    text: str
    label: str
    is_correct: bool


@dataclass(frozen=True)
class ObjectQuestion:
    """The object half of a part-to-whole or whole-to-part question."""

    text: str
    choices: tuple[ObjectChoice, ...]

    @property
    def correct_choice(self) -> ObjectChoice:
        """The one correct object answer."""
        return next(choice for choice in self.choices if choice.is_correct)


@dataclass(frozen=True)
class Question:
    """One question of the benchmark, with the masks of the correct answer's parts.

    `masks` holds one Part per part of the correct choice, in the choice's reading order; `image_path` is absolute.
    `height` and `width` are the annotation's; `instance_id` is -1 for records that do not name one. `box` (x, y,
    width, height; pixels) is to be drawn on the image before it is shown to a model (`partonomy.images.draw_box`).
    """

    question_id: str
    question_type: QuestionType
    image_id: int
    instance_id: int
    image_path: Path
    height: int
    width: int
    object_label: str
    text: str
    choices: tuple[Choice, ...]
    masks: tuple[Part, ...]
    object_question: ObjectQuestion | None = None
    box: tuple[int, int, int, int] | None = None

    @property
    def correct_choice(self) -> Choice:
        """The one correct answer."""
        return next(choice for choice in self.choices if choice.is_correct)


@dataclass(frozen=True)
class QuestionSet:
    """Questions as loaded, with the hash of the files they came from (provenance).

    `invalid` lists the records that could not be read, so that they count as failures instead of vanishing. `build`
    says how the questions were made (JSON values, for provenance); empty where nothing is known of it.
    """

    name: str
    questions: Sequence[Question]
    content_hash: str
    skipped: tuple["SkippedType", ...] = ()
    invalid: tuple["InvalidRecord", ...] = ()
    build: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class SkippedType:
    """How many instances yielded no question of a type, and why."""

    question_type: QuestionType
    reason: str
    count: int


@dataclass(frozen=True)
class InvalidRecord:
    """A record of a question file that cannot be asked, and why. `question_type` is None when it names no known one."""

    record_index: int
    question_id: str
    question_type: QuestionType | None
    reason: str
