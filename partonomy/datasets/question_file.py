"""Reads and writes `questions.jsonl`: one question per line, with masks as annotation ids to avoid duplicates.

A training set has hundreds of thousands of questions, so lines stay in the file and are read and parsed on access.
"""

import json
from collections.abc import Mapping, Sequence
from itertools import starmap
from pathlib import Path
from typing import Annotated, Literal, overload

import msgspec

from partonomy.datasets.phrases import locate_listed
from partonomy.files import RECORD_ERRORS, printable, reason_of
from partonomy.stored_lines import OpenFile, StoredLines
from partonomy.structures import (
    AnnotatedImage,
    CharSpan,
    Choice,
    InvalidRecord,
    ObjectChoice,
    ObjectInstance,
    ObjectQuestion,
    Part,
    PartDataset,
    Question,
    QuestionType,
)

Text = Annotated[str, msgspec.Meta(min_length=1)]
Size = Annotated[int, msgspec.Meta(ge=0)]


class ChoiceLine(msgspec.Struct):
    """A choice in its stored form."""

    text: Text
    parts: tuple[Text, ...]
    spans: tuple[tuple[int, int], ...]
    is_correct: bool


class ObjectChoiceLine(msgspec.Struct):
    """A choice of the object question in its stored form."""

    text: Text
    label: Text
    is_correct: bool


class ObjectQuestionLine(msgspec.Struct):
    """The object question in its stored form."""

    question: Text
    choices: tuple[ObjectChoiceLine, ...]


class QuestionLine(msgspec.Struct, omit_defaults=True):
    """A question in its stored form. Keys are written in this order; the last two only if the question has them."""

    question_id: Text
    question_type: QuestionType
    image_id: int
    instance_id: int
    question: Text
    choices: tuple[ChoiceLine, ...]
    mask_ids: tuple[int, ...]
    box: tuple[Size, Size, Size, Size] | None = None
    object_question: ObjectQuestionLine | None = None


ENCODER = msgspec.json.Encoder()  # the same output as compact `json`, in a tenth of the time
DECODER = msgspec.json.Decoder(QuestionLine)


def question_to_line(question: Question) -> bytes:
    """Return the JSON line of a question in UTF-8, including the newline."""
    asked = question.object_question
    line = QuestionLine(
        question_id=question.question_id,
        question_type=question.question_type,
        image_id=question.image_id,
        instance_id=question.instance_id,
        question=question.text,
        choices=tuple(
            ChoiceLine(
                choice.text,
                choice.parts,
                tuple([(span.start, span.end) for span in choice.part_spans]),
                choice.is_correct,
            )
            for choice in question.choices
        ),
        mask_ids=tuple(part.annotation_ids[0] for part in question.masks),
        box=question.box,
        object_question=None
        if asked is None
        else ObjectQuestionLine(
            asked.text,
            tuple(ObjectChoiceLine(choice.text, choice.label, choice.is_correct) for choice in asked.choices),
        ),
    )
    return ENCODER.encode(line) + b"\n"


class StoredQuestions(Sequence[Question]):
    """A sequence of questions that parses their JSON lines on access.

    Args:
        lines: the valid lines of the file.
        index: looks up images, instances and parts.
    """

    def __init__(self, lines: Sequence[bytes], index: "AnnotationIndex") -> None:
        self._lines = lines
        self._index = index

    def __len__(self) -> int:
        return len(self._lines)

    @overload
    def __getitem__(self, position: int) -> Question: ...

    @overload
    def __getitem__(self, position: slice) -> "StoredQuestions": ...

    def __getitem__(self, position: int | slice) -> "Question | StoredQuestions":
        if isinstance(position, slice):
            return StoredQuestions(self._lines[position], self._index)
        return self._index.build_question(DECODER.decode(self._lines[position]))


class AnnotationIndex:
    """Annotations by id, used to resolve the references of questions."""

    def __init__(self, dataset: PartDataset) -> None:
        self._images: dict[int, AnnotatedImage] = {image.image_id: image for image in dataset.images}
        self._paths = {image.image_id: dataset.image_root / image.file_name for image in dataset.images}
        self._instances: dict[int, ObjectInstance] = {}
        self._image_of_instance: dict[int, int] = {}
        self._parts: dict[int, Part] = {}
        self._instance_of_part: dict[int, int] = {}
        for image in dataset.images:
            for instance in image.objects:
                self._instances[instance.instance_id] = instance
                self._image_of_instance[instance.instance_id] = image.image_id
                for part in instance.parts:
                    self._parts[part.annotation_ids[0]] = part
                    self._instance_of_part[part.annotation_ids[0]] = instance.instance_id

    def build_question(self, line: QuestionLine) -> Question:
        """Turn a parsed line into a question.

        Raises:
            ValueError: the line contradicts itself or the annotations.
        """
        image = self._find_image(line.image_id)
        instance = self._find_instance(line.instance_id, image)
        question = Question(
            question_id=line.question_id,
            question_type=line.question_type,
            image_id=image.image_id,
            instance_id=instance.instance_id,
            image_path=self._paths[image.image_id],
            height=image.height,
            width=image.width,
            object_label=instance.label,
            text=line.question,
            choices=tuple(
                Choice(choice.text, choice.parts, tuple(starmap(CharSpan, choice.spans)), choice.is_correct)
                for choice in line.choices
            ),
            masks=tuple(self._find_part(number, instance) for number in line.mask_ids),
            object_question=_build_object_question(line.object_question),
            box=line.box,
        )
        check_question(question)
        return question

    def _find_image(self, image_id: int) -> AnnotatedImage:
        if image_id not in self._images:
            raise ValueError(f"image {image_id} is not in the annotations")
        return self._images[image_id]

    def _find_instance(self, instance_id: int, image: AnnotatedImage) -> ObjectInstance:
        if self._image_of_instance.get(instance_id) != image.image_id:
            raise ValueError(f"instance {instance_id} is not an annotated object of image {image.image_id}")
        return self._instances[instance_id]

    def _find_part(self, annotation_id: int, instance: ObjectInstance) -> Part:
        if self._instance_of_part.get(annotation_id) != instance.instance_id:
            raise ValueError(f"annotation {annotation_id} is not a part of instance {instance.instance_id}")
        return self._parts[annotation_id]


