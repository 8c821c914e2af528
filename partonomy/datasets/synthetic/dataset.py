"""The embedded dataset: objects with parts, drawn from a seed with exact masks; nothing to download.

There are eighteen classes in six categories. Siblings differ by a part or two, and parts may be missing or hidden.
Image i of a split depends only on the seed, the split and i, so the output is byte-identical for any number of
processes.
"""

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import cv2
import numpy as np

from partonomy.datasets.synthetic.catalogue import BLUEPRINTS, find_blueprint
from partonomy.datasets.synthetic.palette import Scheme, choose_scheme
from partonomy.datasets.synthetic.scene import MIN_VISIBLE_PARTS, DrawnImage, draw_scene, plan_scene
from partonomy.datasets.synthetic.sketch import Blueprint
from partonomy.masks import encode_mask
from partonomy.progress import counted, progress
from partonomy.sharding import Shard
from partonomy.structures import AnnotatedImage, ObjectInstance, Part, PartDataset

IMAGES_FOLDER = "images"
SyntheticSplit = Literal["train", "dev", "val"]

_SPLIT_NUMBERS: dict[SyntheticSplit, int] = {"train": 0, "dev": 1, "val": 2}
# First number of a random stream: the content of a picture, the order of the classes, the colours of the object.
_IMAGE_STREAM, _ORDER_STREAM, _COLOUR_STREAM = 0, 1, 2
_MAX_ATTEMPTS = 50
_JPEG_QUALITY = 92


@dataclass(frozen=True)
class SyntheticConfig:
    """The number of images to draw, their split, the seed, and the side of the images in pixels."""

    num_images: int
    split: SyntheticSplit
    seed: int = 0
    image_size: int = 192

    def __post_init__(self) -> None:
        """Check that the values are in range."""
        if self.num_images < 1:
            raise ValueError(f"num_images must be at least 1, got {self.num_images}")
        if self.split not in _SPLIT_NUMBERS:
            raise ValueError(f"split must be one of {', '.join(_SPLIT_NUMBERS)}, got {self.split!r}")
        if self.seed < 0:
            raise ValueError(f"seed must not be negative, got {self.seed}")
        if self.image_size < 64:
            raise ValueError(f"image_size must be at least 64 pixels for parts to be visible, got {self.image_size}")


def class_names() -> tuple[str, ...]:
    """Return the object classes, sorted."""
    return tuple(sorted(blueprint.label for blueprint in BLUEPRINTS))


def part_names() -> tuple[str, ...]:
    """Return the part names of all classes, sorted."""
    return tuple(sorted({part for blueprint in BLUEPRINTS for part in blueprint.parts}))


def parts_of(label: str) -> tuple[str, ...]:
    """Return the possible parts of a class, required ones first; KeyError for an unknown class."""
    return find_blueprint(label).parts


def category_of(label: str) -> str:
    """Return the category of a class; KeyError for an unknown class."""
    return find_blueprint(label).category


def draw_image(config: SyntheticConfig, index: int) -> DrawnImage:
    """Draw image `index` of a split. The image does not depend on `config.num_images`.

    Raises:
        IndexError: `index` is outside the split.
        RuntimeError: every attempt left fewer than two parts visible.
    """
    blueprint, scheme = _choose_object(config, index)
    for attempt in range(_MAX_ATTEMPTS):
        rng = _stream(config, _IMAGE_STREAM, index, attempt)
        drawn = draw_scene(plan_scene(blueprint, scheme, rng), config.image_size, rng)
        if len(drawn.parts) >= MIN_VISIBLE_PARTS:
            return drawn
    raise RuntimeError(
        f"image {index} of split {config.split!r} showed fewer than two parts in {_MAX_ATTEMPTS} attempts"
    )


def body_colour(config: SyntheticConfig, index: int) -> str:
    """Return the body colour's name of image `index`, `draw_image(config, index).colour`, without drawing the image."""
    return _choose_object(config, index)[1].body_name


def image_file_name(config: SyntheticConfig, index: int) -> str:
    """Return the file name of an image, relative to the image root."""
    return f"{config.split}_{index:06d}.jpg"


