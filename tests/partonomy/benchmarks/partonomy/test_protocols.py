"""The authors' counting beside ours, worked by hand on 4 images of which one fails and one is answered wrongly."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from partonomy.benchmarks.partonomy.metrics import PROTOCOL_METRICS, MetricProtocol, metric_names, metric_of
from partonomy.models.contract import Turn
from partonomy.structures import ChoiceScore, QuestionType
from tests.partonomy.running import OracleOfImages, make_config, run_model


class TwoMindedModel(OracleOfImages):
    """Fails on image 2; by answer probability always right, by the conversation's mean it takes the first choice."""

    def score_choices(self, image: np.ndarray, turns: Sequence[Turn], choices: Sequence[str]) -> list[ChoiceScore]:
        """Right answer log-probabilities, conversation means that fall with the position."""
        if self.image_id == 2:
            raise RuntimeError("no answer")
        scores = super().score_choices(image, turns, choices)
        return [ChoiceScore(score.answer_log_prob, 1, -float(place), 1) for place, score in enumerate(scores)]


def test_authors_skip_failures_and_choose_by_the_conversation_mean(question_file: Path, tmp_path: Path) -> None:
    summary = run_model(make_config(question_file, tmp_path / "run"), TwoMindedModel(question_file))
    metrics = summary.groups["part_to_whole"].metrics
    # Images 1 to 4 (index 0 to 3) ask for 1, 2, 3, 4 parts; the correct answer stands at position 0, 1, 2, 3.
    # Ours: image 2 counts as two wrong names and a wrong answer; the others are right: 8 of 10 names, 3 of 4 answers.
    assert metrics["parts_precision"].value == pytest.approx(8 / 10)
    assert metrics["parts_accuracy"].value == pytest.approx(3 / 4)
    assert metrics["objects_accuracy"].value == pytest.approx(3 / 4)
    # Theirs: images 1, 3, 4 and always the first choice. Image 1: {wheel}, right (1 of 1 and of 1). Images 3 and 4:
    # {wheel} of {tail fin, wheel, wing} and of {door, tail fin, wheel, wing}: 1 of 1 chosen, 1 of 3 and 1 of 4 true.
    assert metrics["authors_parts_precision"].value == 1.0
    assert metrics["authors_parts_recall"].value == pytest.approx((1 + 1 + 1) / (1 + 3 + 4))
    assert (metrics["authors_parts_accuracy"].value, metrics["authors_parts_accuracy"].count) == (
        pytest.approx(1 / 3),
        3,
    )
    # The first object choice is "biplane", which images 2 and 4 (odd index) show: 1 of 3 answered.
    assert metrics["authors_objects_accuracy"].value == pytest.approx(1 / 3)
    assert metrics["authors_giou_micro_paired"].value == 1.0


def test_both_protocols_are_in_every_summary() -> None:
    names = metric_names(QuestionType.WHOLE_TO_PART)
    assert {metric_of(protocol, name) for protocol in MetricProtocol for name in PROTOCOL_METRICS} <= set(names)
    assert metric_of(MetricProtocol.AUTHORS, "parts_recall") == "authors_parts_recall"
    assert metric_of(MetricProtocol.OURS, "parts_recall") == "parts_recall"
    assert "authors_objects_accuracy" not in metric_names(QuestionType.IDENTIFICATION)
    with pytest.raises(ValueError, match="ciou_union"):
        metric_of(MetricProtocol.AUTHORS, "ciou_union")
