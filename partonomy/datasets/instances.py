"""Selects the instances of an image that questions ask about."""

from collections.abc import Iterable
from enum import StrEnum

from partonomy.masks import rle_area, rle_bbox, union_masks
from partonomy.structures import AnnotatedImage, ObjectInstance


class InstanceRule(StrEnum):
    """Which instances of an image to ask about.

    image: one, so that no image weighs more than another (ours).
    class: one of every object class in the image (the authors' code).
    """

    IMAGE = "image"
    CLASS = "class"


def choose_instances(image: AnnotatedImage, rule: InstanceRule) -> tuple[ObjectInstance, ...]:
    """Choose the instances to ask about, sorted by label; none if no instance can be asked about."""
    labels = sorted({instance.label for instance in image.objects}) if rule is InstanceRule.CLASS else [None]
    chosen = (_choose(instance for instance in image.objects if label in (None, instance.label)) for label in labels)
    return tuple(instance for instance in chosen if instance is not None)


def choose_instance(image: AnnotatedImage) -> ObjectInstance | None:
    """Choose the instance with the most annotated parts, on a tie the largest; None if no instance can be asked about.

    Paper, section 3.2: among several instances, the largest with the most annotated parts. An instance of which a part
    was left out is never chosen, because the part is visible: a right answer without it would be wrong.
    """
    return _choose(image.objects)


def _choose(instances: Iterable[ObjectInstance]) -> ObjectInstance | None:
    candidates = [instance for instance in instances if instance.parts and not instance.left_out_parts]
    if len(candidates) <= 1:
        return candidates[0] if candidates else None
    return max(candidates, key=lambda one: (len(one.parts), _area(one), -one.instance_id))


def instance_box(instance: ObjectInstance) -> tuple[int, int, int, int]:
    """Return the box (x, y, width, height) around an instance's mask, or around its parts if it has no mask."""
    return rle_bbox(instance.mask or union_masks([part.mask for part in instance.parts]))


def _area(instance: ObjectInstance) -> int:
    return rle_area(instance.mask or union_masks([part.mask for part in instance.parts]))
