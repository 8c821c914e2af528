"""One record per question: everything needed to recompute every metric and to draw the case, as one JSON line."""

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import chain, islice
from pathlib import Path

import msgspec

from partonomy.masks import MAX_PIXELS, find_sound_masks, rle_from_coco, rle_to_json, shorten
from partonomy.metrics.iou import PairStatistics
from partonomy.metrics.multiple_choice import ChoiceSelection, Selector
from partonomy.structures import RLE, CharSpan, ChoiceScore, QuestionType


class Status(StrEnum):
    """Whether the question was scored. A failed one counts as 0 in every metric that was asked for.

    Where only the model's own answer failed, choices and masks are recorded and count as they are.
    """

    SCORED = "scored"
    FAILED = "failed"


class Capability(StrEnum):
    """The three things a model may be asked for."""

    CHOICES = "choices"
    MASKS = "masks"
    GENERATION = "generation"


@dataclass(frozen=True)
class TruePart:
    """A part of the correct answer and the pixels of its true mask."""

    label: str
    area: int


@dataclass(frozen=True)
class ListwiseAnswer:
    """What a model said that was shown all choices at once.

    `order[i]` is the index of the choice shown as the i-th letter; `problem` says why the reply names no choice (empty
    where it does).
    """

    order: tuple[int, ...]
    reply: str
    problem: str = ""


@dataclass(frozen=True)
class ChoiceRecord:
    """A multiple-choice question as asked and answered.

    `labels` are each choice's part names (one name, the object's, for the object question); `scores` and `selection`
    are None where the model did not answer. A `listwise` answer has no scores; its selection is the same under every
    selector.
    """

    texts: tuple[str, ...]
    labels: tuple[tuple[str, ...], ...]
    correct_index: int
    scores: tuple[ChoiceScore, ...] | None = None
    selection: ChoiceSelection | None = None
    listwise: ListwiseAnswer | None = None

    @property
    def true_labels(self) -> tuple[str, ...]:
        """Names of the correct choice."""
        return self.labels[self.correct_index]

    def chosen_labels(self, selector: Selector) -> tuple[str, ...] | None:
        """Names of the choice that a selector made; None where the model did not answer."""
        return None if self.selection is None else self.labels[self.selection.index(selector)]

    def is_correct(self, selector: Selector) -> bool:
        """Whether the selector made the correct choice; False where the model did not answer."""
        return self.selection is not None and self.selection.index(selector) == self.correct_index


@dataclass(frozen=True)
class MaskRecord:
    """Predicted masks and their pixel counts under each pairing (one entry per true part; `union`: one in all)."""

    masks: tuple[RLE, ...]
    paired: tuple[PairStatistics, ...]
    hungarian: tuple[PairStatistics, ...]
    greedy: tuple[PairStatistics, ...]
    union: tuple[PairStatistics, ...]


@dataclass(frozen=True)
class GenerationRecord:
    """The model's own answer with the masks of its tagged spans, confidences in [0, 1]."""

    text: str
    spans: tuple[CharSpan, ...]
    confidences: tuple[float, ...]
    masks: MaskRecord

    @property
    def span_texts(self) -> tuple[str, ...]:
        """The tagged phrases."""
        return tuple(self.text[span.start : span.end] for span in self.spans)


@dataclass(frozen=True)
class Record:
    """The outcome of one question.

    Attributes:
        question_type: None only for an unreadable record that does not even name its type.
        requested: What the run asked of the model on this question.
        unsupported: Which of these the model cannot do (NotImplementedError); its metrics are null.
        true_parts: Parts of the correct answer, reading order; `true_union_area` counts the pixels of their union.
        reason: Why it failed; empty when scored.
        seconds: Wall time spent on the question: the model's answers and their comparison with the truth, failed
            attempts too, without loading the image. It differs from run to run; nothing else in a record does.
    """

    question_id: str
    question_type: QuestionType | None
    image_id: int
    image_path: str
    instance_id: int
    object_label: str
    question: str
    status: Status
    reason: str
    requested: tuple[Capability, ...]
    unsupported: tuple[Capability, ...]
    true_parts: tuple[TruePart, ...]
    true_union_area: int
    parts_choice: ChoiceRecord | None
    object_choice: ChoiceRecord | None
    segmentation: MaskRecord | None
    generation: GenerationRecord | None
    seconds: float

    @property
    def is_scored(self) -> bool:
        """Whether the model answered without error."""
        return self.status is Status.SCORED


MAX_ID = 2**63 - 1
LINES_PER_BATCH = 256
_DECODER = msgspec.json.Decoder(Record)  # the dataclasses are the schema: every field is checked against its type


