"""Masks of one image for `check`: tiny ones, parts outside their object, the same label twice on the same mask."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from partonomy.datasets import check_problems as problems
from partonomy.datasets.check_problems import Finding
from partonomy.datasets.check_records import CheckedAnnotation, CheckedImage
from partonomy.masks import intersection_area, rle_area
from partonomy.structures import RLE


@dataclass(frozen=True)
class CheckLimits:
    """From where on a mask is worth a look.

    Attributes:
        min_pixels: a smaller part mask is a warning.
        min_share: of the image's pixels; a smaller part mask is a note.
        max_outside: share of a part's pixels that may lie outside its object's mask.
        duplicate_iou: two masks of one label that overlap more are the same annotation made twice.
    """

    min_pixels: int = 16
    min_share: float = 0.0005
    max_outside: float = 0.1
    duplicate_iou: float = 0.99

    def __post_init__(self) -> None:
        if self.min_pixels < 0:
            raise ValueError(f"min_pixels must be 0 or more, got {self.min_pixels}")
        for name in ("min_share", "max_outside", "duplicate_iou"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"{name} is a share between 0 and 1, got {getattr(self, name)}")


@dataclass(frozen=True)
class CheckedMasks:
    """What was found in one image; `num_not_compared` parts have no object with a mask to lie in."""

    findings: tuple[Finding, ...]
    num_not_compared: int


def check_masks(image: CheckedImage, annotations: Sequence[CheckedAnnotation], limits: CheckLimits) -> CheckedMasks:
    """Check all annotations of one image; those without a readable mask were noted when they were read."""
    objects = {one.annotation_id: one for one in annotations if not one.is_part}
    findings: list[Finding] = []
    num_not_compared = 0
    for part in annotations:
        if not part.is_part or part.is_crowd:
            continue
        where = f"annotation {part.annotation_id}"
        problem = _find_link_problem(part, objects)
        if problem:
            findings.append(
                Finding(problems.NO_OBJECT, where, f"{describe(part)} in image {image.image_id}: {problem}")
            )
        if part.mask is None:
            continue
        findings += _check_size(part, part.mask, image, limits)
        owners = [] if problem else _possible_owners(part, objects)
        if not owners:
            num_not_compared += not problem
            continue
        outside = min(_share_outside(part.mask, owner) for owner in owners)
        if outside > limits.max_outside:
            detail = f"{outside:.0%} of {describe(part)} in image {image.image_id} lies outside its object"
            findings.append(Finding(problems.OUTSIDE_OBJECT, where, detail))
    findings += _find_duplicates(image, annotations, limits.duplicate_iou)
    return CheckedMasks(tuple(findings), num_not_compared)


def describe(annotation: CheckedAnnotation) -> str:
    """The raw names of an annotation as `object:part`, as far as they are known."""
    names = (annotation.category.raw_object, annotation.category.raw_part)
    return repr(":".join(name for name in names if name is not None))


def _check_size(part: CheckedAnnotation, mask: RLE, image: CheckedImage, limits: CheckLimits) -> Iterator[Finding]:
    area, pixels = rle_area(mask), image.height * image.width
    where, what = f"annotation {part.annotation_id}", f"{describe(part)} in image {image.image_id}"
    if area < limits.min_pixels:
        yield Finding(problems.FEW_PIXELS, where, f"{what}: {area} pixels")
    if area < limits.min_share * pixels:
        yield Finding(problems.SMALL_SHARE, where, f"{what}: {area / pixels:.4%} of the image, {area} pixels")


def _find_link_problem(part: CheckedAnnotation, objects: dict[int, CheckedAnnotation]) -> str:
    """Why a part belongs to no object, as `coco` would say; empty when it does."""
    if part.object_id is None:
        is_known = bool(objects) or part.category.raw_object is not None
        return "" if is_known else "nothing says which object it belongs to"
    owner = objects.get(part.object_id)
    if owner is None:
        return f"obj_ann_id {part.object_id} is no object of this image"
    if part.category.raw_object not in (None, owner.category.raw_object):
        return f"it is linked to annotation {owner.annotation_id}, which is {describe(owner)}"
    return ""


def _possible_owners(part: CheckedAnnotation, objects: dict[int, CheckedAnnotation]) -> list[RLE]:
    """Masks of the linked object, or of all objects of the part's class where it is not linked."""
    if part.object_id is not None:
        candidates = [objects[part.object_id]]
    else:
        candidates = [one for one in objects.values() if part.category.raw_object in (None, one.category.raw_object)]
    return [one.mask for one in candidates if one.mask is not None]


def _share_outside(part: RLE, owner: RLE) -> float:
    return 1.0 - intersection_area(part, owner) / rle_area(part)


def _find_duplicates(
    image: CheckedImage, annotations: Sequence[CheckedAnnotation], duplicate_iou: float
) -> Iterator[Finding]:
    by_label: dict[str, list[CheckedAnnotation]] = defaultdict(list)
    for annotation in annotations:
        if annotation.mask is not None:
            by_label[describe(annotation)].append(annotation)
    for label, same in by_label.items():
        areas = {one.annotation_id: rle_area(one.mask) for one in same if one.mask is not None}
        ordered = sorted(same, key=lambda one: (areas[one.annotation_id], one.annotation_id))
        for position, first in enumerate(ordered):
            for second in ordered[position + 1 :]:
                small, large = areas[first.annotation_id], areas[second.annotation_id]
                if small <= duplicate_iou * large:  # the IoU is at most the ratio of the areas
                    break
                iou = _mask_iou(first, second, small + large)
                if iou > duplicate_iou:
                    detail = f"{label} in image {image.image_id} is annotated again by {first.annotation_id}"
                    yield Finding(problems.SAME_MASK, f"annotation {second.annotation_id}", f"{detail}, IoU {iou:.3f}")
                    break


def _mask_iou(first: CheckedAnnotation, second: CheckedAnnotation, total_area: int) -> float:
    assert first.mask is not None
    assert second.mask is not None
    shared = intersection_area(first.mask, second.mask)
    return shared / (total_area - shared)
