"""Collects the images and shapes that a tool's reader finds, and what has to be left out, with its place and reason.

Shapes are numbered from 1 in reading order; these numbers are the data set's annotation ids.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from partonomy.datasets.sources.annotation_tools.image_files import ImageFolder
from partonomy.datasets.sources.annotation_tools.regions import Region
from partonomy.datasets.sources.coco import unusable_image
from partonomy.datasets.sources.records import CocoConfig, CocoImage
from partonomy.files import RECORD_ERRORS, files_below, reason_of
from partonomy.images import check_image, image_size
from partonomy.names import OBJECT_PART_SEPARATOR
from partonomy.progress import progress

LEAVE_OUT = "correct it, or leave it out with --invalid collect"


@dataclass(frozen=True)
class ToolConfig(CocoConfig):
    """The files of an annotation tool and how their labels name objects and parts.

    Attributes:
        label_separator: what stands between the object and the part in a label ("car:wheel"), or "part-of" with the
            part first ("wheel part-of car").
        label_attribute: the attribute that holds the label, for a tool that has only attributes (VIA).
        is_embedded: whether the images lie in the annotation files (labelme); they are written to `images`.
    """

    label_separator: str = OBJECT_PART_SEPARATOR
    label_attribute: str | None = None
    is_embedded: bool = False


@dataclass(frozen=True)
class Naming:
    """What a shape says about what it shows.

    Attributes:
        label: the tool's label (class) of the shape.
        object_name: value of the attribute `object`, the class of the object that the shape belongs to.
        part_name: value of the attribute `part`.
        group: shapes of one image with equal groups belong to one instance; None for no group.
        key: the shape's own key, unique in its image, for `parent`.
        parent: key of the shape that this one is a part of.
    """

    label: str
    object_name: str | None = None
    part_name: str | None = None
    group: str | None = None
    key: str | None = None
    parent: str | None = None


@dataclass(frozen=True)
class Shape:
    """One shape of a usable image. `region` is None if it is broken; `where` names its file and record."""

    number: int
    image: CocoImage
    where: str
    naming: Naming | None
    region: Region | None


@dataclass(frozen=True)
class ToolFault:
    """A record that `build` refuses, or leaves out with `--invalid collect`: its file and place, and the reason."""

    where: str
    reason: str


@dataclass(frozen=True)
class OpenedImage:
    """An image record; `image` is None, and `reason` says why, if the image cannot be used."""

    image: CocoImage | None
    reason: str = ""


@dataclass
class Collection:
    """What a reader has found so far.

    Attributes:
        config: the files.
        images: the usable images.
        shapes: the shapes of usable images.
        skipped: the numbers of the shapes that were left out, by reason.
        faults: the bad records among what was left out.
        num_shapes: the number of all shapes, used or left out.
    """

    config: ToolConfig
    images: list[CocoImage] = field(default_factory=list)
    shapes: list[Shape] = field(default_factory=list)
    skipped: dict[str, list[int]] = field(default_factory=dict)
    faults: list[ToolFault] = field(default_factory=list)
    num_shapes: int = 0

    def __post_init__(self) -> None:
        self._folder: ImageFolder | None = None
        self._named: dict[str, str] = {}  # image file -> the record that named it first

    def find_image(self, *names: str, is_uploaded: bool = False) -> str:
        """Return the path of an image below the image folder; see `ImageFolder.find`."""
        if self._folder is None:
            self._folder = ImageFolder(self.config.images)
        return self._folder.find(names, is_uploaded=is_uploaded)

    def open_image(
        self, where: str, find: Callable[[], str], size: Callable[[], tuple[int, int] | None]
    ) -> OpenedImage:
        """Add an image.

        Args:
            where: its file and record.
            find: returns the image file's path below the image folder.
            size: returns the height and width in pixels that the record states, if any.

        Raises:
            FileNotFoundError, ValueError: it cannot be used, and bad records are not collected.
        """
        try:
            file_name, stated = find(), size()
            path = self.config.images / file_name
            if file_name in self._named:
                raise ValueError(f"the image file {file_name!r} is annotated in {self._named[file_name]} too; keep one")
            if stated is None:
                stated = image_size(path)
            check_image(path, *stated)
        except RECORD_ERRORS as error:
            return OpenedImage(None, self.leave_out_record(where, error))
        self._named[file_name] = where
        image = CocoImage(len(self.images) + 1, file_name, *stated)
        self.images.append(image)
        return OpenedImage(image)

    def leave_out_record(self, where: str, error: Exception) -> str:
        """Leave out a broken file or image record; returns the reason for the annotations in it.

        Raises:
            FileNotFoundError, ValueError: bad records are not collected.
        """
        self.add_fault(where, error)
        reason = reason_of(error)
        reason = unusable_image(reason if where in reason else f"{where}: {reason}")
        self.skipped.setdefault(reason, [])
        return reason

    def add_fault(self, where: str, error: Exception) -> None:
        """Note a bad record.

        Raises:
            FileNotFoundError, ValueError: bad records are not collected. The message has the place and the cure.
        """
        reason = reason_of(error)
        self.faults.append(ToolFault(where, reason))
        if self.config.invalid == "raise":
            place = reason if where in reason else f"{where}: {reason}"
            kind = FileNotFoundError if isinstance(error, FileNotFoundError) else ValueError
            raise kind(f"{place} ({LEAVE_OUT})") from error

    def leave_out(self, reason: str) -> None:
        """Count a shape that is not looked at."""
        self.num_shapes += 1
        self.skipped.setdefault(reason, []).append(self.num_shapes)

    def add_shape(
        self, where: str, opened: OpenedImage, name: Callable[[], Naming], draw: Callable[[CocoImage], Region]
    ) -> None:
        """Add a shape.

        Args:
            where: its file and record.
            opened: its image.
            name: reads what it is.
            draw: reads what it covers.

        Raises:
            ValueError: it is broken, and bad records are not collected.
        """
        if opened.image is None:
            self.leave_out(opened.reason)
            return
        naming = region = None
        try:
            naming = name()
            region = draw(opened.image)
        except RECORD_ERRORS as error:
            self.add_fault(where, error)
            self.leave_out(f"{where}: {reason_of(error)}")
        else:
            self.num_shapes += 1
        self.shapes.append(Shape(self.num_shapes, opened.image, where, naming, region))


def list_files(path: Path, pattern: str) -> list[Path]:
    """Return the files to read: `path` itself, or those below the folder `path`, sorted.

    Raises:
        FileNotFoundError: there is none.
        ValueError: the file is an archive.
    """
    if path.is_file():
        if path.suffix.lower() in (".zip", ".tar", ".gz", ".tgz"):
            raise ValueError(f"{path}: an archive; unpack it and pass the folder or file in it as --annotations")
        return [path]
    if not path.is_dir():
        raise FileNotFoundError(f"{path}: not found; pass the exported file or its folder as --annotations")
    files = sorted(file for file in files_below(path) if file.match(pattern))
    if not files:
        raise FileNotFoundError(f"{path}: no {pattern} in this folder; pass the exported file or its folder")
    return files


def show_progress(paths: Sequence[Path]) -> Iterator[Path]:
    """Yield the files of a tool that has one for each image."""
    with progress(len(paths), "annotation files", "file") as shown:
        for path in paths:
            yield path
            shown.update()
