"""Reads and writes the published question records (`{split}_qa_pairs.json`; paper, appendix B).

A second file next to an export, `NAME.annotations.json`, keeps what the published schema cannot express.
"""

import hashlib
import json
import os
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from operator import attrgetter
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from partonomy.datasets.kept_values import NOTHING, KeptSegmentations, KeptValues, find_kept, is_same_json
from partonomy.datasets.near_names import ImageRoot
from partonomy.datasets.phrases import locate_listed, locate_phrases
from partonomy.datasets.question_file import check_question, invalid_record
from partonomy.files import (
    RECORD_ERRORS,
    check_relative_path,
    check_text,
    hash_files,
    is_list,
    iterate_records,
    parse_json,
    read_json,
    reason_of,
    shorten,
)
from partonomy.images import check_image
from partonomy.masks import check_mask_size, rle_area, rle_from_coco, rle_to_json, union_masks
from partonomy.sharding import Shard
from partonomy.stored_lines import Mapped, Spool
from partonomy.structures import (
    CharSpan,
    Choice,
    InvalidRecord,
    KnownTruth,
    ObjectChoice,
    ObjectInstance,
    ObjectQuestion,
    Part,
    Question,
    QuestionSet,
    QuestionType,
)

NO_RECORD_FILE = "not a JSON file"
SIDECAR_SUFFIX = ".annotations.json"
CORRECT = "correct"
INCORRECT = "incorrect"


def sidecar_path(record_file: Path) -> Path:
    """Return the path of a record file's annotations."""
    return record_file.with_suffix(SIDECAR_SUFFIX)


def read_sidecar(record_file: Path) -> dict[str, Any]:
    """Read the annotations next to a record file.

    Raises:
        FileNotFoundError: there are none.
        ValueError: they are not a JSON object, or belong to another version of the record file.
    """
    path = sidecar_path(record_file)
    content = read_json(path)
    if content.get("record_sha256") != hash_files([record_file]):
        raise ValueError(f"{path}: belongs to another version of {record_file}; export both again, or delete it")
    return content


def exported_image_root(record_file: Path) -> Path | None:
    """Return the image folder named in the annotations next to a record file; None if there are no annotations.

    Raises:
        ValueError: the annotations are broken or belong to another version of the record file.
    """
    path = sidecar_path(record_file)
    if not path.is_file():
        return None
    dataset = read_sidecar(record_file).get("dataset")
    image_root = dataset.get("image_root") if isinstance(dataset, dict) else None
    if not isinstance(image_root, str):
        raise ValueError(f"{path}: 'dataset' must name its 'image_root'; export both files again")
    return (record_file.parent / image_root).resolve()


@dataclass(frozen=True)
class PublishedRecord:
    """One record of a file.

    Attributes:
        index: its index in the file.
        question: the question.
        image_path: the image's path as it stands in the file.
        file_name: its path relative to the folder of images: that of the file, or the one given instead.
        parts: all parts of the instance, including those asked about.
        kept: what it says otherwise than the record of `question_to_record`.
    """

    index: int
    question: Question
    image_path: str
    file_name: str
    parts: tuple[Part, ...]
    kept: KeptValues = NOTHING


def load_records(path: Path, invalid: Literal["raise", "collect"], *, needs_images: bool = True) -> QuestionSet:
    """Read a record file as questions; see `partonomy.datasets.store.load_questions`."""
    records, bad = read_records(path, invalid, needs_images=needs_images)
    questions = Mapped(records, attrgetter("question"))
    return QuestionSet(path.stem, questions, hash_files([path]), invalid=bad)


def read_records(
    path: Path,
    invalid: Literal["raise", "collect"],
    *,
    needs_images: bool = True,
    image_root: ImageRoot | None = None,
) -> tuple[Sequence[PublishedRecord], tuple[InvalidRecord, ...]]:
    """Read a record file. The records lie in a temporary file, without their masks, which many of them share.

    Args:
        path: the file.
        invalid: what to do with unusable records; see `partonomy.datasets.store.load_questions`.
        needs_images: whether a record whose image is missing or has another size than its masks is unusable.
        image_root: where the images lie, if not where the records say.

    Returns:
        The usable records and the unusable ones. Images are numbered from 1 in order of appearance; question ids are
        `record-000000`, `record-000001`, ...

    Raises:
        ValueError: the file is not a JSON list or, with "raise", a record is bad; the message names file and record
            index.
    """
    reader = _RecordReader(path, needs_images, image_root)
    return reader.read_all(enumerate(_read_list(path)), invalid)


@dataclass(frozen=True)
class RecordShard:
    """The records of a shard's images.

    Attributes:
        records: the usable records; their images are numbered within the shard.
        bad: the unusable records.
        claims: image path -> index of the record that gave the image its number, in the order of the numbers. Sorting
            all images of the file by this index numbers them as `read_records` does.
    """

    records: Sequence[PublishedRecord]
    bad: tuple[InvalidRecord, ...]
    claims: Mapping[str, int]


