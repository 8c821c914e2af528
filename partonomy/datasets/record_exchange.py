"""Converts losslessly between the project's own form and the published record file, in both directions."""

import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import msgspec
from PIL import Image

from partonomy.datasets.annotation_file import annotations_from_json, write_annotations
from partonomy.datasets.kept_values import (
    BUILD_KEY,
    NOTHING,
    KeptCounts,
    KeptOfFolder,
    count_kept,
    describe_kept,
    kept_counts,
    read_kept,
    write_kept,
)
from partonomy.datasets.near_names import ImageRoot
from partonomy.datasets.published_records import (
    PublishedRecord,
    question_to_record,
    read_records,
    read_sidecar,
    sidecar_path,
)
from partonomy.datasets.seal import EDITED_KEY, SEAL_KEY, break_seal, describe_files
from partonomy.datasets.store import (
    ANNOTATIONS_FILE,
    BUILD_FILE,
    DATASET_FILE,
    QUESTIONS_FILE,
    DatasetOrigin,
    load_dataset,
    load_questions,
    number_annotations,
    read_left_out,
    read_skipped,
    save_dataset,
    write_questions,
)
from partonomy.files import (
    RECORD_ERRORS,
    check_box,
    check_text,
    compact_bytes,
    compact_json,
    hash_files,
    is_integer,
    json_bytes,
    match_json,
    open_atomically,
    printable,
    read_json,
    reason_of,
    shorten,
    write_json,
)
from partonomy.images import draw_box, load_image
from partonomy.names import LEVEL_SEPARATOR
from partonomy.progress import progress
from partonomy.stored_lines import Mapped
from partonomy.structures import (
    AnnotatedImage,
    InvalidRecord,
    ObjectInstance,
    Part,
    PartDataset,
    Question,
    QuestionType,
)

MISSING_FILE = "(none)"
MARKED_FOLDER = "marked_images"


@dataclass(frozen=True)
class ExchangeSummary:
    """Counts of what was written.

    Attributes:
        num_questions: the questions.
        num_boxes: questions that rely on a drawn box, which a published record cannot hold.
        kept: what the records say beyond the questions.
        invalid: records left out.
        is_edited: whether annotations or questions were edited after the import, so that an export writes their masks
            and parts.
    """

    num_questions: int
    num_boxes: int
    kept: KeptCounts = field(default_factory=KeptCounts)
    invalid: tuple[InvalidRecord, ...] = ()
    is_edited: bool = False


def export_records(folder: Path, record_file: Path) -> ExchangeSummary:
    """Write a data set folder as a published record file, with its annotations next to it.

    If the images lie outside the record file's folder, both files are needed to read them again, because a record file
    alone must not name images outside its folder.

    Raises:
        FileNotFoundError, ValueError: the folder is missing or broken.
    """
    dataset = load_dataset(folder)
    questions = load_questions(folder).questions
    instances = {instance.instance_id: instance for image in dataset.images for instance in image.objects}
    build = read_json(folder / BUILD_FILE) if (folder / BUILD_FILE).is_file() else None
    kept, counts = read_folder_kept(folder), kept_counts(build or {}, folder / BUILD_FILE)
    record_file.parent.mkdir(parents=True, exist_ok=True)
    target = record_file.parent.resolve()
    with open_atomically(record_file) as file, progress(len(questions), "export", "question") as shown:
        file.write(b"[\n")
        for number, question in enumerate(questions):
            record = question_to_record(question, instances[question.instance_id], target)
            record = kept.values.get(question.question_id, NOTHING).restore(record, question.image_path, target)
            file.write((b",\n" if number else b"") + json_bytes(record))
            shown.update()
        file.write(b"\n]\n")
    description = read_json(folder / DATASET_FILE)
    description["image_root"] = Path(os.path.relpath(dataset.image_root, target)).as_posix()
    with open_atomically(sidecar_path(record_file)) as file:
        start = {"record_sha256": hash_files([record_file]), "dataset": description, "build": build}
        file.write(compact_bytes(start).removesuffix(b"}") + b',"questions":[')
        num_boxes = 0
        for number, question in enumerate(questions):
            file.write((b"," if number else b"") + compact_bytes(_identity_to_json(question)))
            num_boxes += question.box is not None
        file.write(b'],"annotations":')
        file.writelines(compact_json(folder / ANNOTATIONS_FILE))
        file.write(b"}\n")
    return ExchangeSummary(len(questions), num_boxes, counts, is_edited=kept.is_edited)


