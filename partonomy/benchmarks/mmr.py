"""MMR's protocol for questions with several targets: modes, mask scores, gIoU and cIoU (MMR paper, section 5.1).

gIoU is the mean IoU over masks, not over questions or images. cIoU is the sum of intersections over the sum of unions,
in integers. M2SA's code adds 1e-5 to unions, sums in float32, and repeats images to fill the ranks. Here the sums are
exact and each image counts once.
"""

from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import ClassVar

import numpy as np

from partonomy.benchmarks.cases import Case, CaseLabel, CasePicture, mask_pictures
from partonomy.benchmarks.records import AnswerRecord, TargetOutcome, answer_texts, ratio_by_image
from partonomy.benchmarks.segmentation import MaskOptions, MaskTask
from partonomy.benchmarks.task import (
    Asking,
    Benchmark,
    Metric,
    Picture,
    Source,
    Status,
    Words,
    define_benchmark,
)
from partonomy.datasets.sources.mmr import (
    Granularity,
    GroundedAnswer,
    Kind,
    MmrTarget,
    ground_answer,
    mmr_file,
    mmr_image_path,
    read_mmr,
)
from partonomy.masks import canonical_rle, encode_masks, rle_area, union_masks
from partonomy.metrics.bootstrap import ImageRatio
from partonomy.metrics.iou import count_pixels
from partonomy.metrics.matching import hungarian_assignment
from partonomy.models.contract import AnswerMarks, AnswerRequest, Gold, MaskRequest
from partonomy.structures import RLE, CharSpan
from partonomy.suggestions import did_you_mean
from partonomy.visualize import part_colours


@dataclass(frozen=True)
class MultiTargetItem:
    """A question about an image and all its targets.

    Attributes:
        item_id: Unique within benchmark and split.
        image_id: Shared by all items of one image, because the bootstrap resamples images.
        image_path: The image file.
        height, width: Size of the annotation, pixels.
        text: A whole instruction, or a list of the targets' names.
        is_sentence: Whether `text` is a whole instruction.
        targets: In the order of the gold answer.
        answer: The gold answer; a model that answers in its own words never sees it.
    """

    item_id: str
    image_id: str
    image_path: Path
    height: int
    width: int
    text: str
    is_sentence: bool
    targets: tuple[MmrTarget, ...]
    answer: GroundedAnswer

    @property
    def picture(self) -> Picture:
        """The image in the annotation's frame."""
        return Picture(self.image_path, self.height, self.width)

    @property
    def group(self) -> str:
        """The kind of the targets, by which the metrics are also reported."""
        return self.kind.value

    @property
    def kind(self) -> Kind:
        """Objects or parts if all targets are such; otherwise mixed."""
        found = {target.granularity for target in self.targets}
        if len(found) != 1:
            return Kind.MIXED
        return Kind.OBJECT if found == {Granularity.OBJECT} else Kind.PART


MMR_SPLITS = ("val", "test_mixed", "test_obj_only", "test_part_only", "train")


def read_mmr_items(root: Path, split: str, annotations: Path | None = None) -> tuple[MultiTargetItem, ...]:
    """Read the questions of a split, in file order.

    Args:
        root: Folder of the downloads.
        split: One of `MMR_SPLITS`.
        annotations: Another file in MMR's format; its images are in the same place as MMR's.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The split is unknown, or a file or record is broken; the message names both.
    """
    if split not in MMR_SPLITS:
        raise ValueError(f"mmr has no split {split!r}; known: {', '.join(MMR_SPLITS)}{did_you_mean(split, MMR_SPLITS)}")
    return tuple(
        MultiTargetItem(
            item_id=question.question_id,
            image_id=image.image_id,
            image_path=mmr_image_path(root, image),
            height=image.height,
            width=image.width,
            text=question.question.strip(),
            is_sentence=True,
            targets=question.targets,
            answer=ground_answer(question),
        )
        for image in read_mmr(annotations or mmr_file(root, split))
        for question in image.questions
    )


NO_PHRASE = "mask not requested: the text answer does not name its target before its {seg}"
NO_WORD = "mask not requested: the text answer has no word before its {seg}, or no {seg}"
ALL_TARGETS = "all targets"
SINGLE, MULTIPLE = "single", "multiple"


