import dataclasses
from pathlib import Path

import numpy as np
import pytest

from partonomy.benchmarks.cases import CaseText
from partonomy.benchmarks.records import AnswerRecord, MaskOutcome, answer_texts
from partonomy.benchmarks.segmentation import (
    SegmentationItem,
    SegmentationMode,
    SegmentationOptions,
    SegmentationTask,
    Wording,
    count_outcome,
    forced_answer,
    missed_outcome,
    outcome_iou,
    segmentation_prompt,
    segmentation_ratios,
    unite,
)
from partonomy.benchmarks.task import Status
from partonomy.masks import decode_mask, encode_mask
from tests.partonomy.benchmark_world import ScriptedModel, make_config, refcoco_task, run_task

HEIGHT, WIDTH = 4, 10


def rows(*indices: int) -> np.ndarray:
    """Whole rows of ten pixels."""
    mask = np.zeros((HEIGHT, WIDTH), dtype=bool)
    mask[list(indices)] = True
    return mask


def make_item(target: np.ndarray, ignored: np.ndarray | None = None, is_sentence: bool = False) -> SegmentationItem:
    ignore_mask = None if ignored is None else encode_mask(ignored)
    text = "the left cup"
    return SegmentationItem("i", "1", Path("1.jpg"), HEIGHT, WIDTH, text, is_sentence, encode_mask(target), ignore_mask)


def make_record(image_id: str, intersection: int, union: int, reason: str = "") -> AnswerRecord:
    outcome = MaskOutcome(intersection, union)
    return AnswerRecord(
        item_id=f"{image_id}{intersection}{union}",
        image_id=image_id,
        image_path="",
        group="",
        prompt="?",
        status=Status.FAILED if reason else Status.SCORED,
        reason=reason,
        truths=("x",),
        score=0.0 if reason else outcome_iou(outcome),
        mask=outcome,
    )


def test_counts_by_hand() -> None:
    item = make_item(rows(0, 1))
    outcome = count_outcome(item, rows(1, 2))
    assert (outcome.intersection, outcome.union) == (10, 30)
    assert outcome_iou(outcome) == pytest.approx(1 / 3)
    assert outcome.predicted is not None
    assert np.array_equal(decode_mask(outcome.predicted), rows(1, 2))


def test_limits() -> None:
    full, empty = rows(0, 1, 2, 3), rows()
    assert outcome_iou(count_outcome(make_item(full), full)) == 1.0
    assert outcome_iou(count_outcome(make_item(rows(0)), rows(1))) == 0.0
    assert outcome_iou(count_outcome(make_item(empty), empty)) == 1.0
    nothing_meant = count_outcome(make_item(empty), rows(2))
    assert (outcome_iou(nothing_meant), nothing_meant.union) == (0.0, 10)  # its pixels enter cIoU's union


def test_ignored_pixels_count_on_neither_side() -> None:
    item = make_item(rows(0, 1), ignored=rows(1, 2))
    # target 0, prediction 3 and (ignored) 1, 2
    outcome = count_outcome(item, rows(1, 2, 3))
    assert (outcome.intersection, outcome.union) == (0, 20)
    assert missed_outcome(item) == MaskOutcome(0, 10)
    only_ignored = count_outcome(make_item(rows(1), ignored=rows(1, 2)), rows(2))
    assert outcome_iou(only_ignored) == 1.0


def test_union_of_tagged_masks() -> None:
    assert np.array_equal(unite(np.stack([rows(0), rows(2)]), HEIGHT, WIDTH), rows(0, 2))
    assert np.array_equal(unite(np.zeros((0, HEIGHT, WIDTH), dtype=bool), HEIGHT, WIDTH), rows())
    with pytest.raises(ValueError, match=r"must be bool \(4, 10\)"):
        unite(np.zeros((1, 5, 5), dtype=bool), HEIGHT, WIDTH)


def test_ciou_and_giou_by_hand() -> None:
    # one image with IoU 1/2 (10 of 20), one with 1, 1 and 0 (2 of 2, 3 of 3, 0 of 15)
    records = [make_record("a", 10, 20), make_record("b", 2, 2), make_record("b", 3, 3), make_record("b", 0, 15)]
    ratios = segmentation_ratios(records)
    assert ratios["giou"].value == pytest.approx(2.5 / 4)  # over expressions; the mean over images would be 0.583
    assert ratios["ciou"].value == pytest.approx(15 / 40)
    assert ratios["giou"].count == ratios["ciou"].count == 4
    assert len(ratios["giou"].numerators) == 2  # the bootstrap draws images