def read_record_shard(
    path: Path, invalid: Literal["raise", "collect"], shard: Shard, image_root: ImageRoot | None = None
) -> RecordShard:
    """Read the records of one shard's images; other records are dropped as they are read.

    Images are assigned to shards by a checksum of their path; records that name no image belong to the first shard.

    Raises:
        ValueError: see `read_records`; with "raise" only for records of the shard.
    """
    reader = _RecordReader(path, image_root=image_root)
    own = (
        (index, content)
        for index, content in enumerate(iterate_records(path, is_strict=True))
        if _shard_of(content, shard.count) == shard.index
    )
    records, bad = reader.read_all(own, invalid)
    return RecordShard(records, bad, reader.claims)


def _shard_of(content: object, count: int) -> int:
    image_path = content.get("image_path") if isinstance(content, Mapping) else None
    return zlib.crc32(image_path.encode("utf-8", errors="replace")) % count if isinstance(image_path, str) else 0


def question_to_record(question: Question, instance: ObjectInstance, folder: Path) -> dict[str, object]:
    """Return the published record of a question.

    Args:
        question: the question.
        instance: the object that it asks about; all of its parts are written, as in the published files.
        folder: the folder of the record file; the image path is written relative to it.
    """
    image_path = Path(os.path.relpath(question.image_path, folder)).as_posix()
    return _question_values(question, image_path) | {"segmentations": _segmentations(instance.parts)}


def _segmentations(parts: Iterable[Part]) -> dict[str, list[dict[str, object]]]:
    return {part.label: [rle_to_json(part.mask)] for part in parts}


def _question_values(question: Question, image_path: str) -> dict[str, object]:
    """Return all keys of a record; the segmentations are left empty."""
    asked = question.object_question
    return {
        "image_path": image_path,
        "image_label": question.object_label,
        "question": question.text,
        "question_type": question.question_type.value,
        "answer_choices": [choice.text for choice in question.choices],
        "answer_types": [CORRECT if choice.is_correct else INCORRECT for choice in question.choices],
        "answer_parts": [list(choice.parts) for choice in question.choices],
        "segmentations": None,
        "object_question": asked and asked.text,
        "object_answer_choices": asked and [choice.text for choice in asked.choices],
        "object_answer_types": asked and [CORRECT if choice.is_correct else INCORRECT for choice in asked.choices],
        "object_answer_classes": asked and [choice.label for choice in asked.choices],
    }


@dataclass(frozen=True)
class _ReadParts:
    """The parts of a record's segmentations, and the segmentations themselves if an export writes others."""

    parts: tuple[Part, ...]
    kept: KeptSegmentations | None


