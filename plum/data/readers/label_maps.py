"""Semantic label maps of ADE20K, COCO-Stuff and Mapillary Vistas as downloaded, in the layout of the LISA family.

A map is read when a sample needs it. All sets are converted to one form: class ids that index `names`, and `IGNORED`
for pixels without a class. As in LISA, all classes of COCO-Stuff with a "-" in their name are ignored: the catch-alls
("wall-other") and the fine-grained kinds ("floor-wood").
"""

import logging
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import yaml

from partonomy.files import check_text, read_json
from partonomy.images import load_label_map
from partonomy.suggestions import unknown_names

logger = logging.getLogger(__name__)

IGNORED = 255
NUM_VALUES = 256
_UNKNOWN = -1
NAMES_FILE = Path(__file__).with_name("label_names.yaml")


@dataclass(frozen=True)
class Classes:
    """Names by class id, and the class id of every pixel value of a file: int16 (256,), `_UNKNOWN` if it has none.

    `where` says, for messages, which file of the data set lists the classes.
    """

    names: tuple[str, ...]
    table: np.ndarray
    where: str = ""


@dataclass(frozen=True)
class LabelLayout:
    """Paths of a set below the root: JPEG images and PNG maps with the same stems; and how to read its classes."""

    images: str
    labels: str
    read_classes: Callable[[Path], Classes]


@dataclass(frozen=True)
class LabelMap:
    """Class ids, uint8 (H, W), `IGNORED` for pixels without a class, and the image they belong to."""

    image_path: Path
    classes: np.ndarray

    def present(self) -> list[int]:
        """Return the ids of the classes in the map, ascending."""
        counts = np.bincount(self.classes.ravel(), minlength=NUM_VALUES)
        return [int(value) for value in np.flatnonzero(counts) if value != IGNORED]


class LabelMaps:
    """All images of a set that have a label map.

    Args:
        dataset_dir: root of the LISA-style layout.
        name: key of `LABEL_LAYOUTS`.
        excluded: image files to leave out.

    Raises:
        FileNotFoundError: a folder is missing or empty, or label maps have no image.
        ValueError: the name is unknown, or the list of classes is broken.
    """

    def __init__(self, dataset_dir: Path, name: str, excluded: Container[Path] = ()) -> None:
        layout = find_layout(name)
        self.name = name
        self._images = dataset_dir / layout.images
        self._labels = dataset_dir / layout.labels
        self._classes = layout.read_classes(dataset_dir)
        images, labels = _stems(self._images, ".jpg"), _stems(self._labels, ".png")
        if alone := sorted(labels - images):
            raise FileNotFoundError(
                f"{name}: {len(alone)} of {len(labels)} label maps have no image, the first is "
                f"{self._images / alone[0]}.jpg; finish the download or remove the maps"
            )
        if without := len(images - labels):
            logger.info("%s: %d images have no label map and are not trained on", name, without)
        self.stems = tuple(stem for stem in sorted(labels) if self._images / f"{stem}.jpg" not in excluded)
        logger.info("%s: %d images, %d excluded", name, len(labels), len(labels) - len(self.stems))

    def __len__(self) -> int:
        return len(self.stems)

    @property
    def names(self) -> tuple[str, ...]:
        """Name of every class id."""
        return self._classes.names

    @property
    def ignored_classes(self) -> frozenset[int]:
        """Class ids that no map shows, since their pixels are ignored."""
        return frozenset(range(len(self.names))) - frozenset(self._classes.table.tolist())

    def read(self, index: int) -> LabelMap:
        """Read one map.

        Raises:
            FileNotFoundError, ValueError: the file is missing or not a label map of this set; the message names it.
        """
        stem = self.stems[index]
        path, image = self._labels / f"{stem}.png", self._images / f"{stem}.jpg"
        values = load_label_map(path, image)
        classes = self._classes.table[values]
        if (classes == _UNKNOWN).any():
            unknown = sorted(set(values[classes == _UNKNOWN].tolist()))
            raise ValueError(f"{path}: the values {unknown[:5]} are no classes of {self.name}{self._classes.where}")
        return LabelMap(image, classes.astype(np.uint8))


def find_layout(name: str) -> LabelLayout:
    """Return the layout of a set; ValueError if the name is unknown."""
    if name not in LABEL_LAYOUTS:
        raise ValueError(unknown_names("semantic data set", [name], LABEL_LAYOUTS))
    return LABEL_LAYOUTS[name]


def _stems(folder: Path, suffix: str) -> set[str]:
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder; see `python -m plum data-status`")
    stems = {path.stem for path in folder.iterdir() if path.suffix == suffix}
    if not stems:
        raise FileNotFoundError(f"{folder}: the folder holds no *{suffix} file; finish the download")
    return stems


@cache
def _shipped_names() -> Mapping[str, Sequence[str]]:
    names: Mapping[str, Sequence[str]] = yaml.safe_load(NAMES_FILE.read_text(encoding="utf-8"))
    return names


def _empty_table() -> np.ndarray:
    table = np.full(NUM_VALUES, _UNKNOWN, dtype=np.int16)
    table[IGNORED] = IGNORED
    return table


def _read_ade20k(dataset_dir: Path) -> Classes:
    """Return ADE20K's classes: 0 is unlabelled, 1 to 150 are the classes."""
    names = tuple(_shipped_names()["ade20k"])
    table = _empty_table()
    table[0] = IGNORED
    table[1 : len(names) + 1] = np.arange(len(names))
    return Classes(names, table)


def _read_cocostuff(dataset_dir: Path) -> Classes:
    names = tuple(_shipped_names()["cocostuff"])
    table = _empty_table()
    table[: len(names)] = [IGNORED if "-" in name else number for number, name in enumerate(names)]
    return Classes(names, table)


def _read_mapillary(dataset_dir: Path) -> Classes:
    """Return Mapillary's classes; names come with the data. "Unlabeled" is ignored (LISA asks for it)."""
    path = dataset_dir / "mapillary" / "config_v2.0.json"
    content = read_json(path)
    try:
        names = tuple(check_text(label["readable"], "'readable'").lower() for label in content["labels"])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: 'labels' must be a list of objects with 'readable' ({error})") from error
    if not 0 < len(names) < IGNORED:
        raise ValueError(f"{path}: {len(names)} labels; pixel values hold 1 to {IGNORED - 1}")
    table = _empty_table()
    table[: len(names)] = [IGNORED if name == "unlabeled" else number for number, name in enumerate(names)]
    return Classes(names, table, f", whose classes are those of {path}")


LABEL_LAYOUTS: Mapping[str, LabelLayout] = {
    "ade20k": LabelLayout("ade20k/images/training", "ade20k/annotations/training", _read_ade20k),
    "cocostuff": LabelLayout("coco/train2017", "cocostuff/train2017", _read_cocostuff),
    "mapillary": LabelLayout("mapillary/training/images", "mapillary/training/v2.0/labels", _read_mapillary),
}
