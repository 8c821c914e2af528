"""Reads and writes the project's own form of a data set, whose questions refer to annotations by id.

A data set folder holds
- `dataset.json`: name, image root (relative to the folder, or absolute), source, seed, package versions;
- `annotations.json`: COCO-style; an object's annotation and those of its parts share `obj_ann_id`, categories are
  `object` (supercategory OBJECT, with the object's own `category`) and `object:part` (supercategory PART);
- `questions.jsonl`: one question per line (`partonomy.datasets.question_file`);
- `build.json`: the resolved configuration, embedding model, the numbers of skipped questions with reasons, and the
  hashes of the other files (`partonomy.datasets.seal`). It is written last, so a folder without it is unfinished.
"""

import importlib.metadata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

from partonomy.datasets import published_records as partonomy_core
from partonomy.datasets import question_file
from partonomy.datasets.annotation_file import read_annotations, read_shard_annotations, write_annotations
from partonomy.datasets.seal import (
    ANNOTATIONS_FILE,
    BUILD_FILE,
    DATASET_FILE,
    QUESTIONS_FILE,
    SEALED_FILES,
    require_unchanged,
)
from partonomy.files import (
    RECORD_ERRORS,
    check_text,
    hash_files,
    is_integer,
    open_atomically,
    read_json,
    reason_of,
    shorten,
    write_json,
)
from partonomy.masks import MAX_PIXELS
from partonomy.sharding import Shard
from partonomy.structures import (
    AnnotatedImage,
    InvalidRecord,
    KnownTruth,
    Part,
    PartDataset,
    Question,
    QuestionSet,
    QuestionType,
    SkippedType,
)

FORMAT = "partonomy-dataset"
FORMAT_VERSION = 1
PARTIAL_QUESTIONS_FILE = QUESTIONS_FILE + ".tmp"  # while they are being written, see `question_writer`
PROGRESS_FILE = "build.progress.tmp"
BUILD_KEYS = ("config", "source", "embedding_model", "import")  # the entries of build.json that determine the questions
VERSIONED_PACKAGES = ("numpy", "pycocotools", "scikit-learn", "sentence-transformers", "opencv-python", "pillow")


@dataclass(frozen=True)
class DatasetOrigin:
    """The origin of a data set: the source's name, the seed (None if none was used), and other settings."""

    source: str
    seed: int | None = None
    settings: Mapping[str, str | int | float | bool | None] | None = None


def save_dataset(dataset: PartDataset, folder: Path, origin: DatasetOrigin) -> PartDataset:
    """Write `dataset.json` and `annotations.json`.

    Args:
        dataset: the data set; its image root is stored relative to the folder if it lies inside, else as absolute path.
        folder: the folder to write; created if missing. The two files are replaced.
        origin: provenance, stored in `dataset.json`.

    Returns:
        The data set with its ids on disk: one annotation id per part. Existing ids of this form are kept; otherwise
        objects and parts are renumbered from 1 in file order.
    """
    dataset = number_annotations(dataset)
    save_dataset_images(dataset.name, dataset.image_root, dataset.images, folder, origin)
    return dataset


