"""The sources that `python -m partonomy build` reads. A new source is one reader and one entry of `SOURCES`."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

from partonomy.datasets.coco import SourceReading, read_coco
from partonomy.datasets.coco_records import CocoConfig
from partonomy.datasets.files import hash_files
from partonomy.datasets.synthetic import SyntheticConfig, build_synthetic

Settings = dict[str, str | int | float | bool | None]


@dataclass(frozen=True)
class SourceOptions:
    """What the command line knows about a source; None: not given.

    Attributes:
        images: folder of images; of the embedded source the number of images to draw.
        output: folder of the data set, into which the embedded source draws.
        seed: of drawn data.
        num_workers: processes.
        invalid: "raise" or "collect" bad records.
        annotations, object_name, categories, name_map, name: see `CocoConfig`.
        split, image_size: see `SyntheticConfig`.
    """

    images: str
    output: Path
    seed: int
    num_workers: int
    invalid: Literal["raise", "collect"]
    annotations: Path | None = None
    object_name: str | None = None
    categories: Path | None = None
    name_map: Path | None = None
    name: str | None = None
    split: Literal["train", "dev", "val"] | None = None
    image_size: int | None = None


@dataclass(frozen=True)
class DataSource:
    """A source: which options it understands besides the common ones, what its output depends on, how it is read."""

    options: frozenset[str]
    settings: Callable[[SourceOptions], Settings]
    read: Callable[[SourceOptions], SourceReading]


def find_source(name: str, options: SourceOptions) -> DataSource:
    """Return the source called `name`.

    Raises:
        ValueError: an unknown source, or an option that this source does not use.
    """
    if name not in SOURCES:
        raise ValueError(f"unknown source {name!r}; known: {', '.join(SOURCES)}")
    source = SOURCES[name]
    optional = {field.name for field in fields(SourceOptions) if field.default is None}
    unused = sorted(key for key in optional - source.options if getattr(options, key) is not None)
    if unused:
        raise ValueError(f"--source {name} does not use --{', --'.join(unused)}")
    return source


def _coco_config(options: SourceOptions) -> CocoConfig:
    if options.annotations is None:
        raise ValueError("--source coco needs --annotations FILE")
    if not Path(options.images).is_dir():
        raise FileNotFoundError(f"{options.images}: the image folder (--images) does not exist")
    return CocoConfig(
        annotations=options.annotations,
        images=Path(options.images),
        name=options.name,
        object_name=options.object_name,
        categories=options.categories,
        name_map=options.name_map,
        invalid=options.invalid,
    )


def _coco_settings(options: SourceOptions) -> Settings:
    config = _coco_config(options)
    files = {"annotations": config.annotations, "categories": config.categories, "name_map": config.name_map}
    for flag, path in files.items():
        if path is not None and not path.is_file():
            raise FileNotFoundError(f"{path}: the file of --{flag} does not exist")
    hashes: Settings = {f"{flag}_sha256": None if path is None else hash_files([path]) for flag, path in files.items()}
    settings: Settings = {
        "source": "coco",
        "images": config.images.resolve().as_posix(),
        "name": config.name,
        "object_name": config.object_name,
        "invalid": config.invalid,
    }
    return settings | hashes


def _read_coco(options: SourceOptions) -> SourceReading:
    return read_coco(_coco_config(options))


def _synthetic_config(options: SourceOptions) -> SyntheticConfig:
    try:
        num_images = int(options.images)
    except ValueError as error:
        raise ValueError(f"--source synthetic draws --images N images, got {options.images!r}") from error
    split = options.split or "train"
    if options.image_size is None:
        return SyntheticConfig(num_images=num_images, split=split, seed=options.seed)
    return SyntheticConfig(num_images=num_images, split=split, seed=options.seed, image_size=options.image_size)


def _synthetic_settings(options: SourceOptions) -> Settings:
    config = _synthetic_config(options)
    return {
        "source": "synthetic",
        "num_images": config.num_images,
        "split": config.split,
        "seed": config.seed,
        "image_size": config.image_size,
    }


def _read_synthetic(options: SourceOptions) -> SourceReading:
    return SourceReading(build_synthetic(_synthetic_config(options), options.output, options.num_workers), ())


SOURCES: Mapping[str, DataSource] = {
    "coco": DataSource(
        frozenset({"annotations", "object_name", "categories", "name_map", "name"}), _coco_settings, _read_coco
    ),
    "synthetic": DataSource(frozenset({"split", "image_size"}), _synthetic_settings, _read_synthetic),
}