def build_synthetic(config: SyntheticConfig, output_dir: Path, num_workers: int) -> PartDataset:
    """Draw a split under `output_dir/images` with `num_workers` processes and return its annotations.

    Image ids are index + 1, and file names are relative to `output_dir/images`. Annotations are always drawn anew. An
    existing image with the same bytes is not written again; one with another seed or size is replaced.

    Raises:
        ValueError: `num_workers` is below 1.
    """
    return drawn_dataset(config, output_dir, draw_shard(config, output_dir, num_workers, Shard()))


def draw_shard(config: SyntheticConfig, output_dir: Path, num_workers: int, shard: Shard) -> tuple[AnnotatedImage, ...]:
    """Draw the images of one shard below `output_dir`; see `build_synthetic`.

    Args:
        config: the split.
        output_dir: the data set folder; created if missing.
        num_workers: number of processes, at least 1.
        shard: the shard whose images are drawn (`Shard.span`).

    Raises:
        ValueError: `num_workers` is less than 1.
    """
    if num_workers < 1:
        raise ValueError(f"num_workers must be at least 1, got {num_workers}")
    image_root = output_dir / IMAGES_FOLDER
    image_root.mkdir(parents=True, exist_ok=True)
    draw = partial(_build_image, config, image_root)
    indices = shard.span(config.num_images)
    with progress(len(indices), f"drawing {config.split}", "image") as shown:
        return tuple(counted(_draw_in_processes(draw, indices, num_workers), shown))


def drawn_dataset(config: SyntheticConfig, output_dir: Path, images: Sequence[AnnotatedImage]) -> PartDataset:
    """Return the data set of a split whose images are all drawn."""
    return PartDataset(name=f"synthetic_{config.split}", image_root=output_dir / IMAGES_FOLDER, images=tuple(images))


def _draw_in_processes(
    draw: Callable[[int], AnnotatedImage], indices: range, num_workers: int
) -> Iterator[AnnotatedImage]:
    """Draw in order of index, in this process or in a pool."""
    if num_workers == 1:
        yield from map(draw, indices)
        return
    # Spawned, not forked: the caller may have threads (torch, OpenCV) that do not survive a fork.
    context = multiprocessing.get_context("spawn")
    with context.Pool(num_workers, initializer=cv2.setNumThreads, initargs=(0,)) as pool:
        yield from pool.imap(draw, indices, chunksize=16)


def _choose_object(config: SyntheticConfig, index: int) -> tuple[Blueprint, Scheme]:
    """Choose class and colours of an image; each block of consecutive images has every class once, in random order."""
    if not 0 <= index < config.num_images:
        raise IndexError(f"image {index} is outside the split {config.split!r} of {config.num_images} images")
    block, place = divmod(index, len(BLUEPRINTS))
    order = _stream(config, _ORDER_STREAM, block).permutation(len(BLUEPRINTS))
    blueprint = BLUEPRINTS[int(order[place])]
    return blueprint, choose_scheme(blueprint.colours, _stream(config, _COLOUR_STREAM, index))


def _stream(config: SyntheticConfig, *numbers: int) -> np.random.Generator:
    return np.random.default_rng([config.seed, _SPLIT_NUMBERS[config.split], *numbers])


def _build_image(config: SyntheticConfig, image_root: Path, index: int) -> AnnotatedImage:
    """Draw one image, write it if needed, and encode its masks."""
    drawn = draw_image(config, index)
    file_name = image_file_name(config, index)
    _write_jpeg(image_root / file_name, drawn)
    instance = ObjectInstance(
        instance_id=index + 1,
        label=drawn.label,
        category=drawn.category,
        parts=tuple(Part(label=label, mask=encode_mask(mask)) for label, mask in drawn.parts.items()),
        mask=encode_mask(drawn.object_mask),
    )
    height, width = drawn.object_mask.shape
    return AnnotatedImage(image_id=index + 1, file_name=file_name, height=height, width=width, objects=(instance,))


def _write_jpeg(path: Path, drawn: DrawnImage) -> None:
    """Write a JPEG under a temporary name first, so that an interrupted run leaves no torn file behind."""
    bgr = np.ascontiguousarray(drawn.image[..., ::-1])
    encoded, data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
    if not encoded:
        raise OSError(f"could not encode {path} as JPEG; is the disk full?")
    content = data.tobytes()
    if path.exists() and path.read_bytes() == content:
        return
    temporary = path.with_suffix(".part")
    temporary.write_bytes(content)
    temporary.replace(path)
