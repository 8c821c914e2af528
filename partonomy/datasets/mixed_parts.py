"""MixedParts: pairs of images whose common objects, common parts or unique parts are to be found (CALICO, section 4).

A folder of pairs holds
- `dataset.json`: format, and each source's image root and taxonomy (object label -> part labels);
- `train.jsonl`, `val.jsonl`, `test.jsonl`: one sample per line,
  `{"id", "task", "source", "images": [2 paths below the source's image root],
  "objects": [{"label", "image", "rle"}], "parts": [{"label", "owner", "image", "rle"}]}`, where `image` is 0 or 1;
- `comparable.tsv`: which classes of a source were compared, and why;
- `build.json`: settings, counts, and the hashes of the other files; it is written last.

In the task `common_objects` the objects are the targets. In the part tasks the objects own the parts; an answer names
both, and the parts are the targets. A common part is listed once for each image.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, overload

import msgspec

from partonomy.files import RECORD_ERRORS, check_relative_path, check_text, read_json, reason_of, shorten
from partonomy.masks import rle_from_coco
from partonomy.stored_lines import OpenFile, StoredLines
from partonomy.structures import RLE
from partonomy.suggestions import did_you_mean

FORMAT = "mixed-parts"
FORMAT_VERSION = 1
DATASET_FILE, BUILD_FILE, COMPARABLE_FILE = "dataset.json", "build.json", "comparable.tsv"
SPLITS = ("train", "val", "test")


class PairTask(StrEnum):
    """What is asked about a pair of images."""

    COMMON_OBJECTS = "common_objects"
    COMMON_PARTS = "common_parts"
    UNIQUE_PARTS = "unique_parts"


@dataclass(frozen=True)
class PairObject:
    """An object in one of the two images (index 0 or 1)."""

    label: str
    image: int
    mask: RLE


@dataclass(frozen=True)
class PairPart:
    """A part of the object `owner` in one of the two images (index 0 or 1)."""

    label: str
    owner: str
    image: int
    mask: RLE


@dataclass(frozen=True)
class PairSample:
    """Two images and what they have in common, or what only one of them has.

    Attributes:
        sample_id: Unique in its folder.
        task: What is asked.
        source: Name of the data set that both images come from.
        images: Paths below the source's image root.
        objects: The common objects, or the owners of the parts; both images have one.
        parts: Empty in the task `common_objects`.
    """

    sample_id: str
    task: PairTask
    source: str
    images: tuple[str, str]
    objects: tuple[PairObject, ...]
    parts: tuple[PairPart, ...]

    @property
    def size_of(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """Height and width of both images, pixels."""
        found: dict[int, tuple[int, int]] = {}
        for one in self.objects:
            found.setdefault(one.image, (one.mask.height, one.mask.width))
        return found[0], found[1]


@dataclass(frozen=True)
class TargetCounts:
    """Samples by number of targets: common objects, parts that both images show, or parts that only one of them shows.

    As in the paper's Table 4, what both images show counts once.
    """

    by_number: Counter[int] = field(default_factory=Counter)

    @property
    def num_samples(self) -> int:
        """Number of samples."""
        return self.by_number.total()

    @property
    def num_targets(self) -> int:
        """Number of targets of all samples."""
        return sum(number * count for number, count in self.by_number.items())

    @property
    def mean(self) -> float:
        """Mean number of targets of a sample; 0 without samples."""
        return self.num_targets / self.num_samples if self.num_samples else 0.0

    @property
    def median(self) -> int:
        """Lower median of the number of targets of a sample; 0 without samples."""
        seen = 0
        for number in sorted(self.by_number):
            seen += self.by_number[number]
            if 2 * seen >= self.num_samples:
                return number
        return 0

    @property
    def largest(self) -> int:
        """Largest number of targets of a sample; 0 without samples."""
        return max(self.by_number, default=0)


@dataclass(frozen=True)
class PairSource:
    """A source of pairs: its images' folder, and the part labels of each of its object labels."""

    image_root: Path
    taxonomy: Mapping[str, tuple[str, ...]]


def read_sources(folder: Path) -> Mapping[str, PairSource]:
    """Read `dataset.json`.

    Raises:
        FileNotFoundError: The folder has no such file.
        ValueError: The file is broken or of another format.
    """
    path = folder / DATASET_FILE
    if not path.is_file():
        raise FileNotFoundError(f"{path}: not found; build the pairs first (python -m partonomy build-mixedparts)")
    content = read_json(path)
    if not is_mixed_parts(content) or content.get("format_version") != FORMAT_VERSION:
        raise ValueError(
            f"{path}: expected format {FORMAT!r} version {FORMAT_VERSION}, got {shorten(content.get('format'))} "
            f"version {shorten(content.get('format_version'))}; build the pairs again, or update the code"
        )
    try:
        return {
            check_text(name, "a source's name"): PairSource(
                (folder / check_text(entry["image_root"], "'image_root'")).resolve(),
                {
                    check_text(label, "an object"): tuple(check_text(part, f"a part of {label}") for part in parts)
                    for label, parts in entry["taxonomy"].items()
                },
            )
            for name, entry in content["sources"].items()
        }
    except RECORD_ERRORS as error:
        raise ValueError(f"{path}: {reason_of(error)}; build the pairs again") from error


def is_mixed_parts(content: Mapping[str, Any]) -> bool:
    """Whether `dataset.json` has this format."""
    return content.get("format") == FORMAT