class MultiTargetMode(StrEnum):
    """The source of the masks and what they are compared with; printed with every score.

    `teacher_forced`: the gold answer is given and its targets are segmented, each compared with its own mask, as in
    M2SA's code; the k-th mask sees the names of the first k targets. `generate`: the model answers in its own words,
    and its masks are paired with the question's targets so that the sum of IoUs is maximal; an unpaired mask or target
    scores 0, and its pixels enter cIoU's union. `union`: the union of those masks against the union of the targets.
    """

    TEACHER_FORCED = "teacher_forced"
    GENERATE = "generate"
    UNION = "union"


def forced_outcomes(item: MultiTargetItem, masks: Mapping[int, np.ndarray], reason: str) -> tuple[TargetOutcome, ...]:
    """Compare masks with the targets that they were forced for.

    Args:
        item: The question.
        masks: Masks by the target's position, bool (H, W), original-image pixels.
        reason: Why the other targets could not be asked for.

    Returns:
        One outcome per target, in their order. In M2SA's code, targets without a mask add nothing to cIoU; here their
        pixels enter the union.
    """
    places = list(masks)
    stack = np.stack([masks[place] for place in places]) if places else _no_masks(item)
    return _outcomes(item, stack, {place: row for row, place in enumerate(places)}, reason)


def matched_outcomes(item: MultiTargetItem, masks: np.ndarray) -> tuple[TargetOutcome, ...]:
    """Pair a model's own masks with the targets.

    Args:
        item: The question.
        masks: bool (P, H, W), original-image pixels.

    Returns:
        One outcome per target, in their order, then one per unpaired mask.
    """
    predicted, true = encode_masks(masks), _true_masks(item.targets)
    pairs = hungarian_assignment(count_pixels(predicted, true).ious)
    return _outcomes(item, masks, {place: row for row, place in pairs}, None)


def union_outcome(item: MultiTargetItem, masks: np.ndarray) -> tuple[TargetOutcome, ...]:
    """Compare the union of masks, bool (P, H, W), with the union of the targets; return one outcome."""
    predicted = encode_masks(np.asarray(masks.any(axis=0, keepdims=True)))
    pair = count_pixels(predicted, [_union(item)]).pair(0, 0)
    return (TargetOutcome(ALL_TARGETS, pair.intersection, pair.union, predicted=predicted[0]),)


def missed_outcomes(item: MultiTargetItem, mode: MultiTargetMode) -> tuple[TargetOutcome, ...]:
    """Return the outcomes of a failed question: no predictions, and the targets' pixels enter cIoU's union."""
    if mode is MultiTargetMode.UNION:
        return (_missing(ALL_TARGETS, _union(item), None),)
    return _outcomes(item, _no_masks(item), {}, None)


def question_score(outcomes: Sequence[TargetOutcome]) -> float:
    """Return the mean IoU of one question's outcomes; 1 if there are neither targets nor predictions."""
    return sum(outcome.iou for outcome in outcomes) / len(outcomes) if outcomes else 1.0


def check_masks(masks: np.ndarray, item: MultiTargetItem) -> np.ndarray:
    """Return a model's masks after checking their shape and type.

    Raises:
        ValueError: They are not bool (P, H, W) of the annotation's size.
    """
    if masks.ndim != 3 or masks.shape[1:] != (item.height, item.width) or masks.dtype != np.bool_:
        raise ValueError(
            f"predicted masks must be bool (masks, {item.height}, {item.width}), the annotation's size, got "
            f"{masks.dtype} {masks.shape}"
        )
    return masks


