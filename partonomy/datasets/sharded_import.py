"""Sharded import of published records: each shard reads the records of its images.

A record file alone has no object ids: each shard numbers the objects of an image from 1, and the merge shifts the
numbers past those of the preceding images. A record file with annotations next to it already has ids: each shard reads
all annotations, and its questions are final.
"""

import heapq
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

import msgspec

from partonomy.datasets.kept_values import (
    KeptCounts,
    KeptSegmentations,
    KeptValues,
    StoredCounts,
    count_kept,
    write_kept,
)
from partonomy.datasets.near_names import ImageRoot
from partonomy.datasets.published_records import RecordShard, read_record_shard, sidecar_path
from partonomy.datasets.question_file import DECODER, ENCODER, QuestionLine, question_to_line
from partonomy.datasets.record_exchange import (
    ExchangeSummary,
    gather,
    gathered_build,
    import_origin,
    import_source,
    read_exported,
    write_import,
)
from partonomy.datasets.seal import break_seal
from partonomy.datasets.shard_results import SHARDS_FOLDER, ShardResults, remove_shards
from partonomy.datasets.store import QUESTIONS_FILE, save_dataset_images
from partonomy.files import hash_files, open_atomically
from partonomy.locks import lock_folder
from partonomy.sharding import Shard
from partonomy.structures import RLE, AnnotatedImage, InvalidRecord, ObjectInstance, Part, Question, QuestionType

WORK = "import"
IMAGES_SUFFIX, QUESTIONS_SUFFIX, KEPT_SUFFIX = ".images.jsonl", ".questions.jsonl", ".kept.jsonl"


class PartLine(msgspec.Struct, array_like=True):
    """A part of a stored image; its mask has the image's size."""

    label: str
    counts: str


class ObjectLine(msgspec.Struct, array_like=True):
    """An object of a stored image."""

    label: str
    category: str
    parts: tuple[PartLine, ...]


class ImageLine(msgspec.Struct, array_like=True):
    """An image. `first` is the index of its first good record, `claimed` that of the record that numbers it."""

    first: int
    claimed: int
    file_name: str
    height: int
    width: int
    objects: tuple[ObjectLine, ...]


class NumberedQuestion(msgspec.Struct, array_like=True):
    """A question with the index of its record.

    For a record file alone, its `image_id` holds `ImageLine.claimed`, and its other ids count within the image.
    """

    index: int
    line: QuestionLine


class _ShardContent(msgspec.Struct):
    """The result of a shard, next to the files of `_paths`."""

    claims: list[int]
    num_images: int
    num_boxes: int
    num_questions: dict[QuestionType, int]
    invalid: list[InvalidRecord]
    kept: StoredCounts
    sha256: str


IMAGE_DECODER = msgspec.json.Decoder(ImageLine)
QUESTION_DECODER = msgspec.json.Decoder(NumberedQuestion)


def _results(
    record_file: Path, folder: Path, invalid: Literal["raise", "collect"], images: Path | None
) -> ShardResults:
    return ShardResults(folder / SHARDS_FOLDER, WORK, {**import_source(record_file, images), "invalid": invalid})


def import_shard(
    record_file: Path,
    folder: Path,
    invalid: Literal["raise", "collect"],
    shard: Shard,
    images: Path | None = None,
) -> bool:
    """Read and check the records of a shard's images; see `record_exchange.import_records`.

    Returns:
        False if the shard was finished before.
    """
    results = _results(record_file, folder, invalid, images)
    with lock_folder(results.folder, f"{WORK}-{shard.file_stem}.lock"):
        if results.is_done(shard):
            return False
        root = None if images is None else ImageRoot(images)
        read = read_record_shard(record_file, invalid, shard, root)
        image_lines, lines = _number_within_images(record_file, read, root)
        paths = _paths(results, shard)
        with open_atomically(paths.images) as file:
            file.writelines(ENCODER.encode(image) + b"\n" for image in image_lines)
        with open_atomically(paths.questions) as file:
            file.writelines(
                ENCODER.encode(NumberedQuestion(record.index, line)) + b"\n"
                for record, line in zip(read.records, lines, strict=True)
            )
        with open_atomically(paths.kept) as file:
            file.writelines(_kept_rows(read, lines))
        content = {
            "claims": list(read.claims.values()),
            "num_images": len(image_lines),
            "num_boxes": sum(line.box is not None for line in lines),
            "num_questions": Counter(line.question_type for line in lines),
            "invalid": [asdict(row) for row in read.bad],
            "kept": count_kept(record.kept for record in read.records).to_json(),
            "sha256": hash_files(list(paths)),
        }
        results.write(shard, content)
    return True


