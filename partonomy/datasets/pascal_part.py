"""Pascal-Part: the original `Annotations_Part/*.mat` on VOC 2010's images, or a COCO-form `train.json` made from them.

A .mat file holds `anno.imname` and `anno.objects[]`, each with `class`, `class_ind`, `mask` and `parts[]` of
`part_name` and `mask`. Parts overlap, some objects have none, names are codes ("lfuleg", "wheel_1").

The JSON form of VLPart has parts only ("aeroplane:body"): it does not say which of several instances a part belongs to,
so all parts of a class in an image make one object there. Prefer the .mat files.
"""

import multiprocessing
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tqdm import tqdm

from partonomy.datasets.assembly import SourceNames, SourceReading, assemble
from partonomy.datasets.coco_records import CocoConfig, CocoImage, CocoRecords, RawAnnotation, SkippedAnnotations
from partonomy.datasets.image_finder import ImageFinder
from partonomy.datasets.pascal_part_mat import MatObject, MatPart, read_mat
from partonomy.datasets.pascal_part_names import load_table, name_part, without_sides
from partonomy.datasets.published_coco import EMPTY_MASK, PublishedForm, Role, read_published
from partonomy.images import check_image, image_size
from partonomy.names import OBJECT_PART_SEPARATOR, clean_name, read_text_map

NAME = "pascal_part"
NUM_FILES_PER_CHUNK = 8


def read_pascal_part(config: CocoConfig, fold_sides: bool = False, num_workers: int = 1) -> SourceReading:
    """Read Pascal-Part.

    Args:
        config: `annotations` is the folder of the .mat files, or the JSON file.
        fold_sides: "left wing" and "right wing" are one part "wing".
        num_workers: processes that read .mat files; the result does not depend on it.

    Raises:
        FileNotFoundError: no annotations, or an image is missing.
        ValueError: a broken file or record, or a part code that no table knows, naming file and object.
    """
    name_map = read_text_map(config.name_map, "name map") if config.name_map else {}
    if config.annotations.is_dir():
        records = _MatReader(config, name_map, fold_sides).read(num_workers)
    else:
        form = PublishedForm(partial(_read_role, name_map, fold_sides), image_places)
        records = read_published(config, form)
    return assemble(records, config, SourceNames(config.name or NAME, load_table().objects))


def image_places(name: str) -> list[str]:
    """`2008_000008.jpg` in the folder itself or in VOC's."""
    return [f"{head}{name}" for head in ("", "JPEGImages/", "VOC2010/JPEGImages/", "VOCdevkit/VOC2010/JPEGImages/")]


def _read_role(name_map: Mapping[str, str], fold_sides: bool, name: str, supercategory: str) -> Role:
    """A category of the JSON form: "aeroplane:body", "aeroplane body", or a class alone."""
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
        return Role(raw_object, raw_part)  # the assembly applies the map
    try:
        words = name_part(class_name, raw_part, {}, fold_sides)
    except ValueError:
        words = clean_name(raw_part)  # such files name parts in words already ("license plate")
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
    """A .mat file as a worker hands it back: its objects, or why it cannot be used."""

    objects: tuple[MatObject, ...]
    error: str | None = None


def _load(path: Path) -> _Loaded:
    try:
        return _Loaded(read_mat(path))
    except ValueError as error:
        return _Loaded((), str(error))


class _MatReader:
    """Turns .mat files into records. Ids: an image's is the number in its name, annotations are numbered from 1."""

    def __init__(self, config: CocoConfig, name_map: Mapping[str, str], fold_sides: bool) -> None:
        self._config = config
        self._name_map = name_map
        self._fold_sides = fold_sides
        self._finder = ImageFinder(config.images, image_places)
        self._images: dict[int, CocoImage] = {}
        self._annotations: list[RawAnnotation] = []
        self._skipped: dict[str, list[int]] = defaultdict(list)
        self._next_id = 1

    def read(self, num_workers: int) -> CocoRecords:
        """Read the folder's files in the order of their names."""
        paths = sorted(self._config.annotations.glob("*.mat"))
        if not paths:
            raise FileNotFoundError(f"{self._config.annotations}: no .mat file there; pass the folder Annotations_Part")
        for path, loaded in zip(paths, _load_all(paths, num_workers), strict=True):
            try:
                self._add(path, loaded)
            except (ValueError, FileNotFoundError) as error:
                if self._config.invalid == "raise":
                    raise
                self._skipped[f"annotation file that cannot be used: {error}"].extend(())
        rows = tuple(SkippedAnnotations(reason, tuple(numbers)) for reason, numbers in self._skipped.items())
        return CocoRecords(tuple(self._images.values()), tuple(self._annotations), rows)

    def _add(self, path: Path, loaded: _Loaded) -> None:
        if loaded.error is not None:
            raise ValueError(loaded.error)
        digits = re.sub(r"\D", "", path.stem)
        if not digits or int(digits) in self._images:
            raise ValueError(f"{path}: the name must hold a number that no other file has, such as 2008_000008.mat")
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
            return
        if part.mask is None:
            self._skipped[EMPTY_MASK].append(number)
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

    def _new_id(self) -> int:
        self._next_id += 1
        return self._next_id - 1


def _load_all(paths: Sequence[Path], num_workers: int) -> Iterator[_Loaded]:
    with tqdm(total=len(paths), desc="annotations", unit="file", disable=None) as progress:
        if num_workers == 1:
            for path in paths:
                yield _load(path)
                progress.update()
            return
        with multiprocessing.get_context("spawn").Pool(num_workers) as pool:
            for loaded in pool.imap(_load, paths, chunksize=NUM_FILES_PER_CHUNK):
                yield loaded
                progress.update()