def read_folder_kept(folder: Path) -> KeptOfFolder:
    """Read what a data set folder keeps of the published records that it was imported from; see `read_kept`."""
    build = folder / BUILD_FILE
    return read_kept(folder, read_json(build) if build.is_file() else {}, _content_files(folder))


def _content_files(folder: Path) -> tuple[Path, Path]:
    return folder / ANNOTATIONS_FILE, folder / QUESTIONS_FILE


def count_kept_values(path: Path) -> KeptCounts:
    """Count what the published records of a data set folder or record file say beyond their questions."""
    if path.is_file():
        return count_kept(record.kept for record in read_records(path, "collect")[0])
    build = path / BUILD_FILE
    return kept_counts(read_json(build), build) if build.is_file() else KeptCounts()


def import_source(record_file: Path, images: Path | None = None) -> dict[str, str]:
    """Return what an import depends on: hashes of the record file and of the annotations next to it, and the images.

    Args:
        record_file: the record file.
        images: the folder of the images; None if they lie where the records say.
    """
    sidecar = sidecar_path(record_file)
    place = {} if images is None else {"images": images.resolve().as_posix()}
    return place | {
        "records": record_file.name,
        "records_sha256": hash_files([record_file]),
        "annotations_sha256": hash_files([sidecar]) if sidecar.is_file() else MISSING_FILE,
    }


def import_records(
    record_file: Path, folder: Path, invalid: Literal["raise", "collect"] = "raise", images: Path | None = None
) -> ExchangeSummary:
    """Write a published record file as a data set folder.

    Args:
        record_file: the JSON list.
        folder: the data set folder; created if missing.
        invalid: "raise" stops at the first bad record; "collect" leaves bad records out and lists them in `build.json`,
            so that validating the folder counts them as failed, like validating the record file. If only the image of
            a record is at fault, the list keeps its true parts, which count as missed.
        images: the folder of the images, if they do not lie where the records say; see `ImageRoot`.

    Raises:
        ValueError: a file is broken, or the annotations next to the record file belong to another version of it.
    """
    image_root = None if images is None else ImageRoot(images)
    records, bad = read_records(record_file, invalid, image_root=image_root)
    break_seal(folder)
    if sidecar_path(record_file).is_file():
        exported = read_exported(record_file, image_root)
        questions = exported.restore(records)
        exported.write_annotations(folder)
        build = dict(exported.build)
    else:
        dataset, questions = gather(record_file, records, image_root)
        save_dataset(dataset, folder, import_origin(record_file))
        build = gathered_build(len(dataset.images), Counter(question.question_type for question in questions))
    write_questions(questions, folder)
    with write_kept(folder) as writer:
        for record, question in zip(records, questions, strict=True):
            writer.write(question.question_id, record.kept)
    counts = count_kept(record.kept for record in records)
    write_import(record_file, folder, build, bad, counts, images=images)
    return ExchangeSummary(len(questions), sum(question.box is not None for question in questions), counts, bad)


def import_origin(record_file: Path) -> DatasetOrigin:
    """Return the origin of a data set made from a record file alone."""
    return DatasetOrigin(f"published records {record_file.name}")


def gathered_build(num_images: int, num_questions: Mapping[QuestionType, int]) -> dict[str, Any]:
    """Return the first part of `build.json` for an import of a record file alone."""
    return {
        "config": {},
        "embedding_model": None,
        "num_images": num_images,
        "num_questions": {kind.value: num_questions[kind] for kind in QuestionType if num_questions.get(kind)},
        "skipped": [],
    }