def test_nothing_but_empty_masks() -> None:
    ratios = segmentation_ratios([make_record("a", 0, 0), make_record("b", 0, 0)])
    assert (ratios["ciou"].value, ratios["giou"].value) == (1.0, 1.0)


def test_a_failed_item_scores_0_even_where_nothing_is_meant() -> None:
    ratios = segmentation_ratios([make_record("a", 0, 0, reason="no image"), make_record("b", 5, 5)])
    assert ratios["giou"].value == 0.5
    assert ratios["ciou"].value == 1.0  # no pixel was missed


def test_pixel_sums_stay_exact() -> None:
    # float32 loses the last pixels beyond 2^24
    records = [make_record(str(n), 2**24 + 1, 2**24 + 1) for n in range(3)] + [make_record("x", 0, 1)]
    ratio = segmentation_ratios(records)["ciou"]
    assert int(ratio.numerators.sum()) == 3 * 2**24 + 3
    assert int(ratio.denominators.sum()) == 3 * 2**24 + 4


def test_prompts_and_forced_answers() -> None:
    item, sentence = make_item(rows(0)), make_item(rows(0), is_sentence=True)
    lisa = "What is the left cup in this image? Please output segmentation mask."
    assert segmentation_prompt(item, Wording.LISA) == lisa
    assert segmentation_prompt(sentence, Wording.LISA) == "the left cup Please output segmentation mask."
    assert segmentation_prompt(item, Wording.PLUM) == "Can you segment the left cup?"
    assert segmentation_prompt(sentence, Wording.PLUM) == "the left cup Please segment it."
    named = dataclasses.replace(item, text="the LEFT cup")
    assert segmentation_prompt(named, Wording.PLUM) == "Can you segment the left cup?", "as in training"
    assert segmentation_prompt(named, Wording.LISA) == lisa.replace("left", "LEFT"), "as in LISA's validation"
    marked = dataclasses.replace(item, text="The left cup.")
    for asked, phrase in ((item, "the left cup"), (marked, "the left cup"), (sentence, "the target")):
        answer = forced_answer(asked)
        assert answer.text == f"It is {phrase}."
        assert answer.text[answer.span.start : answer.span.end] == phrase


@pytest.mark.parametrize("mode", list(SegmentationMode))
def test_a_run_by_hand(tmp_path: Path, mode: SegmentationMode) -> None:
    # The model segments the left half of 24 x 18 pixels, 216. Of the two targets, the left half has IoU 216 / 216, and
    # the upper half 108 / (216 + 216 - 108) = 1/3.
    task = refcoco_task(tmp_path, mode)
    summary = run_task(task, make_config(task, tmp_path / "run"), ScriptedModel(lambda prompt: "a half"))
    assert summary is not None
    assert summary.num_failed == 0
    assert summary.metrics["giou"].value == pytest.approx((1 + 1 / 3) / 2)
    assert summary.metrics["ciou"].value == pytest.approx((216 + 108) / (216 + 324))


def test_a_page_shows_what_is_not_counted_in_grey() -> None:
    item = make_item(rows(0), ignored=rows(1, 2))
    task = SegmentationTask("refcoco", "val", SegmentationOptions(), (item,))
    *_, last = task.show(make_record("1", 0, 10), item).pictures
    assert last.title == "not counted"
    assert [np.argwhere(decode_mask(mask).all(axis=1)).ravel().tolist() for mask in last.masks] == [[1, 2]]
    (colour,) = last.colours
    assert len(set(colour)) == 1, "targets have bright colours"
    whole = task.show(make_record("1", 0, 10), make_item(rows(0)))
    assert "not counted" not in [picture.title for picture in whole.pictures]


@pytest.mark.parametrize(
    ("reply", "prediction", "expected"),
    [
        (None, None, []),
        ("", None, [CaseText("Reply", "(no text)")]),
        ("A cat.", "A cat.", [CaseText("Reply", "A cat.")]),
        ("A cat.", "cat", [CaseText("Reply", "A cat."), CaseText("Read as", "cat")]),
    ],
)
def test_a_page_quotes_the_reply_and_how_it_was_read(
    reply: str | None, prediction: str | None, expected: list[CaseText]
) -> None:
    record = dataclasses.replace(make_record("1", 0, 10), reply=reply, prediction=prediction)
    assert list(answer_texts(record)) == [CaseText("Question", "?"), *expected]
    answered = dataclasses.replace(record, mask=None, truths=("cat", "tabby", "cat"))
    assert list(answer_texts(answered)) == [CaseText("Question", "?"), CaseText("Correct", "cat (2), tabby"), *expected]
