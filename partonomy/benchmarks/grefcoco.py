"""gRefCOCO, generalized referring expressions: one target, several, or none (Liu, Ding and Jiang, GRES, CVPR 2023).

Layout: `refer_seg/grefcoco/{grefs(unc).json, instances.json}`; the photographs are RefCOCO's. A record's `ann_id` lists
the annotations whose union is the target; [-1] says that the expression refers to nothing in the image.

The model answers every expression in its own words. A forced answer would say "It is EXPRESSION." about things that are
not there, while the benchmark measures whether the model itself says so. The prediction is "no target" if the union of
all masks of the answer has fewer than `--min_pixels` pixels. By default, that is an answer without masks or with empty
masks: PLUM and the [SEG] systems decide themselves whether to give one. `--min_pixels 50` is the GRES paper's rule for
models that always give a mask; nothing, not even the oracle, then finds a smaller target.

Metrics, as the GRES authors' evaluator (ReLA) counts them:

    expression    prediction    IoU in gIoU    I and U in cIoU
    no target     no target     1              0 and 0
    no target     a mask        0              0 and the predicted pixels
    target        no target     0              0 and the union
    target        a mask        I / U          I and U

gIoU is the mean over all expressions, and cIoU is the sum of I over the sum of U. N-acc is the share of expressions
without a target that are predicted to have none. T-acc is the share of expressions with a target that are predicted to
have one. Pr@70 is the share of expressions with a target whose IoU is at least 0.7. A failed expression counts as a
wrong prediction. A target without a single pixel scores 0 whatever is predicted.

Public code differs. GSVA forces the answers to all expressions of an image in one turn, with its reject token wherever
the truth has it, and scores a rejected target by the mask that it decodes anyway. ReLA has a head for the decision.
Neither is comparable with the numbers here.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Self

from partonomy.benchmarks.cases import Case
from partonomy.benchmarks.records import AnswerRecord, ratio_by_image
from partonomy.benchmarks.refcoco import (
    COCO_FOLDER,
    Identifier,
    check_identifier,
    choose_split,
    make_items,
    read_reference,
)
from partonomy.benchmarks.segmentation import (
    SegmentationItem,
    SegmentationMode,
    SegmentationOptions,
    SegmentationTask,
    Segmented,
    segmentation_ratios,
    share_reaching,
)
from partonomy.benchmarks.task import Metric, Source, define_benchmark
from partonomy.files import iterate_records, shorten
from partonomy.masks import rle_area
from partonomy.models.contract import Gold

logger = logging.getLogger(__name__)

NAME = "grefcoco"
NO_ANNOTATION = -1
TARGET, NO_TARGET = "target", "no_target"
"""Groups of the items, and the possible readings of a reply."""
READINGS = {TARGET: "there is a target", NO_TARGET: "there is no target"}
"""Readings of a reply in words, for pages."""
NO_TARGET_ANSWER = "There is nothing like that in the image."
"""The bounds' answer to an expression without a target."""
PRECISION_PERCENTS = (70, 80, 90)


def read_grefcoco(root: Path, split: str, *, needs_images: bool = True) -> tuple[SegmentationItem, ...]:
    """Read one split, one item per expression in file order; an item's group says whether it has a target.

    Args:
        root: Root of the LISA-style layout.
        split: "train", "val", "testA" or "testB".
        needs_images: See `read_referring`.

    Raises:
        FileNotFoundError: A file or images are missing.
        ValueError: The split is unknown, or a file or record is broken; the message names both.
    """
    path = root / "refer_seg" / NAME / "grefs(unc).json"
    references = [
        read_reference(record, f"{path}, record {number}", _read_annotations)
        for number, record in enumerate(iterate_records(path))
    ]
    chosen = [
        replace(reference, group=TARGET if reference.annotation_ids else NO_TARGET)
        for reference in choose_split(path, references, split)
    ]
    items = make_items(root, NAME, split, chosen, COCO_FOLDER, needs_images=needs_images)
    num_blank = sum(item.group == TARGET and rle_area(item.mask) == 0 for item in items)
    if num_blank:
        logger.warning(
            "%s: %d targets of %s have no pixels; they score 0 whatever is predicted", path, num_blank, split
        )
    return items


def _read_annotations(record: Any) -> tuple[Identifier, ...]:
    """Return the annotation ids of a record; empty if it has no target."""
    values = record["ann_id"]
    if not isinstance(values, list) or not values:
        raise ValueError(
            f"'ann_id' must be a list of annotations, or [{NO_ANNOTATION}] for none, got {shorten(values)}"
        )
    if values == [NO_ANNOTATION]:
        return ()
    if NO_ANNOTATION in values:
        raise ValueError(
            f"'ann_id' has {NO_ANNOTATION}, which means no target, together with other ids: {shorten(values)}"
        )
    return tuple(check_identifier(value, "'ann_id'") for value in values)


