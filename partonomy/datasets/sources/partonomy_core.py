"""Reads a published record file as a source of annotations, in the folder layout of its download.

Partonomy-Core is a folder with `partonomy_qa_pairs.json` and `images/`. `import` keeps the file's questions; `build`
asks new ones about its annotations. Both use this module to find and read the file.
"""

import tempfile
from dataclasses import replace
from pathlib import Path

from partonomy.datasets.record_exchange import import_records, sidecar_path
from partonomy.datasets.sources.group_parts_by_object import SourceNames, SourceReading, assemble
from partonomy.datasets.sources.records import CocoConfig, CocoImage, CocoRecords, RawAnnotation, SkippedAnnotations
from partonomy.datasets.store import load_dataset
from partonomy.structures import ObjectInstance, PartDataset

RECORD_FILES = "*_qa_pairs*.json"


def find_record_file(path: Path) -> Path:
    """Return the record file: `path` itself, or the only record file in the folder.

    Raises:
        FileNotFoundError: there is none.
        ValueError: the folder holds several.
    """
    if path.is_file():
        return path
    if not path.is_dir():
        raise FileNotFoundError(f"{path}: record file not found; is {path.parent} the right folder?")
    found = sorted(one for one in path.iterdir() if one.match(RECORD_FILES))  # `glob` hides that it may not be read
    sidecars = {sidecar_path(one) for one in found}
    files = [one for one in found if one not in sidecars]
    if not files:
        raise FileNotFoundError(
            f"{path}: no record file ({RECORD_FILES}) in this folder; name the file with --annotations"
        )
    if len(files) > 1:
        raise ValueError(f"{path}: several record files ({', '.join(one.name for one in files)}); name one of them")
    return files[0]


def read_record_source(config: CocoConfig) -> SourceReading:
    """Read the annotations that a record file repeats in its questions: one instance per image, label and set of masks.

    An object's category is the first level of its raw name ("boats--submarine"). The left-out entries are records,
    given by their index in the file.

    Args:
        config: `annotations` is the file or its folder. Image paths are relative to the file; `images` is ignored.

    Raises:
        FileNotFoundError: the file or one of its images is missing.
        ValueError: the file or a record is broken; the message names both.
    """
    record_file = find_record_file(config.annotations)
    with tempfile.TemporaryDirectory() as folder:
        summary = import_records(record_file, Path(folder), config.invalid)
        dataset = load_dataset(Path(folder))
    skipped = tuple(
        SkippedAnnotations(f"record that cannot be read: {row.reason}", (row.record_index,)) for row in summary.invalid
    )
    name = config.name or record_file.resolve().parent.name
    objects = [one for image in dataset.images for one in image.objects]
    categories = {one.label: one.category for one in objects if one.category != one.label}
    reading = assemble(
        _to_records(dataset, skipped),
        replace(config, annotations=record_file, images=dataset.image_root),
        SourceNames(name, categories=categories),
    )
    notes = tuple(f"in {record_file.name}, not used by new questions: {line}" for line in summary.kept.describe())
    return SourceReading(_restore_boxes(reading.dataset, dataset), reading.skipped, notes)


def _to_records(dataset: PartDataset, skipped: tuple[SkippedAnnotations, ...]) -> CocoRecords:
    images = tuple(CocoImage(image.image_id, image.file_name, image.height, image.width) for image in dataset.images)
    annotations = [
        annotation
        for image in dataset.images
        for instance in image.objects
        for annotation in _to_annotations(image.image_id, instance)
    ]
    return CocoRecords(images, tuple(annotations), skipped)


def _to_annotations(image_id: int, instance: ObjectInstance) -> list[RawAnnotation]:
    owner = instance.instance_id
    own = RawAnnotation(owner, image_id, instance.label, None, None, instance.mask, None, False)
    parts = [
        RawAnnotation(part.annotation_ids[0], image_id, instance.label, part.label, owner, part.mask, None, False)
        for part in instance.parts
    ]
    return [own, *parts]


def _restore_boxes(dataset: PartDataset, original: PartDataset) -> PartDataset:
    """Restore boxes of the annotations next to a record file, whose reason (such as a crowd) they no longer contain."""
    boxes = {one.instance_id: one.box for image in original.images for one in image.objects if one.box is not None}
    images = tuple(
        replace(
            image,
            objects=tuple(replace(one, box=boxes.get(one.instance_id, one.box)) for one in image.objects),
        )
        for image in dataset.images
    )
    return replace(dataset, images=images)
