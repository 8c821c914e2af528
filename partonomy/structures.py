"""Annotations and questions of Partonomy as frozen dataclasses (paper, section 3).

Masks are COCO run-length codes in original-image pixels; `partonomy.masks` turns them into arrays.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path


@dataclass(frozen=True)
class ChoiceScore:
    """Log-probabilities (nats) of one choice.

    `answer_*` covers the answer's tokens, including the end token. `conversation_*` covers every text token of prompt
    and answer, as averaged by the authors' code.
    """

    answer_log_prob: float
    answer_tokens: int
    conversation_log_prob: float
    conversation_tokens: int


class Subject(StrEnum):
    """The half of a question: its parts or its object."""

    PARTS = "parts"
    OBJECT = "object"


class QuestionType(StrEnum):
    """Question types of the published records. `positive` is the paper's intersection, `negative` its difference."""

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
        """Whether published correct answers may name parts by words other than mask labels (see `locate_listed`)."""
        return self in (QuestionType.POSITIVE, QuestionType.POSITIVE_WITH_LABEL)


TABLE_TYPES = (
    QuestionType.IDENTIFICATION_WITH_LABEL,
    QuestionType.POSITIVE_WITH_LABEL,
    QuestionType.NEGATIVE_WITH_LABEL,
    QuestionType.PART_TO_WHOLE,
    QuestionType.WHOLE_TO_PART,
)
"""The question types of the paper's Tables 2, 3, 9, 10 and 11, in column order."""


@dataclass(frozen=True)
class RLE:
    """A COCO compressed run-length mask: Fortran order, ASCII counts."""

    height: int
    width: int
    counts: str


@dataclass(frozen=True)
class CharSpan:
    """A half-open character range [start, end) of a string."""

    start: int
    end: int


@dataclass(frozen=True)
class Part:
    """One visible part of an object instance: the union of all masks of its label."""

    label: str
    mask: RLE
    annotation_ids: tuple[int, ...] = ()


UNNAMED_PART = ""
"""Stands for a part whose name is unknown, in `ObjectInstance.left_out_parts`."""


@dataclass(frozen=True)
class ObjectInstance:
    """One annotated object. `category` is the object's super-category ("airplanes" of "biplane").

    `box` (x, y, width, height; pixels) marks the object if its image shows several instances of the class.
    `left_out_parts` names parts that are annotated, and so visible, but not among `parts` (an unreadable mask, a part
    pruned as rare); `UNNAMED_PART` stands for one whose name is unknown. No question asks about such an object.
    """

    instance_id: int
    label: str
    category: str
    parts: tuple[Part, ...]
    mask: RLE | None = None
    box: tuple[int, int, int, int] | None = None
    left_out_parts: tuple[str, ...] = ()

    def find_part(self, label: str) -> Part:
        """Return the part with this label, or raise a KeyError that names the instance."""
        for part in self.parts:
            if part.label == label:
                return part
        raise KeyError(f"instance {self.instance_id} ({self.label}) has no part {label!r}")


@dataclass(frozen=True)
class AnnotatedImage:
    """One image. `file_name` is relative to the dataset's image root; `height` and `width` are the annotations'.

    `has_other_objects`: whether it shows annotated objects that are not among `objects` (a crowd, a broken record).
    """

    image_id: int
    file_name: str
    height: int
    width: int
    objects: tuple[ObjectInstance, ...]
    has_other_objects: bool = False


@dataclass(frozen=True)
class PartDataset:
    """Part annotations of a set of images."""

    name: str
    image_root: Path
    images: tuple[AnnotatedImage, ...]


@dataclass(frozen=True)
class Choice:
    """One answer: its text, its part labels in reading order, and the character span of each label in the text."""

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

    `masks` holds one Part per part of the correct choice, in the choice's reading order. `image_path` is absolute.
    `height` and `width` are the annotation's. `instance_id` is -1 for records that do not name an instance. Draw `box`
    (x, y, width, height; pixels) on the image before showing it to a model (`partonomy.images.draw_box`).
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
    """Loaded questions with the hash of their files (provenance).

    `invalid` lists the unreadable records, so that they count as failures instead of vanishing. `build` holds the build
    settings as JSON values (provenance); it is empty if they are unknown.
    """

    name: str
    questions: Sequence[Question]
    content_hash: str
    skipped: tuple["SkippedType", ...] = ()
    invalid: tuple["InvalidRecord", ...] = ()
    build: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class SkippedType:
    """The number of instances that yielded no question of a type, and the reason."""

    question_type: QuestionType
    reason: str
    count: int


@dataclass(frozen=True)
class KnownTruth:
    """What is known of a question that cannot be asked because of its image alone.

    Attributes:
        image_path: the image as the record names it, shared by all questions of the image.
        parts: label and mask pixels of each part of the correct answer, in reading order.
        union_area: pixels of the union of these masks.
    """

    image_path: str
    parts: tuple[tuple[str, int], ...]
    union_area: int


@dataclass(frozen=True)
class InvalidRecord:
    """An unusable record of a question file, and the reason.

    `question_type` is None if no known type is named. `truth` is None if more than the image is at fault.
    """

    record_index: int
    question_id: str
    question_type: QuestionType | None
    reason: str
    truth: KnownTruth | None = None