@dataclass(frozen=True)
class GrefcocoOptions(SegmentationOptions):
    """How expressions are asked, and when the prediction is that there is no target.

    Attributes:
        mode: generated unites all masks of the model's own answer; forced is refused, because it gives the target away.
        min_pixels: smaller predictions count as "no target"; use 50 for models that always give a mask (GRES).
    """

    mode: SegmentationMode = SegmentationMode.GENERATED
    min_pixels: int = 1

    def resolve(self, model: str) -> Self:
        """Check the options; see `Options.resolve`.

        Raises:
            ValueError: The mode is forced, or `min_pixels` is below 1.
        """
        if self.mode is SegmentationMode.FORCED:
            raise ValueError(
                f"--mode of {NAME} is generated, not forced: a given answer says that there is a target, which the "
                "model has to find out"
            )
        if self.min_pixels < 1:
            raise ValueError(f"--min_pixels must be at least 1, got {self.min_pixels}")
        return self


@dataclass(frozen=True)
class GrefcocoTask(SegmentationTask):
    """Expressions with any number of targets; the module's docstring gives the rules."""

    VERSION: ClassVar[str] = "grefcoco-1.1"

    options: GrefcocoOptions
    quoted_by: str = "giou"

    @property
    def protocol(self) -> str:
        """The mode, the wording, and the minimum size of a mask unless it is one pixel."""
        smallest = self.options.min_pixels
        return super().protocol + (f", no target below {smallest} pixels" if smallest > 1 else "")

    def score(self, item: SegmentationItem, answer: Segmented) -> AnswerRecord:
        """Compare the union of the masks with the target, or check whether the model says that there is none."""
        record = super().score(item, answer)
        outcome = record.mask
        assert outcome is not None
        assert outcome.predicted is not None
        says_none = rle_area(outcome.predicted) < self.options.min_pixels
        record = replace(record, prediction=NO_TARGET if says_none else TARGET)
        if item.group == NO_TARGET:
            union = 0 if says_none else outcome.union
            return replace(record, score=float(says_none), mask=replace(outcome, intersection=0, union=union))
        if says_none:
            return replace(record, score=0.0, mask=replace(outcome, intersection=0))
        return record

    def metrics(self, records: Sequence[AnswerRecord]) -> Mapping[str, Metric | None]:
        """Compute gIoU, cIoU, N-acc, T-acc, and the precisions of the expressions with a target."""
        has_target = [record.group == TARGET for record in records]
        accuracies = {}
        for name, group in (("n_acc", NO_TARGET), ("t_acc", TARGET)):
            counted = [record.group == group for record in records]
            right = [one and record.prediction == group for record, one in zip(records, counted, strict=True)]
            accuracies[name] = ratio_by_image(records, right, counted)
        precisions = {
            f"pr@{percent}": share_reaching(records, (percent,), has_target) for percent in PRECISION_PERCENTS
        }
        return {**segmentation_ratios(records), **accuracies, **precisions}

    def show(self, record: AnswerRecord, item: SegmentationItem | None) -> Case:
        """See SegmentationTask; an expression without a target has no mask to name."""
        reading = None if record.prediction is None else READINGS[record.prediction]
        case = super().show(replace(record, prediction=reading), item)
        return case if record.group == TARGET else replace(case, labels=())

    def content(self) -> Iterator[object]:
        """Generate words, masks, and whether there is a target."""
        for item, row in zip(self.items, super().content(), strict=True):
            yield [row, item.group]

    def _gold(self, item: SegmentationItem) -> Gold:
        """Return the right answer; a guess says either that there is a target or that there is none."""
        target, nothing = super()._gold(item), Gold(NO_TARGET_ANSWER)
        guesses = (*target.guesses, (NO_TARGET_ANSWER, ()))
        return replace(nothing if item.group == NO_TARGET else target, guesses=guesses)


def _read_items(source: Source, options: GrefcocoOptions) -> Sequence[SegmentationItem]:
    return read_grefcoco(source.root, str(source.split), needs_images=False)


BENCHMARK = define_benchmark(
    NAME,
    "Referring segmentation of one target, of several, or of none",
    "val, testA, testB",
    options=GrefcocoOptions,
    read_items=_read_items,
    make_task=GrefcocoTask,
)
