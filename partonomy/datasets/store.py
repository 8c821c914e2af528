"""The project's own form of a data set: annotations once, questions that refer to them by id.

A folder with
- `dataset.json`: name, image root (relative to the folder, or absolute), source, seed, package versions;
- `annotations.json`: COCO-style; an object's annotation and those of its parts share `obj_ann_id`, categories are
  `object` (supercategory OBJECT, with the object's own `category`) and `object:part` (supercategory PART);
- `questions.jsonl`: one question per line (`partonomy.questions.question_file`);
- `build.json`: the resolved configuration, embedding model, counts and reasons of skipped questions.
"""

import hashlib
import importlib.metadata
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from partonomy.datasets import partonomy_core
from partonomy.masks import rle_area, rle_bbox, rle_from_coco, rle_to_json
from partonomy.questions import question_file
from partonomy.questions.question_types import QuestionType
from partonomy.structures import (
    RLE,
    AnnotatedImage,
    ObjectInstance,
    Part,
    PartDataset,
    Question,
    QuestionSet,
    SkippedType,
)

FORMAT = "partonomy-dataset"
FORMAT_VERSION = 1
DATASET_FILE = "dataset.json"
ANNOTATIONS_FILE = "annotations.json"
QUESTIONS_FILE = "questions.jsonl"
BUILD_FILE = "build.json"
OBJECT = "OBJECT"
PART = "PART"
VERSIONED_PACKAGES = ("numpy", "pycocotools", "scikit-learn", "sentence-transformers", "opencv-python", "pillow")


@dataclass(frozen=True)
class DatasetOrigin:
    """Where a data set came from: source name, seed (None: none was used), and other settings in words."""

    source: str
    seed: int | None = None
    settings: Mapping[str, str | int | float | bool | None] | None = None


def save_dataset(dataset: PartDataset, folder: Path, origin: DatasetOrigin) -> PartDataset:
    """Write `dataset.json` and `annotations.json`.

    Args:
        dataset: its image root is stored relative to the folder when it lies inside, else absolute.
        folder: created when missing; the two files are replaced.
        origin: provenance, stored in `dataset.json`.

    Returns:
        The data set with the ids it has on disk: one annotation id per part. Ids are kept when they are already so,
        otherwise every object and part is numbered anew from 1 in file order.
    """
    dataset = number_annotations(dataset)
    folder.mkdir(parents=True, exist_ok=True)
    root = dataset.image_root.resolve()
    inside = root.is_relative_to(folder.resolve())
    description = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "name": dataset.name,
        "image_root": root.relative_to(folder.resolve()).as_posix() if inside else root.as_posix(),
        "source": origin.source,
        "seed": origin.seed,
        "settings": dict(origin.settings or {}),
        "versions": {name: importlib.metadata.version(name) for name in VERSIONED_PACKAGES},
    }
    write_json(folder / DATASET_FILE, description, indent=2)
    write_json(folder / ANNOTATIONS_FILE, _annotations_to_json(dataset))
    return dataset


def load_dataset(folder: Path) -> PartDataset:
    """Read a folder of the project's own form.

    Raises:
        FileNotFoundError: the folder or a file of it is missing.
        ValueError: a file is broken, naming file and record.
    """
    description = read_json(folder / DATASET_FILE)
    if description.get("format") != FORMAT or description.get("format_version") != FORMAT_VERSION:
        raise ValueError(
            f"{folder / DATASET_FILE}: expected format {FORMAT!r} version {FORMAT_VERSION}, got "
            f"{description.get('format')!r} version {description.get('format_version')!r}"
        )
    path = folder / ANNOTATIONS_FILE
    images = _annotations_from_json(read_json(path), path)
    return PartDataset(str(description["name"]), (folder / str(description["image_root"])).resolve(), images)


def write_questions(questions: Iterable[Question], folder: Path) -> int:
    """Write `questions.jsonl` line by line; the questions' masks must be annotations of the folder's data set.

    Returns:
        The number of questions.
    """
    count = 0
    with (folder / QUESTIONS_FILE).open("w", encoding="utf-8") as file:
        for question in questions:
            file.write(question_file.question_to_line(question))
            count += 1
    return count


def load_questions(path: Path, invalid: Literal["raise", "collect"] = "raise") -> QuestionSet:
    """Read the questions of a folder of the project's own form, or of a published record file (`.json`).

    Args:
        path: folder or file.
        invalid: "raise" stops at the first record that cannot be asked; "collect" lists such records in
            `QuestionSet.invalid`, so that a validation counts them as failed.

    Returns:
        The questions. `content_hash` is the sha256 of annotations and questions (of the record file).

    Raises:
        FileNotFoundError: nothing is there.
        ValueError: broken file structure; with "raise" also a bad record. Names file and record index.
    """
    path = Path(path)
    if invalid not in ("raise", "collect"):
        raise ValueError(f"invalid must be 'raise' or 'collect', got {invalid!r}")
    if path.is_file():
        return partonomy_core.load_records(path, invalid)
    if not path.is_dir():
        raise FileNotFoundError(f"{path}: neither a folder with {QUESTIONS_FILE} nor a record file (.json)")
    dataset = load_dataset(path)
    lines_path = path / QUESTIONS_FILE
    if not lines_path.is_file():
        raise FileNotFoundError(f"{lines_path}: not found; build the questions first (python -m partonomy build)")
    questions, bad = question_file.read_question_lines(lines_path, dataset, invalid)
    return QuestionSet(
        name=dataset.name,
        questions=questions,
        content_hash=hash_files([path / ANNOTATIONS_FILE, lines_path]),
        skipped=_read_skipped(path / BUILD_FILE),
        invalid=bad,
    )


