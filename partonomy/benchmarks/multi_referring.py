"""Multi-referring RefCOCO: questions about several classes of an image, as in the MMR paper (section 5.2).

Paper: 4 to 6 object categories of each image, drawn at random: "Can you segment the class 1, class 2, ..., and class
n?". Its code groups the sentences of an image by 6, 5, 4, 6, ... in file order instead and asks "What is a, b and c in
this image?"; here: the paper's way. It does not say what a class's target is: here all its instances in the image.
Images with fewer than 4 categories are left out and counted.
"""

import hashlib
import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from partonomy.benchmarks.mmr import MultiTargetItem, define_multi_target
from partonomy.benchmarks.refcoco import (
    REFERRING_SETS,
    Identifier,
    check_files_exist,
    images_of_split,
    read_identifier,
    read_target,
)
from partonomy.benchmarks.task import Source
from partonomy.datasets.sources.mmr import (
    TARGET_MARK,
    Granularity,
    MmrQuestion,
    MmrTarget,
    ground_answer,
    parse_category,
)
from partonomy.files import RECORD_ERRORS, check_relative_path, check_text, iterate_lists, reason_of, shorten
from partonomy.masks import check_mask_size, rle_area, union_masks
from partonomy.names import clean_name
from partonomy.structures import RLE

logger = logging.getLogger(__name__)

PREFIX = "multi"
"""Prefix of the referring set's name, as in "multirefcoco+"."""
MULTI_REFERRING_NAMES = tuple(f"{PREFIX}{name}" for name in REFERRING_SETS if name != "refclef")
MIN_CLASSES, MAX_CLASSES = 4, 6


@dataclass
class _Annotated:
    """An image of the split, with its annotations by category."""

    path: Path
    height: int
    width: int
    segmentations: dict[Identifier, list[Any]] = field(default_factory=lambda: defaultdict(list))


def read_multi_referring(
    root: Path, benchmark: str, split: str, *, needs_images: bool = True
) -> tuple[MultiTargetItem, ...]:
    """Read one split: one question per image with enough categories, in order of image ids.

    Args:
        root: Folder of the downloads.
        benchmark: One of `MULTI_REFERRING_NAMES`.
        split: A split of RefCOCO.
        needs_images: See `read_referring`.

    Raises:
        FileNotFoundError: A file or images are missing.
        ValueError: The split is unknown, a file or record is broken (the message names both), or no image has enough
            categories.
    """
    name = benchmark.removeprefix(PREFIX)
    path = root / "refer_seg" / name / "instances.json"
    names, images = _read_instances(root, name, path, images_of_split(root, name, split))
    items = []
    for image_id, image in sorted(images.items(), key=lambda entry: str(entry[0])):
        targets = _class_targets(image, names, f"{path}, image {image_id}")
        if len(targets) >= MIN_CLASSES:
            drawn = draw_classes(targets, f"{name}/{image_id}")
            items.append(class_question(f"{benchmark}/{image_id}", image.path, (image.height, image.width), drawn))
    if len(items) < len(images):
        logger.warning(
            "%s %s: %d of %d images show fewer than %d categories and are left out",
            benchmark,
            split,
            len(images) - len(items),
            len(images),
            MIN_CLASSES,
        )
    if not items:
        raise ValueError(
            f"{path}: no image of the split {split!r} shows {MIN_CLASSES} categories or more; choose another split"
        )
    if needs_images:
        check_files_exist([item.image_path for item in items], f"{benchmark} {split}")
    return tuple(items)


