"""Metrics of phrases with masks: AP50 against COCO's own evaluation, matching, and similarity of labels."""

import contextlib
import io

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from partonomy.masks import encode_mask, rle_to_json
from partonomy.metrics.bootstrap import ImageRatio, MeanOfRatios, RankedHits, bootstrap_metrics, paired_differences
from partonomy.metrics.grounded_phrases import (
    LabelSimilarity,
    assigned_sum,
    best_sum,
    count_found,
    count_found_glamm,
    embed_labels,
    find_hits,
    greedy_ious,
    word_overlaps,
    words_of,
)
from partonomy.metrics.iou import count_pixels
from partonomy.structures import RLE

NGRAMS = "char-ngram-tfidf"


def draw_masks(generator: np.random.Generator, count: int) -> list[RLE]:
    masks = []
    for _ in range(count):
        mask = np.zeros((20, 20), dtype=bool)
        top, left = generator.integers(0, 10, size=2)
        mask[top : top + generator.integers(4, 11), left : left + generator.integers(4, 11)] = True
        masks.append(encode_mask(mask))
    return masks


def coco_ap50(true: list[list[RLE]], predicted: list[list[RLE]]) -> float:
    """AP50 by pycocotools, one category, the same score for all."""
    content = {
        "images": [{"id": number, "height": 20, "width": 20} for number in range(len(true))],
        "categories": [{"id": 1, "name": "thing"}],
        "annotations": [],
    }
    results = []
    for number, (masks, found) in enumerate(zip(true, predicted, strict=True)):
        for mask in masks:
            entry = {"id": len(content["annotations"]) + 1, "image_id": number, "category_id": 1, "iscrowd": 0}
            content["annotations"].append(
                {**entry, "area": 50, "bbox": [0, 0, 1, 1], "segmentation": rle_to_json(mask)}
            )
        results += [
            {"image_id": number, "category_id": 1, "segmentation": rle_to_json(mask), "score": 1.0} for mask in found
        ]
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = content
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(results), "segm")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return float(evaluation.stats[1])


def ranked(true: list[list[RLE]], predicted: list[list[RLE]]) -> RankedHits:
    rows, hits = [], []
    for number, (masks, found) in enumerate(zip(true, predicted, strict=True)):
        new = find_hits(count_pixels(found, masks).ious)
        rows += [number] * len(new)
        hits += new
    return RankedHits(np.array(rows, dtype=np.int64), np.array(hits, dtype=bool), np.array([len(one) for one in true]))


@pytest.mark.parametrize("seed", range(8))
def test_ap50_is_that_of_coco(seed: int) -> None:
    generator = np.random.default_rng(seed)
    true = [draw_masks(generator, int(generator.integers(0, 6))) for _ in range(12)]
    predicted = []
    for masks in true:
        kept = [mask for mask in masks if generator.random() < 0.6]
        predicted.append([*kept, *draw_masks(generator, int(generator.integers(0, 6)))])
        generator.shuffle(predicted[-1])
    if seed == 0:
        predicted[0] = [*draw_masks(generator, 99), *true[0], *true[0]]  # one of the first 100 counts
    value = ranked(true, predicted).value
    assert value == pytest.approx(coco_ap50(true, predicted), abs=1e-9)
    assert 0.05 < value < 0.95


def test_ap50_of_perfect_and_missing_predictions() -> None:
    true = [draw_masks(np.random.default_rng(1), 3), draw_masks(np.random.default_rng(2), 2)]
    assert ranked(true, true).value == 1
    assert ranked(true, [[], []]).value == 0
    assert ranked([[], []], true).value is None
    # A hit can be had once.
    assert ranked([true[0][:1]], [[true[0][0], true[0][0]]]).is_hit.tolist() == [True, False]


def test_a_tie_goes_to_the_last_true_mask_as_in_coco() -> None:
    ious = np.array([[0.6, 0.6], [0.7, 0.2]])
    assert find_hits(ious) == [True, True]
    assert find_hits(np.array([[0.6, 0.6], [0.2, 0.7]])) == [True, False]
    assert find_hits(np.array([[0.5], [0.9]])) == [True, False]
    assert find_hits(np.array([[0.4999]])) == [False]


def test_resampling_repeats_the_predictions_of_an_image() -> None:
    metric = RankedHits(np.array([0, 0, 1, 2]), np.array([True, False, True, False]), np.array([1, 2, 1]))
    counts = np.array([[2, 0, 1], [1, 1, 1], [0, 0, 3]])
    by_hand = RankedHits(np.array([0, 0, 1, 1, 2]), np.array([True, True, False, False, False]), np.array([1, 1, 1]))
    assert metric.resample(counts)[0] == pytest.approx(by_hand.value)
    assert metric.resample(counts)[1] == pytest.approx(metric.value)
    assert metric.resample(counts)[2] == 0


