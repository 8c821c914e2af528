"""MMR's protocol for questions with several targets: modes, what masks score, gIoU and cIoU (MMR paper, section 5.1).

gIoU is the mean IoU over masks, not over questions or images; cIoU the sum of intersections over the sum of unions, in
whole numbers. M2SA's code: unions plus 1e-5, sums in float32, images repeated to fill the ranks; here: exact, each one
once.
"""

from collections.abc import Mapping, Sequence
from enum import StrEnum

import numpy as np

from partonomy.benchmarks.item_records import ItemRecord, TargetOutcome, ratio_by_image
from partonomy.benchmarks.multi_target_items import Kind, MultiTargetItem
from partonomy.datasets.mmr import MmrTarget
from partonomy.masks import canonical_rle, encode_masks, rle_area, union_masks
from partonomy.metrics.bootstrap import ImageRatio
from partonomy.metrics.iou import count_pixels
from partonomy.metrics.matching import hungarian_assignment
from partonomy.structures import RLE

MAX_NEW_TOKENS = 256
"""Of a model's own answer: the sixteen targets of MMR's longest fit with their names."""
NO_PHRASE = "mask not asked for: the text answer does not name its target before its {seg}"
NO_WORD = "mask not asked for: the text answer has no word before its {seg}, or no {seg}"
ALL_TARGETS = "all targets"
SINGLE, MULTIPLE = "single", "multiple"


class MultiTargetMode(StrEnum):
    """Where the masks come from and what they are compared with; it stands beside every score.

    `teacher_forced`: the gold answer is given and its targets are segmented, each compared with its own mask, as M2SA's
    code does: the k-th mask has read the names of the first k targets. `generate`: the model answers in its own words,
    and its masks are paired with the question's targets so that the sum of IoUs is largest; what is left over on
    either side scores 0, and its pixels enter cIoU's union. `union`: all those masks against all targets.
    """

    TEACHER_FORCED = "teacher_forced"
    GENERATE = "generate"
    UNION = "union"


def forced_outcomes(item: MultiTargetItem, masks: Mapping[int, np.ndarray], reason: str) -> tuple[TargetOutcome, ...]:
    """Compare masks with the targets that they were forced for.

    Args:
        item: The question.
        masks: By the target's place, bool (H, W), original-image pixels.
        reason: Why the others could not be asked for.

    Returns:
        One outcome per target, in their order. M2SA's code: targets without a mask add nothing to cIoU; here: their
        pixels enter the union.
    """
    places = list(masks)
    stack = np.stack([masks[place] for place in places]) if places else _no_masks(item)
    return _outcomes(item, stack, {place: row for row, place in enumerate(places)}, reason)


def matched_outcomes(item: MultiTargetItem, masks: np.ndarray) -> tuple[TargetOutcome, ...]:
    """Pair a model's own masks with the targets.

    Args:
        item: The question.
        masks: bool (P, H, W), original-image pixels.

    Returns:
        One outcome per target, in their order, then one per mask that is left over.
    """
    predicted, true = encode_masks(masks), _true_masks(item.targets)
    pairs = hungarian_assignment(count_pixels(predicted, true).ious)
    return _outcomes(item, masks, {place: row for row, place in pairs}, None)


def union_outcome(item: MultiTargetItem, masks: np.ndarray) -> tuple[TargetOutcome, ...]:
    """Compare the union of masks bool (P, H, W) with the union of the targets; one outcome."""
    predicted = encode_masks(np.asarray(masks.any(axis=0, keepdims=True)))
    pair = count_pixels(predicted, [_union(item)]).pair(0, 0)
    return (TargetOutcome(ALL_TARGETS, pair.intersection, pair.union, predicted=predicted[0]),)


def missed_outcomes(item: MultiTargetItem, mode: MultiTargetMode) -> tuple[TargetOutcome, ...]:
    """Outcomes of a failed question: nothing is predicted, the targets' pixels enter cIoU's union."""
    if mode is MultiTargetMode.UNION:
        return (_missing(ALL_TARGETS, _union(item), None),)
    return _outcomes(item, _no_masks(item), {}, None)


def question_score(outcomes: Sequence[TargetOutcome]) -> float:
    """Mean IoU of one question's outcomes; 1 where nothing is meant and nothing predicted."""
    return sum(outcome.iou for outcome in outcomes) / len(outcomes) if outcomes else 1.0


def check_masks(masks: np.ndarray, item: MultiTargetItem) -> np.ndarray:
    """Return a model's masks.

    Raises:
        ValueError: They are not bool (P, H, W) of the annotation's size.
    """
    if masks.ndim != 3 or masks.shape[1:] != (item.height, item.width) or masks.dtype != np.bool_:
        raise ValueError(
            f"predicted masks must be bool (masks, {item.height}, {item.width}), the annotation's size, got "
            f"{masks.dtype} {masks.shape}"
        )
    return masks