class _RecordReader:
    """Reads the records of one file; masks that several records repeat are decoded only once."""

    def __init__(self, path: Path, needs_images: bool = True, image_root: ImageRoot | None = None) -> None:
        self._path = path
        self._image_root = image_root
        self._needs_images = needs_images
        self._image_ids: dict[str, int] = {}
        self.claims: dict[str, int] = {}
        self._sizes: dict[str, tuple[int, int]] = {}
        self._found_images: dict[str, tuple[str, Path]] = {}
        self._parts: dict[tuple[str, str], _ReadParts] = {}

    def read_all(
        self, contents: Iterable[tuple[int, Any]], invalid: Literal["raise", "collect"]
    ) -> tuple[Sequence[PublishedRecord], tuple[InvalidRecord, ...]]:
        records = Spool[PublishedRecord](Part, KeptSegmentations, Path)
        bad: list[InvalidRecord] = []
        for index, content in contents:
            try:
                records.append(self.read(index, content))
            except RECORD_ERRORS as error:
                reason = reason_of(error)
                if invalid == "raise":
                    raise ValueError(f"{self._path}, record {index}: {reason}") from error
                bad.append(replace(invalid_record(index, content, reason), truth=self._known_truth(index, content)))
        return records, tuple(bad)

    def _known_truth(self, index: int, content: Any) -> KnownTruth | None:
        """Return the truth of a record that would be sound with an image that fits; None if it would not be."""
        try:
            record = _RecordReader(self._path, needs_images=False, image_root=self._image_root).read(index, content)
        except RECORD_ERRORS:
            return None
        masks = [part.mask for part in record.question.masks]
        parts = tuple((part.label, rle_area(part.mask)) for part in record.question.masks)
        return KnownTruth(record.image_path, parts, rle_area(union_masks(masks)))

    def read(self, index: int, content: Mapping[str, Any]) -> PublishedRecord:
        if not isinstance(content, Mapping):
            raise ValueError(f"expected a JSON object, got {type(content).__name__}")
        question_type = QuestionType(_text(content, "question_type"))
        image_path = _text(content, "image_path")
        file_name, full_path = self._find_image(image_path)
        read = self._read_parts(image_path, full_path, content["segmentations"])
        parts = read.parts
        choices = _read_choices(content, question_type)
        correct = [choice for choice in choices if choice.is_correct]
        mask_of = {part.label: part for part in parts}
        for label in correct[0].parts if len(correct) == 1 else ():
            if label not in mask_of:
                raise ValueError(f"the correct answer's part {label!r} has no mask in 'segmentations'")
        question = Question(
            question_id=f"record-{index:06d}",
            question_type=question_type,
            image_id=self._number_image(image_path, index),
            instance_id=-1,
            image_path=full_path,
            height=parts[0].mask.height,
            width=parts[0].mask.width,
            object_label=_text(content, "image_label"),
            text=_text(content, "question"),
            choices=choices,
            masks=tuple(mask_of[label] for label in correct[0].parts) if len(correct) == 1 else (),
            object_question=_read_object_question(content) if question_type.is_part_whole else None,
        )
        check_question(question)
        kept = find_kept(content, _question_values(question, os.path.normpath(image_path)), read.kept)
        return PublishedRecord(index, question, image_path, file_name, parts, kept)

    def _number_image(self, image_path: str, index: int) -> int:
        if image_path not in self._image_ids:
            self._image_ids[image_path] = len(self._image_ids) + 1
            self.claims[image_path] = index
        return self._image_ids[image_path]

    def _find_image(self, image_path: str) -> tuple[str, Path]:
        """Return an image's path relative to the folder of images, and its whole path.

        The folder is the one given, else the file's; an export's second file may name another one.
        """
        if image_path not in self._found_images:
            self._found_images[image_path] = self._search_image(image_path)
        return self._found_images[image_path]

    def _search_image(self, image_path: str) -> tuple[str, Path]:
        if self._image_root is not None:
            try:
                file_name = self._image_root.find(image_path)
            except FileNotFoundError:
                if self._needs_images:
                    raise
                file_name = PurePosixPath(image_path).name
            return file_name, self._image_root.folder / file_name
        path = (self._path.parent / image_path).resolve()
        try:
            check_relative_path(image_path, "'image_path'")
        except ValueError as error:
            if self._exported_root is None or not path.is_relative_to(self._exported_root):
                raise ValueError(f"{error}; or pass the folder of the images: import --images FOLDER") from error
        return image_path, path

    @cached_property
    def _exported_root(self) -> Path | None:
        return exported_image_root(self._path)

    def _read_parts(self, image_path: str, full_path: Path, segmentations: object) -> "_ReadParts":
        if not isinstance(segmentations, Mapping) or not segmentations:
            raise ValueError("'segmentations' must map part labels to masks, and hold at least one")
        text = json.dumps(segmentations, ensure_ascii=False)
        sha256 = hashlib.sha256(text.encode("utf-8", errors="surrogatepass")).hexdigest()
        key = (image_path, sha256)
        if key not in self._parts:
            # The size limits what the masks may decode to, so it is checked first.
            height, width = self._check_size(image_path, full_path, segmentations)
            parts = tuple(_read_part(label, masks, height, width) for label, masks in segmentations.items())
            is_same = is_same_json(segmentations, _segmentations(parts))
            self._parts[key] = _ReadParts(parts, None if is_same else KeptSegmentations(sha256, segmentations))
        return self._parts[key]

    def _check_size(self, image_path: str, full_path: Path, segmentations: Mapping[str, Any]) -> tuple[int, int]:
        """Return the first mask's size (height, width), checked against earlier records and any image file needed."""
        label, masks = next(iter(segmentations.items()))
        height, width = _claimed_size(_mask_list(label, masks)[0], f"mask 0 of {label!r}")
        if self._needs_images:
            try:
                check_image(full_path, height, width)
            except ValueError as error:
                raise ValueError(f"mask 0 of {label!r}: {error}") from error
        known = self._sizes.setdefault(image_path, (height, width))
        if known != (height, width) and (_fits_image(full_path, *known) or not _fits_image(full_path, height, width)):
            raise ValueError(
                f"mask 0 of {label!r} is {height} x {width}, the masks of an earlier record of the image are "
                f"{known[0]} x {known[1]}"
            )
        return height, width


def _fits_image(path: Path, height: int, width: int) -> bool:
    """Return whether an image can be read and has this size, so that masks of another size are the wrong ones."""
    try:
        check_image(path, height, width)
    except (OSError, ValueError):
        return False
    return True


def _read_list(path: Path) -> Iterator[Any]:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: record file not found; is {path.parent} the right folder?")
    if not is_list(path):
        contents = parse_json(path.read_bytes(), f"{path}: {NO_RECORD_FILE}")
        raise ValueError(f"{path}: a record file is a JSON list of questions, got {type(contents).__name__}")
    return iterate_records(path, is_strict=True, refusal=NO_RECORD_FILE)


