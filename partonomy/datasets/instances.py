"""The instance of an image that questions are about."""

from partonomy.masks import rle_area, rle_bbox, union_masks
from partonomy.structures import AnnotatedImage, ObjectInstance


def choose_instance(image: AnnotatedImage) -> ObjectInstance | None:
    """Choose the instance with the most annotated parts, the largest of these; None when no instance has any.

    Paper, section 3.2: among several instances, the largest with the most annotated parts.
    """
    candidates = [instance for instance in image.objects if instance.parts]
    if len(candidates) <= 1:
        return candidates[0] if candidates else None
    return max(candidates, key=lambda one: (len(one.parts), _area(one), -one.instance_id))


def instance_box(instance: ObjectInstance) -> tuple[int, int, int, int]:
    """Box (x, y, width, height) around an instance: its mask, or its parts where it has none."""
    return rle_bbox(instance.mask or union_masks([part.mask for part in instance.parts]))


def _area(instance: ObjectInstance) -> int:
    return rle_area(instance.mask or union_masks([part.mask for part in instance.parts]))
