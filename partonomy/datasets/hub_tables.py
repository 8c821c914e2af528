"""The columns of a question set as a Hugging Face data set, and the rows for questions, objects and images.

The configuration `questions` has a row for each question, with its image embedded, so that the Hub's viewer shows both.
`annotations` has a row for each annotated object with its parts, asked about or not, and a row without an object for an
image that has none. `other_images` has the images that no question asks about; it exists only if there are any.

Masks are COCO run-length codes, {"size": [height, width], "counts": text}, which pycocotools decodes as they are.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import starmap
from typing import Any

from partonomy.datasets.question_file import (
    ChoiceLine,
    ObjectChoiceLine,
    ObjectQuestionLine,
    QuestionLine,
)
from partonomy.files import check_box, check_relative_path, check_text, match_json
from partonomy.masks import rle_area, rle_bbox, rle_from_coco, rle_to_json
from partonomy.structures import RLE, AnnotatedImage, ObjectInstance, Part, Question, QuestionType

QUESTIONS, ANNOTATIONS, OTHER_IMAGES = "questions", "annotations", "other_images"
CONFIGURATIONS = (QUESTIONS, ANNOTATIONS, OTHER_IMAGES)
IMAGE = "image"
IMAGE_BYTES = f"{IMAGE}.bytes"
"""The Parquet column of the image files' content."""

_TEXT, _FLAG, _INTEGER = "string", "bool", "int64"
_MASK = {"size": [_INTEGER], "counts": _TEXT}
_PART = {"annotation_id": _INTEGER, "label": _TEXT, "bbox": [_INTEGER], "area": _INTEGER, "mask": _MASK}

COLUMNS: Mapping[str, Mapping[str, Any]] = {
    QUESTIONS: {
        IMAGE: IMAGE,
        "question": _TEXT,
        "choices": [_TEXT],
        "answer": _INTEGER,
        "parts": [_PART],
        "object": _TEXT,
        "question_type": _TEXT,
        "object_question": _TEXT,
        "object_choices": [_TEXT],
        "object_answer": _INTEGER,
        "object_choice_labels": [_TEXT],
        "choice_parts": [[_TEXT]],
        "choice_spans": [[[_INTEGER]]],
        "box": [_INTEGER],
        "question_id": _TEXT,
        "image_id": _INTEGER,
        "instance_id": _INTEGER,
    },
    ANNOTATIONS: {
        "image_id": _INTEGER,
        "file_name": _TEXT,
        "height": _INTEGER,
        "width": _INTEGER,
        "has_other_objects": _FLAG,
        "instance_id": _INTEGER,
        "object": _TEXT,
        "category": _TEXT,
        "mask": _MASK,
        "box": [_INTEGER],
        "parts": [_PART],
        "left_out_parts": [_TEXT],
    },
    OTHER_IMAGES: {IMAGE: IMAGE, "image_id": _INTEGER},
}
"""Configuration -> column -> type: the name of a primitive type, a list with the type of its items, or a structure."""

DESCRIPTIONS: Mapping[str, Mapping[str, str]] = {
    QUESTIONS: {
        IMAGE: "the photograph; its path is the file's name in the question set",
        "question": "the question about parts",
        "choices": "the answers to choose from",
        "answer": "index of the correct choice",
        "parts": "parts of the correct choice, in reading order, with their masks",
        "object": "name of the object that is asked about",
        "question_type": "one of the benchmark's question types",
        "object_question": "question about the object, for the types whole_to_part and part_to_whole; otherwise null",
        "object_choices": "its answers to choose from",
        "object_answer": "index of its correct choice",
        "object_choice_labels": "the object that each of its choices names",
        "choice_parts": "the parts that each choice names, in reading order",
        "choice_spans": "the character range [start, end) of each of these parts in the choice",
        "box": "[x, y, width, height] in pixels of a box to draw on the image before it is shown; null without one",
        "question_id": "identifies the question",
        "image_id": "joins questions, annotations and other images",
        "instance_id": "joins questions and annotations",
    },
    ANNOTATIONS: {
        "image_id": "joins questions, annotations and other images",
        "file_name": "the image's file in the question set",
        "height": "height of the annotated image in pixels",
        "width": "its width in pixels",
        "has_other_objects": "whether the image shows annotated objects that are left out",
        "instance_id": "joins questions and annotations; null for an image without objects",
        "object": "name of the object",
        "category": "super-category of the object",
        "mask": "mask of the object, null if it has none",
        "box": "[x, y, width, height] in pixels of the box that marks the object among others of its name, or null",
        "parts": "its annotated parts with their masks",
        "left_out_parts": "names of annotated parts that are not among them",
    },
    OTHER_IMAGES: {IMAGE: "an annotated image that no question asks about", "image_id": "joins it to its annotations"},
}
"""Configuration -> column -> what it holds, for the card."""


