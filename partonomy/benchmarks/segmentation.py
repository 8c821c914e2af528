"""Referring and reasoning segmentation: questions, forced answers, and cIoU and gIoU (LISA's protocol).

cIoU is the sum of intersections over the sum of unions. gIoU is the mean over expressions of intersection over union,
which is 1 if target and prediction are both empty. Counts are integers and exclude ignore pixels.
LISA: adds 1e-5 to every union and sums float32; here: exact.
"""

from abc import abstractmethod
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import ClassVar, Protocol, TypeVar

import numpy as np

from partonomy.benchmarks.cases import Case, CaseLabel, CasePicture, mask_pictures
from partonomy.benchmarks.records import (
    AnswerRecord,
    MaskOutcome,
    answer_texts,
    ratio_by_image,
    unanswered_record,
)
from partonomy.benchmarks.task import (
    AnswerT,
    Asking,
    Benchmark,
    Item,
    Metric,
    Options,
    Picture,
    Source,
    Status,
    Task,
    Words,
    define_benchmark,
)
from partonomy.masks import decode_mask, encode_mask
from partonomy.metrics.bootstrap import ImageRatio
from partonomy.models.contract import AnswerMarks, AnswerRequest, Gold, MaskRequest, Role, Turn
from partonomy.structures import RLE, CharSpan
from partonomy.visualize import part_colours


class AskedText(Item, Protocol):
    """The attributes of an item that the wording of its question depends on."""

    @property
    def text(self) -> str:
        """The name of the target, or a whole instruction."""
        ...

    @property
    def is_sentence(self) -> bool:
        """Whether `text` is a whole instruction."""
        ...


@dataclass(frozen=True)
class SegmentationItem:
    """An expression or instruction about an image, and the mask of its target.

    Attributes:
        item_id: Unique within benchmark and split.
        image_id: Shared by all items of one image, because the bootstrap resamples images.
        image_path: The image file, absolute or relative to the working directory.
        height, width: Size of the annotation, pixels.
        text: A referring expression, stripped and lower-cased ("the left cup"), or ReasonSeg's words unchanged.
        is_sentence: Whether `text` is a whole instruction (ReasonSeg) rather than the name of a thing.
        mask: The target, original-image pixels; empty if the benchmark says that there is no target.
        ignore_mask: Pixels left out of target and prediction; None if there are none.
        group: Group of the item, in benchmarks that report groups.
        target_name: The target's name in a given answer; empty if `text` names it or nothing does.
    """

    item_id: str
    image_id: str
    image_path: Path
    height: int
    width: int
    text: str
    is_sentence: bool
    mask: RLE
    ignore_mask: RLE | None = None
    group: str = ""
    target_name: str = ""

    @property
    def picture(self) -> Picture:
        """The image in the annotation's frame."""
        return Picture(self.image_path, self.height, self.width)


AskedT = TypeVar("AskedT", bound=AskedText)

IGNORED_COLOUR = (128, 128, 128)
THE_TARGET = "the target"
END_MARKS = " .,;:!?"


class SegmentationMode(StrEnum):
    """The source of the masks; printed with every score.

    `forced`: the answer is given and its phrase is segmented, as LISA and its forks score themselves (text failures
    never show). `generated`: the model answers in its own words, and all masks that it tags are united.
    """

    FORCED = "forced"
    GENERATED = "generated"


class Wording(StrEnum):
    """The wording of the question: the one that PLUM is trained on, or the one of LISA's validation."""

    PLUM = "plum"
    LISA = "lisa"


EXPRESSION_WORDINGS = {
    Wording.PLUM: "Can you segment {expression}?",
    Wording.LISA: "What is {expression} in this image? Please output segmentation mask.",
}
SENTENCE_WORDINGS = {
    Wording.PLUM: "{sentence} Please segment it.",
    Wording.LISA: "{sentence} Please output segmentation mask.",
}


@dataclass(frozen=True)
class ForcedAnswer:
    """A given answer and the phrase in it to segment."""

    text: str
    span: CharSpan


def segmentation_prompt(item: AskedText, wording: Wording) -> str:
    """Return the question about the named thing, or the instruction unchanged."""
    if item.is_sentence:
        return SENTENCE_WORDINGS[wording].format(sentence=item.text)
    expression = item.text.lower() if wording is Wording.PLUM else item.text
    return EXPRESSION_WORDINGS[wording].format(expression=expression)


def forced_answer(item: SegmentationItem) -> ForcedAnswer:
    """Return the given answer in PLUM's training form; it repeats an expression without its final punctuation.

    If the item has a name for its target, the answer is the name alone. Without one, an instruction (a sentence of
    ReasonSeg) names no target, so the phrase is "the target".
    """
    if item.target_name:
        return ForcedAnswer(f"{item.target_name}.", CharSpan(0, len(item.target_name)))
    expression = item.text.lower()
    phrase = THE_TARGET if item.is_sentence else expression.strip().rstrip(END_MARKS) or expression
    opening = "It is "
    return ForcedAnswer(f"{opening}{phrase}.", CharSpan(len(opening), len(opening) + len(phrase)))


