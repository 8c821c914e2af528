"""Reads Pascal-Part: the original `Annotations_Part/*.mat` on VOC 2010's images, or a COCO-form `train.json` of them.

`pascal_part.yaml` translates the class and part codes into words.
"""

import io
import multiprocessing
import re
import struct
import zlib
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from scipy.io import loadmat

from partonomy.datasets.sources.group_parts_by_object import SourceNames, SourceReading, assemble
from partonomy.datasets.sources.published_coco import EMPTY_MASK, ImageFinder, PublishedForm, Role, read_published
from partonomy.datasets.sources.records import (
    CocoConfig,
    CocoImage,
    CocoRecords,
    RawAnnotation,
    SkippedAnnotations,
    UnusableAnnotation,
)
from partonomy.images import check_image, image_size
from partonomy.masks import encode_mask
from partonomy.names import OBJECT_PART_SEPARATOR, clean_name, read_text_map
from partonomy.progress import progress
from partonomy.structures import RLE

TABLE = Path(__file__).with_suffix(".yaml")
TABLE_PATH = "partonomy/datasets/sources/pascal_part.yaml"
NUMBER = re.compile(r"_\d+$")
NUMBERED = "_N"
SIDES = {"left", "right"}
HEADER_BYTES = 128
COMPRESSED = 15  # type of an element of a MATLAB 5 file
MAX_BYTES = 1 << 30  # limit of an unpacked variable; the release's largest has about 10 MB
NAME = "pascal_part"
NUM_FILES_PER_CHUNK = 8


@dataclass(frozen=True)
class PascalTable:
    """Words for Pascal-Part's codes.

    Attributes:
        objects: class -> words, for classes whose name is not a word.
        parts: class -> code ("wheel_N" for wheel_1, ...) -> words.
        categories: words of a class -> category.
    """

    objects: Mapping[str, str]
    parts: Mapping[str, Mapping[str, str]]
    categories: Mapping[str, str]


@cache
def load_table() -> PascalTable:
    """Read the packaged table."""
    content = yaml.safe_load(TABLE.read_text(encoding="utf-8"))
    categories = {name: category for category, names in content["categories"].items() for name in names}
    return PascalTable(content["objects"], content["parts"], categories)


def fold_number(code: str) -> str:
    """Return the code without its instance number: "wheel_2" becomes "wheel"."""
    return NUMBER.sub("", code)


def name_part(class_name: str, code: str, name_map: Mapping[str, str], fold_sides: bool) -> str:
    """Return the words of a part code.

    Args:
        class_name: the object's name in the file ("car").
        code: the part's name in the file ("wheel_2", "fliplate").
        name_map: the user's words for "class:code" or "code", with or without the number; they take precedence.
        fold_sides: drop "left" and "right".

    Raises:
        ValueError: neither table contains the code; the message names the packaged table's file.
    """
    folded = fold_number(code)
    for key in (code, folded):
        for name in (f"{class_name}{OBJECT_PART_SEPARATOR}{key}", key):
            if name in name_map:
                return name_map[name]
    codes = load_table().parts.get(class_name, {})
    words = codes.get(code) or (codes.get(folded + NUMBERED) if folded != code else None)
    if words is None:
        raise ValueError(
            f"the part code {code!r} of class {class_name!r} is not in the table of Pascal-Part's codes "
            f'({TABLE_PATH}); add it there, or pass --name_map with {{"{class_name}:{folded}": its name}}'
        )
    return without_sides(words) if fold_sides else words


def without_sides(words: str) -> str:
    """Remove the sides from a name ("left front leg" becomes "front leg"), unless nothing else is left."""
    return " ".join(word for word in words.split() if word not in SIDES) or words


@dataclass(frozen=True)
class MatPart:
    """A part under its code ("lfuleg", "wheel_1"). `mask` is None if it covers no pixel."""

    code: str
    mask: RLE | None


@dataclass(frozen=True)
class MatObject:
    """An object of a VOC class with its parts, which may overlap or be missing."""

    class_name: str
    mask: RLE
    parts: tuple[MatPart, ...]


def read_mat(path: Path) -> tuple[MatObject, ...]:
    """Read a .mat file.

    Raises:
        ValueError: the file is damaged or has another structure, it annotates another image than its name says, or its
            masks differ in size. The message names file, object and part.
    """
    try:
        content = path.read_bytes()
        _check_container(content)
        anno = loadmat(io.BytesIO(content), variable_names=["anno"])["anno"][0, 0]
        image_name, objects = str(anno["imname"][0]), anno["objects"].reshape(-1)
    except Exception as error:  # SciPy raises a dozen types of error for files of another structure
        raise ValueError(
            f"{path}: not an annotation file of Pascal-Part (MATLAB 5, `anno` with `imname` and `objects`): {error!r}"
        ) from error
    if image_name != path.stem:
        raise ValueError(f"{path}: the file annotates the image {image_name!r}, not the one it is named after")
    read = tuple(_read_object(content, f"{path}, object {number}") for number, content in enumerate(objects))
    masks = [mask for one in read for mask in (one.mask, *(part.mask for part in one.parts)) if mask is not None]
    sizes = sorted({(mask.height, mask.width) for mask in masks})
    if len(sizes) > 1:
        raise ValueError(f"{path}: the masks differ in size (height, width): {sizes}")
    return read