def number_annotations(dataset: PartDataset) -> PartDataset:
    """Give every object and part one id of its own, unless the data set already has such ids."""
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
            objects.append(
                ObjectInstance(instance_id, instance.label, instance.category, parts, instance.mask, instance.box)
            )
        images.append(AnnotatedImage(image.image_id, image.file_name, image.height, image.width, tuple(objects)))
    return PartDataset(dataset.name, dataset.image_root, tuple(images))


def hash_files(paths: Iterable[Path]) -> str:
    """sha256 over the contents of files, in the order given."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def write_json(path: Path, content: object, indent: int | None = None) -> None:
    """Write JSON beside its place, then switch, so that a reader never meets half a file."""
    temporary = path.with_name(path.name + ".tmp")
    separators = (",", ":") if indent is None else None
    text = json.dumps(content, indent=indent, separators=separators, ensure_ascii=False)
    temporary.write_text(text + "\n", encoding="utf-8")
    temporary.replace(path)


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object; errors name the file."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: not found; is {path.parent} a data set folder?")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: not valid JSON ({error})") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected a JSON object, got {type(content).__name__}")
    return content


def _annotations_to_json(dataset: PartDataset) -> dict[str, Any]:
    instances = [instance for image in dataset.images for instance in image.objects]
    categories: dict[str, dict[str, Any]] = {}
    for instance in sorted(instances, key=lambda instance: instance.label):
        categories[instance.label] = {"supercategory": OBJECT, "category": instance.category}
    for name in sorted({f"{instance.label}:{part.label}" for instance in instances for part in instance.parts}):
        categories[name] = {"supercategory": PART}
    category_id = {name: number for number, name in enumerate(categories, start=1)}
    annotations: list[dict[str, Any]] = []
    for image in dataset.images:
        for instance in image.objects:
            extra: dict[str, Any] = {} if instance.box is None else {"marked_box": list(instance.box)}
            record = {"id": instance.instance_id, "image_id": image.image_id, "obj_ann_id": instance.instance_id}
            record |= {"category_id": category_id[instance.label]} | _mask_to_json(instance.mask) | extra
            annotations.append(record)
            for part in instance.parts:
                record = {"id": part.annotation_ids[0], "image_id": image.image_id, "obj_ann_id": instance.instance_id}
                name = f"{instance.label}:{part.label}"
                annotations.append(record | {"category_id": category_id[name]} | _mask_to_json(part.mask))
    return {
        "images": [
            {"id": image.image_id, "file_name": image.file_name, "height": image.height, "width": image.width}
            for image in dataset.images
        ],
        "categories": [{"id": category_id[name], "name": name} | content for name, content in categories.items()],
        "annotations": annotations,
    }


def _mask_to_json(mask: RLE | None) -> dict[str, Any]:
    if mask is None:
        return {"segmentation": None, "iscrowd": 0}
    box, area = list(rle_bbox(mask)), rle_area(mask)
    return {"segmentation": rle_to_json(mask), "bbox": box, "area": area, "iscrowd": 0}


def _annotations_from_json(content: Mapping[str, Any], path: Path) -> tuple[AnnotatedImage, ...]:
    try:
        categories = {category["id"]: category for category in content["categories"]}
        sizes = {image["id"]: (image["height"], image["width"]) for image in content["images"]}
        masks = {record["id"]: _read_mask(record, sizes, path) for record in content["annotations"]}
        parts: dict[int, list[Part]] = {}
        for record in content["annotations"]:
            category = categories[record["category_id"]]
            if category["supercategory"] == PART:
                mask = masks[record["id"]]
                if mask is None:
                    raise ValueError(f"{path}, annotation {record['id']}: a part needs a mask")
                label = str(category["name"]).split(":", 1)[1]
                parts.setdefault(record["obj_ann_id"], []).append(Part(label, mask, (record["id"],)))
        objects: dict[int, list[ObjectInstance]] = {image_id: [] for image_id in sizes}
        for record in content["annotations"]:
            category = categories[record["category_id"]]
            if category["supercategory"] == OBJECT:
                number, box = record["id"], record.get("marked_box")
                own_parts = tuple(parts.pop(number, ()))
                objects[record["image_id"]].append(
                    ObjectInstance(number, category["name"], category["category"], own_parts, masks[number], _box(box))
                )
        images = tuple(
            AnnotatedImage(image["id"], image["file_name"], *sizes[image["id"]], tuple(objects[image["id"]]))
            for image in content["images"]
        )
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path}: a key or id is missing or of the wrong type: {error!r}") from error
    if parts:
        raise ValueError(f"{path}: parts refer to objects that are not annotated, obj_ann_id {sorted(parts)[:5]}")
    return images


def _box(values: list[int] | None) -> tuple[int, int, int, int] | None:
    return None if values is None else (values[0], values[1], values[2], values[3])


def _read_mask(record: Mapping[str, Any], sizes: Mapping[int, tuple[int, int]], path: Path) -> RLE | None:
    if record["segmentation"] is None:
        return None
    height, width = sizes[record["image_id"]]
    return rle_from_coco(record["segmentation"], height, width, f"{path}, annotation {record['id']}")


def _read_skipped(path: Path) -> tuple[SkippedType, ...]:
    if not path.is_file():
        return ()
    rows = read_json(path).get("skipped", [])
    return tuple(SkippedType(QuestionType(row["question_type"]), row["reason"], row["count"]) for row in rows)
