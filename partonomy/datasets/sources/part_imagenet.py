"""Reads PartImageNet as downloaded: COCO form, only parts, 40 categories ("Quadruped Head") of 11 super-categories.

Paper (Table 8): the object is the super-category, since all its classes have the same parts. With a table of names,
the object is the ImageNet class of the image's WordNet id, and the super-category is its category.

`part_imagenet_labels.tsv` gives the everyday labels of MixedParts (CALICO, appendix D). Its authors chose, on each
class's path upward through WordNet, the noun that people use, and print the 37 nouns, but not the classes. The table
takes the first node of the path that has one of the 37 nouns among its words, for every class of ImageNet-1k; column
`rule` marks the six classes that were assigned by hand, such as sailing ships. Lion and jaguar, whose first such node
is "big cat, cat", have no row. Images of other classes (cars, bicycles and bottles, which MixedParts leaves out, too)
are left out and counted.
"""

import csv
import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from partonomy.datasets.sources.group_parts_by_object import SourceNames, SourceReading, assemble
from partonomy.datasets.sources.published_coco import PublishedForm, Role, read_published
from partonomy.datasets.sources.records import CocoConfig
from partonomy.names import clean_name, read_text_map

NAME = "part_imagenet"
READABLE = {"Tier": "tire"}
"""A misspelling of the file ("Car Tier", "Bicycle Tier")."""
WORDNET_ID = re.compile(r"(?<![A-Za-z0-9])n\d{8}(?!\d)")
SPLITS = ("train", "val", "test")
EVERYDAY = "everyday"
"""Name of the packaged table of names."""
EVERYDAY_LABELS = Path(__file__).with_name("part_imagenet_labels.tsv")


def read_part_imagenet(config: CocoConfig, object_names: Path | None = None) -> SourceReading:
    """Read a PartImageNet file.

    Args:
        config: the files to read.
        object_names: JSON file WordNet id -> object name (`{"n02100735": "English setter"}`), or `EVERYDAY_LABELS`.

    Raises:
        FileNotFoundError: a file or an image is missing.
        ValueError: a file or a record is broken (the message names both), or an image's WordNet id is not in the table.
    """
    if object_names is None:
        records = read_published(config, PublishedForm(read_role, image_places))
        return assemble(records, config, SourceNames(config.name or NAME, READABLE))
    if object_names == EVERYDAY_LABELS:
        namer = _ClassNamer(object_names, read_everyday_labels(), leaves_out=True)
    else:
        namer = _ClassNamer(object_names, read_text_map(object_names, "object names"))
    records = read_published(config, PublishedForm(read_role, image_places, namer.rename))
    return assemble(records, config, SourceNames(config.name or NAME, READABLE, namer.categories))


def find_object_names(name: str) -> Path:
    """Return the table of names: the packaged one for "everyday", otherwise the file of that name."""
    return EVERYDAY_LABELS if name == EVERYDAY else Path(name)


def read_everyday_labels() -> dict[str, str]:
    """Read the packaged table: WordNet id -> everyday label."""
    with EVERYDAY_LABELS.open(encoding="utf-8", newline="") as file:
        return {row["synset"]: row["label"] for row in csv.DictReader(file, delimiter="\t")}


def read_role(name: str, supercategory: str) -> Role:
    """Return what a PartImageNet category stands for: "Quadruped Head" is a part, "Quadruped" the object.

    If a file lacks the super-category, it is the first word of the category's name.

    Raises:
        ValueError: the name does not begin with its super-category.
    """
    raw_object = supercategory or name.split(" ", 1)[0]
    if name == raw_object:
        return Role(raw_object, None)
    if not name.startswith(f"{raw_object} "):
        raise ValueError(
            f"{name!r} with super-category {supercategory!r} is not a category of PartImageNet ('Quadruped Head' of "
            "'Quadruped'); read other COCO-style files with --source coco"
        )
    return Role(raw_object, name.removeprefix(f"{raw_object} "))


def image_places(name: str) -> list[str]:
    """Return the possible places of `n02100735_1234.JPEG`: a flat folder, or folders by class or by split and class."""
    base = PurePosixPath(name).name
    found = WORDNET_ID.search(base)
    by_class = f"{found.group()}/{base}" if found else base
    heads = ("", *(f"{split}/" for split in SPLITS), "images/", *(f"images/{split}/" for split in SPLITS))
    return [f"{head}{tail}" for head in heads for tail in (name, base, by_class)]


class _ClassNamer:
    """Names ImageNet classes by the WordNet id in an image's name, and checks that each has one super-category.

    Args:
        path: the table of names.
        names: its content.
        leaves_out: whether classes without a name are left out.
    """

    def __init__(self, path: Path, names: Mapping[str, str], *, leaves_out: bool = False) -> None:
        self._path = path
        self._names = names
        self._leaves_out = leaves_out
        self.categories: dict[str, str] = {}

    def rename(self, image_name: str, supercategory: str) -> str | None:
        """Return the class name, or None if the class is left out.

        Raises:
            ValueError: The image name contains no id, the id has no name, or the class has two super-categories."""
        found = WORDNET_ID.findall(image_name)
        if not found:
            raise ValueError(f"the image name {image_name!r} contains no WordNet id such as n02100735")
        if found[-1] not in self._names and self._leaves_out:
            return None
        if found[-1] not in self._names:
            raise ValueError(f"the WordNet id {found[-1]} of image {image_name!r} is not in {self._path}; add it")
        name = self._names[found[-1]]
        category = clean_name(supercategory)
        known = self.categories.setdefault(name, category)
        if category != known:
            raise ValueError(f"{name!r} ({found[-1]}) has parts of a {category} here and of a {known} elsewhere")
        return name
