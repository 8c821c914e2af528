"""MMR's protocol: pairing, gIoU per mask, cIoU with what is missing and what is too much.

An image has 12 x 16 pixels; targets are boxes.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from partonomy.benchmarks.mmr import (
    NO_PHRASE,
    MultiTargetItem,
    MultiTargetMode,
    check_masks,
    forced_outcomes,
    matched_outcomes,
    missed_outcomes,
    mmr_ratios,
    num_extra,
    num_missing,
    question_score,
    read_mmr_items,
    union_outcome,
)
from partonomy.benchmarks.records import AnswerRecord, TargetOutcome
from partonomy.datasets.sources.mmr import Granularity, GroundedAnswer, Kind, MmrTarget
from partonomy.harness.records import RecordCodec, record_to_line
from partonomy.masks import decode_mask, encode_mask
from tests.partonomy.datasets.mmr_file import HEIGHT, WIDTH, box, mmr_record, write_records

NOTHING = np.zeros((HEIGHT, WIDTH), dtype=bool)


def make_item(*targets: np.ndarray, granularity: Sequence[Granularity] = ()) -> MultiTargetItem:
    kinds = granularity or [Granularity.OBJECT] * len(targets)
    named = tuple(
        MmrTarget(f"thing {place}", encode_mask(mask), kind)
        for place, (mask, kind) in enumerate(zip(targets, kinds, strict=True))
    )
    answer = GroundedAnswer("", (None,) * len(targets), (None,) * len(targets))
    return MultiTargetItem("1:0", "1", Path("1.jpg"), HEIGHT, WIDTH, "What?", True, named, answer)


def make_record(
    outcomes: tuple[TargetOutcome, ...], image_id: str = "1", group: str = "object", num_targets: int | None = None
) -> AnswerRecord:
    count = sum(one.name is not None for one in outcomes) if num_targets is None else num_targets
    record_id = f"{image_id}-{group}-{len(outcomes)}"
    return AnswerRecord(
        item_id=record_id,
        image_id=image_id,
        image_path="",
        group=group,
        prompt="What?",
        truths=("thing",) * count,
        targets=outcomes,
    )


def values(records: Sequence[AnswerRecord], mode: MultiTargetMode) -> dict[str, float | None]:
    return {name: ratio.value for name, ratio in mmr_ratios(records, mode).items()}


def test_empty_masks() -> None:
    """Note 5, check 5: empty on empty scores 1; ten predicted pixels on an empty target score 0 and enter the union."""
    item = make_item(NOTHING)
    (right,) = forced_outcomes(item, {0: NOTHING}, NO_PHRASE)
    assert (right.iou, right.intersection, right.union) == (1.0, 0, 0)
    (wrong,) = forced_outcomes(item, {0: box(0, 0, 5, 2)}, NO_PHRASE)
    assert (wrong.iou, wrong.intersection, wrong.union) == (0.0, 0, 10)
    # an empty target for which nothing was predicted is not found, however empty
    assert matched_outcomes(item, np.zeros((0, HEIGHT, WIDTH), dtype=bool))[0].iou == 0.0
    found = values([make_record((right, wrong))], MultiTargetMode.TEACHER_FORCED)
    assert (found["giou"], found["ciou"]) == (0.5, 0.0)
    only_empty = values([make_record((right,))], MultiTargetMode.TEACHER_FORCED)
    assert (only_empty["giou"], only_empty["ciou"]) == (1.0, 1.0)


def test_giou_is_a_mean_over_masks() -> None:
    """Check 6: image A has one mask of IoU .5, image B masks of 1, 1, 0: 2.5 / 4, not the mean of .5 and .667."""
    first = (TargetOutcome("a", 5, 10),)
    second = (TargetOutcome("b", 4, 4), TargetOutcome("c", 2, 2), TargetOutcome("d", 0, 8))
    found = values([make_record(first, "A"), make_record(second, "B")], MultiTargetMode.TEACHER_FORCED)
    assert found["giou"] == 0.625
    assert found["ciou"] == pytest.approx((5 + 4 + 2) / (10 + 4 + 2 + 8))
    assert (found["giou_single"], found["giou_multiple"]) == (0.5, pytest.approx(2 / 3))


def test_a_missing_mask() -> None:
    """Check 7: three targets, the first two segmented perfectly, the third (24 pixels) not at all.

    gIoU is 2/3 in both modes. M2SA's code leaves the missing one out of cIoU: 1.0; here 40 / 64.
    """
    targets = box(0, 0, 4, 4), box(6, 0, 4, 6), box(12, 0, 4, 6)
    item = make_item(*targets)
    forced = forced_outcomes(item, {0: targets[0], 1: targets[1]}, NO_PHRASE)
    assert [one.reason for one in forced] == [None, None, NO_PHRASE]
    found = values([make_record(forced)], MultiTargetMode.TEACHER_FORCED)
    assert found["giou"] == pytest.approx(2 / 3)
    assert found["ciou_predicted_only"] == 1.0
    assert found["ciou"] == 40 / 64
    assert found["missing_masks"] == pytest.approx(1 / 3)
    matched = matched_outcomes(item, np.stack([targets[1], targets[0]]))
    assert [(one.is_predicted, one.reason) for one in matched] == [(True, None), (True, None), (False, None)]
    found = values([make_record(matched)], MultiTargetMode.GENERATE)
    assert (found["giou"], found["ciou"]) == (pytest.approx(2 / 3), 40 / 64)
    assert (found["missing_masks"], found["extra_masks"]) == (pytest.approx(1 / 3), 0.0)
    assert question_score(matched) == pytest.approx(2 / 3)


def test_pairing_is_the_best_of_all() -> None:
    """Targets are columns 0-3 and 4-7. Mask 0, columns 0-7, has IoU 1/2 with each; mask 1, columns 0-3, is target 0.

    In the order of the masks mask 0 would take target 0; the best sum is 1 + 1/2.
    """
    item = make_item(box(0, 0, 4, 12), box(4, 0, 4, 12))
    outcomes = matched_outcomes(item, np.stack([box(0, 0, 8, 12), box(0, 0, 4, 12)]))
    assert [(one.name, one.iou) for one in outcomes] == [("thing 0", 1.0), ("thing 1", 0.5)]
    assert [one.predicted and int(decode_mask(one.predicted).sum()) for one in outcomes] == [48, 96]


def test_masks_without_a_target_count() -> None:
    """One target of 16 pixels, three masks: the target, 6 and 0 pixels elsewhere. (1 + 0 + 0) / 3 and 16 / 22."""
    item = make_item(box(0, 0, 4, 4))
    outcomes = matched_outcomes(item, np.stack([box(8, 8, 3, 2), box(0, 0, 4, 4), NOTHING]))
    assert [(one.name, one.iou, one.union) for one in outcomes] == [
        ("thing 0", 1.0, 16),
        (None, 0.0, 6),
        (None, 0.0, 0),
    ]
    record = make_record(outcomes)
    assert (num_missing(record), num_extra(record)) == (0, 2)
    found = values([record], MultiTargetMode.GENERATE)
    assert (found["giou"], found["ciou"], found["extra_masks"]) == (pytest.approx(1 / 3), 16 / 22, 2.0)
    assert question_score(outcomes) == pytest.approx(1 / 3)


def test_unions() -> None:
    """Two targets of 16 pixels, 8 of them shared: union 24. One mask of columns 0-3: 16 of these 24."""
    item = make_item(box(0, 0, 4, 4), box(2, 0, 4, 4))
    (outcome,) = union_outcome(item, np.stack([box(0, 0, 4, 4), NOTHING]))
    assert (outcome.intersection, outcome.union) == (16, 24)
    (nothing,) = union_outcome(item, np.zeros((0, HEIGHT, WIDTH), dtype=bool))
    assert (nothing.intersection, nothing.union, nothing.iou) == (0, 24, 0.0)
    found = values([make_record((outcome,), num_targets=2)], MultiTargetMode.UNION)
    assert found["giou_multiple"] == 16 / 24
    assert found["giou_single"] is None
    assert not {"missing_masks", "extra_masks"} & set(found)


def test_a_question_without_targets() -> None:
    item = make_item()
    assert item.kind is Kind.MIXED
    assert matched_outcomes(item, np.zeros((0, HEIGHT, WIDTH), dtype=bool)) == ()
    assert question_score(()) == 1.0
    (outcome,) = matched_outcomes(item, box(0, 0, 2, 2)[None])
    assert (outcome.name, outcome.union) == (None, 4)
    assert missed_outcomes(item, MultiTargetMode.GENERATE) == ()
    (union,) = missed_outcomes(item, MultiTargetMode.UNION)
    assert union.union == 0
    found = values([make_record((outcome,), num_targets=0)], MultiTargetMode.GENERATE)
    assert (found["giou"], found["ciou"]) == (0.0, 0.0)


@pytest.mark.parametrize(("mode", "unions"), [("teacher_forced", [16, 16]), ("generate", [16, 16]), ("union", [24])])
def test_failed_questions_enter_the_union(mode: str, unions: list[int]) -> None:
    outcomes = missed_outcomes(make_item(box(0, 0, 4, 4), box(2, 0, 4, 4)), MultiTargetMode(mode))
    assert [(one.iou, one.intersection, one.union) for one in outcomes] == [(0.0, 0, area) for area in unions]


def test_questions_by_kind() -> None:
    part, whole = Granularity.PART, Granularity.OBJECT
    boxes = box(0, 0, 2, 2), box(4, 0, 2, 2)
    assert make_item(boxes[0], granularity=[part]).kind is Kind.PART
    assert make_item(*boxes, granularity=[whole, whole]).kind is Kind.OBJECT
    assert make_item(*boxes, granularity=[whole, part]).kind is Kind.MIXED
    records = [
        make_record((TargetOutcome("a", 1, 2),), "1", "object"),
        make_record((TargetOutcome("a", 1, 4),), "2", "part"),
        make_record((TargetOutcome("a", 0, 4), TargetOutcome("b", 4, 4)), "2", "mixed"),
    ]
    found = mmr_ratios(records, MultiTargetMode.GENERATE)
    assert [found[f"giou_{kind}"].value for kind in ("object", "part", "mixed")] == [0.5, 0.25, 0.5]
    assert [found[f"ciou_{kind}"].value for kind in ("object", "part", "mixed")] == [0.5, 0.25, 0.5]
    assert [found[f"giou{name}"].count for name in ("", "_object", "_mixed", "_single", "_multiple")] == [4, 1, 2, 2, 2]
    # every metric has a row per image, so that all are drawn together
    assert {len(ratio.numerators) for ratio in found.values()} == {2}


def test_sums_of_pixels_are_exact() -> None:
    """2^24 + 1 pixels, which float32 cannot tell from 2^24."""
    large = 2**24
    records = [make_record((TargetOutcome("a", large, large + 1),), str(number)) for number in range(3)]
    ratio = mmr_ratios(records, MultiTargetMode.TEACHER_FORCED)["ciou"]
    assert (ratio.numerators.sum(), ratio.denominators.sum()) == (3 * large, 3 * large + 3)


def test_records_keep_their_outcomes() -> None:
    outcomes = matched_outcomes(make_item(box(0, 0, 4, 4), box(8, 0, 4, 4)), box(0, 0, 4, 4)[None])
    record = make_record(outcomes)
    assert RecordCodec(AnswerRecord).from_line(record_to_line(record)) == record


def test_masks_of_another_size_are_refused() -> None:
    item = make_item(box(0, 0, 4, 4))
    with pytest.raises(
        ValueError, match=r"must be bool \(masks, 12, 16\), the annotation's size, got bool \(1, 4, 4\)"
    ):
        check_masks(np.zeros((1, 4, 4), dtype=bool), item)
    with pytest.raises(ValueError, match="float64"):
        check_masks(np.zeros((1, HEIGHT, WIDTH)), item)


def test_items_of_the_files(tmp_path: Path) -> None:
    path = write_records(tmp_path, mmr_record())
    first, second = read_mmr_items(tmp_path, "val")
    assert (first.item_id, first.image_id, first.kind, second.kind) == ("9:0", "9", Kind.MIXED, Kind.PART)
    assert first.image_path == tmp_path / "refer_seg/images/mscoco/images/train2017/000000000009.jpg"
    assert first.answer.text == "The knife cuts bread; hold it by the knife's handle."
    other = tmp_path / "mine.json"
    other.write_text(path.read_text().replace("cuts bread", "cuts cheese"))
    assert "cheese" in read_mmr_items(tmp_path, "test_mixed", other)[0].answer.text
    with pytest.raises(ValueError, match="mmr has no split 'test'; known: val, test_mixed"):
        read_mmr_items(tmp_path, "test")
