"""Finds image files that show the same photograph, and the photographs that a model was trained on.

Two files show the same photograph if they have the same bytes or the same COCO number. A model's folder lists its
training images next to its weights.
"""

import os
import re
import shutil
import zlib
from collections import defaultdict
from collections.abc import Hashable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from partonomy.files import hash_files, write_json

COCO_NUMBER = re.compile(r"(?:^|_)(\d{12})$")
TRAINING_IMAGES_FILE = "training_images.json"
TAIL_BYTES = 4096
COCO_PREFIX = "coco/"


def find_same_files(paths: Sequence[Path], num_workers: int = 1) -> tuple[tuple[int, ...], ...]:
    """Group files of equal content. A file is read, block by block, only if another has the same size.

    Args:
        paths: the files; missing ones are in no group.
        num_workers: number of threads (hashing releases Python's lock).

    Returns:
        Groups of two or more positions in `paths`, in order of their first member.
    """
    sizes = [path.stat().st_size if path.is_file() else None for path in paths]
    candidates = sorted(position for group in _group_equal(sizes) for position in group)
    with ThreadPoolExecutor(num_workers) as executor:
        digests = list(executor.map(lambda position: hash_files([paths[position]]), candidates))
    return tuple(tuple(candidates[place] for place in group) for group in _group_equal(digests))


def coco_number(file_name: str) -> str | None:
    """Return the 12-digit number that names a photograph in every COCO release and split; None for other names.

    "train2017/000000391895.jpg" and "COCO_train2014_000000391895.jpg" are one photograph.
    """
    found = COCO_NUMBER.search(Path(file_name).stem)
    return found.group(1) if found else None


def group_photographs(file_names: Sequence[str], same_files: Iterable[Sequence[int]]) -> tuple[tuple[int, ...], ...]:
    """Partition images into photographs: images that share bytes or a COCO number, also transitively.

    Args:
        file_names: the file names of all images.
        same_files: groups of positions of files with equal content (`find_same_files`).

    Returns:
        Groups that contain every position once; groups and members are in ascending order.
    """
    leader = list(range(len(file_names)))

    def find(position: int) -> int:
        while leader[position] != position:
            leader[position] = leader[leader[position]]
            position = leader[position]
        return position

    for group in [*same_files, *_group_equal([coco_number(name) for name in file_names])]:
        for position in group[1:]:
            first, second = sorted((find(group[0]), find(position)))
            leader[second] = first
    groups: dict[int, list[int]] = defaultdict(list)
    for position in range(len(file_names)):
        groups[find(position)].append(position)
    return tuple(tuple(group) for _, group in sorted(groups.items()))


def _group_equal(values: Sequence[Hashable | None]) -> list[list[int]]:
    """Return the groups of two or more positions with equal values; None equals nothing."""
    groups: dict[Hashable, list[int]] = defaultdict(list)
    for position, value in enumerate(values):
        if value is not None:
            groups[value].append(position)
    return [group for group in groups.values() if len(group) > 1]


@dataclass(frozen=True)
class StageImages:
    """One training run of a model.

    Attributes:
        run: name of the run's folder.
        num_images: number of photographs in the run's mixture.
        excluded_from: question sets whose images were left out of training (`exclude_images`).
        num_left_out: number of their photographs that occurred in the run's sources.
        counted_from: question sets whose images stayed in training (`count_images`).
        num_counted: number of their photographs that occurred in the run's sources.
    """

    run: str
    num_images: int
    excluded_from: tuple[str, ...] = ()
    num_left_out: int = 0
    counted_from: tuple[str, ...] = ()
    num_counted: int = 0


@dataclass(frozen=True)
class TrainingImageList:
    """All images that a model was trained on, as `image_key`s, and its training runs in the order of the stages."""

    stages: tuple[StageImages, ...]
    images: frozenset[str]

    def count(self, paths: Iterable[Path]) -> int:
        """Return how many of the given photographs the model was trained on.

        A missing file has no bytes to compare. It counts if the model was trained on a photograph of its name, since
        a count of 0 would deny an overlap that nobody can rule out.
        """
        names = {key.partition("/")[0] for key in self.images if not key.startswith(COCO_PREFIX)}
        return sum(
            image.name in names if isinstance(image, Path) else image in self.images
            for image in _distinct_photographs(paths)
        )


_ADAPTER = TypeAdapter(TrainingImageList)


def image_key(path: Path) -> str:
    """Return the key of a photograph: its COCO number or, without one, its name, size and a checksum of its last bytes.

    Copies of a file share a key. The bytes matter because drawn or numbered data sets reuse names for different images.
    """
    number = coco_number(path.name)
    if number is not None:
        return f"{COCO_PREFIX}{number}"
    if not os.path.isfile(path):  # unlike Path.is_file, False for any bad name
        return f"{path.name}/missing"
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - TAIL_BYTES))
        return f"{path.name}/{size}/{zlib.crc32(file.read()):08x}"


def write_training_images(folder: Path, trained: TrainingImageList) -> None:
    """Write the list into the folder of a run or of a saved model."""
    content = {"stages": [asdict(stage) for stage in trained.stages], "images": sorted(trained.images)}
    write_json(folder / TRAINING_IMAGES_FILE, content, indent=1)


def read_training_images(folder: Path) -> TrainingImageList | None:
    """Read a folder's list of training images; None if there is none.

    Raises:
        ValueError: the file is not such a list.
    """
    path = folder / TRAINING_IMAGES_FILE
    if not path.is_file():
        return None
    try:
        return _ADAPTER.validate_json(path.read_bytes(), strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(key) for key in first["loc"])
        raise ValueError(
            f"{path}: not a list of training images ({place or 'the content'}: {first['msg']}); delete it or restore it"
        ) from error


def copy_training_images(sources: Iterable[Path | None], destination: Path) -> None:
    """Copy the list of training images to a copied model, from the first source folder that has one."""
    for source in sources:
        if source is not None and (source / TRAINING_IMAGES_FILE).is_file():
            shutil.copyfile(source / TRAINING_IMAGES_FILE, destination / TRAINING_IMAGES_FILE)
            return


def count_trained_on(checkpoint: Path | None, paths: Iterable[Path]) -> int | None:
    """Return how many of a benchmark's photographs a saved model was trained on; None if its folder has no list."""
    trained = None if checkpoint is None else read_training_images(checkpoint)
    return None if trained is None else trained.count(paths)


def num_photographs(paths: Iterable[Path]) -> int:
    """Return the number of different photographs among the files; missing files are told apart by their paths."""
    return len(_distinct_photographs(paths))


def _distinct_photographs(paths: Iterable[Path]) -> set[str | Path]:
    """Return the photographs' keys; for files without readable bytes and without a COCO number, their paths."""
    return {_key_or_path(path) for path in paths}


def _key_or_path(path: Path) -> str | Path:
    if coco_number(path.name) is not None:
        return image_key(path)
    try:
        return image_key(path) if os.path.isfile(path) and os.path.getsize(path) else path
    except OSError:  # a file that must not be read
        return path