def record_to_line(record: Record) -> str:
    """One line of JSON without its newline; field names are those of the dataclasses."""
    # `vars` of a dataclass are its fields in their order; dataclasses.asdict would copy all of them first
    return json.dumps(vars(record), default=vars, ensure_ascii=False, allow_nan=False)


def record_from_line(line: str | bytes) -> Record:
    """Read what `record_to_line` wrote; keys with a default may be missing (records of earlier versions).

    Raises:
        ValueError: The line is not JSON, its fields are not a record's, or a mask's code is damaged.
    """
    try:
        record = _decode(line)
        for number, rle in enumerate(_masks(record)):
            rle_from_coco(rle_to_json(rle), rle.height, rle.width, f"predicted mask {number}")
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not a record of an evaluation: {shorten(line)} ({error})") from error
    return record


def read_records(path: Path) -> tuple[Record, ...]:
    """Read a record file; a last line without its newline (a process killed in the middle of it) is left out.

    Raises:
        ValueError: Another line is damaged; names file and line.
    """
    return tuple(record for record, _ in iterate_records(path))


def iterate_records(path: Path) -> Iterator[tuple[Record, int]]:
    """Go through a record file as `read_records` does; with every record comes the length of its line in bytes."""
    num_read = 0
    with path.open("rb") as file:
        while lines := list(islice(file, LINES_PER_BATCH)):
            if not lines[-1].endswith(b"\n"):
                lines.pop()
            yield from zip(_read_batch(lines, path, first_line=num_read + 1), map(len, lines), strict=True)
            num_read += len(lines)


def decode_checked(line: bytes) -> Record:
    """Read a line that was checked before."""
    return _DECODER.decode(line)


def _read_batch(lines: Sequence[bytes], path: Path, first_line: int) -> list[Record]:
    """The records of some lines. All their masks are checked at once; one by one only if something is wrong."""
    try:
        records = [_decode(line) for line in lines]
        if all(find_sound_masks([mask for record in records for mask in _masks(record)])):
            return records
    except (ValueError, RecursionError):
        records = []
    for number, line in enumerate(lines, start=first_line):
        try:
            record_from_line(line)
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: {error}; delete that line and resume") from error
    return records


def _decode(line: str | bytes) -> Record:
    """A record that was checked but for the codes of its masks."""
    record = _DECODER.decode(line)
    _check(record)
    return record


def _masks(record: Record) -> Iterable[RLE]:
    """Every predicted mask."""
    generated = None if record.generation is None else record.generation.masks
    return chain.from_iterable(masks.masks for masks in (record.segmentation, generated) if masks is not None)


def _check(record: Record) -> None:
    """Check what the types do not say, the codes of masks apart.

    Raises:
        ValueError: a choice that is not there, lists that do not match, impossible numbers of pixels.
    """
    if abs(record.image_id) > MAX_ID:
        raise ValueError(f"no image has the id {shorten(record.image_id)}")
    _check_finite(record.seconds, *(record.generation.confidences if record.generation else ()))
    _check_pixels(record.true_union_area, *(part.area for part in record.true_parts))
    for choice in (record.parts_choice, record.object_choice):
        if choice is not None:
            _check_choice(choice)
    generated = None if record.generation is None else record.generation.masks
    for masks in (record.segmentation, generated):
        if masks is not None:
            _check_pairs(masks)


def _check_finite(*values: float) -> None:
    if not all(math.isfinite(value) for value in values):  # JSON can spell numbers that no float holds
        raise ValueError(f"a number is not finite: {shorten(values)}")


def _check_choice(choice: ChoiceRecord) -> None:
    num_choices = len(choice.texts)
    indices = [choice.correct_index, *(choice.listwise.order if choice.listwise else ())]
    if choice.selection is not None:
        chosen = choice.selection
        indices += (chosen.sequence, chosen.answer_mean, chosen.conversation_mean)
    if not all(0 <= index < num_choices for index in indices):
        raise ValueError(f"there are {num_choices} choices, none at one of the positions {shorten(indices)}")
    if len(choice.labels) != num_choices or (choice.scores is not None and len(choice.scores) != num_choices):
        raise ValueError(f"there are {num_choices} choices, but another number of labels or scores")
    for score in choice.scores or ():
        _check_finite(score.answer_log_prob, score.conversation_log_prob)


def _check_pairs(masks: MaskRecord) -> None:
    pairs = (*masks.paired, *masks.hungarian, *masks.greedy, *masks.union)
    _check_pixels(*[pair.union for pair in pairs])  # no intersection is larger, see `PairStatistics`


def _check_pixels(*counts: int) -> None:
    if not all(0 <= count <= 2 * MAX_PIXELS for count in counts):  # a union has at most the pixels of its two masks
        raise ValueError(f"masks cannot have {shorten(counts)} pixels")
