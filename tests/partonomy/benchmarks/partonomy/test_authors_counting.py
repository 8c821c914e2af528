"""The authors' counting, against few lines that follow what their code does, and worked by hand.

Their code counts masks question by question. It pairs them by position, which cuts the longer list, and skips a
question without any mask. Part names are counted as entries of lists.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from partonomy.benchmarks.partonomy.metrics import metric_ratios
from partonomy.benchmarks.partonomy.records import Capability, ChoiceRecord, MaskRecord, QuestionRecord
from partonomy.benchmarks.partonomy.task import PartonomyOptions, compare_masks
from partonomy.masks import encode_mask
from partonomy.metrics.multiple_choice import select_only
from partonomy.metrics.part_text import listed_part_statistics
from partonomy.models.bounds import OracleModel
from partonomy.models.contract import Turn
from partonomy.structures import CharSpan, QuestionType
from tests.partonomy.conftest import write_questions
from tests.partonomy.running import make_config, question_records, run_model

SHAPE = (6, 8)


def make_record(
    number: int, image_id: int, segmentation: MaskRecord | None = None, parts_choice: ChoiceRecord | None = None
) -> QuestionRecord:
    """The outcome of an identification question."""
    return QuestionRecord(
        item_id=f"q{number}",
        image_id=image_id,
        image_path="",
        group="identification",
        prompt="",
        instance_id=0,
        object_label="plane",
        requested=(Capability.CHOICES, Capability.MASKS),
        segmentation=segmentation,
        parts_choice=parts_choice,
    )


def mean_ious(
    questions: Sequence[tuple[Sequence[np.ndarray], Sequence[np.ndarray]]],
) -> tuple[float, float]:
    """Micro- and macro-gIoU as the authors' evaluators accumulate them: one value per pair, one per question."""
    per_pair, per_question = [], []
    for predicted, true in questions:
        ious = [(p & t).sum() / (p | t).sum() if (p | t).any() else 1.0 for p, t in zip(predicted, true, strict=False)]
        if ious:
            per_pair += ious
            per_question.append(np.mean(ious))
    return float(np.mean(per_pair)), float(np.mean(per_question))


def test_masks_are_counted_question_by_question_and_cut() -> None:
    generator = np.random.default_rng(5)
    records, questions = [], []
    for number in range(60):
        true = generator.random((int(generator.integers(1, 5)), *SHAPE)) < 0.4
        predicted = generator.random((int(generator.integers(0, len(true) + 1)), *SHAPE)) < 0.5
        masks = compare_masks(predicted, [encode_mask(mask) for mask in true])
        records.append(make_record(number, image_id=number // 4, segmentation=masks))
        questions.append((predicted, true))
    assert {len(predicted) - len(true) for predicted, true in questions} >= {0, -1, -2}
    assert any(not len(predicted) for predicted, _ in questions)
    ratios = metric_ratios(records, frozenset())
    micro, macro = mean_ious(questions)
    assert ratios["authors_giou_micro_paired"].value == pytest.approx(micro, abs=1e-12)
    assert ratios["authors_giou_macro_paired"].value == pytest.approx(macro, abs=1e-12)
    assert ratios["giou_micro_paired"].value != pytest.approx(micro, abs=1e-3)
    assert ratios["giou_macro_paired"].value != pytest.approx(macro, abs=1e-3)


class OneMaskModel(OracleModel):
    """Gives the first mask alone."""

    def segment(self, image: np.ndarray, turns: Sequence[Turn], answer: str, spans: Sequence[CharSpan]) -> np.ndarray:
        """The right first mask, or an empty one for an answer of one part."""
        masks = super().segment(image, turns, answer, spans)
        return masks[:1] if len(masks) > 1 else np.zeros_like(masks)


def test_several_questions_of_one_image_each_have_a_value(tmp_path: Path) -> None:
    # Image 1 has one part and is asked about three times; image 2 has two parts and is asked about once.
    path = write_questions(tmp_path, (QuestionType.IDENTIFICATION,), num_images=2)
    content = path.read_text()
    first = content[1 : content.index(', {"image_path": "image1.png"')]
    path.write_text(content.replace("[", f"[{first}, {first}, ", 1))
    options = PartonomyOptions(question_types="identification", generate="none")
    summary = run_model(make_config(path, tmp_path / "run", options=options), OneMaskModel())
    assert [record.image_id for record in question_records(tmp_path / "run")] == [1, 1, 1, 2]
    metrics = summary.groups["identification"].metrics
    # Image 1: 0, 0, 0. Image 2: 1 and a missing mask. Theirs: (0 + 0 + 0 + 1) / 4 by question and by pair.
    assert metrics["authors_giou_macro_paired"].value == pytest.approx(1 / 4)
    assert (metrics["authors_giou_micro_paired"].value, metrics["authors_giou_micro_paired"].count) == (1 / 4, 4)
    # Ours: images (0 + 1/2) / 2; masks 1 of 5.
    assert metrics["giou_macro_paired"].value == pytest.approx(1 / 4)
    assert metrics["giou_micro_paired"].value == pytest.approx(1 / 5)


def test_questions_of_an_image_are_not_pooled_in_their_macro() -> None:
    """Image 1: a question with IoUs 1, 1, 1 and one with 0; image 2: one with 0. Theirs 1/3; ours (3/4 + 0) / 2."""
    full, empty = np.ones((1, *SHAPE), dtype=bool), np.zeros((1, *SHAPE), dtype=bool)
    code = encode_mask(full[0])
    records = [
        make_record(0, 1, segmentation=compare_masks(np.repeat(full, 3, axis=0), [code] * 3)),
        make_record(1, 1, segmentation=compare_masks(empty, [code])),
        make_record(2, 2, segmentation=compare_masks(empty, [code])),
    ]
    ratios = metric_ratios(records, frozenset())
    assert ratios["authors_giou_macro_paired"].value == pytest.approx(1 / 3)
    assert ratios["giou_macro_paired"].value == pytest.approx(3 / 8)
    assert ratios["authors_giou_micro_paired"].value == pytest.approx(3 / 5)


def test_repeated_names_count_as_often_as_they_are_listed() -> None:
    true, chosen = ("wheel", "wing", "door"), ("Wheel", " wheel", "rudder")
    repeated = ("wheel", "wheel")
    records = [
        make_record(0, 1, parts_choice=ChoiceRecord(("a", "b"), (true, chosen), 0, selection=select_only(1))),
        make_record(1, 2, parts_choice=ChoiceRecord(("a", "b"), (repeated, true), 0, selection=select_only(0))),
    ]
    ratios = metric_ratios(records, frozenset())
    # Question 1: 2 of 3 chosen entries are true, 3 are true. Question 2: 2 of 2, 2. Theirs: 4 / 5 and 4 / 5.
    assert ratios["authors_parts_precision"].value == pytest.approx(4 / 5)
    assert ratios["authors_parts_recall"].value == pytest.approx(4 / 5)
    # Ours, as sets: {wheel} of {wheel, rudder} and of three; {wheel} of {wheel}: 2 / 3 and 2 / 4.
    assert ratios["parts_precision"].value == pytest.approx(2 / 3)
    assert ratios["parts_recall"].value == pytest.approx(2 / 4)


def test_an_answer_may_recall_more_entries_than_there_are() -> None:
    counts = listed_part_statistics(["wheel", "wheel"], ["wheel"])
    assert (counts.num_matched, counts.num_predicted, counts.num_true) == (2, 2, 1)
    counts = listed_part_statistics([], ["wheel"])
    assert (counts.num_matched, counts.num_predicted, counts.num_true) == (0, 0, 1)
