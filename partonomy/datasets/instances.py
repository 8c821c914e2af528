"""Selects the instance of an image that questions ask about."""

from partonomy.masks import rle_area, rle_bbox, union_masks
from partonomy.structures import AnnotatedImage, ObjectInstance


def choose_instance(image: AnnotatedImage) -> ObjectInstance | None:
    """Choose the instance with the most annotated parts (the largest if several tie); None if no instance has parts.

    Paper, section 3.2: among several instances, the largest with the most annotated parts.
    """
    candidates = [instance for instance in image.objects if instance.parts]
    if len(candidates) <= 1:
        return candidates[0] if candidates else None
    return max(candidates, key=lambda one: (len(one.parts), _area(one), -one.instance_id))


def instance_box(instance: ObjectInstance) -> tuple[int, int, int, int]:
    """Return the box (x, y, width, height) around an instance's mask, or around its parts if it has no mask."""
    return rle_bbox(instance.mask or union_masks([part.mask for part in instance.parts]))


def _area(instance: ObjectInstance) -> int:
    return rle_area(instance.mask or union_masks([part.mask for part in instance.parts]))
