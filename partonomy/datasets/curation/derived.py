"""Reads and writes data sets derived from data sets, with the origin of every image.

A folder made by `prune`, `merge` or `split` holds `dataset.json`, `annotations.json` and `curation.json` (the command,
its settings, its changes, the origin of every image, and hashes of the files). `build --source dataset` makes
questions from it.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from partonomy.datasets.kept_values import KEPT_FILE
from partonomy.datasets.seal import CURATION_FILE, SEAL_KEY, break_seal, describe_files
from partonomy.datasets.shard_results import SHARDS_FOLDER, remove_shards
from partonomy.datasets.store import (
    ANNOTATIONS_FILE,
    QUESTIONS_FILE,
    DatasetOrigin,
    load_dataset,
    save_dataset,
)
from partonomy.files import check_text, hash_files, read_json_as, write_json
from partonomy.locks import has_other_files, lock_folder
from partonomy.structures import PartDataset

CURE = "make the data set again with `python -m partonomy prune`, `merge` or `split`"


@dataclass(frozen=True)
class ImageOrigin:
    """The data set that an image originally came from, and its id and file name there."""

    source: str
    image_id: int
    file_name: str


@dataclass(frozen=True)
class InputDataset:
    """An input data set: annotations, content hash, and the origin of every image by its id."""

    folder: Path
    dataset: PartDataset
    annotations_sha256: str
    origins: Mapping[int, ImageOrigin]


@dataclass(frozen=True)
class CurationRecord:
    """The content of `curation.json` except the origins; `changes` are JSON values."""

    command: str
    settings: Mapping[str, str | int | float | bool | None]
    inputs: Sequence[InputDataset]
    changes: Mapping[str, object]


def read_input(folder: Path) -> InputDataset:
    """Read a data set folder; images of a derived data set keep their original origin.

    Raises:
        FileNotFoundError: the folder or one of its files is missing.
        ValueError: a file is broken, or `curation.json` does not name each image of the data set once; the message
            names the file, the row and the field.
    """
    dataset = load_dataset(folder)
    path = folder / CURATION_FILE
    if path.is_file():
        origins = _read_origins(path, dataset)
    else:
        origins = {
            image.image_id: ImageOrigin(dataset.name, image.image_id, image.file_name) for image in dataset.images
        }
    return InputDataset(folder, dataset, hash_files([folder / ANNOTATIONS_FILE]), origins)


@contextmanager
def lock_outputs(folders: Sequence[Path], inputs: Iterable[Path], overwrite: bool) -> Iterator[None]:
    """Check that the output folders may be written, and hold their locks (`lock_folder`) until they are.

    Args:
        folders: the output folders, created if missing.
        inputs: the folders that are read.
        overwrite: whether an output folder may hold files already.

    Raises:
        BlockingIOError: another process writes to an output folder.
        FileExistsError: an output folder is not empty and `overwrite` is off, or it is a file.
        ValueError: an output folder is one of the inputs.
    """
    sources = {path.resolve() for path in inputs}
    for folder in folders:
        if folder.resolve() in sources:
            raise ValueError(f"{folder} is an input folder; choose another output folder")
        if folder.exists() and not folder.is_dir():
            raise FileExistsError(f"{folder} is a file; choose another output folder")
    with ExitStack() as locks:
        for folder in folders:
            locks.enter_context(lock_folder(folder))
            if not overwrite and has_other_files(folder):
                raise FileExistsError(f"{folder} is not empty; pass --overwrite or choose another output folder")
        yield


def save_curated(
    dataset: PartDataset, folder: Path, record: CurationRecord, origins: Mapping[int, ImageOrigin]
) -> PartDataset:
    """Write a data set with `curation.json`; an earlier data set's questions, finished or not, are removed.

    Args:
        dataset: the data set; its image files are not moved.
        folder: the output folder, held by `lock_outputs`.
        record: the content of `curation.json`.
        origins: image id in `dataset` -> origin.
    """
    remove_shards(folder / SHARDS_FOLDER)
    break_seal(folder)
    for name in (QUESTIONS_FILE, KEPT_FILE):
        (folder / name).unlink(missing_ok=True)
    saved = save_dataset(dataset, folder, DatasetOrigin(record.command, None, dict(record.settings)))
    content: dict[str, Any] = {
        "command": record.command,
        "settings": dict(record.settings),
        "inputs": [
            {
                "name": one.dataset.name,
                "folder": one.folder.resolve().as_posix(),
                "annotations_sha256": one.annotations_sha256,
                "num_images": len(one.dataset.images),
            }
            for one in record.inputs
        ],
        **record.changes,
        "images": [_origin_to_json(image.image_id, origins[image.image_id]) for image in dataset.images],
        SEAL_KEY: describe_files(folder),
    }
    write_json(folder / CURATION_FILE, content)
    return saved


def _origin_to_json(image_id: int, origin: ImageOrigin) -> dict[str, object]:
    return {
        "id": image_id,
        "source": origin.source,
        "source_id": origin.image_id,
        "source_file_name": origin.file_name,
    }


class _OriginRow(msgspec.Struct):
    """A row of 'images' in `curation.json`."""

    id: int
    source: str
    source_id: int
    source_file_name: str


class _CurationContent(msgspec.Struct):
    """What is read of `curation.json`; the rest is for people."""

    images: list[_OriginRow]


def _read_origins(path: Path, dataset: PartDataset) -> dict[int, ImageOrigin]:
    origins: dict[int, ImageOrigin] = {}
    known = {image.image_id for image in dataset.images}
    for number, row in enumerate(read_json_as(path, _CurationContent, CURE).images):
        try:
            if row.id not in known:
                raise ValueError(f"'id': {ANNOTATIONS_FILE} has no image {row.id}")
            if row.id in origins:
                raise ValueError(f"'id': the image {row.id} occurs twice")
            check_text(row.source, "'source'")
            check_text(row.source_file_name, "'source_file_name'")
        except ValueError as error:
            raise ValueError(f"{path}: images[{number}]: {error}; {CURE}") from error
        origins[row.id] = ImageOrigin(row.source, row.source_id, row.source_file_name)
    if missing := sorted(known - origins.keys()):
        raise ValueError(f"{path}: 'images' has no row for the image {missing[0]}; {CURE}")
    return origins
