"""MMR and multi-referring RefCOCO as the runner sees them: questions with several targets, one mask each."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from partonomy.benchmarks.item_records import ItemRecord, TargetOutcome
from partonomy.benchmarks.mmr import (
    NO_PHRASE,
    NO_WORD,
    MultiTargetMode,
    check_masks,
    forced_outcomes,
    matched_outcomes,
    missed_outcomes,
    mmr_ratios,
    num_extra,
    num_missing,
    question_score,
    union_outcome,
)
from partonomy.benchmarks.multi_target_items import MultiTargetItem
from partonomy.benchmarks.segmentation_scores import Wording, describe_mode, segmentation_prompt
from partonomy.evaluation.answer_marks import describe_marks
from partonomy.evaluation.benchmark_tasks import BenchmarkModel, estimate_ratios, hash_rows
from partonomy.evaluation.model_api import Role, Turn
from partonomy.images import load_image
from partonomy.metrics.bootstrap import Estimate

MMR = "mmr"


@dataclass(frozen=True)
class MultiTargetTask:
    """Questions that mean several things."""

    benchmark: str
    split: str
    mode: MultiTargetMode
    items: tuple[MultiTargetItem, ...]
    wording: Wording = Wording.PLUM

    @property
    def protocol(self) -> str:
        """The mode, and the wording where it is not PLUM's own."""
        return describe_mode(self.mode, self.wording)

    @property
    def headline(self) -> str:
        """MMR is quoted by gIoU first, since large masks rule cIoU; multi-referring RefCOCO by cIoU."""
        return "giou" if self.benchmark == MMR else "ciou"

    def load(self, item: MultiTargetItem) -> np.ndarray:
        """Read the image in the annotation's frame."""
        return load_image(item.image_path, item.height, item.width)

    def ask(self, model: BenchmarkModel, item: MultiTargetItem, image: np.ndarray) -> ItemRecord:
        """Segment the targets of the gold answer, or all that the model's own answer means."""
        turns = (Turn(Role.USER, segmentation_prompt(item, self.wording)),)
        if self.mode is MultiTargetMode.TEACHER_FORCED:
            return self._record(item, _force(model, item, image, turns), None)
        generation = model.generate(image, turns)
        compare = union_outcome if self.mode is MultiTargetMode.UNION else matched_outcomes
        return self._record(item, compare(item, check_masks(generation.masks, item)), generation.text)

    def fail(self, item: MultiTargetItem, reason: str) -> ItemRecord:
        """IoU 0 for every target, their pixels in the union."""
        return ItemRecord(
            item.item_id,
            item.image_id,
            item.kind.value,
            segmentation_prompt(item, self.wording),
            _names(item),
            targets=missed_outcomes(item, self.mode),
            reason=reason,
        )

    def estimate(self, records: Sequence[ItemRecord], generator: np.random.Generator) -> dict[str, Estimate]:
        """gIoU, cIoU, their breakdowns, missing and extra masks."""
        return estimate_ratios(mmr_ratios(records, self.mode), generator)

    def notes(self, records: Sequence[ItemRecord]) -> tuple[str, ...]:
        """How many masks were missing, and why where the question is to blame, and how many there were too many."""
        if self.mode is MultiTargetMode.UNION:
            return ()
        num_targets = sum(len(record.truths) for record in records)
        missing, extra = sum(map(num_missing, records)), sum(map(num_extra, records))
        lines = [f"{num_targets} targets: {missing} without a mask, {extra} masks without a target"]
        reasons = [one.reason for record in records for one in record.targets if one.reason is not None]
        lines += [f"{reasons.count(reason)} {reason}" for reason in sorted(set(reasons))]
        return tuple(lines)

    def content_hash(self) -> str:
        """Over words, targets and gold answers."""
        return hash_rows(
            [
                [
                    item.item_id,
                    item.image_path.name,
                    item.text,
                    item.is_sentence,
                    [[one.category_name, one.granularity.value, vars(one.mask)] for one in item.targets],
                    item.answer.text,
                    [word and vars(word) for word in item.answer.marked_words],
                ]
                for item in self.items
            ]
        )

    def _record(self, item: MultiTargetItem, outcomes: tuple[TargetOutcome, ...], reply: str | None) -> ItemRecord:
        return ItemRecord(
            item.item_id,
            item.image_id,
            item.kind.value,
            segmentation_prompt(item, self.wording),
            _names(item),
            reply=reply,
            score=question_score(outcomes),
            targets=outcomes,
        )


def _force(
    model: BenchmarkModel, item: MultiTargetItem, image: np.ndarray, turns: Sequence[Turn]
) -> tuple[TargetOutcome, ...]:
    """Give the gold answer: models with [SEG] write it where the file has {seg}, others segment the target's name.

    M2SA's code: a further full stop ends the answer; nothing that comes before it can tell.
    """
    has_marks = describe_marks(model).has_marks
    spans = item.answer.marked_words if has_marks else item.answer.spans
    asked = {place: span for place, span in enumerate(spans) if span is not None}
    masks = model.segment(image, turns, item.answer.text, list(asked.values())) if asked else None
    found = {} if masks is None else dict(zip(asked, check_masks(masks, item), strict=True))
    return forced_outcomes(item, found, NO_WORD if has_marks else NO_PHRASE)


def _names(item: MultiTargetItem) -> tuple[str, ...]:
    return tuple(target.category_name for target in item.targets)
