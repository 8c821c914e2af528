"""Readers of annotation files: COCO, PACO, PartImageNet, Pascal-Part."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from partonomy.datasets.sources.coco import read_coco, whole_number
from partonomy.datasets.sources.group_parts_by_object import SourceReading
from partonomy.datasets.sources.paco import read_paco
from partonomy.datasets.sources.part_imagenet import read_part_imagenet
from partonomy.datasets.sources.pascal_part import read_mat
from partonomy.datasets.sources.records import CocoConfig
from partonomy.datasets.store import DatasetOrigin, load_dataset, save_dataset
from partonomy.masks import decode_mask
from tests.fuzz import mutations, worlds
from tests.fuzz.outcomes import ACCEPTED, PARTLY, Refusal, attempt
from tests.fuzz.trial import Reader
from tests.partonomy.datasets.published_files import paco_file, part_imagenet_file, save_image, save_mat


def make_source_readers(folder: Path) -> tuple[Reader, ...]:
    """`folder` gets the valid files that some strategies damage."""
    mat = mutations.damaged_bytes(_mat_content(folder))
    return (
        _source("COCO annotations", worlds.coco_document(), read_coco),
        _source("PACO", paco_file(), read_paco),
        _source("PartImageNet", part_imagenet_file(), read_part_imagenet),
        Reader("Pascal-Part", mat, worlds.write_images, check_mat),
    )


def check_source(read: Callable[[CocoConfig], SourceReading], case: bytes, folder: Path) -> str:
    """Both modes agree, and every annotation of the file is in the data set or in the list of those left out."""
    path = folder / "instances.json"
    path.write_bytes(case)
    strict = attempt(lambda: read(CocoConfig(path, folder)), path)
    lenient = attempt(lambda: read(CocoConfig(path, folder, invalid="collect")), path)
    if isinstance(lenient, Refusal):
        assert isinstance(strict, Refusal)
        return f"refused: {lenient.reason_class}"
    for row in lenient.skipped:
        row.reason.encode("utf-8")
    _count_annotations(lenient, json.loads(case.decode("utf-8-sig"))["annotations"])
    _use_dataset(lenient, folder)
    if isinstance(strict, Refusal):
        reasons = {row.reason for row in lenient.skipped}
        assert reasons, "nothing is said to be left out"
        return f"{PARTLY}: {strict.reason_class}"
    assert strict == lenient
    return ACCEPTED


def check_mat(case: bytes, folder: Path) -> str:
    """One file of Pascal-Part."""
    path = folder / "2008_000008.mat"
    path.write_bytes(case)
    objects = attempt(lambda: read_mat(path), path)
    return f"refused: {objects.reason_class}" if isinstance(objects, Refusal) else ACCEPTED


def _count_annotations(reading: SourceReading, annotations: list[Any]) -> None:
    instances = [instance for image in reading.dataset.images for instance in image.objects]
    used = [number for instance in instances for part in instance.parts for number in part.annotation_ids]
    ids = {whole_number(record.get("id")) for record in annotations if isinstance(record, dict)}
    num_objects = sum(instance.instance_id in ids for instance in instances)  # others are implied by their parts
    num_left_out = sum(len(row.annotation_ids) for row in reading.skipped)
    assert len(used) + num_objects + num_left_out == len(annotations), "an annotation vanished"


def _use_dataset(reading: SourceReading, folder: Path) -> None:
    saved = save_dataset(reading.dataset, folder / "out", DatasetOrigin("fuzz"))
    assert load_dataset(folder / "out") == saved
    for image in saved.images:
        for instance in image.objects:
            for part in instance.parts:
                assert decode_mask(part.mask).shape == (image.height, image.width)


def _prepare_sources(folder: Path) -> None:
    worlds.write_images(folder)
    for name in ("train2017/000000391895.jpg", "n02100735_1234.JPEG", "n02814533_77.JPEG"):
        save_image(folder / name)


def _source(name: str, document: dict[str, Any], read: Callable[[CocoConfig], SourceReading]) -> Reader:
    return Reader(name, mutations.damaged_json(document), _prepare_sources, partial(check_source, read))


def _mat_content(folder: Path) -> bytes:
    parts = [("head", (2, 2, 3, 3)), ("lfuleg", (4, 9, 2, 6)), ("wheel_1", None)]
    return save_mat(
        folder / "2008_000008.mat", [("dog", (1, 1, 12, 16), parts), ("car", (16, 2, 9, 9), [])]
    ).read_bytes()