def save_dataset_images(
    name: str, image_root: Path, images: Iterable[AnnotatedImage], folder: Path, origin: DatasetOrigin
) -> None:
    """Write `dataset.json` and `annotations.json` for images that have their final ids.

    Args:
        name: name of the data set.
        image_root: folder of the image files; stored relative to `folder` if it lies inside, else as absolute path.
        images: the images, with one annotation id per part; iterated over several times, to allow streaming.
        folder: the folder to write; created if missing. The two files are replaced.
        origin: provenance, stored in `dataset.json`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    root = image_root.resolve()
    inside = root.is_relative_to(folder.resolve())
    description = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "name": name,
        "image_root": root.relative_to(folder.resolve()).as_posix() if inside else root.as_posix(),
        "source": origin.source,
        "seed": origin.seed,
        "settings": dict(origin.settings or {}),
        "versions": _package_versions(),
    }
    write_json(folder / DATASET_FILE, description, indent=2)
    write_annotations(images, folder / ANNOTATIONS_FILE)


def load_dataset(folder: Path, shard: Shard | None = None, *, accept_changes: bool = False) -> PartDataset:
    """Read a folder of the project's own form.

    Args:
        folder: the data set folder.
        shard: read only the images of this shard (`Shard.span`) and hold no others in memory.
        accept_changes: whether to read a folder whose files were changed since it was built.

    Raises:
        FileNotFoundError: the folder or one of its files is missing.
        ValueError: a file is broken or was changed; the message names file and record.
    """
    description = read_json(folder / DATASET_FILE)
    if description.get("format") != FORMAT or description.get("format_version") != FORMAT_VERSION:
        raise ValueError(
            f"{folder / DATASET_FILE}: expected format {FORMAT!r} version {FORMAT_VERSION}, got "
            f"{description.get('format')!r} version {description.get('format_version')!r}; "
            "build the data set again, or update the code"
        )
    if not accept_changes:
        require_unchanged(folder, *SEALED_FILES)
    path = folder / ANNOTATIONS_FILE
    images = read_annotations(path) if shard is None else read_shard_annotations(path, shard)
    try:
        name = check_text(description.get("name"), "'name'")
        image_root = (folder / check_text(description.get("image_root"), "'image_root'")).resolve()
    except ValueError as error:
        raise ValueError(f"{folder / DATASET_FILE}: {error}") from error
    return PartDataset(name, image_root, images)


def write_questions(questions: Iterable[Question], folder: Path) -> int:
    """Write `questions.jsonl` line by line; the questions' masks must be annotations of the folder's data set.

    Returns:
        The number of questions.
    """
    count = 0
    with open_atomically(folder / QUESTIONS_FILE) as file:
        for question in questions:
            file.write(question_file.question_to_line(question))
            count += 1
    return count


def load_questions(
    path: Path,
    invalid: Literal["raise", "collect"] = "raise",
    *,
    needs_images: bool = True,
    accept_changes: bool = False,
) -> QuestionSet:
    """Read the questions of a folder of the project's own form, or of a published record file (`.json`).

    Args:
        path: the folder or file.
        invalid: "raise" stops at the first unusable record; "collect" lists unusable records in `QuestionSet.invalid`,
            so that a validation counts them as failed.
        needs_images: whether a record is unusable if its image file is missing or, in a published record file, is not
            an image of the masks' size. A validation passes False: it knows the true masks of such a question without
            the image, so the question fails with all its parts when it is asked.
        accept_changes: whether to read a folder whose files were changed since it was built.

    Returns:
        The questions. `content_hash` is the sha256 of annotations and questions, or of the record file.

    Raises:
        FileNotFoundError: there is neither a folder with questions nor a record file.
        ValueError: the file's structure is broken, a file of the folder was changed or, with "raise", a record is bad;
            the message names file and record index.
    """
    path = Path(path)
    if invalid not in ("raise", "collect"):
        raise ValueError(f"invalid must be 'raise' or 'collect', got {invalid!r}")
    if path.is_file():
        return partonomy_core.load_records(path, invalid, needs_images=needs_images)
    if not path.is_dir():
        raise FileNotFoundError(f"{path} is neither a folder with {QUESTIONS_FILE} nor a record file (.json)")
    dataset = load_dataset(path, accept_changes=accept_changes)
    lines_path = path / QUESTIONS_FILE
    if not lines_path.is_file():
        raise FileNotFoundError(f"{lines_path}: not found; build the questions first (python -m partonomy build)")
    questions, bad = question_file.read_question_lines(lines_path, dataset, invalid, needs_images=needs_images)
    build = read_json(path / BUILD_FILE) if (path / BUILD_FILE).is_file() else {}
    left_out = read_left_out(build, path / BUILD_FILE, first_index=len(questions) + len(bad))
    if invalid == "collect":
        bad += left_out
    return QuestionSet(
        name=dataset.name,
        questions=questions,
        content_hash=hash_files([path / ANNOTATIONS_FILE, lines_path]),
        skipped=read_skipped(build, path / BUILD_FILE),
        invalid=bad,
        build={key: build[key] for key in BUILD_KEYS if key in build},
    )


def number_annotations(dataset: PartDataset) -> PartDataset:
    """Give every object and part its own id, unless each has one already."""
    instances = [instance for image in dataset.images for instance in image.objects]
    ids = [instance.instance_id for instance in instances]
    ids += [number for instance in instances for part in instance.parts for number in part.annotation_ids]
    num_parts = sum(len(instance.parts) for instance in instances)
    is_single = all(len(part.annotation_ids) == 1 for instance in instances for part in instance.parts)
    if is_single and len(set(ids)) == len(instances) + num_parts and min(ids, default=0) >= 0:
        return dataset
    next_id = iter(range(1, len(instances) + num_parts + 1))
    images = []
    for image in dataset.images:
        objects = []
        for instance in image.objects:
            instance_id = next(next_id)
            parts = tuple(Part(part.label, part.mask, (next(next_id),)) for part in instance.parts)
            objects.append(replace(instance, instance_id=instance_id, parts=parts))
        images.append(replace(image, objects=tuple(objects)))
    return PartDataset(dataset.name, dataset.image_root, tuple(images))


@cache
def _package_versions() -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in VERSIONED_PACKAGES}


def read_skipped(build: Mapping[str, Any], path: Path) -> tuple[SkippedType, ...]:
    """Read from `build.json` which questions were not asked.

    Raises:
        ValueError: an entry is broken; the message names the file and the entry.
    """
    rows = []
    for number, row in enumerate(_list(build, "skipped", path)):
        try:
            reason = check_text(row["reason"], "'reason'")
            if not is_integer(row["count"]) or row["count"] < 0:
                raise ValueError(f"'count' must be a number of images, got {shorten(row['count'])}")
            rows.append(SkippedType(QuestionType(row["question_type"]), reason, row["count"]))
        except RECORD_ERRORS as error:
            raise ValueError(f"{path}, entry {number} of 'skipped': {reason_of(error)}") from error
    return tuple(rows)


def read_left_out(build: Mapping[str, Any], path: Path, first_index: int) -> tuple[InvalidRecord, ...]:
    """Read from `build.json` which records an import left out.

    Args:
        build: content of the file.
        path: the file, for error messages.
        first_index: index of the first such record; the folder's own questions come before it.

    Raises:
        ValueError: an entry is broken; the message names the file and the entry.
    """
    rows = []
    for number, row in enumerate(_list(build, "invalid_records", path)):
        try:
            kind = row.get("question_type")
            question_id = check_text(row["question_id"], "'question_id'")
            reason = "left out by the import: " + check_text(row["reason"], "'reason'")
            question_type = None if kind is None else QuestionType(kind)
            truth = read_known_truth(row.get("truth"))
        except RECORD_ERRORS as error:
            raise ValueError(f"{path}, entry {number} of 'invalid_records': {reason_of(error)}") from error
        rows.append(InvalidRecord(first_index + number, question_id, question_type, reason, truth))
    return tuple(rows)


def read_known_truth(content: Any) -> KnownTruth | None:
    """Read what is known of a record that was left out; None if nothing is.

    Raises:
        KeyError, TypeError, ValueError: the content is broken.
    """
    if content is None:
        return None
    parts = tuple((check_text(label, "a label of 'truth'"), _area(area)) for label, area in content["parts"])
    return KnownTruth(check_text(content["image_path"], "'image_path'"), parts, _area(content["union_area"]))


def _area(value: object) -> int:
    if not isinstance(value, int) or not is_integer(value) or not 0 <= value <= MAX_PIXELS:
        raise ValueError(f"a mask's area is a number of pixels, got {shorten(value)}")
    return value


def _list(content: Mapping[str, Any], key: str, path: Path) -> list[Any]:
    if not isinstance(content.get(key, []), list):
        raise ValueError(f"{path}: {key!r} must be a list, got {shorten(content[key])}; build the data set again")
    return content.get(key, [])
