"""Parts in the formats of PACO-LVIS, VLPart's Pascal-Part and PartImageNet."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from partonomy.masks import encode_mask, rle_to_json
from plum.data.miniature.coco_form import Category, CocoForm
from plum.data.miniature.pictures import Picture, polygons, save_image, write_json

LVIS_NAMES = {"car": "car_(automobile)", "bus": "bus_(vehicle)"}
VOC_NAMES = {"airplane": "aeroplane", "biplane": "aeroplane", "seaplane": "aeroplane", "helicopter": "aeroplane"}
VOC_NAMES |= {"pickup truck": "car", "motorcycle": "motorbike", "armchair": "chair", "ferry": "boat"}
VOC_NAMES |= {"sailboat": "boat"}
PART_IMAGENET_NAMES = {"airplane": ("Aeroplane", "n02690373"), "biplane": ("Aeroplane", "n02690373")}
PART_IMAGENET_NAMES |= {"car": ("Car", "n04285008"), "bicycle": ("Bicycle", "n03792782")}
PART_IMAGENET_NAMES |= {"bird": ("Bird", "n01531178"), "fish": ("Fish", "n01443537")}
PART_IMAGENET_NAMES |= {"dog": ("Quadruped", "n02100735"), "horse": ("Quadruped", "n02100735")}
PART_IMAGENET_NAMES |= {"sailboat": ("Boat", "n02981792"), "ferry": ("Boat", "n02981792")}
OTHER = ("Boat", "n02981792")


def paco_file(pictures: Sequence[Picture]) -> dict[str, Any]:
    """Return a PACO-LVIS file: objects and parts in one list of categories, parts linked to objects by `obj_ann_id`."""
    form = CocoForm()
    for picture in pictures:
        label = LVIS_NAMES.get(picture.label, picture.label.replace(" ", "_"))
        owner = form.annotate(picture, Category(label, "OBJECT"), rle_to_json(encode_mask(picture.mask)))
        owner["obj_ann_id"] = owner["id"]
        for part, mask in picture.parts.items():
            category = Category(f"{label}:{part.replace(' ', '_')}", "PART")
            record = form.annotate(picture, category, rle_to_json(encode_mask(mask)))
            record["obj_ann_id"] = owner["id"]
        form.add_image(picture, f"train2017/{picture.coco_name}")
    return form.content()


def write_pascal_part(root: Path, pictures: Sequence[Picture]) -> None:
    """Write VLPart's `train.json`: only parts, named `aeroplane:wing`."""
    form = CocoForm()
    for picture in pictures:
        name = f"2008_{picture.number:06d}.jpg"
        save_image(root / "vlpart/pascal_part/VOCdevkit/VOC2010/JPEGImages" / name, picture.image)
        label = VOC_NAMES.get(picture.label, picture.label)
        for part, mask in picture.parts.items():
            form.annotate(picture, Category(f"{label}:{part}", ""), rle_to_json(encode_mask(mask)))
        form.add_image(picture, name)
    write_json(root / "vlpart/pascal_part/train.json", form.content())


def write_part_imagenet(root: Path, pictures: Sequence[Picture]) -> None:
    """Write PartImageNet: polygons, categories such as "Quadruped Head" with a super-category, images by WordNet id."""
    form = CocoForm()
    for picture in pictures:
        label, wordnet = PART_IMAGENET_NAMES.get(picture.label, OTHER)
        name = f"{wordnet}_{picture.number}.JPEG"
        save_image(root / "vlpart/partimagenet/train" / wordnet / name, picture.image)
        for part, mask in picture.parts.items():
            form.annotate(picture, Category(f"{label} {part.title()}", label), polygons(mask))
        form.add_image(picture, name)
    write_json(root / "vlpart/partimagenet/train.json", form.content())
