"""Sizes of a data set in the columns of the paper's Tables 1 and 8."""

from collections.abc import Sequence
from dataclasses import dataclass

from partonomy.structures import PartDataset


@dataclass(frozen=True)
class DatasetStatistics:
    """Counts. `num_objects`, `num_parts` and `num_object_parts` count labels, the others count what is annotated.

    `num_object_centric` images show exactly one annotated object.
    """

    num_objects: int
    num_parts: int
    num_object_parts: int
    num_images: int
    num_masks: int
    num_instances: int
    num_object_centric: int


def compute_statistics(dataset: PartDataset) -> DatasetStatistics:
    """Count labels, images and part masks. Objects count when any instance of them has an annotated part."""
    return compute_joint_statistics((dataset,))


def compute_joint_statistics(datasets: Sequence[PartDataset]) -> DatasetStatistics:
    """Count over several data sets, as the last row of the paper's Table 8 does: labels once, all else added up."""
    images = [image for dataset in datasets for image in dataset.images]
    instances = [instance for image in images for instance in image.objects]
    pairs = {(instance.label, part.label) for instance in instances for part in instance.parts}
    return DatasetStatistics(
        num_objects=len({label for label, _ in pairs}),
        num_parts=len({part for _, part in pairs}),
        num_object_parts=len(pairs),
        num_images=len(images),
        num_masks=sum(len(instance.parts) for instance in instances),
        num_instances=len(instances),
        num_object_centric=sum(len(image.objects) == 1 for image in images),
    )
