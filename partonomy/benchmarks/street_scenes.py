"""Several classes of a street scene in one question: Cityscapes and GTAV (MMR paper, section A.10, Table 8).

Paper: 4 to 6 object categories of each validation image, drawn at random, "Can you segment the class 1, class 2, ...,
and class n?"; mIoU. It does not name the categories; here: the 19 that Cityscapes evaluates, of which some are stuff
(road, sky). The drawing and the wording are those of multi-referring RefCOCO. mIoU is gIoU here, the mean over masks.

Layouts, as downloaded: `cityscapes/{leftImg8bit,gtFine}/SPLIT/CITY/*` with the maps `*_gtFine_labelIds.png`, and
`gtav/{images,labels}/*.png` with the official `gtav/split.mat`. The pixels of both are Cityscapes' label ids.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from partonomy.benchmarks.mmr import MultiTargetItem, define_multi_target
from partonomy.benchmarks.multi_referring import MIN_CLASSES, class_question, draw_classes
from partonomy.benchmarks.task import Source
from partonomy.images import load_label_map
from partonomy.masks import check_mask_size, encode_mask
from partonomy.progress import counted, progress
from partonomy.suggestions import did_you_mean

logger = logging.getLogger(__name__)

CITYSCAPES, GTAV = "multicityscapes", "multigtav"
STREET_NAMES = (CITYSCAPES, GTAV)
IMAGE_ENDING, MAP_ENDING = "_leftImg8bit.png", "_gtFine_labelIds.png"
GTAV_SPLITS = {"train": "trainIds", "val": "valIds", "test": "testIds"}
"""Splits -> keys of GTAV's split.mat."""
CLASSES = {
    7: "road",
    8: "sidewalk",
    11: "building",
    12: "wall",
    13: "fence",
    17: "pole",
    19: "traffic light",
    20: "traffic sign",
    21: "vegetation",
    22: "terrain",
    23: "sky",
    24: "person",
    25: "rider",
    26: "car",
    27: "truck",
    28: "bus",
    31: "train",
    32: "motorcycle",
    33: "bicycle",
}
"""Cityscapes' label ids of the classes that its benchmark evaluates; pixels of other ids belong to no target."""


@dataclass(frozen=True)
class StreetScene:
    """An image and its label map."""

    name: str
    image: Path
    labels: Path


def read_street_scenes(root: Path, benchmark: str, split: str) -> tuple[MultiTargetItem, ...]:
    """Read one split: one question per image with enough classes, in order of names.

    Every label map is read, which takes minutes for the whole of GTAV.

    Args:
        root: Folder of the downloads.
        benchmark: One of `STREET_NAMES`.
        split: val, or another split with label maps.

    Raises:
        FileNotFoundError: A folder or file is missing.
        ValueError: The split is unknown, a file is broken (the message names it), or no image has enough classes.
    """
    scenes = _cityscapes(root, split) if benchmark == CITYSCAPES else _gtav(root, split)
    items = []
    with progress(len(scenes), f"label maps of {benchmark}", "map") as shown:
        for scene in counted(scenes, shown):
            labels = load_label_map(scene.labels, scene.image)
            height, width = labels.shape
            check_mask_size(height, width, str(scene.labels))
            targets = {
                name: encode_mask(labels == number) for number, name in CLASSES.items() if (labels == number).any()
            }
            if len(targets) >= MIN_CLASSES:
                height, width = labels.shape
                item_id = f"{benchmark}/{scene.name}"
                items.append(class_question(item_id, scene.image, (height, width), draw_classes(targets, item_id)))
    if not items:
        raise ValueError(f"{benchmark} {split}: no image shows {MIN_CLASSES} classes or more; choose another split")
    if len(items) < len(scenes):
        logger.warning(
            "%s %s: %d of %d images show fewer than %d classes and are left out",
            benchmark,
            split,
            len(scenes) - len(items),
            len(scenes),
            MIN_CLASSES,
        )
    return tuple(items)


def _cityscapes(root: Path, split: str) -> list[StreetScene]:
    images, labels = (root / "cityscapes" / kind / split for kind in ("leftImg8bit", "gtFine"))
    if not images.is_dir():
        raise FileNotFoundError(f"{images}: no such folder; --root is the folder that holds cityscapes/")
    scenes = []
    for image in sorted(images.glob(f"*/*{IMAGE_ENDING}")):
        stem = image.name.removesuffix(IMAGE_ENDING)
        scenes.append(StreetScene(stem, image, labels / image.parent.name / f"{stem}{MAP_ENDING}"))
    if not scenes:
        raise FileNotFoundError(f"{images}: no CITY/*{IMAGE_ENDING} in it; finish the download")
    return scenes


def _gtav(root: Path, split: str) -> list[StreetScene]:
    from scipy.io import loadmat  # noqa: PLC0415  (a sixth of a second to import, for every command)

    file = root / "gtav" / "split.mat"
    if split not in GTAV_SPLITS:
        raise ValueError(
            f"{GTAV} has no split {split!r}; known: {', '.join(GTAV_SPLITS)}{did_you_mean(split, GTAV_SPLITS)}"
        )
    if not file.is_file():
        raise FileNotFoundError(f"{file}: not found; it divides GTAV's images into splits, download it with them")
    try:
        numbers = [int(number) for number in np.ravel(loadmat(file)[GTAV_SPLITS[split]])]
    except Exception as error:  # SciPy raises errors of many types for damaged data
        raise ValueError(f"{file}: no list {GTAV_SPLITS[split]!r} of image numbers in it ({error})") from error
    if not numbers:
        raise ValueError(f"{file}: its list {GTAV_SPLITS[split]!r} is empty")
    folder = root / "gtav"
    names = [f"{number:05d}" for number in sorted(set(numbers))]
    return [StreetScene(one, folder / "images" / f"{one}.png", folder / "labels" / f"{one}.png") for one in names]


def _read(name: str, source: Source) -> Sequence[MultiTargetItem]:
    return read_street_scenes(source.root, name, str(source.split))


BENCHMARKS = tuple(
    define_multi_target(
        name,
        "Several classes of a street scene in one question",
        "val, train" if name == CITYSCAPES else ", ".join(GTAV_SPLITS),
        partial(_read, name),
        quoted_by="giou",
    )
    for name in STREET_NAMES
)