def _check_container(content: bytes) -> None:
    """Check a file's framing and checksums. SciPy's reader trusts the bytes, so damaged ones can crash the process."""
    byte_order = {b"IM": "<", b"MI": ">"}.get(content[126:128])
    if not content.startswith(b"MATLAB 5.0") or byte_order is None:
        raise ValueError("not a MATLAB 5 file")
    position = HEADER_BYTES
    while position < len(content):
        kind, size = struct.unpack_from(f"{byte_order}II", content, position)
        if kind != COMPRESSED:
            raise ValueError(
                "a variable is not compressed and so has no checksum; save the file again with compression (-v7 in "
                "MATLAB, do_compression=True in SciPy)"
            )
        packed = zlib.decompressobj()
        packed.decompress(content[position + 8 : position + 8 + size], MAX_BYTES)
        if not packed.eof:
            raise ValueError("the file ends early, or a variable is larger than a gigabyte")
        position += 8 + size


def _read_object(content: Any, where: str) -> MatObject:
    try:
        class_name, parts = str(content["class"][0]), content["parts"].reshape(-1)
    except (KeyError, IndexError, ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{where}: needs `class`, `mask` and `parts` ({error!r})") from error
    mask = _read_mask(content, where)
    return MatObject(
        class_name, encode_mask(mask), tuple(_read_part(part, f"{where} ({class_name})") for part in parts)
    )


def _read_part(content: Any, where: str) -> MatPart:
    try:
        code = str(content["part_name"][0])
    except (KeyError, IndexError, ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{where}: a part needs `part_name` and `mask` ({error!r})") from error
    mask = _read_mask(content, f"{where}, part {code!r}")
    return MatPart(code, encode_mask(mask) if mask.any() else None)


def _read_mask(content: Any, where: str) -> np.ndarray:
    """Return the mask, bool (H, W), in image pixels."""
    try:
        mask = np.asarray(content["mask"])
    except (KeyError, IndexError, ValueError) as error:
        raise ValueError(f"{where}: needs a `mask` ({error!r})") from error
    if mask.ndim != 2 or mask.size == 0 or mask.dtype.kind not in "bui":
        raise ValueError(f"{where}: `mask` must be an integer array (height, width), got {mask.dtype} {mask.shape}")
    return mask > 0


def read_pascal_part(config: CocoConfig, fold_sides: bool = False, num_workers: int = 1) -> SourceReading:
    """Read Pascal-Part.

    Args:
        config: `annotations` is the folder of the .mat files, or the JSON file.
        fold_sides: treat "left wing" and "right wing" as the same part, "wing".
        num_workers: number of processes that read .mat files; the result does not depend on it.

    Raises:
        FileNotFoundError: there are no annotations, or an image is missing.
        ValueError: a file or record is broken, or a part code is in no table. The message names file and object.
    """
    name_map = read_text_map(config.name_map, "name map") if config.name_map else {}
    if config.annotations.is_dir():
        records = _MatReader(config, name_map, fold_sides).read(num_workers)
    else:
        form = PublishedForm(partial(_read_role, name_map, fold_sides), image_places)
        records = read_published(config, form)
    table = load_table()
    return assemble(records, config, SourceNames(config.name or NAME, table.objects, table.categories))


def image_places(name: str) -> list[str]:
    """Return the possible places of `2008_000008.jpg`: the folder itself, or VOC's image folder below it."""
    return [f"{head}{name}" for head in ("", "JPEGImages/", "VOC2010/JPEGImages/", "VOCdevkit/VOC2010/JPEGImages/")]


def _read_role(name_map: Mapping[str, str], fold_sides: bool, name: str, supercategory: str) -> Role:
    """Read a category of the JSON form: "aeroplane:body", "aeroplane body", or only a class."""
    table = load_table()
    classes = {*table.parts, *table.objects.values(), *((supercategory,) if supercategory else ())}
    if name in classes:
        return Role(name, None)
    raw_object, separator, raw_part = name.partition(OBJECT_PART_SEPARATOR)
    if not separator:
        found = [one for one in sorted(classes, key=len, reverse=True) if name.startswith(f"{one} ")]
        if not found:
            raise ValueError(f"{name!r} names no class of Pascal-Part; expected 'aeroplane:body' or 'aeroplane body'")
        raw_object, raw_part = found[0], name.removeprefix(f"{found[0]} ")
    class_name = raw_object.replace(" ", "")
    if raw_part in name_map or f"{raw_object}{OBJECT_PART_SEPARATOR}{raw_part}" in name_map:
        return Role(raw_object, raw_part)  # `assemble` applies the map
    try:
        words = name_part(class_name, raw_part, {}, fold_sides)
    except ValueError:
        words = clean_name(raw_part)  # such files already name parts in words ("license plate")
        words = without_sides(words) if fold_sides else words
    return Role(raw_object, words)


@dataclass(frozen=True)
class _Owner:
    """An object whose parts are being read; `where` names file and object."""

    image_id: int
    annotation_id: int
    class_name: str
    where: str


@dataclass(frozen=True)
class _Loaded:
    """A worker's result for a .mat file: its objects, or the reason why it is unusable."""

    objects: tuple[MatObject, ...]
    error: str | None = None


def _load(path: Path) -> _Loaded:
    try:
        return _Loaded(read_mat(path))
    except ValueError as error:
        return _Loaded((), str(error))


class _MatReader:
    """Turns .mat files into records. An image's id is the number in its name; annotations are numbered from 1."""

    def __init__(self, config: CocoConfig, name_map: Mapping[str, str], fold_sides: bool) -> None:
        self._config = config
        self._name_map = name_map
        self._fold_sides = fold_sides
        self._finder = ImageFinder(config.images, image_places)
        self._images: dict[int, CocoImage] = {}
        self._annotations: list[RawAnnotation] = []
        self._skipped: dict[str, list[int]] = defaultdict(list)
        self._unusable: list[UnusableAnnotation] = []
        self._next_id = 1

    def read(self, num_workers: int) -> CocoRecords:
        """Read the folder's files in the order of their names."""
        paths = sorted(self._config.annotations.glob("*.mat"))
        if not paths:
            raise FileNotFoundError(
                f"{self._config.annotations} contains no .mat files; pass the folder Annotations_Part"
            )
        for path, loaded in zip(paths, _load_all(paths, num_workers), strict=True):
            try:
                self._add(path, loaded)
            except (ValueError, FileNotFoundError) as error:
                if self._config.invalid == "raise":
                    raise
                self._skipped[f"annotation file that cannot be used: {error}"].extend(())
        rows = tuple(SkippedAnnotations(reason, tuple(numbers)) for reason, numbers in self._skipped.items())
        return CocoRecords(tuple(self._images.values()), tuple(self._annotations), rows, tuple(self._unusable))

    def _add(self, path: Path, loaded: _Loaded) -> None:
        if loaded.error is not None:
            raise ValueError(loaded.error)
        digits = re.sub(r"\D", "", path.stem)
        if not digits or int(digits) in self._images:
            raise ValueError(f"{path}: the file name must contain a unique number, such as 2008_000008.mat")
        image_id = int(digits)
        image = self._find_image(path, image_id, loaded.objects)
        self._images[image_id] = image
        for number, one in enumerate(loaded.objects):
            owner = _Owner(image_id, self._new_id(), one.class_name, f"{path}, object {number}")
            self._annotations.append(
                RawAnnotation(owner.annotation_id, image_id, one.class_name, None, None, one.mask, None, False)
            )
            for part in one.parts:
                self._add_part(owner, part)

    def _find_image(self, path: Path, image_id: int, objects: Sequence[MatObject]) -> CocoImage:
        try:
            file_name = self._finder.find(f"{path.stem}.jpg")
            if not objects:
                return CocoImage(image_id, file_name, *image_size(self._config.images / file_name))
            height, width = objects[0].mask.height, objects[0].mask.width
            check_image(self._config.images / file_name, height, width)
        except (ValueError, FileNotFoundError) as error:
            raise type(error)(f"{path}: {error}") from error
        return CocoImage(image_id, file_name, height, width)

    def _add_part(self, owner: _Owner, part: MatPart) -> None:
        number = self._new_id()
        try:
            words = name_part(owner.class_name, part.code, self._name_map, self._fold_sides)
        except ValueError as error:
            if self._config.invalid == "raise":
                raise ValueError(f"{owner.where}: {error}") from error
            self._skipped[str(error)].append(number)
            self._add_unusable(owner, None)
            return
        if part.mask is None:
            self._skipped[EMPTY_MASK].append(number)
            self._add_unusable(owner, words)
            return
        self._annotations.append(
            RawAnnotation(
                annotation_id=number,
                image_id=owner.image_id,
                raw_object=owner.class_name,
                raw_part=words,
                object_id=owner.annotation_id,
                mask=part.mask,
                box=None,
                is_crowd=False,
            )
        )

    def _add_unusable(self, owner: _Owner, words: str | None) -> None:
        unusable = UnusableAnnotation(
            owner.image_id, owner.class_name, words, owner.annotation_id, is_empty=words is not None
        )
        self._unusable.append(unusable)

    def _new_id(self) -> int:
        self._next_id += 1
        return self._next_id - 1


def _load_all(paths: Sequence[Path], num_workers: int) -> Iterator[_Loaded]:
    with progress(len(paths), "annotations", "file") as shown:
        if num_workers == 1:
            for path in paths:
                yield _load(path)
                shown.update()
            return
        with multiprocessing.get_context("spawn").Pool(num_workers) as pool:
            for loaded in pool.imap(_load, paths, chunksize=NUM_FILES_PER_CHUNK):
                yield loaded
                shown.update()
