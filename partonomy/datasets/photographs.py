"""Which image files show the same photograph, and which photographs a model was trained on.

Two files show the same photograph if they have the same bytes or the same COCO number. A model lists its training
images beside its weights.
"""

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


def find_same_files(paths: Sequence[Path], num_workers: int = 1) -> tuple[tuple[int, ...], ...]:
    """Group files of equal content. Only files that share their size with another are read, block by block.

    Args:
        paths: files; those that do not exist are in no group.
        num_workers: threads (hashing leaves Python's lock).

    Returns:
        Groups of two or more positions in `paths`, in order of their first member.
    """
    sizes = [path.stat().st_size if path.is_file() else None for path in paths]
    candidates = sorted(position for group in _group_equal(sizes) for position in group)
    with ThreadPoolExecutor(num_workers) as executor:
        digests = list(executor.map(lambda position: hash_files([paths[position]]), candidates))
    return tuple(tuple(candidates[place] for place in group) for group in _group_equal(digests))


def coco_number(file_name: str) -> str | None:
    """The 12-digit number by which COCO names a photograph in every release and split; None for other names.

    "train2017/000000391895.jpg" and "COCO_train2014_000000391895.jpg" are one photograph.
    """
    found = COCO_NUMBER.search(Path(file_name).stem)
    return found.group(1) if found else None


def group_photographs(file_names: Sequence[str], same_files: Iterable[Sequence[int]]) -> tuple[tuple[int, ...], ...]:
    """Partition images into photographs: images that share bytes or a COCO number, also through a third image.

    Args:
        file_names: of all images.
        same_files: groups of positions of equal content (`find_same_files`).

    Returns:
        Every position once; groups and members ascend.
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
    """Positions of equal values, groups of two or more; None equals nothing."""
    groups: dict[Hashable, list[int]] = defaultdict(list)
    for position, value in enumerate(values):
        if value is not None:
            groups[value].append(position)
    return [group for group in groups.values() if len(group) > 1]


TRAINING_IMAGES_FILE = "training_images.json"
TAIL_BYTES = 4096


@dataclass(frozen=True)
class StageImages:
    """One training run of a model.

    Attributes:
        run: name of its folder.
        num_images: photographs in its mixture.
        excluded_from: question sets whose images it left out (`exclude_images`).
        num_left_out: of their photographs, those that its sources held.
        counted_from: question sets whose images stayed in (`count_images`).
        num_counted: of their photographs, those that its sources held.
    """

    run: str
    num_images: int
    excluded_from: tuple[str, ...] = ()
    num_left_out: int = 0
    counted_from: tuple[str, ...] = ()
    num_counted: int = 0


@dataclass(frozen=True)
class TrainingImageList:
    """Every image of a model's training, by `image_key`, and the runs, the first stage first."""

    stages: tuple[StageImages, ...]
    images: frozenset[str]

    def count(self, paths: Iterable[Path]) -> int:
        """How many of some photographs the model was trained on."""
        return len({image_key(path) for path in paths} & self.images)


_ADAPTER = TypeAdapter(TrainingImageList)


def image_key(path: Path) -> str:
    """What a photograph is recognised by: its COCO number, else name, size and a checksum of its last bytes.

    Copies of a file have one key; drawn or numbered data sets reuse names for different images, whose bytes differ.
    """
    number = coco_number(path.name)
    if number is not None:
        return f"coco/{number}"
    if not path.is_file():
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
    """Read the list of a folder; None where there is none.

    Raises:
        ValueError: the file is something else.
    """
    path = folder / TRAINING_IMAGES_FILE
    if not path.is_file():
        return None
    try:
        return _ADAPTER.validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise ValueError(f"{path}: not a list of training images ({first['msg']}); delete it or restore it") from error


def copy_training_images(sources: Iterable[Path | None], destination: Path) -> None:
    """Let a copy of a model keep the list of its original: that of the first folder that has one."""
    for source in sources:
        if source is not None and (source / TRAINING_IMAGES_FILE).is_file():
            shutil.copyfile(source / TRAINING_IMAGES_FILE, destination / TRAINING_IMAGES_FILE)
            return


def count_trained_on(checkpoint: Path | None, paths: Iterable[Path]) -> int | None:
    """How many of a benchmark's photographs a saved model was trained on; None: its folder does not say."""
    trained = None if checkpoint is None else read_training_images(checkpoint)
    return None if trained is None else trained.count(paths)


def num_photographs(paths: Iterable[Path]) -> int:
    """Different photographs among some files."""
    return len({image_key(path) for path in paths})
