"""Splits a data set 80/20 by image, stratified by object label, before questions are made (paper, appendix B).

This module uses quotas because scikit-learn's StratifiedShuffleSplit refuses to draw fewer images than there are
classes, and may put all images of a class on one side. With hundreds of objects of two images each (Partonomy-Core),
both happen.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from partonomy.datasets.instances import choose_instance
from partonomy.datasets.photographs import find_same_files, group_photographs
from partonomy.structures import AnnotatedImage, PartDataset

NO_OBJECT = ""


@dataclass(frozen=True)
class Split:
    """Two data sets that together hold the images of the original data set, with the same ids.

    `num_held_together` images share their photograph with another image and were kept on its side.
    """

    train: PartDataset
    val: PartDataset
    num_held_together: int


def split_dataset(dataset: PartDataset, val_share: float, seed: int, num_workers: int = 1) -> Split:
    """Draw the images of each side.

    Images are stratified by the object that questions would ask about. Every label gives its share of photographs to
    val, rounded so that the sides have the requested size, and keeps at least one in train. Images of the same
    photograph (equal files, or equal COCO numbers) stay together. The result depends on the ids and labels of the
    images, not on their order.

    Args:
        dataset: the data set; not modified.
        val_share: fraction of the images on the validation side, between 0 and 1.
        seed: seed of the random split.
        num_workers: number of threads that compare image files.

    Raises:
        ValueError: the fraction or the seed is out of range, or a side would be empty.
    """
    if not 0.0 < val_share < 1.0:
        raise ValueError(f"val_share must lie between 0 and 1, got {val_share}")
    if seed < 0:
        raise ValueError(f"seed must be 0 or more, got {seed}")
    images = sorted(dataset.images, key=lambda image: image.image_id)
    paths = [dataset.image_root / image.file_name for image in images]
    _check_present(paths, dataset.name)
    photographs = group_photographs([image.file_name for image in images], find_same_files(paths, num_workers))
    chosen = _draw_val([_main_label(images[group[0]]) for group in photographs], val_share, seed)
    val_ids = {images[position].image_id for number in chosen for position in photographs[number]}
    train = tuple(image for image in dataset.images if image.image_id not in val_ids)
    val = tuple(image for image in dataset.images if image.image_id in val_ids)
    if not train or not val:
        raise ValueError(
            f"{dataset.name}: {len(photographs)} photographs of these objects leave one side empty at val_share "
            f"{val_share}, because every object keeps one photograph in train"
        )
    return Split(
        train=replace(dataset, name=f"{dataset.name}_train", images=train),
        val=replace(dataset, name=f"{dataset.name}_val", images=val),
        num_held_together=sum(len(group) for group in photographs if len(group) > 1),
    )


def _draw_val(labels: Sequence[str], val_share: float, seed: int) -> list[int]:
    """Draw positions for val: each label's quota rounded down, then one more for the largest remainders."""
    members: dict[str, list[int]] = defaultdict(list)
    for position, label in enumerate(labels):
        members[label].append(position)
    generator = np.random.default_rng(seed)
    order = {label: [group[i] for i in generator.permutation(len(group))] for label, group in sorted(members.items())}
    tie_break = dict(zip(order, generator.permutation(len(order)).tolist(), strict=True))
    quotas = {label: val_share * len(group) for label, group in order.items()}
    counts = {label: min(int(quota + 1e-9), len(order[label]) - 1) for label, quota in quotas.items()}
    missing = round(val_share * len(labels)) - sum(counts.values())
    by_remainder = sorted(order, key=lambda label: (counts[label] - quotas[label], tie_break[label]))
    for label in [label for label in by_remainder if counts[label] < len(order[label]) - 1][: max(missing, 0)]:
        counts[label] += 1
    return [position for label, group in order.items() for position in group[: counts[label]]]


def _main_label(image: AnnotatedImage) -> str:
    instance = choose_instance(image)
    return NO_OBJECT if instance is None else instance.label


def _check_present(paths: Sequence[Path], name: str) -> None:
    missing = [path for path in paths if not path.is_file()]
    if missing:
        raise FileNotFoundError(
            f"{missing[0]}: image file not found ({len(missing)} of {name} in all); equal photographs cannot be found "
            "without them"
        )
