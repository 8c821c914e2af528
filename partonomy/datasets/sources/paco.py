"""Reads PACO-LVIS as downloaded: `paco_lvis_v1_{train,val,test}.json` on the images of COCO 2017.

One list holds 75 objects and 456 object-part categories (`car_(automobile)`, `car_(automobile):antenna`); `obj_ann_id`
links every part to its object. Images list categories that are not exhaustively annotated or known to be absent; the
questions ask only about annotated parts and need neither. Paper (B): of several instances of a class, the questions
ask about the one with the most annotated parts; a box that is drawn when the image is shown marks it.
"""

from collections.abc import Mapping
from functools import cache
from pathlib import Path, PurePosixPath

import yaml

from partonomy.datasets.sources.group_parts_by_object import SourceNames, SourceReading, assemble
from partonomy.datasets.sources.published_coco import PublishedForm, Role, read_published
from partonomy.datasets.sources.records import OBJECT, PART, CocoConfig
from partonomy.names import OBJECT_PART_SEPARATOR

NAME = "paco_lvis"
CATEGORIES = Path(__file__).with_suffix(".yaml")
READABLE = {
    "colied_tube": "coiled tube",
    "runningboard": "running board",
    "steeringwheel": "steering wheel",
    "turnsignal": "turn signal",
}
"""Misspelt part names of the file, and compounds that it writes as one word."""


def read_paco(config: CocoConfig) -> SourceReading:
    """Read a PACO-LVIS file. Every instance of an image is kept; `paco.yaml` names the objects' categories.

    Raises:
        FileNotFoundError: the file or one of its images is missing.
        ValueError: the file or a record is broken; the message names both.
    """
    records = read_published(config, PublishedForm(read_role, image_places))
    return assemble(records, config, SourceNames(config.name or NAME, READABLE, load_categories()))


@cache
def load_categories() -> Mapping[str, str]:
    """Read the packaged table: raw object -> category."""
    content = yaml.safe_load(CATEGORIES.read_text(encoding="utf-8"))
    return {name: category for category, names in content.items() for name in names}


def read_role(name: str, supercategory: str) -> Role:
    """Return the object or part that a PACO category stands for.

    Raises:
        ValueError: the category is neither.
    """
    raw_object, separator, raw_part = name.partition(OBJECT_PART_SEPARATOR)
    is_part = bool(separator)
    if supercategory not in (OBJECT, PART) or is_part != (supercategory == PART) or (is_part and not raw_part):
        raise ValueError(
            f"{name!r} with super-category {supercategory!r} is not a category of PACO (an OBJECT "
            "'car_(automobile)' or a "
            "PART 'car_(automobile):antenna'); read other COCO-style files with --source coco"
        )
    return Role(raw_object, raw_part or None)


def image_places(name: str) -> list[str]:
    """Return the possible places of `train2017/x.jpg`: below COCO's folder, below its parent, or in a flat folder."""
    return [name, f"coco/{name}", f"images/{name}", PurePosixPath(name).name]