def write_import(
    record_file: Path,
    folder: Path,
    build: Mapping[str, Any],
    bad: Sequence[InvalidRecord],
    counts: KeptCounts,
    *,
    images: Path | None = None,
) -> None:
    """Write `build.json` of an import.

    Args:
        record_file: the imported file.
        folder: the data set folder.
        build: the other content of `build.json`.
        bad: the records that this import left out. Records that an earlier import left out are kept in the list and
            still count as failed.
        counts: counts of the kept values, which are already written.
        images: the folder of the images, if it was given.
    """
    rows = [
        {
            "record_index": row.record_index,
            "question_id": row.question_id,
            "question_type": row.question_type and row.question_type.value,
            "reason": row.reason,
            **({} if row.truth is None else {"truth": vars(row.truth)}),
        }
        for row in bad
    ]
    content = {
        **{key: value for key, value in build.items() if key not in (BUILD_KEY, SEAL_KEY, EDITED_KEY)},
        "import": import_source(record_file, images),
        "invalid_records": build.get("invalid_records", []) + rows,
        **describe_kept(folder, counts, _content_files(folder)),
        SEAL_KEY: describe_files(folder),
    }
    write_json(folder / BUILD_FILE, content, indent=2)


def _identity_to_json(question: Question) -> dict[str, Any]:
    box = None if question.box is None else list(question.box)
    return {"question_id": question.question_id, "instance_id": question.instance_id, "box": box}


@dataclass(frozen=True)
class ExportedDataset:
    """The annotations next to a record file, which hold what its records cannot express.

    Attributes:
        path: path of the annotations.
        description: content of `dataset.json` except the image root.
        image_root: absolute folder of the images.
        identities: ids and box of every record, by its index.
        build: content of `build.json`; empty if there was none.
        images: all annotations.
    """

    path: Path
    description: Mapping[str, Any]
    image_root: Path
    identities: Sequence[Mapping[str, Any]]
    build: Mapping[str, Any]
    images: tuple[AnnotatedImage, ...]

    def restore(self, records: Sequence[PublishedRecord]) -> Sequence[Question]:
        """Return the records' questions with the ids that they were exported with; each access restores them again.

        Raises:
            ValueError: the annotations do not name a record's object or parts; the message names the question.
        """
        owners = {instance.instance_id: (image, instance) for image in self.images for instance in image.objects}

        def restore_one(record: PublishedRecord) -> Question:
            try:
                return _restore_question(record, self.identities[record.index], owners, self.image_root)
            except RECORD_ERRORS as error:
                raise ValueError(f"{self.path}, question {record.index}: {reason_of(error)}") from error

        questions = Mapped(records, restore_one)
        for _ in questions:  # all errors come before anything is written
            pass
        return questions

    def write_annotations(self, folder: Path) -> None:
        """Write `dataset.json` and `annotations.json`."""
        inside = self.image_root.is_relative_to(folder.resolve())
        root = self.image_root.relative_to(folder.resolve()) if inside else self.image_root
        folder.mkdir(parents=True, exist_ok=True)
        description = {**self.description, "image_root": root.as_posix()}
        write_json(folder / DATASET_FILE, description, indent=2)
        write_annotations(self.images, folder / ANNOTATIONS_FILE)


class _Sidecar(msgspec.Struct):
    """The annotations next to a record file, as `export_records` writes them."""

    dataset: dict[str, Any]
    build: dict[str, Any] | None
    questions: list[dict[str, Any]]
    annotations: dict[str, Any]


def read_exported(record_file: Path, root: ImageRoot | None = None) -> ExportedDataset:
    """Read the annotations next to a record file.

    Args:
        record_file: the record file.
        root: where the images lie, if not where the annotations say.

    Raises:
        FileNotFoundError: an image is not below the given folder.
        ValueError: they are broken, or belong to another version of the record file.
    """
    path, sidecar = sidecar_path(record_file), read_sidecar(record_file)
    try:
        content = match_json(sidecar, _Sidecar)
        description, build = content.dataset, content.build or {}
        image_root = (record_file.parent / check_text(description.get("image_root"), "'image_root'")).resolve()
    except RECORD_ERRORS as error:
        raise ValueError(f"{path}: {reason_of(error)}; export both files again") from error
    images = annotations_from_json(content.annotations, path)
    if root is not None:
        image_root = root.folder
        images = tuple(replace(image, file_name=root.find(image.file_name)) for image in images)
    read_skipped(build, path)
    read_left_out(build, path, first_index=0)
    for part in (description, build):
        _check_writable(part, path)
    return ExportedDataset(path, description, image_root, content.questions, build, images)