def test_intervals_of_ap50_and_of_a_mean_over_tasks() -> None:
    generator = np.random.default_rng(3)
    hits = generator.random(60) < 0.7
    ap = RankedHits(np.arange(60), hits, np.ones(60, dtype=np.int64))
    ratio = ImageRatio(hits.astype(np.float64), np.ones(60), 60)
    found = bootstrap_metrics({"ap": ap, "mean": MeanOfRatios((ap, ratio), 60), "r": ratio}, np.random.default_rng(0))
    for name, metric in (("ap", ap), ("mean", MeanOfRatios((ap, ratio), 60))):
        estimate = found[name]
        assert estimate.value == metric.value
        assert estimate.low < estimate.value < estimate.high
    # A ratio's interval does not depend on the metrics beside it.
    assert found["r"] == bootstrap_metrics({"r": ratio}, np.random.default_rng(0))["r"]
    (same,) = paired_differences([ap], [ap], np.random.default_rng(0))
    assert (same.value, same.low, same.high) == (0, 0, 0)


def test_greedy_pairs() -> None:
    assert greedy_ious(np.array([[0.9, 0.8], [0.85, 0.1]])) == [0.9, 0.1]
    assert greedy_ious(np.array([[0.9, 0.8], [0.85, 0.0]])) == [0.9]
    assert greedy_ious(np.zeros((2, 3))) == []
    assert greedy_ious(np.zeros((0, 3))) == []


def test_recall_and_the_break_of_glamm() -> None:
    ious = np.array([[1.0, 0.0], [0.0, 0.9]])
    wrong_first = np.array([[0.2, 0.2], [0.2, 1.0]])
    assert count_found(ious, wrong_first) == 1
    assert count_found_glamm(ious, wrong_first) == 0  # the pair with the highest IoU has a wrong label
    assert count_found_glamm(ious, wrong_first[::-1, ::-1]) == 1
    assert count_found(ious, np.full((2, 2), 0.5)) == count_found_glamm(ious, np.full((2, 2), 0.5)) == 2
    assert count_found(ious * 0.5, np.ones((2, 2))) == 1  # an IoU of 0.5 is enough
    # The second best mask may have the right label.
    assert count_found(np.array([[0.9], [0.6]]), np.array([[0.1], [0.9]])) == 1
    assert count_found_glamm(np.array([[0.9], [0.6]]), np.array([[0.1], [0.9]])) == 0


def test_sums_over_true_labels() -> None:
    scores = np.array([[0.9, 0.8], [0.7, 0.1]])
    assert assigned_sum(scores) == pytest.approx(1.5)
    assert best_sum(scores) == pytest.approx(1.7)
    assert assigned_sum(scores[:1]) == pytest.approx(0.9)
    assert assigned_sum(np.zeros((0, 2))) == best_sum(np.zeros((0, 2))) == 0


def test_word_overlaps() -> None:
    assert words_of("Seat-Base, the (left)") == {"seat", "base", "the", "left"}
    found = word_overlaps(["seat", "", "back pillow"], ["seat base", ""])
    assert found.tolist() == [[0.5, 0.0], [0.0, 0.0], [0.0, 0.0]]
    assert word_overlaps([], ["seat"]).shape == (0, 1)


def test_similarity_of_labels() -> None:
    similarity = embed_labels(["seat", "seats", "wheel", ""], NGRAMS)
    matrix = similarity.matrix(["seat", "", "wheel"], ["seat", "seats"])
    assert similarity.model_name == NGRAMS
    assert matrix[0].tolist() == [1.0, pytest.approx(matrix[0, 1])]
    assert 0.4 < matrix[0, 1] < 1
    assert matrix[1].tolist() == [0, 0]
    assert matrix.min() >= 0
    assert similarity.matrix([], ["seat"]).shape == (0, 1)


def test_an_empty_label_is_similar_to_nothing_and_no_similarity_is_negative() -> None:
    vectors = {"": np.array([1.0, 0.0]), "seat": np.array([1.0, 0.0]), "tree": np.array([-1.0, 0.0])}
    matrix = LabelSimilarity("own", vectors).matrix(["", "seat", "tree"], ["seat"])
    assert matrix[:, 0].tolist() == [0, 1, 0]


def test_a_model_that_cannot_be_loaded_is_refused(tmp_path: str) -> None:
    with pytest.raises(ValueError, match="cannot be loaded"):
        embed_labels(["seat"], f"{tmp_path}/nowhere")
