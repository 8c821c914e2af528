"""The sources that `python -m partonomy build` reads. To add a source, write a reader and an entry of `SOURCES`."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

from partonomy.datasets.sources.ade20k_part_234 import read_ade20k_part_234
from partonomy.datasets.sources.annotation_tools.shapes import ToolConfig
from partonomy.datasets.sources.annotation_tools.tools import TOOLS, hash_tool_files, read_tool_source
from partonomy.datasets.sources.coco import read_coco
from partonomy.datasets.sources.group_parts_by_object import SourceReading
from partonomy.datasets.sources.paco import read_paco
from partonomy.datasets.sources.part_imagenet import read_part_imagenet
from partonomy.datasets.sources.partonomy_core import find_record_file, read_record_source
from partonomy.datasets.sources.pascal_part import read_pascal_part
from partonomy.datasets.sources.records import CocoConfig
from partonomy.datasets.store import ANNOTATIONS_FILE, load_dataset
from partonomy.datasets.synthetic.dataset import SyntheticConfig, build_synthetic
from partonomy.files import hash_files
from partonomy.names import OBJECT_PART_SEPARATOR
from partonomy.suggestions import unknown_names

Settings = dict[str, str | int | float | bool | None]


@dataclass(frozen=True)
class SourceOptions:
    """Command-line options of a data source; an option that was not given is None.

    Attributes:
        output: folder of the data set; the embedded source draws into it.
        seed: seed of drawn data.
        num_workers: number of processes.
        invalid: "raise" or "collect" for bad records.
        images: folder of images; for the embedded source the number of images to draw, for the source "dataset" its
            folder.
        annotations, object_name, categories, name_map, name: see `CocoConfig`.
        object_names: see `read_part_imagenet`.
        fold_sides: see `read_pascal_part`.
        split, image_size: see `SyntheticConfig`.
        label_separator, label_attribute: see `ToolConfig`.
    """

    output: Path
    seed: int
    num_workers: int
    invalid: Literal["raise", "collect"]
    images: str | None = None
    annotations: Path | None = None
    object_name: str | None = None
    object_names: Path | None = None
    categories: Path | None = None
    name_map: Path | None = None
    name: str | None = None
    fold_sides: bool | None = None
    split: Literal["train", "dev", "val"] | None = None
    image_size: int | None = None
    label_separator: str | None = None
    label_attribute: str | None = None


@dataclass(frozen=True)
class DataSource:
    """A data source: its reader, its own options, and the settings that its output depends on."""

    options: frozenset[str]
    settings: Callable[[str, SourceOptions], Settings]
    read: Callable[[SourceOptions], SourceReading]


def find_source(name: str, options: SourceOptions) -> DataSource:
    """Return the source called `name`.

    Raises:
        ValueError: the source is unknown, or does not use a given option.
    """
    if name not in SOURCES:
        raise ValueError(unknown_names("source", [name], SOURCES))
    source = SOURCES[name]
    optional = {field.name for field in fields(SourceOptions) if field.default is None}
    unused = sorted(key for key in optional - source.options if getattr(options, key) is not None)
    if unused:
        raise ValueError(f"--source {name} does not use --{', --'.join(unused)}")
    return source


def _annotated_config(options: SourceOptions) -> CocoConfig:
    """Return the configuration of a source that reads annotations and a folder of images."""
    if options.annotations is None or options.images is None:
        raise ValueError("this source needs --annotations (file or folder) and --images FOLDER")
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
        num_workers=options.num_workers,
    )


def _annotated_settings(source: str, options: SourceOptions) -> Settings:
    """Return the settings that the output depends on: every option of the source; files become content hashes."""
    config = _annotated_config(options)
    settings: Settings = {"source": source, "images": config.images.resolve().as_posix(), "invalid": config.invalid}
    for flag in sorted(SOURCES[source].options - {"images"}):
        value = getattr(options, flag)
        if flag == "annotations" or isinstance(value, Path):
            settings[f"{flag}_sha256"] = _hash_input(flag, value)
        elif flag in PATH_OPTIONS:
            settings[f"{flag}_sha256"] = None
        else:
            settings[flag] = value
    return settings


def _hash_input(flag: str, path: Path) -> str:
    """Return the hash of a file, or of the .mat files in a folder."""
    if path.is_dir():
        return hash_files(sorted(path.glob("*.mat")))
    if not path.is_file():
        raise FileNotFoundError(f"{path}: the file of --{flag} does not exist")
    return hash_files([path])


def _record_config(options: SourceOptions) -> CocoConfig:
    """Return the configuration of a record file, given by --annotations or by its folder (--images)."""
    place = options.annotations or (Path(options.images) if options.images is not None else None)
    if place is None:
        raise ValueError("this source needs --images FOLDER (with the record file in it) or --annotations FILE")
    record_file = find_record_file(place)
    return CocoConfig(
        annotations=record_file,
        images=record_file.parent,
        name=options.name,
        categories=options.categories,
        name_map=options.name_map,
        invalid=options.invalid,
    )


def _record_settings(source: str, options: SourceOptions) -> Settings:
    config = _record_config(options)
    named = {"annotations": config.annotations, "categories": config.categories, "name_map": config.name_map}
    settings: Settings = {"source": source, "images": config.images.resolve().as_posix(), "invalid": config.invalid}
    settings |= {"name": config.name}
    return settings | {
        f"{flag}_sha256": None if path is None else _hash_input(flag, path) for flag, path in named.items()
    }


def _dataset_folder(options: SourceOptions) -> Path:
    if options.images is None:
        raise ValueError("--source dataset needs --images FOLDER, a data set made by build, prune, merge or split")
    return Path(options.images)


def _dataset_settings(source: str, options: SourceOptions) -> Settings:
    folder = _dataset_folder(options)
    if not (folder / ANNOTATIONS_FILE).is_file():
        raise FileNotFoundError(f"{folder} is not a data set folder, because it has no {ANNOTATIONS_FILE}")
    digest = hash_files([folder / ANNOTATIONS_FILE])
    return {"source": source, "images": folder.resolve().as_posix(), "annotations_sha256": digest}


def synthetic_config(options: SourceOptions) -> SyntheticConfig:
    """Return the settings of the drawing.

    Raises:
        ValueError: `images` is not a number.
    """
    try:
        num_images = int(options.images or "")
    except ValueError as error:
        raise ValueError(f"--source synthetic draws --images N images, got {options.images!r}") from error
    split = options.split or "train"
    if options.image_size is None:
        return SyntheticConfig(num_images=num_images, split=split, seed=options.seed)
    return SyntheticConfig(num_images=num_images, split=split, seed=options.seed, image_size=options.image_size)


def _synthetic_settings(source: str, options: SourceOptions) -> Settings:
    config = synthetic_config(options)
    return {
        "source": source,
        "num_images": config.num_images,
        "split": config.split,
        "seed": config.seed,
        "image_size": config.image_size,
    }


def tool_config(source: str, options: SourceOptions) -> ToolConfig:
    """Return the configuration of an annotation tool's files.

    Without --images, the images inside the files are written to the folder `images` of the output (labelme).

    Raises:
        FileNotFoundError: the image folder does not exist.
        ValueError: an option is missing.
    """
    can_embed = TOOLS[source].can_embed
    if options.annotations is None or (options.images is None and not can_embed):
        without = " (or without it, if the files hold the images)" if can_embed else ""
        raise ValueError(f"--source {source} needs --annotations (file or folder) and --images FOLDER{without}")
    if options.images is not None and not Path(options.images).is_dir():
        raise FileNotFoundError(f"{options.images}: the image folder (--images) does not exist")
    if options.label_separator == "":
        raise ValueError("--label_separator must not be empty")
    return ToolConfig(
        annotations=options.annotations,
        images=options.output / EMBEDDED_IMAGES if options.images is None else Path(options.images),
        name=options.name,
        object_name=options.object_name,
        categories=options.categories,
        name_map=options.name_map,
        invalid=options.invalid,
        label_separator=options.label_separator or OBJECT_PART_SEPARATOR,
        label_attribute=options.label_attribute,
        is_embedded=options.images is None,
    )


def _tool_settings(source: str, options: SourceOptions) -> Settings:
    config = tool_config(source, options)
    settings: Settings = {
        "source": source,
        "images": None if config.is_embedded else config.images.resolve().as_posix(),
        "invalid": config.invalid,
        "annotations_sha256": hash_tool_files(source, config.annotations),
        "name": config.name,
        "object_name": config.object_name,
        "label_separator": config.label_separator,
    }
    if "label_attribute" in SOURCES[source].options:
        settings["label_attribute"] = config.label_attribute
    tables = {"categories": config.categories, "name_map": config.name_map}
    return settings | {
        f"{flag}_sha256": None if path is None else _hash_input(flag, path) for flag, path in tables.items()
    }


def _tool_source(name: str) -> DataSource:
    own = frozenset({"label_attribute"}) if name == "via" else frozenset[str]()
    return DataSource(
        ANNOTATED | {"object_name", "label_separator"} | own,
        _tool_settings,
        lambda options: read_tool_source(name, tool_config(name, options)),
    )


EMBEDDED_IMAGES = "images"
PATH_OPTIONS = frozenset({"annotations", "categories", "name_map", "object_names"})
ANNOTATED = frozenset({"annotations", "images", "categories", "name_map", "name"})

SOURCES: Mapping[str, DataSource] = {
    "coco": DataSource(
        ANNOTATED | {"object_name"}, _annotated_settings, lambda options: read_coco(_annotated_config(options))
    ),
    "paco": DataSource(ANNOTATED, _annotated_settings, lambda options: read_paco(_annotated_config(options))),
    "ade20k_part_234": DataSource(
        ANNOTATED, _annotated_settings, lambda options: read_ade20k_part_234(_annotated_config(options))
    ),
    "part_imagenet": DataSource(
        ANNOTATED | {"object_names"},
        _annotated_settings,
        lambda options: read_part_imagenet(_annotated_config(options), options.object_names),
    ),
    "pascal_part": DataSource(
        ANNOTATED | {"fold_sides"},
        _annotated_settings,
        lambda options: read_pascal_part(_annotated_config(options), options.fold_sides or False, options.num_workers),
    ),
    "partonomy_core": DataSource(
        ANNOTATED, _record_settings, lambda options: read_record_source(_record_config(options))
    ),
    **{name: _tool_source(name) for name in TOOLS},
    "dataset": DataSource(
        frozenset({"images"}),
        _dataset_settings,
        lambda options: SourceReading(load_dataset(_dataset_folder(options)), ()),
    ),
    "synthetic": DataSource(
        frozenset({"images", "split", "image_size"}),
        _synthetic_settings,
        lambda options: SourceReading(
            build_synthetic(synthetic_config(options), options.output, options.num_workers), ()
        ),
    ),
}