def _read_part(label: str, masks: object, height: int, width: int) -> Part:
    check_text(label, "a part label in 'segmentations'")
    contents = enumerate(_mask_list(label, masks))
    return Part(
        label,
        union_masks([rle_from_coco(_unwrap(mask), height, width, f"mask {n} of {label!r}") for n, mask in contents]),
    )


def _mask_list(label: str, masks: object) -> Sequence[object]:
    if not isinstance(masks, Sequence) or isinstance(masks, str) or not masks:
        raise ValueError(f"the part {label!r} has no mask in 'segmentations'")
    return masks


def _unwrap(content: object) -> object:
    """Remove the "segmentation" keys that a mask may be nested under; a record's mask must have a 'size'."""
    while isinstance(content, Mapping) and "segmentation" in content:
        content = content["segmentation"]
    return content if isinstance(content, Mapping) else {"size": None}


def _claimed_size(mask: object, where: str) -> tuple[int, int]:
    content = _unwrap(mask)
    size = content.get("size") if isinstance(content, Mapping) else None
    if not isinstance(size, Sequence) or len(size) != 2:
        raise ValueError(f"{where}: a mask needs 'size': [height, width]")
    check_mask_size(size[0], size[1], where)
    return size[0], size[1]


def _read_choices(content: Mapping[str, Any], question_type: QuestionType) -> tuple[Choice, ...]:
    texts, kinds, parts = content["answer_choices"], content["answer_types"], content["answer_parts"]
    _check_aligned(("answer_choices", texts), ("answer_types", kinds), ("answer_parts", parts))
    choices = []
    for number, (text, kind, labels) in enumerate(zip(texts, kinds, parts, strict=True)):
        check_text(text, f"choice {number} of 'answer_choices'")
        if not isinstance(labels, list):
            raise ValueError(f"entry {number} of 'answer_parts' must be a list of part names, got {shorten(labels)}")
        for label in labels:
            check_text(label, f"a part in entry {number} of 'answer_parts'")
        may_rename = _is_correct(kind) and question_type.may_rename_parts
        located = zip(labels, _locate_parts(text, labels, number, may_rename), strict=True)
        in_reading_order = sorted(located, key=lambda pair: pair[1].start)
        spans = tuple(span for _, span in in_reading_order)
        choices.append(Choice(text, tuple(label for label, _ in in_reading_order), spans, _is_correct(kind)))
    return tuple(choices)


def _locate_parts(text: str, labels: Sequence[str], number: int, may_rename: bool) -> tuple[CharSpan, ...]:
    try:
        spans = locate_phrases(text, labels)
        # A label that occurs only before the list is a word of the object's name: "wheel" of a wheel loader.
        is_listed = all(span.start > text.rfind(":") for span in spans)
    except ValueError as error:
        if not may_rename:
            raise ValueError(
                f"choice {number}: {error}; every name in 'answer_parts' must occur in its 'answer_choices' text, "
                "letter for letter except for case: correct one of the two"
            ) from error
        is_listed = False
    if is_listed or not may_rename:
        return spans
    try:
        return locate_listed(text, labels)
    except ValueError as error:
        raise ValueError(
            f"choice {number}: the list contains neither the names in 'answer_parts' nor another word for each "
            f"({error}): correct one of the two"
        ) from error


def _read_object_question(content: Mapping[str, Any]) -> ObjectQuestion:
    texts, kinds = content["object_answer_choices"], content["object_answer_types"]
    labels = content["object_answer_classes"]
    _check_aligned(("object_answer_choices", texts), ("object_answer_types", kinds), ("object_answer_classes", labels))
    choices = tuple(
        ObjectChoice(
            check_text(text, "a choice of 'object_answer_choices'"),
            check_text(label, "a name in 'object_answer_classes'"),
            _is_correct(kind),
        )
        for text, label, kind in zip(texts, labels, kinds, strict=True)
    )
    return ObjectQuestion(_text(content, "object_question"), choices)


def _check_aligned(*columns: tuple[str, object]) -> None:
    for name, values in columns:
        if not isinstance(values, list):
            raise ValueError(f"'{name}' must be a list, got {type(values).__name__}")
    lengths = {name: len(values) for name, values in columns if isinstance(values, list)}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"the lists must have one entry per choice, their lengths are {lengths}")


def _is_correct(kind: object) -> bool:
    if kind not in (CORRECT, INCORRECT):
        raise ValueError(f"an answer type is 'correct' or 'incorrect', got {shorten(kind)}")
    return kind == CORRECT


def _text(content: Mapping[str, Any], key: str) -> str:
    return check_text(content[key], f"'{key}'")