def mmr_ratios(records: Sequence[ItemRecord], mode: MultiTargetMode) -> dict[str, ImageRatio]:
    """gIoU and cIoU of all questions, of those about objects, parts and both, and of those with one and more targets.

    Except for `union` also, relative to the number of targets: `missing_masks` (targets without a prediction) and
    `extra_masks` (predictions without a target). `teacher_forced` has no extra masks, but `ciou_predicted_only`, which
    leaves out missing masks as M2SA's code does.
    """
    ratios: dict[str, ImageRatio] = {}
    ratios |= _giou_and_ciou("", records, records)
    for kind in Kind:
        ratios |= _giou_and_ciou(f"_{kind.value}", records, [one for one in records if one.group == kind.value])
    ratios |= _giou_and_ciou(f"_{SINGLE}", records, [one for one in records if len(one.truths) == 1])
    ratios |= _giou_and_ciou(f"_{MULTIPLE}", records, [one for one in records if len(one.truths) > 1])
    if mode is MultiTargetMode.UNION:
        return ratios
    num_targets = [len(record.truths) for record in records]
    ratios["missing_masks"] = _ratio(records, [num_missing(one) for one in records], num_targets, sum(num_targets))
    if mode is MultiTargetMode.GENERATE:
        ratios["extra_masks"] = _ratio(records, [num_extra(one) for one in records], num_targets, sum(num_targets))
    else:
        predicted = [[one for one in record.targets if one.is_predicted] for record in records]
        ratios["ciou_predicted_only"] = _ciou(records, predicted)
    return ratios


def num_missing(record: ItemRecord) -> int:
    """Targets without a prediction."""
    return sum(not outcome.is_predicted for outcome in record.targets)


def num_extra(record: ItemRecord) -> int:
    """Predictions without a target."""
    return sum(outcome.name is None for outcome in record.targets)


def _giou_and_ciou(suffix: str, records: Sequence[ItemRecord], counted: Sequence[ItemRecord]) -> dict[str, ImageRatio]:
    ids = {record.item_id for record in counted}
    outcomes = [record.targets if record.item_id in ids else () for record in records]
    sums = [sum(one.iou for one in of_record) for of_record in outcomes]
    sizes = [len(of_record) for of_record in outcomes]
    return {f"giou{suffix}": _ratio(records, sums, sizes, sum(sizes)), f"ciou{suffix}": _ciou(records, outcomes)}


def _ciou(records: Sequence[ItemRecord], outcomes: Sequence[Sequence[TargetOutcome]]) -> ImageRatio:
    intersections = [sum(one.intersection for one in of_record) for of_record in outcomes]
    unions = [sum(one.union for one in of_record) for of_record in outcomes]
    return _ratio(records, intersections, unions, sum(map(len, outcomes)), value_if_empty=1.0)


def _ratio(
    records: Sequence[ItemRecord],
    numerators: Sequence[int | float],
    denominators: Sequence[int],
    count: int,
    value_if_empty: float = 0.0,
) -> ImageRatio:
    """A metric over masks, of which `count` are counted."""
    by_image = ratio_by_image(records, numerators, denominators)
    return ImageRatio(by_image.numerators, by_image.denominators, count, value_if_empty)


def _outcomes(
    item: MultiTargetItem, masks: np.ndarray, row_of_target: Mapping[int, int], reason: str | None
) -> tuple[TargetOutcome, ...]:
    """One outcome per target and one per mask that belongs to none."""
    predicted = encode_masks(masks)
    counts = count_pixels(predicted, _true_masks(item.targets))
    outcomes = []
    for place, target in enumerate(item.targets):
        row = row_of_target.get(place)
        if row is None:
            outcomes.append(_missing(target.category_name, target.mask, reason))
        else:
            pair = counts.pair(row, place)
            outcomes.append(
                TargetOutcome(target.category_name, pair.intersection, pair.union, predicted=predicted[row])
            )
    extra = sorted(set(range(len(predicted))) - set(row_of_target.values()))
    outcomes += [TargetOutcome(None, 0, int(counts.predicted_areas[row]), predicted=predicted[row]) for row in extra]
    return tuple(outcomes)


def _missing(name: str, mask: RLE, reason: str | None) -> TargetOutcome:
    return TargetOutcome(name, 0, rle_area(mask), is_predicted=False, reason=reason)


def _true_masks(targets: Sequence[MmrTarget]) -> list[RLE]:
    return [canonical_rle(target.mask) for target in targets]


def _union(item: MultiTargetItem) -> RLE:
    return union_masks([*_true_masks(item.targets), *encode_masks(np.zeros((1, item.height, item.width), dtype=bool))])


def _no_masks(item: MultiTargetItem) -> np.ndarray:
    return np.zeros((0, item.height, item.width), dtype=bool)
