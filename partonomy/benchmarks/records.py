"""Records of items with one answer, and the per-image sums that their metrics are computed from."""

from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from partonomy.benchmarks.cases import CaseText, count_words
from partonomy.benchmarks.task import Item, Record, Status
from partonomy.metrics.bootstrap import ImageRatio
from partonomy.metrics.iou import PairStatistics, check_pixel_counts
from partonomy.structures import RLE


@dataclass(frozen=True)
class MaskOutcome:
    """Pixel counts of a prediction and its target without ignore pixels, and the predicted mask for pictures."""

    intersection: int
    union: int
    predicted: RLE | None = None

    def __post_init__(self) -> None:
        check_pixel_counts(self.intersection, self.union)


@dataclass(frozen=True)
class TargetOutcome:
    """The outcome of one of an item's targets, or of a prediction that belongs to no target.

    Attributes:
        name: The target's name; None for a prediction without a target.
        intersection: Pixels; 0 if there is no prediction or no target.
        union: Pixels of the union, or of the one mask that exists.
        is_predicted: Whether there is a prediction; without one, even an empty target scores 0.
        predicted: The predicted mask, for pictures.
        reason: Why there is no prediction, if the question rather than the model is the cause.
    """

    name: str | None
    intersection: int
    union: int
    is_predicted: bool = True
    predicted: RLE | None = None
    reason: str | None = None

    @property
    def iou(self) -> float:
        """Intersection over union; 1 if target and prediction are both empty, 0 if one of them is missing."""
        is_matched = self.is_predicted and self.name is not None
        return PairStatistics(self.intersection, self.union, is_matched).iou


@dataclass(frozen=True, kw_only=True)
class AnswerRecord(Record):
    """An item with one answer: words, one mask, or a mask for each of several targets.

    Attributes:
        truths: Right answers, or the words that name the target.
        reply: The model's own words; None if the item failed or the answer was given (forced masks).
        prediction: What the reply was read as.
        score: The answer's score or the mask's IoU, in [0, 1]; 0 for an item that was not scored.
        mask: Pixel counts of segmentation; None for questions.
        targets: Outcomes of each target and each further prediction of an item with several targets.
    """

    truths: tuple[str, ...]
    reply: str | None = None
    prediction: str | None = None
    score: float = 0.0
    mask: MaskOutcome | None = None
    targets: tuple[TargetOutcome, ...] = ()

    def __post_init__(self) -> None:
        if not 0 <= self.score <= 1:
            raise ValueError(f"item {self.item_id}: the score must lie between 0 and 1, got {self.score}")
        if not self.is_scored and self.score > 0:
            raise ValueError(f"item {self.item_id}: a failed item must score 0, got {self.score}")

    @property
    def subject(self) -> str:
        """The most frequent right answer, or the names of the targets."""
        if self.mask is None and not self.targets:
            return max(self.truths, key=self.truths.count, default="")
        return ", ".join(self.truths)

    @property
    def quality(self) -> float | None:
        """The score; None if the model does not support the item."""
        return None if self.status is Status.UNSUPPORTED else self.score

    @property
    def said(self) -> str:
        """The reply, or an empty string."""
        return self.reply or ""

    def masks(self) -> Iterable[RLE]:
        """Return the predicted masks of the item and of its targets."""
        found = [self.mask.predicted] if self.mask is not None else []
        return [mask for mask in (*found, *(target.predicted for target in self.targets)) if mask is not None]

    @classmethod
    def upgrade(cls, content: Mapping[str, Any]) -> Mapping[str, Any]:
        """Convert a record of an earlier version, which had no status and no image path; a reason meant failure."""
        if "status" in content:
            return content
        reason = content.get("reason")
        status = Status.SCORED if reason is None else Status.FAILED
        return {"image_path": "", **content, "status": status.value, "reason": reason or ""}


def unanswered_record(item: Item, prompt: str, truths: Iterable[str]) -> AnswerRecord:
    """Return the record of an item before its answer is known.

    Args:
        item: The item.
        prompt: The user's words.
        truths: See `AnswerRecord`.
    """
    return AnswerRecord(
        item_id=item.item_id,
        image_id=item.image_id,
        image_path=str(item.picture.path),
        group=item.group,
        prompt=prompt,
        truths=tuple(truths),
    )


def image_rows(records: Sequence[AnswerRecord]) -> np.ndarray:
    """Return the row of each record's image, int64 (N,); rows number the images in order of first appearance."""
    rows: dict[int | str, int] = {}
    return np.array([rows.setdefault(record.image_id, len(rows)) for record in records], dtype=np.int64)


def sum_by_image(values: Sequence[int | float], rows: np.ndarray, num_images: int) -> np.ndarray:
    """Return the sums over the records of each image, float64 (num_images,); integers stay exact below 2^53."""
    return np.bincount(rows, weights=np.asarray(values, dtype=np.float64), minlength=num_images)


def ratio_by_image(
    records: Sequence[AnswerRecord],
    numerators: Sequence[int | float],
    denominators: Sequence[int | float],
    value_if_empty: float = 0.0,
) -> ImageRatio:
    """Build a metric from numerators and denominators per record, for the bootstrap over images.

    Args:
        records: Records of one run; pass the same ones for every metric of the run, so that the images agree.
        numerators: One per record.
        denominators: One per record; those above 0 are the metric's count.
        value_if_empty: Value of the metric if all denominators are 0.
    """
    rows = image_rows(records)
    num_images = int(rows.max(initial=-1)) + 1
    return ImageRatio(
        sum_by_image(numerators, rows, num_images),
        sum_by_image(denominators, rows, num_images),
        count=int(np.count_nonzero(np.asarray(denominators))),
        value_if_empty=value_if_empty,
    )


def mean_score(records: Sequence[AnswerRecord], group: str | None = None) -> ImageRatio:
    """Return the mean score of all records, or of those of one group."""
    scores, counts = array("d"), array("b")
    for record in records:
        counts.append(group is None or record.group == group)
        scores.append(record.score if counts[-1] else 0.0)
    return ratio_by_image(records, scores, counts)


def answer_texts(record: AnswerRecord) -> tuple[CaseText, ...]:
    """Return the texts of an item's page: the question, the right answers or the targets' names, and the reply.

    A single target's name is left out, since the question contains it.
    """
    texts = [CaseText("Question", record.prompt)]
    if record.mask is None:
        texts.append(CaseText("Targets" if record.targets else "Correct", count_words(record.truths)))
    if record.reply is not None:
        texts.append(CaseText("Reply", record.reply or "(no text)"))
    if record.prediction is not None and record.prediction != record.reply:
        texts.append(CaseText("Read as", record.prediction))
    return tuple(texts)
