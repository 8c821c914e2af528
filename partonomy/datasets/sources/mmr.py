"""Reads and writes the published JSON of MMR, Multi-target and Multi-granularity Reasoning segmentation (Figure 11).

A file is a list of image records with parallel lists `questions`, `answers` (the annotations of each question's
targets) and `text_answers`, in which `{seg}` follows each target: the k-th `{seg}` refers to the k-th annotation.

Source: MMR paper, section 3 and appendix A.6; jdg900/MMR (`utils/multi_part_reason_seg_dataset.py`), whose loader reads
`answers` as a list of lists although its README says "List[dicts]".
"""

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from pathlib import Path
from typing import Any

from partonomy.files import (
    RECORD_ERRORS,
    check_relative_path,
    check_text,
    is_integer,
    iterate_records,
    open_atomically,
    reason_of,
    shorten,
)
from partonomy.masks import check_mask_size, read_sound_codes, rle_bbox, rle_from_coco, rle_to_json, union_masks
from partonomy.names import IRREGULAR_PLURALS, OBJECT_PART_SEPARATOR, clean_name, split_part_name
from partonomy.structures import RLE, CharSpan

_POSSESSIVE = re.compile(r"^(.+?)(?:[_\s]\d+)?['’]s?[_\s]+(.+)$")
_PART_OF = re.compile(r"^(.+?)[_\s]+of[_\s]+(?:(?:the|an?)[_\s]+)?(.+)$", re.IGNORECASE)
_BETWEEN = r"[\s_-]+"
_NUMBER = r"(?:[\s_]?\d+)?"
_QUALIFIER = r"(?:[\s_]*\([^()]*\))?"
_DETERMINER = r"(?:(?:the|an?|this|that|its|each|every|both)\s+)?"
FOLDER = "MMR"
IMAGE_FOLDER = "refer_seg/images/mscoco/images"
"""The image folder; `file_name` includes a sub-folder of it (`train2017/000000000009.jpg`)."""
TARGET_MARK = "{seg}"
_NO_SPACE_BEFORE = tuple(",.;:!?)]}'’")
_LAST_WORD = re.compile(r"\S+$")


class Kind(StrEnum):
    """The kind of targets that a question asks for."""

    OBJECT = "object"
    PART = "part"
    MIXED = "mixed"


@dataclass(frozen=True)
class CategoryName:
    """An object (`part_name` None) or a part of one, in clean words."""

    object_name: str
    part_name: str | None


def parse_category(raw: str) -> CategoryName:
    """Parse a category name: "car:wheel", "car_1's wheel" and "wheel of the car" are parts, "car" is an object.

    Raises:
        ValueError: nothing is left of a name once it is cleaned.
    """
    object_name, part = split_part_name(raw)
    if object_name is not None:
        return CategoryName(clean_name(object_name), clean_name(part))
    if found := _POSSESSIVE.match(raw):
        return CategoryName(clean_name(found[1]), clean_name(found[2]))
    if found := _PART_OF.match(raw):
        return CategoryName(clean_name(found[2]), clean_name(found[1]))
    return CategoryName(clean_name(raw), None)


@lru_cache(maxsize=4096)  # a few hundred categories, looked up for every target
def phrase_pattern(raw: str) -> re.Pattern[str]:
    """Return a pattern for the forms of a category's name in text: singular, plural, numbered ("knife_1's blades").

    A part may be "car's wheel", "car wheel", "wheel of the car", or just "wheel". Longer forms come first.
    """
    category = parse_category(raw)
    whole = _words_pattern(category.object_name) + _QUALIFIER + _NUMBER
    if category.part_name is None:
        forms = [whole]
    else:
        part = _words_pattern(category.part_name) + _NUMBER
        forms = [
            rf"{whole}['’]s?\s+{part}",
            rf"{whole}[\s_{OBJECT_PART_SEPARATOR}-]+{part}",
            rf"{part}\s+(?:of|on|from)\s+{_DETERMINER}{whole}",
            part,
        ]
    return re.compile(rf"(?<!\w)(?:{'|'.join(forms)})(?!\w)", re.IGNORECASE)


def _words_pattern(name: str) -> str:
    *first, last = re.split(r"[\s_-]+", name.strip(" _-") or name)
    forms = sorted(_numbers_of(last), key=len, reverse=True)
    return _BETWEEN.join([*map(re.escape, first), f"(?:{'|'.join(map(re.escape, forms))})"])


def _numbers_of(word: str) -> set[str]:
    """Return a word with possible plurals and singulars; wrong ones do no harm, since no text contains them."""
    forms = {word, word + "s", word + "es"}
    forms |= {plural for plural, singular in IRREGULAR_PLURALS.items() if singular == word}
    if word.endswith("y"):
        forms.add(word[:-1] + "ies")
    if word.endswith("s") and not word.endswith("ss"):
        forms.add(word[:-1])
    return forms - {""}


class Granularity(StrEnum):
    """Whether a target is an object or a part."""

    OBJECT = "object"
    PART = "part"


