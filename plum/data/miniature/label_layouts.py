"""Label maps in the layouts of ADE20K, COCO-Stuff, Mapillary Vistas, Cityscapes and GTAV."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import yaml
from scipy.io import savemat

from partonomy.benchmarks.street_scenes import CLASSES, GTAV_SPLITS, IMAGE_ENDING, MAP_ENDING
from plum.data.miniature.pictures import SIDE_MARGIN, Picture, save_image, save_map, write_json
from plum.data.readers.label_maps import NAMES_FILE

EDGE = 3  # pixels at the border of a label map that have no class

ADE20K_NAMES = {"airplane": "airplane", "biplane": "airplane", "seaplane": "airplane", "helicopter": "airplane"}
ADE20K_NAMES |= {"car": "car", "bus": "bus", "pickup truck": "truck", "bicycle": "bicycle", "motorcycle": "minibike"}
ADE20K_NAMES |= {"chair": "chair", "armchair": "armchair", "lamp": "lamp", "ferry": "ship", "sailboat": "boat"}
COCO_NAMES = {"airplane": "airplane", "biplane": "airplane", "seaplane": "airplane", "helicopter": "airplane"}
COCO_NAMES |= {"car": "car", "bus": "bus", "pickup truck": "truck", "bicycle": "bicycle", "motorcycle": "motorcycle"}
COCO_NAMES |= {"chair": "chair", "armchair": "chair", "ferry": "boat", "sailboat": "boat", "bird": "bird"}
COCO_NAMES |= {"dog": "dog", "horse": "horse"}
MAPILLARY_NAMES = ("Bird", "Car", "Bus", "Bicycle", "Motorcycle", "Boat", "Sky", "Road", "Unlabeled")


def write_ade20k(root: Path, pictures: Sequence[Picture]) -> None:
    """Write photographs and maps; 0 is unlabelled, 1 the first class."""
    names = _label_names("ade20k")
    for picture in pictures:
        stem = f"ADE_train_{picture.number:08d}"
        save_image(root / "ade20k/images/training" / f"{stem}.jpg", picture.image)
        known = ADE20K_NAMES.get(picture.label, "animal")
        background = names.index("sky") + 1, names.index("grass") + 1, names.index("wall") + 1
        classes = draw_classes(picture, names.index(known) + 1, background, unlabelled=0)
        save_map(root / "ade20k/annotations/training" / f"{stem}.png", classes)


def write_cocostuff(root: Path, pictures: Sequence[Picture]) -> None:
    """Write COCO-Stuff's maps; 255 is unlabelled, 0 the first class. The photographs are COCO's."""
    names = _label_names("cocostuff")
    for picture in pictures:
        background = names.index("sky"), names.index("grass"), names.index("wall-other")
        known = COCO_NAMES.get(picture.label)
        classes = draw_classes(picture, None if known is None else names.index(known), background, unlabelled=255)
        save_map(root / "cocostuff" / "train2017" / f"{Path(picture.coco_name).stem}.png", classes)


def write_mapillary(root: Path, pictures: Sequence[Picture]) -> None:
    """Write version 2.0: palette images whose indices are the labels of the configuration."""
    labels = [{"name": f"miniature--{name.lower()}", "readable": name, "evaluate": True} for name in MAPILLARY_NAMES]
    write_json(root / "mapillary/config_v2.0.json", {"version": "2.0", "mapping": "public", "labels": labels})
    index = {name.lower(): number for number, name in enumerate(MAPILLARY_NAMES)}
    for picture in pictures:
        stem = f"mini{picture.number:018d}"
        save_image(root / "mapillary/training/images" / f"{stem}.jpg", picture.image)
        known = index.get(COCO_NAMES.get(picture.label, ""), index["unlabeled"])
        background = index["sky"], index["road"], index["unlabeled"]
        classes = draw_classes(picture, known, background, unlabelled=index["unlabeled"])
        save_map(root / "mapillary/training/v2.0/labels" / f"{stem}.png", classes, has_palette=True)


def write_street_scenes(root: Path, pictures: Sequence[Picture]) -> None:
    """Write Cityscapes' validation split (two cities) and GTAV (every image in its list of validation images)."""
    index = {name: number for number, name in CLASSES.items()}
    background = index["sky"], index["road"], index["building"]
    for picture in pictures:
        known = index.get(COCO_NAMES.get(picture.label, ""), index["person"])
        classes = draw_classes(picture, known, background, unlabelled=0)
        city = f"town{picture.number % 2}"
        stem = f"{city}_{picture.number:06d}_000019"
        save_image(root / "cityscapes/leftImg8bit/val" / city / f"{stem}{IMAGE_ENDING}", picture.image)
        save_map(root / "cityscapes/gtFine/val" / city / f"{stem}{MAP_ENDING}", classes)
        save_image(root / "gtav/images" / f"{picture.number:05d}.png", picture.image)
        save_map(root / "gtav/labels" / f"{picture.number:05d}.png", classes, has_palette=True)
    numbers = np.array([[picture.number] for picture in pictures])
    none = np.zeros((0, 1), dtype=np.int64)
    savemat(root / "gtav/split.mat", {key: numbers if split == "val" else none for split, key in GTAV_SPLITS.items()})


def draw_classes(
    picture: Picture, object_class: int | None, background: tuple[int, int, int], unlabelled: int
) -> np.ndarray:
    """Return a map uint8 (H, W) with sky, ground, a strip of a third class, the object, and an unlabelled border."""
    height, width = picture.mask.shape
    above, below, strip = background
    classes = np.full((height, width), above, np.uint8)
    classes[height // 2 :] = below
    classes[:, width - SIDE_MARGIN // 2 :] = strip
    classes[picture.mask] = unlabelled if object_class is None else object_class
    for edge in (np.s_[:EDGE], np.s_[-EDGE:], np.s_[:, :EDGE], np.s_[:, -EDGE:]):
        classes[edge] = unlabelled
    return classes


def _label_names(name: str) -> list[str]:
    names: list[str] = yaml.safe_load(NAMES_FILE.read_text(encoding="utf-8"))[name]
    return names
