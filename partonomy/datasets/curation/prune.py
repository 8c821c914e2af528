"""Drops rare parts (paper, appendix B: parts with fewer than m = 5 annotations).

Paper: "For the parts with fewer than m annotations across the dataset, we remove the parts associated with a concept;
we set a hard threshold at m=5." This may mean counting a part label over all objects, or for each object separately.
Here: over all objects by default, because only this reading fits the paper's Table 1. Partonomy-Core's 4,968 masks are
fewer than 5 for each of its 1,976 object-part labels, but enough for each of its 862 part labels. `count_by` selects
the reading.
"""

from collections import Counter
from dataclasses import dataclass, replace
from typing import Literal

from partonomy.structures import UNNAMED_PART, AnnotatedImage, ObjectInstance, PartDataset

CountBy = Literal["part", "object_part"]


@dataclass(frozen=True)
class DroppedPart:
    """A dropped part label of an object, with the number of its annotations and the number counted by `count_by`."""

    object_label: str
    part_label: str
    num_annotations: int
    num_counted: int


@dataclass(frozen=True)
class Pruning:
    """A data set without its rare parts, and a list of what was dropped."""

    dataset: PartDataset
    parts: tuple[DroppedPart, ...]
    objects: tuple[str, ...]
    images: tuple[AnnotatedImage, ...]


def prune_dataset(dataset: PartDataset, min_annotations: int, count_by: CountBy = "part") -> Pruning:
    """Drop parts with too few annotations, then object labels without parts, then images without parts.

    An object that shows a dropped part is kept, but no question asks about it: a right answer would deny the part. An
    object without annotated parts stays in its image if its class has parts elsewhere, because it decides whether
    the object asked about must be marked.

    Args:
        dataset: the data set; not modified.
        min_annotations: m. An annotation is one part of one object instance, however many records it has.
        count_by: "part" counts a part label over all objects, "object_part" for each object separately.

    Raises:
        ValueError: `min_annotations` is below 1, or nothing would be left.
    """
    if min_annotations < 1:
        raise ValueError(f"min_annotations must be 1 or more, got {min_annotations}")
    counts = Counter(
        (instance.label, part.label)
        for image in dataset.images
        for instance in image.objects
        for part in instance.parts
    )
    counted: Counter[tuple[str, str]] = Counter()
    for (object_label, part_label), count in counts.items():
        counted[("" if count_by == "part" else object_label, part_label)] += count
    by_pair = {pair: counted[("" if count_by == "part" else pair[0], pair[1])] for pair in counts}
    kept_pairs = {pair for pair, count in by_pair.items() if count >= min_annotations}
    kept_objects = {object_label for object_label, _ in kept_pairs}
    kept_labels = {part_label for _, part_label in kept_pairs}
    if not kept_pairs:
        raise ValueError(f"{dataset.name}: no part has {min_annotations} annotations; lower --min_annotations")
    kept, dropped = [], []
    for image in dataset.images:
        objects = tuple(
            _prune_instance(one, kept_pairs, kept_labels) for one in image.objects if one.label in kept_objects
        )
        if any(instance.parts for instance in objects):
            has_other_objects = image.has_other_objects or len(objects) < len(image.objects)
            kept.append(replace(image, objects=objects, has_other_objects=has_other_objects))
        else:
            dropped.append(image)
    all_objects = {instance.label for image in dataset.images for instance in image.objects}
    return Pruning(
        dataset=replace(dataset, images=tuple(kept)),
        parts=tuple(DroppedPart(*pair, counts[pair], by_pair[pair]) for pair in sorted(counts.keys() - kept_pairs)),
        objects=tuple(sorted(all_objects - kept_objects)),
        images=tuple(dropped),
    )


def _prune_instance(
    instance: ObjectInstance, kept_pairs: set[tuple[str, str]], kept_labels: set[str]
) -> ObjectInstance:
    """Drop parts. They stay visible, so nothing is asked about the instance; a label gone everywhere is not named."""
    parts = tuple(part for part in instance.parts if (instance.label, part.label) in kept_pairs)
    dropped = {part.label for part in instance.parts if (instance.label, part.label) not in kept_pairs}
    named = {label if label in kept_labels else UNNAMED_PART for label in (*instance.left_out_parts, *dropped)}
    left_out = tuple(sorted(named))
    return replace(instance, parts=parts, left_out_parts=left_out)