@dataclass(frozen=True)
class MmrTarget:
    """One target to segment: its name as in the file, and its mask in original-image pixels.

    `num_codes` is the number of run-length codes in the file of which `mask` is the union.
    """

    category_name: str
    mask: RLE
    granularity: Granularity
    num_codes: int = 1

    @property
    def category(self) -> CategoryName:
        """Its name in clean words; an object whose name has the form of a part's, "chest of drawers", is an object."""
        is_part = self.granularity is Granularity.PART
        return parse_category(self.category_name) if is_part else CategoryName(clean_name(self.category_name), None)


@dataclass(frozen=True)
class MmrQuestion:
    """One question and its answer text; the k-th `{seg}` of `text_answer` follows the words for `targets[k]`.

    `question_id` is "<image_id>:<index>", where the index counts the questions of the image.
    """

    question_id: str
    question: str
    targets: tuple[MmrTarget, ...]
    text_answer: str

    @property
    def num_marks(self) -> int:
        """Number of `{seg}` in the answer; in published files it may differ from the number of targets."""
        return self.text_answer.count(TARGET_MARK)


@dataclass(frozen=True)
class MmrImage:
    """One record. `file_name` is relative to `IMAGE_FOLDER`; height and width are in pixels."""

    image_id: str
    file_name: str
    height: int
    width: int
    questions: tuple[MmrQuestion, ...]


def mmr_file(root: Path, split: str) -> Path:
    """Return the path of a split's file: train, val, test_mixed, test_obj_only or test_part_only."""
    return root / FOLDER / f"MMR_{split}.json"


def mmr_image_path(root: Path, image: MmrImage) -> Path:
    """Return the path of a record's photograph."""
    return root / IMAGE_FOLDER / image.file_name


def read_mmr(path: Path) -> tuple[MmrImage, ...]:
    """Read a file, with the JSON of one record in memory at a time.

    A target is a part if its annotation says so (`granularity`, which `write_mmr` adds) or, as in the published files,
    if its name has the form of a part's name. Several run-length codes of the same target are united.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: there is no record, or a record is broken; the message names file, record and question.
    """
    images: list[MmrImage] = []
    num_questions: Counter[str] = Counter()  # by image, so that a second record of an image gets its own ids
    for number, record in enumerate(iterate_records(path)):
        try:
            image = _read_image(record, num_questions)
        except RECORD_ERRORS as error:
            name = shorten(record.get("image_id")) if isinstance(record, Mapping) else shorten(record)
            raise ValueError(f"{path}, record {number} (image {name}): {reason_of(error)}") from error
        num_questions[image.image_id] += len(image.questions)
        images.append(image)
    if not images:
        raise ValueError(f"{path}: the file contains no image records")
    return tuple(images)


def write_mmr(images: Iterable[MmrImage], path: Path) -> None:
    """Write records in the published form, one at a time; the file is replaced atomically at the end.

    `annotations` are the targets of all questions. Category ids number the names in order of first appearance. Fields
    that no loader reads and that have no counterpart here are empty.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    category_ids: dict[str, int] = {}
    with open_atomically(path) as file:
        separator = "[\n"
        for image in images:
            record = json.dumps(_image_to_json(image, category_ids), ensure_ascii=False, separators=(",", ":"))
            file.write((separator + record).encode("utf-8"))
            separator = ",\n"
        file.write(b"[]\n" if separator == "[\n" else b"\n]\n")


def _read_image(record: Any, num_questions: Mapping[str, int]) -> MmrImage:
    image_id = str(record["image_id"]) if is_integer(record["image_id"]) else check_text(record["image_id"], "image_id")
    height, width = record["height"], record["width"]
    check_mask_size(height, width)
    file_name = check_relative_path(record["file_name"], "'file_name'")
    columns = [_read_list(record, key) for key in ("questions", "answers", "text_answers")]
    if len({len(column) for column in columns}) > 1:
        raise ValueError(
            f"'questions', 'answers' and 'text_answers' have {', '.join(str(len(column)) for column in columns)} "
            "entries; they must have one each for every question"
        )
    first = num_questions.get(image_id, 0)
    sound = _sound_masks(columns[1], height, width)
    questions = []
    for index, (question, answer, text_answer) in enumerate(zip(*columns, strict=True)):
        try:
            targets = _read_targets(answer, height, width, sound)
            words = _read_words(question, text_answer)
        except RECORD_ERRORS as error:
            raise ValueError(f"question {index}: {reason_of(error)}") from error
        questions.append(MmrQuestion(f"{image_id}:{first + index}", words.question, targets, words.text_answer))
    return MmrImage(image_id, file_name, height, width, tuple(questions))


@dataclass(frozen=True)
class _Words:
    question: str
    text_answer: str


def _read_words(question: Any, text_answer: Any) -> _Words:
    if not check_text(question, "the question").strip():
        raise ValueError("the question is empty")
    if text_answer != "":
        check_text(text_answer, "the text answer")
    return _Words(question, text_answer)


def _sound_masks(answers: Sequence[Any], height: int, width: int) -> dict[int, RLE]:
    """Return the record's already valid masks by the identity of their JSON; checking them together is faster."""
    annotations = [one for answer in answers if isinstance(answer, list) for one in answer if isinstance(one, dict)]
    segmentations = [annotation.get("segmentation") for annotation in annotations]
    masks = zip(segmentations, read_sound_codes(segmentations), strict=True)
    return {id(raw): mask for raw, mask in masks if mask is not None and (mask.height, mask.width) == (height, width)}