def mmr_ratios(records: Sequence[AnswerRecord], mode: MultiTargetMode) -> dict[str, ImageRatio]:
    """Return gIoU and cIoU for all questions, by kind (objects, parts, mixed), and by one or several targets.

    Modes other than `union` also have, relative to the number of targets, `missing_masks` (targets without a
    prediction) and `extra_masks` (predictions without a target). Instead of extra masks, `teacher_forced` has
    `ciou_predicted_only`, which leaves out missing masks as M2SA's code does.
    """
    ratios: dict[str, ImageRatio] = {}
    ratios |= _giou_and_ciou("", records, lambda record: True)
    for kind in Kind:
        ratios |= _giou_and_ciou(f"_{kind.value}", records, partial(_is_of_kind, kind))
    ratios |= _giou_and_ciou(f"_{SINGLE}", records, lambda record: len(record.truths) == 1)
    ratios |= _giou_and_ciou(f"_{MULTIPLE}", records, lambda record: len(record.truths) > 1)
    if mode is MultiTargetMode.UNION:
        return ratios
    num_targets = [len(record.truths) for record in records]
    ratios["missing_masks"] = _ratio(records, [num_missing(one) for one in records], num_targets, sum(num_targets))
    if mode is MultiTargetMode.GENERATE:
        ratios["extra_masks"] = _ratio(records, [num_extra(one) for one in records], num_targets, sum(num_targets))
    else:
        predicted = _add_up(records, lambda record: [one for one in record.targets if one.is_predicted])
        ratios["ciou_predicted_only"] = _ciou(records, predicted)
    return ratios


def _is_of_kind(kind: Kind, record: AnswerRecord) -> bool:
    return record.group == kind.value


def num_missing(record: AnswerRecord) -> int:
    """Count targets without a prediction."""
    return sum(not outcome.is_predicted for outcome in record.targets)


def num_extra(record: AnswerRecord) -> int:
    """Count predictions without a target."""
    return sum(outcome.name is None for outcome in record.targets)


@dataclass(frozen=True)
class _TargetSums:
    """Sums over the counted targets of each record, in record order, and whether one of all lacks its prediction."""

    ious: "array[float]"
    intersections: "array[int]"
    unions: "array[int]"
    sizes: "array[int]"
    is_any_missing: bool


def _add_up(
    records: Sequence[AnswerRecord], find_targets: Callable[[AnswerRecord], Sequence[TargetOutcome]]
) -> _TargetSums:
    ious, intersections, unions, sizes = array("d"), array("q"), array("q"), array("q")
    is_any_missing = False
    for record in records:
        targets = find_targets(record)
        ious.append(sum(one.iou for one in targets))
        intersections.append(sum(one.intersection for one in targets))
        unions.append(sum(one.union for one in targets))
        sizes.append(len(targets))
        is_any_missing = is_any_missing or any(not one.is_predicted for one in targets)
    return _TargetSums(ious, intersections, unions, sizes, is_any_missing)


def _giou_and_ciou(
    suffix: str, records: Sequence[AnswerRecord], is_counted: Callable[[AnswerRecord], bool]
) -> dict[str, ImageRatio]:
    sums = _add_up(records, lambda record: record.targets if is_counted(record) else ())
    giou = _ratio(records, sums.ious, sums.sizes, sum(sums.sizes))
    return {f"giou{suffix}": giou, f"ciou{suffix}": _ciou(records, sums)}


def _ciou(records: Sequence[AnswerRecord], sums: _TargetSums) -> ImageRatio:
    value_if_empty = 0.0 if sums.is_any_missing else 1.0
    return _ratio(records, sums.intersections, sums.unions, sum(sums.sizes), value_if_empty)


def _ratio(
    records: Sequence[AnswerRecord],
    numerators: Sequence[int | float],
    denominators: Sequence[int],
    count: int,
    value_if_empty: float = 0.0,
) -> ImageRatio:
    """Build a metric over masks; `count` says which of them count."""
    by_image = ratio_by_image(records, numerators, denominators)
    return ImageRatio(by_image.numerators, by_image.denominators, count, value_if_empty)


def _outcomes(
    item: MultiTargetItem, masks: np.ndarray, row_of_target: Mapping[int, int], reason: str | None
) -> tuple[TargetOutcome, ...]:
    """Return one outcome per target and one per mask that belongs to no target."""
    predicted = encode_masks(masks)
    counts = count_pixels(predicted, _true_masks(item.targets))
    outcomes = []
    for place, target in enumerate(item.targets):
        row = row_of_target.get(place)
        if row is None:
            outcomes.append(_missing(target.category_name, target.mask, reason))
        else:
            pair = counts.pair(row, place)
            outcomes.append(
                TargetOutcome(target.category_name, pair.intersection, pair.union, predicted=predicted[row])
            )
    extra = sorted(set(range(len(predicted))) - set(row_of_target.values()))
    outcomes += [TargetOutcome(None, 0, int(counts.predicted_areas[row]), predicted=predicted[row]) for row in extra]
    return tuple(outcomes)