def unite(masks: np.ndarray, height: int, width: int) -> np.ndarray:
    """Return the union of masks.

    Args:
        masks: bool (S, H, W), original-image pixels.
        height: H.
        width: W.

    Returns:
        bool (H, W), empty if S is 0.

    Raises:
        ValueError: The masks have another size.
    """
    if masks.shape[1:] != (height, width) or masks.dtype != np.bool_:
        raise ValueError(
            f"predicted masks must be bool ({height}, {width}), the annotation's size, got {masks.dtype} {masks.shape}"
        )
    return np.asarray(masks.any(axis=0))


def count_outcome(item: SegmentationItem, predicted: np.ndarray) -> MaskOutcome:
    """Compare a prediction bool (H, W), original-image pixels, with the item's target."""
    target = decode_mask(item.mask)
    counted = np.ones_like(target) if item.ignore_mask is None else ~decode_mask(item.ignore_mask)
    intersection = int(np.count_nonzero(target & predicted & counted))
    union = int(np.count_nonzero((target | predicted) & counted))
    return MaskOutcome(intersection, union, encode_mask(predicted))


def missed_outcome(item: SegmentationItem) -> MaskOutcome:
    """Return the outcome of a failed item; its target's pixels enter cIoU's union."""
    target = decode_mask(item.mask)
    if item.ignore_mask is not None:
        target &= ~decode_mask(item.ignore_mask)
    return MaskOutcome(0, int(np.count_nonzero(target)))


def outcome_iou(outcome: MaskOutcome) -> float:
    """Return intersection over union; 1 if target and prediction are both empty."""
    return 1.0 if outcome.union == 0 else outcome.intersection / outcome.union


def segmentation_ratios(records: Sequence[AnswerRecord]) -> dict[str, ImageRatio]:
    """Return cIoU and gIoU over all expressions."""
    intersections, unions = array("q"), array("q")
    for record in records:
        assert record.mask is not None, "every record of a segmentation benchmark has its pixel counts"
        intersections.append(record.mask.intersection)
        unions.append(record.mask.union)
    ciou = ratio_by_image(records, intersections, unions, 1.0)
    giou = ratio_by_image(records, [record.score for record in records], [1] * len(records))
    # Without a pixel in any union, nothing was predicted where nothing was wanted, unless an item has no answer.
    value_if_empty = 1.0 if all(record.is_scored for record in records) else 0.0
    return {
        "ciou": ImageRatio(ciou.numerators, ciou.denominators, len(records), value_if_empty),
        "giou": giou,
    }


def share_reaching(
    records: Sequence[AnswerRecord], percents: Sequence[int], is_counted: Sequence[bool] | None = None
) -> ImageRatio:
    """Return the share of expressions whose IoU reaches a threshold, averaged over thresholds (Pr@70, P50:95).

    An IoU equal to the threshold reaches it, as in COCO's evaluation and in gRefCOCO's.

    Args:
        records: Records of one run.
        percents: Thresholds of the IoU, percent.
        is_counted: Which records count, one per record; None counts all.
    """
    counted = [1] * len(records) if is_counted is None else [int(one) for one in is_counted]
    shares = [
        sum(record.score >= percent / 100 for percent in percents) / len(percents) if one else 0.0
        for record, one in zip(records, counted, strict=True)
    ]
    return ratio_by_image(records, shares, counted)


@dataclass(frozen=True)
class MaskOptions(Options):
    """How questions that masks answer are asked.

    Attributes:
        mode: source of the masks.
        wording: plum asks in the words that PLUM is trained on; lisa asks in the words of LISA's validation.
    """

    mode: StrEnum
    wording: Wording = Wording.PLUM


@dataclass(frozen=True)
class MaskTask(Task[AskedT, AnswerT, AnswerRecord]):
    """Questions that masks answer, with one target or several.

    Attributes:
        quoted_by: The headline. Large masks dominate cIoU, so that some benchmarks quote gIoU instead.
    """

    RECORD: ClassVar[type[AnswerRecord]] = AnswerRecord

    benchmark: str
    split: str
    options: MaskOptions
    items: Sequence[AskedT] = ()
    quoted_by: str = "ciou"

    @property
    def protocol(self) -> str:
        """The mode, and the wording unless it is PLUM's own."""
        mode, wording = self.options.mode.value, self.options.wording
        return str(mode) if wording is Wording.PLUM else f"{mode}, {wording.value} wording"

    @property
    def headline(self) -> str:
        """See `quoted_by`."""
        return self.quoted_by

    @abstractmethod
    def target_names(self, item: AskedT) -> tuple[str, ...]:
        """Return the words that name the item's targets, one per target, for records and pages."""

    def turns(self, item: AskedT) -> tuple[Turn, ...]:
        """Return the conversation that the model answers: the question."""
        return (Turn(Role.USER, segmentation_prompt(item, self.options.wording)),)

    def unanswered(self, item: AskedT) -> AnswerRecord:
        """Return the item's record before its answer is known."""
        return unanswered_record(item, segmentation_prompt(item, self.options.wording), self.target_names(item))