def _check_writable(content: Mapping[str, Any], path: Path) -> None:
    try:
        json.dumps(content, ensure_ascii=False, allow_nan=False).encode("utf-8")
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: a value cannot be written again ({printable(str(error))[:200]})") from error


def _restore_question(
    record: PublishedRecord,
    identity: Mapping[str, Any],
    owners: Mapping[int, tuple[AnnotatedImage, ObjectInstance]],
    image_root: Path,
) -> Question:
    instance_id = identity["instance_id"]
    if not is_integer(instance_id) or instance_id not in owners:
        raise ValueError(f"'instance_id' {shorten(instance_id)} is not an annotated object")
    image, instance = owners[instance_id]
    part_of = {part.label: part for part in instance.parts}
    box = identity["box"]
    return replace(
        record.question,
        question_id=check_text(identity["question_id"], "'question_id'"),
        image_id=image.image_id,
        instance_id=instance.instance_id,
        image_path=image_root / image.file_name,
        masks=tuple(part_of[label] for label in record.question.correct_choice.parts),
        box=None if box is None else check_box(box, "'box'"),
    )


def gather(
    record_file: Path, records: Sequence[PublishedRecord], root: ImageRoot | None = None
) -> tuple[PartDataset, Sequence[Question]]:
    """Collect the instances that the records repeat: one per image, label and set of masks.

    Args:
        record_file: the record file.
        records: its usable records.
        root: where the images lie, if not where the records say.

    Returns:
        The data set and the records' questions with its ids, made on each access.
    """
    instances: dict[tuple[int, str, tuple[Part, ...]], ObjectInstance] = {}
    images: dict[int, AnnotatedImage] = {}
    for record in records:
        question = record.question
        category = question.object_label.split(LEVEL_SEPARATOR)[0]  # the label itself if it names none
        key = (question.image_id, question.object_label, record.parts)
        instances.setdefault(key, ObjectInstance(len(instances), question.object_label, category, record.parts))
        images.setdefault(
            question.image_id,
            AnnotatedImage(question.image_id, record.file_name, question.height, question.width, ()),
        )
    by_image: dict[int, list[ObjectInstance]] = {image_id: [] for image_id in images}
    for (image_id, _, _), instance in instances.items():
        by_image[image_id].append(instance)
    raw = tuple(replace(image, objects=tuple(by_image[image.image_id])) for image in images.values())
    image_root = record_file.parent.resolve() if root is None else root.folder
    dataset = number_annotations(PartDataset(record_file.stem, image_root, raw))
    numbered = dict(
        zip(
            (instance.instance_id for image in raw for instance in image.objects),
            (instance for image in dataset.images for instance in image.objects),
            strict=True,
        )
    )

    def number(record: PublishedRecord) -> Question:
        question = record.question
        instance = numbered[instances[question.image_id, question.object_label, record.parts].instance_id]
        part_of = {part.label: part for part in instance.parts}
        masks = tuple(part_of[label] for label in question.correct_choice.parts)
        return replace(question, instance_id=instance.instance_id, masks=masks)

    return dataset, Mapped(records, number)


def store_marked_images(folder: Path) -> int:
    """Write `marked_images/IMAGE_ID.png` for every image of a data set whose questions mark their instance.

    All questions of an image ask about the same instance, so one marked image serves them all.

    Args:
        folder: a data set folder with questions.

    Returns:
        The number of images written.
    """
    marked = {question.image_id: question for question in load_questions(folder).questions if question.box is not None}
    (folder / MARKED_FOLDER).mkdir(exist_ok=True)
    with progress(len(marked), MARKED_FOLDER, "image") as shown:
        for image_id, question in marked.items():
            assert question.box is not None
            image = load_image(question.image_path, question.height, question.width)
            Image.fromarray(draw_box(image, question.box)).save(folder / MARKED_FOLDER / f"{image_id}.png")
            shown.update()
    return len(marked)