def _read_instances(
    root: Path, name: str, path: Path, wanted: frozenset[Identifier]
) -> tuple[Mapping[Identifier, str], Mapping[Identifier, _Annotated]]:
    """Read the category names and the wanted images with their segmentations; the lists may be in any order."""
    folder = root / REFERRING_SETS[name].image_folder
    names: dict[Identifier, str] = {}
    images: dict[Identifier, _Annotated] = {}
    loose: list[tuple[Identifier, Identifier, Any]] = []
    for kind, record in iterate_lists(path, ("images", "annotations", "categories")):
        try:
            if kind == "categories":
                cleaned = clean_name(check_text(record["name"], "'name'"))
                parse_category(cleaned)  # refuses names of nothing but marks, such as ":"
                names[read_identifier(record, "id")] = cleaned
            elif kind == "images" and (number := read_identifier(record, "id")) in wanted:
                check_mask_size(record["height"], record["width"])
                file_name = check_relative_path(record["file_name"], "'file_name'")
                images[number] = _Annotated(folder / file_name, record["height"], record["width"])
            elif kind == "annotations" and (image_id := read_identifier(record, "image_id")) in wanted:
                loose.append((image_id, read_identifier(record, "category_id"), record["segmentation"]))
        except RECORD_ERRORS as error:
            shown = shorten(record.get("id") if isinstance(record, Mapping) else record)
            raise ValueError(f"{path}, record {shown} of {kind!r}: {reason_of(error)}") from error
    missing = sorted(map(str, wanted - set(images)))
    if missing:
        raise ValueError(
            f"{path}: image {missing[0]} is not in the list of images; this file and the sentences belong to different "
            "releases"
        )
    for image_id, category, segmentation in loose:
        if category not in names:
            raise ValueError(f"{path}: image {image_id} has an annotation of the unknown category {shorten(category)}")
        images[image_id].segmentations[category].append(segmentation)
    return names, images


def _class_targets(image: _Annotated, names: Mapping[Identifier, str], where: str) -> dict[str, RLE]:
    """Unite all instances of each category of an image, by name; empty categories are left out."""
    masks: dict[str, list[RLE]] = defaultdict(list)
    for category, segmentations in image.segmentations.items():
        masks[names[category]] += [read_target(one, image.height, image.width, where) for one in segmentations]
    united = {name: union_masks(of_name) for name, of_name in sorted(masks.items())}
    return {name: mask for name, mask in united.items() if rle_area(mask)}


def draw_classes(targets: Mapping[str, RLE], key: str) -> list[MmrTarget]:
    """Choose `MIN_CLASSES` to `MAX_CLASSES` classes and their order; the key of an image decides.

    Args:
        targets: Mask of every class of the image, by name; at least `MIN_CLASSES`.
        key: Identifies the image.
    """
    generator = np.random.default_rng(int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big"))
    size = min(int(generator.integers(MIN_CLASSES, MAX_CLASSES + 1)), len(targets))
    names = list(targets)
    chosen = [names[place] for place in generator.permutation(len(names))[:size]]
    return [MmrTarget(name, targets[name], Granularity.OBJECT) for name in chosen]


def class_question(
    item_id: str, image_path: Path, size: tuple[int, int], targets: Sequence[MmrTarget]
) -> MultiTargetItem:
    """Ask for several classes of an image in the paper's words.

    Args:
        item_id: Unique within benchmark and split.
        image_path: The image file.
        size: Height and width of the annotation, pixels.
        targets: The classes in the order of the question, at least two.
    """
    names = [target.category_name for target in targets]
    marked = [f"the {name} {TARGET_MARK}" for name in names]
    gold = MmrQuestion(item_id, "", tuple(targets), f"It is {', '.join(marked[:-1])}, and {marked[-1]}.")
    return MultiTargetItem(
        item_id=item_id,
        image_id=item_id,
        image_path=image_path,
        height=size[0],
        width=size[1],
        text=f"the {', '.join(names[:-1])}, and {names[-1]}",
        is_sentence=False,
        targets=tuple(targets),
        answer=ground_answer(gold),
    )


def _read(name: str, source: Source) -> Sequence[MultiTargetItem]:
    return read_multi_referring(source.root, name, str(source.split), needs_images=False)


BENCHMARKS = tuple(
    define_multi_target(
        name,
        "Several classes of an image in one question",
        "val, test" if name == "multirefcocog" else "val, testA, testB",
        partial(_read, name),
        quoted_by="ciou",
    )
    for name in MULTI_REFERRING_NAMES
)