@dataclass(frozen=True)
class SegmentationOptions(MaskOptions):
    """How expressions are asked.

    Attributes:
        mode: forced segments the phrase of a given answer; generated unites all masks of the model's own answer.
    """

    mode: SegmentationMode = SegmentationMode.FORCED


@dataclass(frozen=True)
class Segmented:
    """The model's masks of an item, bool (S, H, W), and its own words; None where the answer was given."""

    masks: np.ndarray
    reply: str | None


@dataclass(frozen=True)
class SegmentationTask(MaskTask[SegmentationItem, Segmented]):
    """Expressions or instructions, one mask each.

    cIoU is quoted for RefCOCO, gIoU for ReasonSeg and for RefCOCOm (which calls it mIoU).
    """

    VERSION: ClassVar[str] = "segmentation-1.1"
    WORDS: ClassVar[Words] = Words("expression", quality="IoU", quality_title="IoU (%)", quality_key="iou")

    options: SegmentationOptions

    def ask(self, item: SegmentationItem, marks: AnswerMarks) -> Asking[Segmented]:
        """Segment the forced phrase, or everything that the model's own answer tags."""
        turns, gold = self.turns(item), self._gold(item)
        if self.options.mode is SegmentationMode.FORCED:
            forced = forced_answer(item)
            (masks,) = yield [MaskRequest(0, turns, forced.text, (forced.span,), gold)]
            return Segmented(masks, None)
        (generation,) = yield [AnswerRequest(0, turns, gold)]
        return Segmented(generation.masks, generation.text)

    def score(self, item: SegmentationItem, answer: Segmented) -> AnswerRecord:
        """Compare the union of the masks with the target."""
        outcome = count_outcome(item, unite(answer.masks, item.height, item.width))
        return replace(self.unanswered(item), reply=answer.reply, score=outcome_iou(outcome), mask=outcome)

    def fail(self, item: SegmentationItem, reason: str) -> AnswerRecord:
        """Return a record with IoU 0 and the target's pixels in the union."""
        return replace(self.unanswered(item), status=Status.FAILED, reason=reason, mask=missed_outcome(item))

    def metrics(self, records: Sequence[AnswerRecord]) -> Mapping[str, Metric | None]:
        """Compute cIoU and gIoU."""
        return segmentation_ratios(records)

    def show(self, record: AnswerRecord, item: SegmentationItem | None) -> Case:
        """Show the target, the union of the predicted masks, and the ignore pixels.

        Args:
            record: The item's outcome.
            item: The item; None if the data are no longer available. The page then shows no image and no masks.
        """
        predicted = None if record.mask is None else record.mask.predicted
        pictures: tuple[CasePicture, ...] = ()
        if item is not None:
            pictures = mask_pictures([item.mask], [predicted])
            if item.ignore_mask is not None:
                pictures += (CasePicture("not counted", (item.ignore_mask,), (IGNORED_COLOUR,)),)
        labels = (CaseLabel("target", part_colours(1)[0], record.score),)
        return Case(record.subject, pictures, labels, answer_texts(record))

    def content(self) -> Iterator[object]:
        """Generate words and masks."""
        for item in self.items:
            ignored = item.ignore_mask and vars(item.ignore_mask)
            named = [item.target_name] if item.target_name else []
            yield [item.item_id, item.image_path.name, item.text, item.is_sentence, vars(item.mask), ignored, *named]

    def _gold(self, item: SegmentationItem) -> Gold:
        forced = forced_answer(item)
        return Gold(forced.text, (forced.span,), (item.mask,), ((forced.text, (forced.span,)),))

    def target_names(self, item: SegmentationItem) -> tuple[str, ...]:
        """Return the expression or instruction: the one target's name in records and on pages."""
        return (item.text,)


def define_segmentation(
    name: str,
    title: str,
    splits: str,
    read: Callable[[Source], Sequence[SegmentationItem]],
    *,
    quoted_by: str,
    takes_annotations: bool = False,
) -> Benchmark:
    """Define a benchmark of expressions or instructions, one mask each; see `define_benchmark`."""
    return define_benchmark(
        name,
        title,
        splits,
        options=SegmentationOptions,
        read_items=lambda source, options: read(source),
        make_task=partial(SegmentationTask, quoted_by=quoted_by),
        takes_annotations=takes_annotations,
    )