def arrow_schema(configuration: str) -> Any:
    """Return the `pyarrow.Schema` of a configuration; its metadata hold the column types that `datasets` reads."""
    import pyarrow  # noqa: PLC0415  (optional)

    columns = COLUMNS[configuration]
    features = {name: _feature(kind) for name, kind in columns.items()}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    return pyarrow.schema([(name, _arrow_type(pyarrow, kind)) for name, kind in columns.items()], metadata=metadata)


def _arrow_type(pyarrow: Any, kind: Any) -> Any:
    if kind == IMAGE:
        return pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    if isinstance(kind, list):
        return pyarrow.list_(_arrow_type(pyarrow, kind[0]))
    if isinstance(kind, Mapping):
        return pyarrow.struct([(name, _arrow_type(pyarrow, one)) for name, one in kind.items()])
    return {_TEXT: pyarrow.string(), _FLAG: pyarrow.bool_(), _INTEGER: pyarrow.int64()}[kind]


def _feature(kind: Any) -> Any:
    """Return a column type in the JSON form of `datasets.Features`; lists in the form that all its versions read."""
    if kind == IMAGE:
        return {"_type": "Image"}
    if isinstance(kind, list):
        return [_feature(kind[0])]
    if isinstance(kind, Mapping):
        return {name: _feature(one) for name, one in kind.items()}
    return {"dtype": kind, "_type": "Value"}


def question_row(question: Question, image: Mapping[str, Any]) -> dict[str, Any]:
    """Return the row of a question.

    Args:
        question: the question.
        image: see `image_cell`.
    """
    asked = question.object_question
    return {
        IMAGE: image,
        "question": question.text,
        "choices": [choice.text for choice in question.choices],
        "answer": [choice.is_correct for choice in question.choices].index(True),
        "parts": list(map(_part_cell, question.masks)),
        "object": question.object_label,
        "question_type": question.question_type.value,
        "object_question": asked and asked.text,
        "object_choices": asked and [choice.text for choice in asked.choices],
        "object_answer": asked and [choice.is_correct for choice in asked.choices].index(True),
        "object_choice_labels": asked and [choice.label for choice in asked.choices],
        "choice_parts": [choice.parts for choice in question.choices],
        "choice_spans": [[(span.start, span.end) for span in choice.part_spans] for choice in question.choices],
        "box": question.box,
        "question_id": question.question_id,
        "image_id": question.image_id,
        "instance_id": question.instance_id,
    }


def question_line(row: Mapping[str, Any]) -> QuestionLine:
    """Return the stored form of a question from its row.

    Raises:
        ValueError, KeyError, TypeError, IndexError: a cell is empty, has another form, or contradicts another one.
    """
    choices = zip(row["choices"], row["choice_parts"], row["choice_spans"], strict=True)
    return QuestionLine(
        question_id=check_text(row["question_id"], "'question_id'"),
        question_type=QuestionType(row["question_type"]),
        image_id=row["image_id"],
        instance_id=row["instance_id"],
        question=check_text(row["question"], "'question'"),
        choices=tuple(
            ChoiceLine(text, tuple(parts), tuple((start, end) for start, end in spans), number == row["answer"])
            for number, (text, parts, spans) in enumerate(choices)
        ),
        mask_ids=tuple(part["annotation_id"] for part in row["parts"]),
        box=None if row["box"] is None else check_box(row["box"], "'box'"),
        object_question=None
        if row["object_question"] is None
        else ObjectQuestionLine(
            row["object_question"],
            tuple(
                ObjectChoiceLine(text, label, number == row["object_answer"])
                for number, (text, label) in enumerate(
                    zip(row["object_choices"], row["object_choice_labels"], strict=True)
                )
            ),
        ),
    )


