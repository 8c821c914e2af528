"""The annotation tools that are read. To add one, write a reader of its files and an entry of `TOOLS`."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from partonomy.datasets.sources.annotation_tools.cvat import read_cvat
from partonomy.datasets.sources.annotation_tools.label_studio import read_label_studio
from partonomy.datasets.sources.annotation_tools.labelme import read_labelme
from partonomy.datasets.sources.annotation_tools.roles import to_records
from partonomy.datasets.sources.annotation_tools.shapes import Collection, ToolConfig, ToolFault, list_files
from partonomy.datasets.sources.annotation_tools.supervisely import read_supervisely
from partonomy.datasets.sources.annotation_tools.via import read_via
from partonomy.datasets.sources.group_parts_by_object import SourceNames, SourceReading, assemble
from partonomy.datasets.sources.records import CocoRecords
from partonomy.files import hash_files, hash_json


@dataclass(frozen=True)
class Tool:
    """An annotation tool.

    Attributes:
        read: reads its files into a collection of images and shapes.
        pattern: the names of its files in a folder.
        can_embed: whether its files may hold the images themselves.
    """

    read: Callable[[Collection], None]
    pattern: str = "*.json"
    can_embed: bool = False


TOOLS: Mapping[str, Tool] = {
    "cvat": Tool(read_cvat, "*.xml"),
    "label_studio": Tool(read_label_studio),
    "labelme": Tool(read_labelme, can_embed=True),
    "via": Tool(read_via),
    "supervisely": Tool(read_supervisely),
}


@dataclass(frozen=True)
class ToolReading:
    """A tool's files as read.

    Attributes:
        records: the checked records.
        faults: the bad records among what was left out.
        places: annotation id -> its file and record, for the annotations of usable images.
    """

    records: CocoRecords
    faults: tuple[ToolFault, ...]
    places: Mapping[int, str]


def read_tool(name: str, config: ToolConfig) -> ToolReading:
    """Read a tool's files as checked records; `build` and `check` both do.

    Args:
        name: the tool, a key of `TOOLS`.
        config: the files; `annotations` may be a folder.

    Raises:
        FileNotFoundError: a file, or (unless bad records are collected) an image is missing.
        ValueError: a file or (unless bad records are collected) a record is broken; the message gives place and cure.
    """
    collection = Collection(config)
    TOOLS[name].read(collection)
    records = to_records(collection)
    return ToolReading(records, tuple(collection.faults), {one.number: one.where for one in collection.shapes})


def read_tool_source(name: str, config: ToolConfig) -> SourceReading:
    """Read a tool's files as a data set; see `read_tool`."""
    path = config.annotations.resolve()
    default = path.name if path.is_dir() else path.parent.name
    return assemble(read_tool(name, config).records, config, SourceNames(config.name or default))


def hash_tool_files(name: str, path: Path) -> str:
    """Return the hash of a tool's files, with their places: Supervisely names an image only by its file's name.

    Raises:
        FileNotFoundError: there is no such file.
    """
    root = path if path.is_dir() else path.parent
    files: Iterable[Path] = list_files(path, TOOLS[name].pattern)
    return hash_json([[file.relative_to(root).as_posix(), hash_files([file])] for file in files])