def _missing(name: str, mask: RLE, reason: str | None) -> TargetOutcome:
    return TargetOutcome(name, 0, rle_area(mask), is_predicted=False, reason=reason)


def _true_masks(targets: Sequence[MmrTarget]) -> list[RLE]:
    return [canonical_rle(target.mask) for target in targets]


def _union(item: MultiTargetItem) -> RLE:
    return union_masks([*_true_masks(item.targets), *encode_masks(np.zeros((1, item.height, item.width), dtype=bool))])


def _no_masks(item: MultiTargetItem) -> np.ndarray:
    return np.zeros((0, item.height, item.width), dtype=bool)


MMR = "mmr"


@dataclass(frozen=True)
class MultiTargetOptions(MaskOptions):
    """How questions with several targets are asked.

    Attributes:
        mode: teacher_forced segments the targets of the gold answer in its order, as M2SA's code does; generate pairs
            the model's own masks with them; union compares the union of its masks with theirs.
    """

    mode: MultiTargetMode = MultiTargetMode.TEACHER_FORCED


@dataclass(frozen=True)
class SegmentedTargets:
    """The model's masks of an item.

    Attributes:
        masks: bool (P, H, W); None if none could be asked for.
        places: The target that each mask was forced for; empty for the model's own answer.
        missing: Why the other targets could not be asked for.
        reply: The model's own words; None if the answer was given.
    """

    masks: np.ndarray | None
    places: tuple[int, ...] = ()
    missing: str = ""
    reply: str | None = None


