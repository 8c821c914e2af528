"""Numbers that describe a data set: how often its labels occur, how many parts an image shows, how large masks are."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from partonomy.datasets.statistics import DatasetStatistics, compute_statistics
from partonomy.masks import rle_area
from partonomy.structures import PartDataset

RARE_BELOW = 5
"""Labels with fewer annotations are rare: the paper drops such parts (appendix B)."""
TINY_SHARE = 0.0005
"""Of the image's pixels: below it a mask is tiny."""
QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)


@dataclass(frozen=True)
class Description:
    """All mappings fall by count, labels of equal count by name.

    Attributes:
        name: of the data set.
        statistics: its sizes.
        images_per_object: images that show an object of the label with an annotated part.
        masks_per_part: masks of a part label over all objects.
        masks_per_object_part: masks of an `object:part` label.
        parts_per_image: part masks of every image, int64 (images,).
        parts_per_object: part masks of every object instance that has any, int64 (instances,).
        area_shares: of every part mask the share of its image's pixels, float64 (masks,).
        mask_parts: the part label of every mask, aligned.
    """

    name: str
    statistics: DatasetStatistics
    images_per_object: Mapping[str, int]
    masks_per_part: Mapping[str, int]
    masks_per_object_part: Mapping[tuple[str, str], int]
    parts_per_image: np.ndarray
    parts_per_object: np.ndarray
    area_shares: np.ndarray
    mask_parts: tuple[str, ...]

    @property
    def tiny_share(self) -> float:
        """Share of the masks that cover less than `TINY_SHARE` of their image."""
        return float((self.area_shares < TINY_SHARE).mean())

    def area_quantiles(self) -> tuple[float, ...]:
        """`QUANTILES` of the masks' share of the image."""
        return tuple(float(value) for value in np.quantile(self.area_shares, QUANTILES))


def describe_dataset(dataset: PartDataset) -> Description:
    """Count and measure everything.

    Raises:
        ValueError: there is no part mask.
    """
    instances = [(image, one) for image in dataset.images for one in image.objects if one.parts]
    if not instances:
        raise ValueError(f"{dataset.name}: no annotated part in {len(dataset.images)} images, nothing to describe")
    objects = Counter(label for image in dataset.images for label in {one.label for one in image.objects if one.parts})
    pairs = Counter((one.label, part.label) for _, one in instances for part in one.parts)
    parts = Counter(part.label for _, one in instances for part in one.parts)
    shares = [rle_area(part.mask) / (image.height * image.width) for image, one in instances for part in one.parts]
    return Description(
        name=dataset.name,
        statistics=compute_statistics(dataset),
        images_per_object=dict(sorted(objects.items(), key=lambda row: (-row[1], row[0]))),
        masks_per_part=dict(sorted(parts.items(), key=lambda row: (-row[1], row[0]))),
        masks_per_object_part=dict(sorted(pairs.items(), key=lambda row: (-row[1], row[0]))),
        parts_per_image=np.array([sum(len(one.parts) for one in image.objects) for image in dataset.images]),
        parts_per_object=np.array([len(one.parts) for _, one in instances]),
        area_shares=np.array(shares),
        mask_parts=tuple(part.label for _, one in instances for part in one.parts),
    )
