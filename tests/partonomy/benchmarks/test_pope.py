from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from partonomy.benchmarks.pope import (
    CATEGORIES,
    pope_metrics,
    pope_prediction,
    pope_prompt,
    pope_score,
    read_pope,
)
from partonomy.benchmarks.records import AnswerRecord
from partonomy.benchmarks.task import Status
from partonomy.benchmarks.vqa import VqaProtocol
from partonomy.metrics.bootstrap import Estimate, bootstrap_metrics
from tests.partonomy.benchmarks.vqa_world import write_pope

OFFICIAL, COMPAT = VqaProtocol.LLAVA_OFFICIAL, VqaProtocol.PARTONOMY_COMPAT


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("Yes", "yes"),
        ("No, there is none.", "no"),
        ("There is not. Yes!", "no"),
        ("Yes. No.", "yes"),  # only up to the first period
        ("NO", "yes"),  # other spellings are no words of the list
        ("nothing here", "yes"),
        ("a cup", "yes"),  # anything that is not negative
        ("", "yes"),
    ],
)
def test_a_reply_is_read_as_yes_or_no(reply: str, expected: str) -> None:
    assert pope_prediction(reply) == expected


def test_items_and_prompts(tmp_path: Path) -> None:
    write_pope(tmp_path)
    items = read_pope(tmp_path, "all")
    assert [item.item_id for item in items[:2]] == ["random-1", "random-2"]
    assert [item.group for item in items] == [category for category in CATEGORIES for _ in range(2)]
    assert {item.image_id for item in items} == {"COCO_1.jpg", "COCO_2.jpg"}
    assert [item.item_id for item in read_pope(tmp_path, "popular")] == ["popular-1", "popular-2"]
    question = "Is there a cup in the image?"
    assert pope_prompt(items[0], OFFICIAL) == f"{question}\nAnswer the question using a single word or phrase."
    assert pope_prompt(items[0], COMPAT) == f'{question} Please answer the question with "Yes" or "No".'
    with pytest.raises(ValueError, match="no split 'val'"):
        read_pope(tmp_path, "val")


def test_scores_by_protocol(tmp_path: Path) -> None:
    write_pope(tmp_path)
    positive, negative = read_pope(tmp_path, "random")
    assert [pope_score("I do not know", item, OFFICIAL) for item in (positive, negative)] == [0.0, 1.0]
    assert pope_score("I do not know", negative, COMPAT) == 1.0
    assert pope_score("Nothing", negative, COMPAT) == 1.0
    assert pope_score("Nothing", negative, OFFICIAL) == 0.0
    assert pope_score("no", positive, COMPAT) == 0.0


def _record(number: int, category: str, label: str, prediction: str | None) -> AnswerRecord:
    return AnswerRecord(
        item_id=f"{category}-{number}",
        image_id=str(number),
        image_path="",
        group=category,
        prompt="?",
        status=Status.FAILED if prediction is None else Status.SCORED,
        reason="it failed" if prediction is None else "",
        truths=(label,),
        reply=prediction,
        prediction=prediction,
        score=float(prediction == label),
    )


def pope_estimates(records: Sequence[AnswerRecord]) -> dict[str, Estimate]:
    return bootstrap_metrics(pope_metrics(records, OFFICIAL), np.random.default_rng(0))


def test_scores_of_a_category_by_hand() -> None:
    replies = [("yes", "yes"), ("yes", "yes"), ("yes", "no"), ("no", "yes"), ("no", "no"), ("no", None), ("yes", None)]
    records = [_record(n, "random", label, reply) for n, (label, reply) in enumerate(replies)]
    found = pope_estimates(records)
    # TP 2, FN 1, FP 1, TN 1; the failed ones count as a false yes (FP) and a false no (FN)
    assert found["random_accuracy"].value == pytest.approx(3 / 7)
    assert found["random_precision"].value == pytest.approx(2 / 4)
    assert found["random_recall"].value == pytest.approx(2 / 4)
    assert found["random_f1"].value == pytest.approx(2 * 2 / (4 + 4))
    assert found["random_yes_ratio"].value == pytest.approx(3 / 5)  # of the replies alone
    assert (found["random_yes_ratio"].count, found["random_accuracy"].count) == (5, 7)
    assert "popular_f1" not in found


def test_the_headline_is_the_mean_f1() -> None:
    random = [_record(1, "random", "yes", "yes"), _record(2, "random", "no", "no")]  # F1 1
    popular = [_record(1, "popular", "yes", "yes"), _record(2, "popular", "no", "yes")]  # 2 / (2 + 1)
    adversarial = [_record(1, "adversarial", "yes", "no"), _record(2, "adversarial", "no", "yes")]  # 0
    found = pope_estimates([*random, *popular, *adversarial])["mean_f1"]
    assert found.value == pytest.approx((1 + 2 / 3 + 0) / 3)
    assert found.value is not None
    assert found.low is not None
    assert found.high is not None
    assert found.low <= found.value <= found.high
    assert found.count == 6


def test_a_model_that_never_says_yes_has_no_precision() -> None:
    records = [_record(1, "random", "yes", "no"), _record(2, "random", "no", "no")]
    found = pope_estimates(records)
    assert found["random_precision"].value is None
    assert found["random_f1"].value == 0.0
    assert found["random_yes_ratio"].value == 0.0


def test_the_compatible_score_pools_the_categories() -> None:
    records = [
        _record(1, "random", "yes", "yes"),
        _record(1, "popular", "yes", "no"),
        _record(2, "popular", "no", "no"),
    ]
    assert pope_metrics(records, COMPAT)["accuracy"].value == pytest.approx(2 / 3)


def test_broken_lines_are_named(tmp_path: Path) -> None:
    write_pope(tmp_path)
    path = tmp_path / "coco" / "coco_pope_random.json"
    good = path.read_text()
    path.write_text(good + '{"question_id": 3, "image": "COCO_1.jpg", "text": "?", "label": "maybe"}\n')
    with pytest.raises(ValueError, match="coco_pope_random.json, line 3.*must be yes or no, got 'maybe'"):
        read_pope(tmp_path, "all")
    path.write_text(good + "{")
    with pytest.raises(ValueError, match="coco_pope_random.json, line 3: not valid JSON"):
        read_pope(tmp_path, "all")
    path.write_text(good + good)
    with pytest.raises(ValueError, match="two questions have the id 'random-1'"):
        read_pope(tmp_path, "all")