def split_file(folder: Path, split: str) -> Path:
    """Return the file of a split's samples.

    Raises:
        ValueError: There is no such split.
    """
    if split not in SPLITS:
        raise ValueError(f"there is no split {split!r}; known: {', '.join(SPLITS)}{did_you_mean(split, SPLITS)}")
    return folder / f"{split}.jsonl"


class PairSamples(Sequence[PairSample]):
    """The samples of a file, each read and checked on access; 16 bytes of memory each.

    Args:
        path: A file of samples.

    Raises:
        FileNotFoundError: The file does not exist.
    """

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise FileNotFoundError(f"{path}: not found; build the pairs first (python -m partonomy build-mixedparts)")
        self._path = path
        self._lines = StoredLines(OpenFile.of(path))
        start = 0
        with path.open("rb") as file:
            for line in file:
                self._lines.append(start, len(line))
                start += len(line)

    def __len__(self) -> int:
        return len(self._lines)

    @overload
    def __getitem__(self, index: int) -> PairSample: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[PairSample, ...]: ...
    def __getitem__(self, index: int | slice) -> PairSample | tuple[PairSample, ...]:
        if isinstance(index, slice):
            return tuple(self[place] for place in range(*index.indices(len(self))))
        if not -len(self) <= index < len(self):
            raise IndexError(f"{self._path} has {len(self)} samples; there is none at position {index}")
        place = index % len(self)
        return read_sample(self._lines[place], f"{self._path}, line {place + 1}")

    def __iter__(self) -> Iterator[PairSample]:
        return map(self.__getitem__, range(len(self)))

    def image_names(self) -> Iterator[tuple[str, tuple[str, str]]]:
        """Yield the source and the images of each sample, without reading its masks.

        Raises:
            ValueError: A line is damaged; the message names it.
        """
        for place in range(len(self)):
            try:
                line = _IMAGES_DECODER.decode(self._lines[place])
            except msgspec.MsgspecError as error:
                raise ValueError(
                    f"{self._path}, line {place + 1}: not a sample of MixedParts ({error}); build the pairs again"
                ) from error
            yield line.source, line.images


class _Mask(msgspec.Struct):
    """A mask of a line: its size and its compressed code."""

    size: tuple[int, int]
    counts: str


class _Object(msgspec.Struct):
    """An object of a line."""

    label: str
    image: int
    rle: _Mask


class _Part(msgspec.Struct):
    """A part of a line."""

    label: str
    owner: str
    image: int
    rle: _Mask


class _Line(msgspec.Struct):
    """A line of a file of samples."""

    id: str
    task: PairTask
    source: str
    images: tuple[str, str]
    objects: list[_Object]
    parts: list[_Part]


class _Images(msgspec.Struct):
    """A line of a file of samples, without what is found in its images."""

    source: str
    images: tuple[str, str]


_DECODER, _IMAGES_DECODER = msgspec.json.Decoder(_Line), msgspec.json.Decoder(_Images)


def read_sample(line: bytes, where: str) -> PairSample:
    """Read and check a line of a file of samples.

    Args:
        line: The line.
        where: File and line, for error messages.

    Raises:
        ValueError: The line is damaged; the message says where and how.
    """
    try:
        return _to_sample(_DECODER.decode(line))
    except (msgspec.MsgspecError, *RECORD_ERRORS) as error:
        raise ValueError(f"{where}: not a sample of MixedParts ({reason_of(error)}); build the pairs again") from error


def _to_sample(content: _Line) -> PairSample:
    names = tuple(check_relative_path(name, "an image of 'images'") for name in content.images)
    if names[0] == names[1]:
        raise ValueError(f"both images are {names[0]!r}; a pair needs two")
    objects = tuple(
        PairObject(check_text(one.label, "'label'"), one.image, _read_mask(one.rle, f"object {place}"))
        for place, one in enumerate(content.objects)
    )
    parts = tuple(
        PairPart(check_text(one.label, "'label'"), one.owner, one.image, _read_mask(one.rle, f"part {place}"))
        for place, one in enumerate(content.parts)
    )
    if {one.image for one in objects} != {0, 1}:
        raise ValueError("'objects' must have an object with 'image' 0 and one with 'image' 1, and no other 'image'")
    sizes = {(one.image, one.mask.height, one.mask.width) for one in objects}
    sizes |= {(one.image, one.mask.height, one.mask.width) for one in parts}
    if len(sizes) != 2:
        raise ValueError(f"the masks of an image must have one size, got (image, height, width) {sorted(sizes)}")
    owners = {(one.label, one.image) for one in objects}
    lost = [one for one in parts if (one.owner, one.image) not in owners]
    if lost:
        raise ValueError(
            f"the part {lost[0].label!r} belongs to {lost[0].owner!r}, which is not an object of its image"
        )
    if bool(parts) is (content.task is PairTask.COMMON_OBJECTS):
        raise ValueError(f"a sample of {content.task} must have {'no parts' if parts else 'parts'}")
    return PairSample(
        check_text(content.id, "'id'"), content.task, content.source, (names[0], names[1]), objects, parts
    )


def _read_mask(content: _Mask, where: str) -> RLE:
    height, width = content.size
    return rle_from_coco({"size": [height, width], "counts": content.counts}, height, width, f"the mask of {where}")
