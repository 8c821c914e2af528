"""Annotations and questions of Partonomy as frozen records (paper, section 3).

Masks are held as COCO run-length codes in original-image pixels; `partonomy.masks` turns them into arrays.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from partonomy.questions.question_types import QuestionType


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
