"""Times the metric part of an evaluation, and shows that counting on run-length codes equals counting on arrays.

python scripts/bench/metrics.py --images 1000 --parts 5

One question per image, drawn masks, predictions that are the true masks shifted by some pixels. The last line is JSON:
CPU seconds to compare masks and make records (`seconds_scoring`, the model's own time taken off), to write and read
records (`seconds_records`), to compute every metric with its interval (`seconds_summary`), to count the same masks on
arrays (`seconds_arrays`), and the largest difference of an IoU between the two ways (`max_difference`).
"""

import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from jsonargparse import CLI
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from partonomy.benchmarks.partonomy.records import QuestionRecord
from partonomy.benchmarks.partonomy.steps import ChoiceProtocol
from partonomy.benchmarks.partonomy.task import PartonomyOptions, PartonomyTask, QuestionItem
from partonomy.datasets.phrases import locate_phrases
from partonomy.harness.records import RecordCodec, record_to_line
from partonomy.harness.summary import summarize
from partonomy.masks import decode_mask, encode_mask
from partonomy.metrics.iou import PairStatistics, PixelCounts
from partonomy.metrics.matching import Matching, match_masks
from partonomy.models.bounds import OracleModel
from partonomy.models.contract import Hint, Turn
from partonomy.structures import CharSpan, Choice, Part, Question, QuestionType
from scripts.bench.eval_world import ask_questions

QUESTION_TYPE = QuestionType.IDENTIFICATION_WITH_LABEL


class ShiftedModel(OracleModel):
    """The true masks some pixels further; adds up its own time."""

    def __init__(self, questions: Sequence[Question]) -> None:
        super().__init__()
        self.seconds = 0.0
        self._questions = {question.question_id: question for question in questions}
        self._asked: Question | None = None

    def prepare(self, hint: Hint) -> None:
        """Remember the question."""
        super().prepare(hint)
        self._asked = self._questions[hint.item_id]

    def segment(self, image: np.ndarray, turns: Sequence[Turn], answer: str, spans: Sequence[CharSpan]) -> np.ndarray:
        """Shift every mask by up to 12 pixels."""
        start = time.process_time()
        assert self._asked is not None
        masks = shifted_masks(self._asked)
        self.seconds += time.process_time() - start
        return masks


def main(images: int = 1000, parts: int = 5, height: int = 480, width: int = 640, seed: int = 0) -> None:
    """Print the timings.

    Args:
        images: How many images, each with one question.
        parts: Part masks of each.
        height: Of the images, pixels.
        width: Of the images, pixels.
        seed: Of the drawn masks.
    """
    generator = np.random.default_rng(seed)
    options = PartonomyOptions(QUESTION_TYPE, "none", choice_protocol=ChoiceProtocol.LIKELIHOOD)
    with tempfile.TemporaryDirectory(prefix="bench_metrics_") as folder:
        path = Path(folder) / "blank.png"
        Image.new("RGB", (width, height)).save(path)
        questions = [make_question(number, parts, path, (height, width), generator) for number in range(1, images + 1)]
        task = PartonomyTask("drawn", options, tuple(map(QuestionItem, questions)))
        model = ShiftedModel(questions)

        start = time.process_time()
        records = ask_questions(model, task, [tuple(task.items)])  # in one batch: the file is read once
        seconds_scoring = time.process_time() - start - model.seconds

    start = time.process_time()
    codec = RecordCodec(QuestionRecord)
    assert [codec.from_line(record_to_line(record)) for record in records] == records
    seconds_records = time.process_time() - start

    start = time.process_time()
    summary = summarize(task, records, {}, seed)
    seconds_summary = time.process_time() - start

    seconds_arrays = max_difference = 0.0
    for question, record in zip(questions, records, strict=True):
        predicted = shifted_masks(question)
        start = time.process_time()
        counts = count_on_arrays(predicted, np.stack([decode_mask(part.mask) for part in question.masks]))
        found = {matching: match_masks(counts, matching) for matching in Matching}
        seconds_arrays += time.process_time() - start
        max_difference = max(max_difference, largest_difference(record, found))
    result = {
        "images": images,
        "part_masks": images * parts,
        "size": [height, width],
        "seconds_scoring": round(seconds_scoring, 3),
        "seconds_records": round(seconds_records, 3),
        "seconds_summary": round(seconds_summary, 3),
        "seconds_arrays": round(seconds_arrays, 3),
        "max_difference": max_difference,
        "giou_micro_paired": summary.groups[QUESTION_TYPE.value].metrics["giou_micro_paired"].value,
    }
    print(json.dumps(result))


def make_question(
    number: int, num_parts: int, path: Path, size: tuple[int, int], generator: np.random.Generator
) -> Question:
    """A question about drawn ellipses, with five answers."""
    height, width = size
    names = tuple(f"part {chr(ord('a') + index)}" for index in range(num_parts))
    masks = []
    for name in names:
        canvas = np.zeros(size, dtype=np.uint8)
        centre = (int(generator.integers(width)), int(generator.integers(height)))
        axes = (int(generator.integers(4, width // 4)), int(generator.integers(4, height // 4)))
        cv2.ellipse(canvas, centre, axes, float(generator.uniform(0, 180)), 0, 360, 1, -1)
        masks.append(Part(name, encode_mask(canvas.astype(bool))))
    named = [names, *(names[:index] + names[index + 1 :] for index in range(4))]
    choices = []
    for index, labels in enumerate(named):
        text = f"It has {', '.join(labels)}."
        choices.append(Choice(text, labels, locate_phrases(text, labels), is_correct=index == 0))
    return Question(
        f"q{number}", QUESTION_TYPE, number, number, path, *size, "thing", "?", tuple(choices), tuple(masks)
    )


def shifted_masks(question: Question) -> np.ndarray:
    """The true masks, each shifted by its own number of pixels, bool (M, H, W)."""
    shifts = [(question.image_id * (index + 3)) % 13 for index in range(len(question.masks))]
    masks = [decode_mask(part.mask) for part in question.masks]
    return np.stack([np.roll(mask, shift, axis=1) for mask, shift in zip(masks, shifts, strict=True)])


def count_on_arrays(predicted: np.ndarray, true: np.ndarray) -> PixelCounts:
    """What `count_pixels` finds, from bool arrays (P, H, W) and (M, H, W)."""
    predicted_union, true_union = np.logical_or.reduce(predicted), np.logical_or.reduce(true)
    return PixelCounts(
        np.array([np.count_nonzero(mask) for mask in predicted]),
        np.array([np.count_nonzero(mask) for mask in true]),
        np.array([[np.count_nonzero(first & second) for second in true] for first in predicted]),
        int(np.count_nonzero(predicted_union)),
        int(np.count_nonzero(true_union)),
        int(np.count_nonzero(predicted_union & true_union)),
    )


def largest_difference(record: QuestionRecord, found: dict[Matching, tuple[PairStatistics, ...]]) -> float:
    """Largest difference of an IoU between a record and pairs counted otherwise."""
    assert record.segmentation is not None
    return max(
        abs(pair.iou - other.iou)
        for matching in Matching
        for pair, other in zip(getattr(record.segmentation, matching.value), found[matching], strict=True)
    )


if __name__ == "__main__":
    CLI(main)