def _number_within_images(
    record_file: Path, read: RecordShard, root: ImageRoot | None
) -> tuple[list[ImageLine], list[QuestionLine]]:
    """Return images and questions in their stored form; no images if annotations lie next to the record file."""
    if sidecar_path(record_file).is_file():
        return [], [_to_line(question) for question in read_exported(record_file, root).restore(read.records)]
    dataset, questions = gather(record_file, read.records, root)
    claims = list(read.claims.values())  # for images 1, 2, ... of the shard
    firsts: dict[int, int] = {}
    for record in read.records:
        firsts.setdefault(record.question.image_id, record.index)
    offsets = {image.image_id: image.objects[0].instance_id - 1 for image in dataset.images}
    images = [_image_to_line(one, firsts[one.image_id], claims[one.image_id - 1]) for one in dataset.images]
    lines = [_renumber(_to_line(one), claims[one.image_id - 1], -offsets[one.image_id]) for one in questions]
    return images, lines


def _to_line(question: Question) -> QuestionLine:
    return DECODER.decode(question_to_line(question))


def merge_import(
    record_file: Path, folder: Path, invalid: Literal["raise", "collect"], images: Path | None = None
) -> ExchangeSummary:
    """Join all shards into the data set folder of a single process, `build.json` last, and delete their files.

    Raises:
        FileNotFoundError: a shard is missing.
        ValueError: a shard is broken, or was made with other settings or from another version of the record file.
    """
    results = _results(record_file, folder, invalid, images)
    shards = results.read_all(_ShardContent)
    paths = [_paths(results, shard) for shard, _ in shards]
    for (shard, content), files in zip(shards, paths, strict=True):
        if not all(path.is_file() for path in files) or hash_files(list(files)) != content.sha256:
            raise ValueError(
                f"{files.questions}: not what the shard wrote; delete {results.path(shard)} and run --shard {shard} "
                "again"
            )
    break_seal(folder)
    num_questions: Counter[QuestionType] = Counter()
    for _, content in shards:
        num_questions.update(content.num_questions)
    offsets: Mapping[int, _Place] | None = None
    build: Mapping[str, Any]
    if sidecar_path(record_file).is_file():
        exported = read_exported(record_file, None if images is None else ImageRoot(images))
        exported.write_annotations(folder)
        build = exported.build
    else:
        claims = sorted(claim for _, content in shards for claim in content.claims)
        merged = _MergedImages([files.images for files in paths], claims)
        image_root = record_file.parent if images is None else images.resolve()
        save_dataset_images(record_file.stem, image_root, merged, folder, import_origin(record_file))
        offsets = merged.places
        build = gathered_build(sum(content.num_images for _, content in shards), num_questions)
    with open_atomically(folder / QUESTIONS_FILE) as file:
        for question in _merge_questions([files.questions for files in paths]):
            line = question.line
            if offsets is not None:
                place = offsets[line.image_id]
                line = _renumber(line, place.image_id, place.offset)
            file.write(ENCODER.encode(line) + b"\n")
    with write_kept(folder) as writer:
        for question_id, kept in _merge_kept([files.kept for files in paths]):
            writer.write(question_id, kept)
    counts = KeptCounts()
    for _, content in shards:
        counts += content.kept.to_counts()
    bad = _merge_invalid(content.invalid for _, content in shards)
    write_import(record_file, folder, build, bad, counts, images=images)
    remove_shards(results.folder)
    return ExchangeSummary(num_questions.total(), sum(content.num_boxes for _, content in shards), counts, bad)


@dataclass(frozen=True)
class _Files:
    """The files that a shard writes in addition to its result."""

    images: Path
    questions: Path
    kept: Path

    def __iter__(self) -> Iterator[Path]:
        return iter((self.images, self.questions, self.kept))


def _paths(results: ShardResults, shard: Shard) -> _Files:
    path = results.path(shard)
    return _Files(*(path.with_suffix(suffix) for suffix in (IMAGES_SUFFIX, QUESTIONS_SUFFIX, KEPT_SUFFIX)))


@dataclass(frozen=True)
class _Place:
    """An image's id in the data set, and the last annotation id before its own."""

    image_id: int
    offset: int