def image_cell(file_name: str, content: bytes) -> dict[str, Any]:
    """Return the cell of an image.

    Args:
        file_name: its path relative to the question set's image folder; no path of the machine is stored.
        content: the bytes of the file.
    """
    return {"bytes": content, "path": file_name}


def annotation_rows(image: AnnotatedImage) -> Iterator[dict[str, Any]]:
    """Generate the rows of an image's objects; one without an object if it has none."""
    place = {
        "image_id": image.image_id,
        "file_name": image.file_name,
        "height": image.height,
        "width": image.width,
        "has_other_objects": image.has_other_objects,
    }
    for instance in image.objects:
        yield place | {
            "instance_id": instance.instance_id,
            "object": instance.label,
            "category": instance.category,
            "mask": None if instance.mask is None else rle_to_json(instance.mask),
            "box": instance.box,
            "parts": list(map(_part_cell, instance.parts)),
            "left_out_parts": instance.left_out_parts,
        }
    if not image.objects:
        yield place | dict.fromkeys(name for name in COLUMNS[ANNOTATIONS] if name not in place)


@dataclass
class AnnotationTable:
    """Puts the rows of `annotations` together again."""

    images: dict[int, AnnotatedImage]
    objects: dict[int, list[ObjectInstance]]

    @classmethod
    def empty(cls) -> "AnnotationTable":
        """Return a table without rows."""
        return cls({}, {})

    def add(self, row: Mapping[str, Any]) -> None:
        """Add a row.

        Raises:
            ValueError, KeyError, TypeError, IndexError: a cell is empty or contradicts an earlier row.
        """
        place = match_json({name: row[name] for name in ("image_id", "file_name", "height", "width")}, _Place)
        check_relative_path(place.file_name, "'file_name'")
        image = AnnotatedImage(
            place.image_id, place.file_name, place.height, place.width, (), bool(row["has_other_objects"])
        )
        if self.images.setdefault(image.image_id, image) != image:
            raise ValueError(f"the rows of image {image.image_id} have different values about the image")
        instances = self.objects.setdefault(image.image_id, [])
        if row["instance_id"] is not None:
            instances.append(_instance(row, place))

    def build(self) -> tuple[AnnotatedImage, ...]:
        """Return the images with their objects, in the order of their first rows."""
        return tuple(replace(image, objects=tuple(self.objects[number])) for number, image in self.images.items())


@dataclass(frozen=True)
class _Place:
    image_id: int
    file_name: str
    height: int
    width: int


def _instance(row: Mapping[str, Any], place: _Place) -> ObjectInstance:
    parts = [
        Part(check_text(part["label"], "a part's label"), _mask(part["mask"], place), (part["annotation_id"],))
        for part in row["parts"]
    ]
    return ObjectInstance(
        row["instance_id"],
        check_text(row["object"], "'object'"),
        check_text(row["category"], "'category'"),
        tuple(parts),
        None if row["mask"] is None else _mask(row["mask"], place),
        None if row["box"] is None else check_box(row["box"], "'box'"),
        tuple(row["left_out_parts"]),
    )


def _mask(cell: Mapping[str, Any], place: _Place) -> RLE:
    return rle_from_coco(dict(cell), place.height, place.width, "mask")


def _part_cell(part: Part) -> dict[str, Any]:
    (number,) = part.annotation_ids
    return {
        "annotation_id": number,
        "label": part.label,
        "bbox": rle_bbox(part.mask),
        "area": rle_area(part.mask),
        "mask": rle_to_json(part.mask),
    }


def missing_columns(configuration: str, names: Iterable[str]) -> list[str]:
    """Return the columns of a configuration that a table with these columns lacks, in their order."""
    present = set(names)
    return [name for name in COLUMNS[configuration] if name not in present]


def column_table(configuration: str) -> Sequence[str]:
    """Return the Markdown table of a configuration's columns."""
    rows = starmap("| `{}` | {} |".format, DESCRIPTIONS[configuration].items())
    return ["| column | content |", "|---|---|", *rows]