def check_question(question: Question) -> None:
    """Check the requirements on every question of the benchmark, whatever file it came from.

    Raises:
        ValueError: there is not exactly one correct choice; a part of the correct choice has no mask or another part's
            mask; a span does not cover its part's phrase (for types that rename parts, its entry in the answer's list);
            a part-whole type has no object question, or another type has one.
    """
    num_correct = sum(choice.is_correct for choice in question.choices)
    if num_correct != 1:
        raise ValueError(f"{num_correct} choices are marked correct, expected exactly 1")
    correct = question.correct_choice
    labels = tuple(part.label for part in question.masks)
    if labels != correct.parts:
        raise ValueError(f"the masks are those of {list(labels)}, the correct answer's parts are {list(correct.parts)}")
    for choice in question.choices:
        may_rename = choice.is_correct and question.question_type.may_rename_parts
        _check_spans(choice, may_rename)
    if question.question_type.is_part_whole != (question.object_question is not None):
        needed = "needs an" if question.question_type.is_part_whole else "has no"
        raise ValueError(f"the type {question.question_type.value} {needed} object question")
    if question.object_question is not None:
        num_correct = sum(choice.is_correct for choice in question.object_question.choices)
        if num_correct != 1:
            raise ValueError(f"{num_correct} object choices are marked correct, expected exactly 1")


def read_question_lines(
    path: Path, dataset: PartDataset, invalid: Literal["raise", "collect"], *, needs_images: bool = True
) -> tuple[StoredQuestions, tuple[InvalidRecord, ...]]:
    """Read and check `questions.jsonl`.

    Args:
        path: the file.
        dataset: the annotations that its questions refer to.
        invalid: see `partonomy.datasets.store.load_questions`.
        needs_images: whether a question is unusable if its image file is missing.

    Returns:
        The usable questions, and the unusable records.

    Raises:
        ValueError: with "raise", a record is bad; the message names the file and the line.
    """
    index = AnnotationIndex(dataset)
    lines = StoredLines(OpenFile.of(path))
    bad: list[InvalidRecord] = []
    seen: set[str] = set()
    is_present: dict[Path, bool] = {}
    end = 0
    with path.open("rb") as file:
        for number, content in enumerate(file):
            start, end = end, end + len(content)
            try:
                question = index.build_question(DECODER.decode(content))
                if question.question_id in seen:
                    raise ValueError(f"the question id {question.question_id!r} occurs twice")
                image_path = question.image_path
                if needs_images and not is_present.setdefault(image_path, image_path.is_file()):
                    raise ValueError(f"the image {image_path} does not exist")
            except RECORD_ERRORS as error:
                reason = reason_of(error)
                if invalid == "raise":
                    raise ValueError(f"{path}, record {number} (line {number + 1}): {reason}") from error
                bad.append(invalid_record(number, _parse_loosely(content), reason))
                continue
            seen.add(question.question_id)
            lines.append(start, len(content))
    return StoredQuestions(lines, index), tuple(bad)


def invalid_record(index: int, record: object, reason: str) -> InvalidRecord:
    """Describe an unreadable record with its id and type, as far as they are known.

    Args:
        index: index of the record in its file.
        record: the record, of any form; its id and type are taken if they are readable.
        reason: why it is unusable.
    """
    fields = record if isinstance(record, Mapping) else {}
    known = {question_type.value: question_type for question_type in QuestionType}
    question_type = fields.get("question_type")
    question_id = fields.get("question_id")
    return InvalidRecord(
        record_index=index,
        question_id=printable(question_id) if isinstance(question_id, str) else f"record-{index:06d}",
        question_type=known.get(question_type) if isinstance(question_type, str) else None,
        reason=printable(reason),
    )


def _build_object_question(line: ObjectQuestionLine | None) -> ObjectQuestion | None:
    if line is None:
        return None
    return ObjectQuestion(
        line.question, tuple(ObjectChoice(choice.text, choice.label, choice.is_correct) for choice in line.choices)
    )


def _parse_loosely(content: bytes) -> object:
    """Parse a bad line for its id and type, as far as it is JSON."""
    try:
        return json.loads(content)
    except RECORD_ERRORS:
        return {}


def _check_spans(choice: Choice, may_rename: bool) -> None:
    if not choice.parts or len(choice.parts) != len(choice.part_spans):
        raise ValueError(f"the choice {choice.text!r} has {len(choice.parts)} parts, {len(choice.part_spans)} spans")
    end = 0
    for part, span in zip(choice.parts, choice.part_spans, strict=True):
        phrase = choice.text[span.start : span.end]
        if span.start < end or (phrase != part and phrase.casefold() != part.casefold()):
            if may_rename and choice.part_spans == locate_listed(choice.text, choice.parts):
                return
            raise ValueError(
                f"the part {part!r} is not found at characters {span.start} to {span.end} of {choice.text!r} "
                "(spans must be in reading order and not overlap)"
            )
        end = span.end