@dataclass(frozen=True)
class MultiTargetTask(MaskTask[MultiTargetItem, SegmentedTargets]):
    """Questions with several targets, one mask each; gIoU is quoted for MMR, cIoU for multi-referring RefCOCO."""

    VERSION: ClassVar[str] = "multi-target-1.1"
    WORDS: ClassVar[Words] = Words(
        "question", quality="mean IoU", quality_title="Mean IoU of a question's masks (%)", quality_key="iou"
    )
    MAX_NEW_TOKENS: ClassVar[int] = 256
    """Long enough for the sixteen targets of MMR's longest answer with their names."""

    options: MultiTargetOptions
    quoted_by: str = "giou"

    def ask(self, item: MultiTargetItem, marks: AnswerMarks) -> Asking[SegmentedTargets]:
        """Segment the targets of the gold answer, or everything that the model's own answer tags.

        For models with [SEG], it replaces {seg} in the file's answer; others segment the target's name. M2SA's code
        ends the answer with a second full stop, which cannot affect the masks before it.
        """
        turns = self.turns(item)
        masks = tuple(target.mask for target in item.targets)
        if self.options.mode is not MultiTargetMode.TEACHER_FORCED:
            whole = CharSpan(0, len(item.answer.text))
            phrases = tuple(span or whole for span in item.answer.spans)
            gold = Gold(item.answer.text, phrases, masks, ((item.answer.text, phrases),))
            (generation,) = yield [AnswerRequest(0, turns, gold)]
            return SegmentedTargets(generation.masks, reply=generation.text)
        spans_of = item.answer.marked_words if marks.has_marks else item.answer.spans
        asked = {place: span for place, span in enumerate(spans_of) if span is not None}
        missing = NO_WORD if marks.has_marks else NO_PHRASE
        if not asked:
            return SegmentedTargets(None, missing=missing)
        spans = tuple(asked.values())
        gold = Gold(item.answer.text, spans, tuple(masks[place] for place in asked), ((item.answer.text, spans),))
        (found,) = yield [MaskRequest(0, turns, item.answer.text, spans, gold)]
        return SegmentedTargets(found, tuple(asked), missing)

    def score(self, item: MultiTargetItem, answer: SegmentedTargets) -> AnswerRecord:
        """Compare the masks with the targets according to the mode."""
        outcomes = self._compare(item, answer)
        return replace(self.unanswered(item), reply=answer.reply, score=question_score(outcomes), targets=outcomes)

    def fail(self, item: MultiTargetItem, reason: str) -> AnswerRecord:
        """Return a record with IoU 0 for every target and their pixels in the union."""
        targets = missed_outcomes(item, self.options.mode)
        return replace(self.unanswered(item), status=Status.FAILED, reason=reason, targets=targets)

    def metrics(self, records: Sequence[AnswerRecord]) -> Mapping[str, Metric | None]:
        """Compute gIoU, cIoU, their breakdowns, and missing and extra masks."""
        return mmr_ratios(records, self.options.mode)

    def notes(self, records: Sequence[AnswerRecord]) -> tuple[str, ...]:
        """State united codes, the numbers of missing and extra masks, and why masks are missing due to the question."""
        united = sum(target.num_codes > 1 for item in self.items for target in item.targets)
        of_codes = (
            (f"{united} targets have several codes in the file; each is scored as their union",) if united else ()
        )
        if self.options.mode is MultiTargetMode.UNION:
            return of_codes
        num_targets = sum(len(record.truths) for record in records)
        missing, extra = sum(map(num_missing, records)), sum(map(num_extra, records))
        lines = [f"{num_targets} targets: {missing} without a mask, {extra} masks without a target"]
        reasons = [one.reason for record in records for one in record.targets if one.reason is not None]
        lines += [f"{reasons.count(reason)} {reason}" for reason in sorted(set(reasons))]
        return (*of_codes, *lines)

    def show(self, record: AnswerRecord, item: MultiTargetItem | None) -> Case:
        """Show the targets and the masks that were compared with them, each pair in one colour.

        Args:
            record: The item's outcome.
            item: The item; None if the data are no longer available. The page then shows no image and no masks.
        """
        colours = part_colours(len(record.targets))
        labels = tuple(
            CaseLabel(target.name or "no target", colour, target.iou)
            for target, colour in zip(record.targets, colours, strict=True)
        )
        pictures: tuple[CasePicture, ...] = ()
        if item is not None:
            true = [_union(item)] if self.options.mode is MultiTargetMode.UNION else _true_masks(item.targets)
            pictures = mask_pictures(true, [target.predicted for target in record.targets])
        return Case(record.subject, pictures, labels, answer_texts(record))

    def content(self) -> Iterator[object]:
        """Generate words, targets and gold answers."""
        for item in self.items:
            targets = [[one.category_name, one.granularity.value, vars(one.mask)] for one in item.targets]
            words = [word and vars(word) for word in item.answer.marked_words]
            yield [item.item_id, item.image_path.name, item.text, item.is_sentence, targets, item.answer.text, words]

    def _compare(self, item: MultiTargetItem, answer: SegmentedTargets) -> tuple[TargetOutcome, ...]:
        masks = None if answer.masks is None else check_masks(answer.masks, item)
        if self.options.mode is MultiTargetMode.TEACHER_FORCED:
            found = {} if masks is None else dict(zip(answer.places, masks, strict=True))
            return forced_outcomes(item, found, answer.missing)
        assert masks is not None  # the model's own answer always has an array of masks, possibly empty
        return (union_outcome if self.options.mode is MultiTargetMode.UNION else matched_outcomes)(item, masks)

    def target_names(self, item: MultiTargetItem) -> tuple[str, ...]:
        """Return the names of the targets' categories, one per target, in the order of the targets."""
        return tuple(target.category_name for target in item.targets)


def define_multi_target(
    name: str,
    title: str,
    splits: str,
    read: Callable[[Source], Sequence[MultiTargetItem]],
    *,
    quoted_by: str,
    takes_annotations: bool = False,
) -> Benchmark:
    """Define a benchmark of questions with several targets; see `define_benchmark`."""
    return define_benchmark(
        name,
        title,
        splits,
        options=MultiTargetOptions,
        read_items=lambda source, options: read(source),
        make_task=partial(MultiTargetTask, quoted_by=quoted_by),
        takes_annotations=takes_annotations,
    )


BENCHMARK = define_multi_target(
    MMR,
    "Reasoning segmentation of several objects and parts",
    ", ".join(MMR_SPLITS),
    lambda source: read_mmr_items(source.root, str(source.split), source.annotations),
    quoted_by="giou",
    takes_annotations=True,
)