def _read_targets(answer: Any, height: int, width: int, sound: Mapping[int, RLE]) -> tuple[MmrTarget, ...]:
    if not isinstance(answer, Sequence) or isinstance(answer, str):
        raise ValueError(f"its entry of 'answers' must be a list of annotations, got {shorten(answer)}")
    targets = []
    for place, annotation in enumerate(answer):
        try:
            name = check_text(annotation["category_name"], "'category_name'")
            category = parse_category(name)
            said = annotation.get("granularity")
            is_part = category.part_name is not None if said is None else Granularity(said) is Granularity.PART
            raw = annotation["segmentation"]
            codes = _codes(raw)
            mask = sound.get(id(raw)) or union_masks(
                [rle_from_coco(code, height, width, "its segmentation") for code in codes]
            )
        except RECORD_ERRORS as error:
            raise ValueError(f"target {place}: {reason_of(error)}") from error
        targets.append(MmrTarget(name, mask, Granularity.PART if is_part else Granularity.OBJECT, len(codes)))
    return tuple(targets)


def _codes(segmentation: Any) -> Sequence[Any]:
    """Return the codes of a target: a list of run-length codes, or a single code or list of polygons."""
    if isinstance(segmentation, list) and segmentation and all(isinstance(one, Mapping) for one in segmentation):
        return segmentation
    return [segmentation]


def _read_list(record: Any, key: str) -> list[Any]:
    value = record[key]
    if not isinstance(value, list):
        raise ValueError(f"{key!r} must be a list, got {shorten(value)}")
    return value


def _image_to_json(image: MmrImage, category_ids: dict[str, int]) -> dict[str, object]:
    is_number = image.image_id.isdecimal() and image.image_id == str(int(image.image_id))
    image_id: int | str = int(image.image_id) if is_number else image.image_id
    answers = [
        [_target_to_json(target, image_id, category_ids) for target in question.targets] for question in image.questions
    ]
    return {
        "file_name": image.file_name,
        "height": image.height,
        "width": image.width,
        "image_id": image_id,
        "not_exhaustive_category_ids": [],
        "neg_category_ids": [],
        "coco_url": "",
        "questions": [question.question for question in image.questions],
        "annotations": [annotation for answer in answers for annotation in answer],
        "answers": answers,
        "text_answers": [question.text_answer for question in image.questions],
        "raw_answers": [],
    }


def _target_to_json(target: MmrTarget, image_id: int | str, category_ids: dict[str, int]) -> dict[str, object]:
    category_id = category_ids.setdefault(target.category_name, len(category_ids) + 1)
    return {
        "bbox": list(rle_bbox(target.mask)),
        "segmentation": rle_to_json(target.mask),
        "image_id": image_id,
        "category_name": target.category_name,
        "category_id": category_id,
        "sorted_category_id": category_id,
        "granularity": target.granularity.value,
    }


@dataclass(frozen=True)
class GroundedAnswer:
    """A text answer without marks, with the phrases of its targets.

    Attributes:
        text: The text answer without `{seg}`, with single spaces.
        spans: For each target, the phrase that names it; None if its category's name does not occur between the
            previous `{seg}` and its own, or if it has no `{seg}`. Phrases do not overlap.
        marked_words: For each target, the word before its `{seg}`; a [SEG] after this word is at the file's position.
            None if there is no such word. Consecutive `{seg}` share their word.
    """

    text: str
    spans: tuple[CharSpan | None, ...]
    marked_words: tuple[CharSpan | None, ...]


def ground_answer(question: MmrQuestion) -> GroundedAnswer:
    """Remove `{seg}` from an answer and find the phrase of every target, searching backwards from its `{seg}`."""
    pieces = [" ".join(piece.split()) for piece in question.text_answer.split(TARGET_MARK)]
    text, marks = "", []
    for number, piece in enumerate(pieces):
        if number:
            marks.append(len(text))
        needs_space = text and piece and not piece.startswith(_NO_SPACE_BEFORE)
        text += f" {piece}" if needs_space else piece
    starts = [0, *marks]
    spans: list[CharSpan | None] = []
    words: list[CharSpan | None] = []
    for place, target in enumerate(question.targets):
        if place >= len(marks):  # fewer `{seg}` than targets
            spans.append(None)
            words.append(None)
            continue
        found = list(phrase_pattern(target.category_name).finditer(text, starts[place], marks[place]))
        spans.append(CharSpan(*found[-1].span()) if found else None)
        word = _LAST_WORD.search(text[: marks[place]])
        words.append(CharSpan(*word.span()) if word else None)
    return GroundedAnswer(text, tuple(spans), tuple(words))