class _MergedImages:
    """The images of all shards in single-process order, with their final ids; read again in every iteration.

    Args:
        paths: the files of the shards' images.
        claims: for each image of the file, the index of the record that gives it its number; sorted.

    Attributes:
        places: claim -> place of every image of the data set; complete after one iteration.
    """

    def __init__(self, paths: Sequence[Path], claims: Sequence[int]) -> None:
        self._paths = paths
        self._image_ids = {claim: number for number, claim in enumerate(claims, start=1)}
        self.places: dict[int, _Place] = {}

    def __iter__(self) -> Iterator[AnnotatedImage]:
        offset = 0
        with ExitStack() as stack:
            files = [stack.enter_context(path.open("rb")) for path in self._paths]
            for line in heapq.merge(*map(_read_images, files), key=lambda line: line.first):
                place = _Place(self._image_ids[line.claimed], offset)
                self.places[line.claimed] = place
                image = _image_from_line(line, place)
                offset += len(image.objects) + sum(len(one.parts) for one in image.objects)
                yield image


def _read_images(file: BinaryIO) -> Iterator[ImageLine]:
    return map(IMAGE_DECODER.decode, file)


def _read_questions(file: BinaryIO) -> Iterator[NumberedQuestion]:
    return map(QUESTION_DECODER.decode, file)


def _merge_questions(paths: Sequence[Path]) -> Iterator[NumberedQuestion]:
    """Yield the questions of all shards in the order of the record file."""
    with ExitStack() as stack:
        files = [stack.enter_context(path.open("rb")) for path in paths]
        yield from heapq.merge(*map(_read_questions, files), key=lambda question: question.index)


def _kept_rows(read: RecordShard, lines: Sequence[QuestionLine]) -> Iterator[bytes]:
    """Yield a shard's kept values; segmentations that several records repeat are in the first of their rows."""
    written: set[str] = set()
    for record, line in zip(read.records, lines, strict=True):
        kept, stored = record.kept, record.kept.segmentations
        if not kept:
            continue
        is_first = stored is not None and stored.sha256 not in written
        row = {
            "index": record.index,
            "question_id": line.question_id,
            "values": kept.values,
            "absent": kept.absent,
            "segmentations_sha256": None if stored is None else stored.sha256,
            "segmentations": stored.content if stored is not None and is_first else None,
        }
        if stored is not None:
            written.add(stored.sha256)
        yield json.dumps(row).encode("ascii") + b"\n"


def _merge_kept(paths: Sequence[Path]) -> Iterator[tuple[str, KeptValues]]:
    """Yield the kept values of all shards with their question ids, in the order of the record file.

    The first row in this order that has certain segmentations is also the first of its shard, so it contains them.
    """
    with ExitStack() as stack:
        files = [map(json.loads, stack.enter_context(path.open("rb"))) for path in paths]
        for row in heapq.merge(*files, key=lambda row: row["index"]):
            sha256 = row["segmentations_sha256"]
            stored = None if sha256 is None else KeptSegmentations(sha256, row["segmentations"])
            yield row["question_id"], KeptValues(row["values"], tuple(row["absent"]), stored)


def _merge_invalid(rows_of_shards: Iterator[Sequence[InvalidRecord]]) -> tuple[InvalidRecord, ...]:
    return tuple(sorted((row for rows in rows_of_shards for row in rows), key=lambda row: row.record_index))


def _renumber(line: QuestionLine, image_id: int, offset: int) -> QuestionLine:
    return msgspec.structs.replace(
        line,
        image_id=image_id,
        instance_id=line.instance_id + offset,
        mask_ids=tuple(number + offset for number in line.mask_ids),
    )


def _image_to_line(image: AnnotatedImage, first: int, claimed: int) -> ImageLine:
    objects = tuple(
        ObjectLine(one.label, one.category, tuple(PartLine(part.label, part.mask.counts) for part in one.parts))
        for one in image.objects
    )
    return ImageLine(first, claimed, image.file_name, image.height, image.width, objects)


def _image_from_line(line: ImageLine, place: _Place) -> AnnotatedImage:
    number = place.offset
    objects = []
    for one in line.objects:
        first = number + 1
        parts = tuple(
            Part(part.label, RLE(line.height, line.width, part.counts), (first + position,))
            for position, part in enumerate(one.parts, start=1)
        )
        objects.append(ObjectInstance(first, one.label, one.category, parts))
        number = first + len(parts)
    return AnnotatedImage(place.image_id, line.file_name, line.height, line.width, tuple(objects))
