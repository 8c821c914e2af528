"""The images that a model was trained on, listed beside its weights, and how many of a benchmark's are among them.

The list names what the runs of this project trained on; what a base (LLaVA, SAM) saw before that is in no list.
"""

import shutil
import zlib
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from partonomy.datasets.files import write_json
from partonomy.datasets.image_content import coco_number

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
