"""One record per question: everything needed to recompute every metric and to draw the case."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from itertools import chain
from typing import Any

from partonomy.benchmarks.cases import Verdict
from partonomy.benchmarks.task import Record
from partonomy.files import shorten
from partonomy.masks import MAX_PIXELS
from partonomy.metrics.iou import PairStatistics
from partonomy.metrics.multiple_choice import DEFAULT_SELECTOR, ChoiceSelection, Selector, best_choices
from partonomy.structures import RLE, CharSpan, ChoiceScore, QuestionType, Subject

UNKNOWN_TYPE = "unknown"
"""Group of unreadable records that name no question type."""


class Capability(StrEnum):
    """The three kinds of answers that a model may be asked for."""

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
    """The reply of a model that was shown all choices at once.

    `order[i]` is the index of the choice with the i-th letter. `problem` says why the reply names no choice; it is
    empty if the reply names one.
    """

    order: tuple[int, ...]
    reply: str
    problem: str = ""


@dataclass(frozen=True)
class ChoiceRecord:
    """A multiple-choice question as asked and answered.

    `labels` are each choice's part names (one name, the object's, for the object question); `scores` and `selection`
    are None if the model did not answer. A `listwise` answer has no scores; its selection is the same under every
    selector. Several choices with the same best score share the credit (`partonomy.metrics.multiple_choice`).
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
        """Return the names in a selector's choice, on a tie the first; None if the model did not answer."""
        return None if self.selection is None else self.labels[self.selection.index(selector)]

    def best_labels(self, selector: Selector) -> tuple[tuple[str, ...], ...]:
        """Return the names in each choice with a selector's best score; several if they tie, none without an answer."""
        return () if self.selection is None else tuple(self.labels[best] for best in self.selection.indices(selector))

    def credit(self, selector: Selector) -> float:
        """Return 1 if the selector's choice is correct, its share on a tie, and 0 if the model did not answer."""
        return 0.0 if self.selection is None else self.selection.credit(selector, self.correct_index)

    def num_tied(self, selector: Selector) -> int:
        """Return the number of choices that share a selector's best score; 0 without a tie.

        A record of an earlier version keeps the scores, though its tie counts for the first choice.
        """
        if self.selection is None:
            return 0
        if self.selection.tied is None and self.scores is not None:
            best = best_choices(self.scores, selector)
        else:
            best = self.selection.indices(selector)
        return len(best) if len(best) > 1 else 0


@dataclass(frozen=True)
class MaskRecord:
    """Predicted masks and their pixel counts under each pairing (one entry per true part; `union` has a single one)."""

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


@dataclass(frozen=True, kw_only=True)
class QuestionRecord(Record):
    """The outcome of one question; `group` is its type, or "unknown" for an unreadable record that names none.

    If only the model's own answer failed, the status says so, but choices and masks are recorded and count as usual.

    Attributes:
        instance_id, object_label: Id and name of the object that the question is about.
        requested: Capabilities that the run requested for this question.
        unsupported: Those that the model does not support (NotImplementedError); their metrics are null.
        true_parts: Parts of the correct answer in reading order; `true_union_area` counts the pixels of their union.
    """

    instance_id: int
    object_label: str
    requested: tuple[Capability, ...]
    unsupported: tuple[Capability, ...] = ()
    true_parts: tuple[TruePart, ...] = ()
    true_union_area: int = 0
    parts_choice: ChoiceRecord | None = None
    object_choice: ChoiceRecord | None = None
    segmentation: MaskRecord | None = None
    generation: GenerationRecord | None = None

    @property
    def question_type(self) -> QuestionType | None:
        """The type; None for an unreadable record that names none."""
        return None if self.group == UNKNOWN_TYPE else QuestionType(self.group)

    @property
    def subject(self) -> str:
        """The object's name."""
        return self.object_label

    @property
    def quality(self) -> float | None:
        """The mean IoU over the parts with given phrases, in [0, 1]; a missing prediction counts as 0.

        None if masks were not asked for, if the model does not support them, or if no true part is known.
        """
        if not self.is_asked(Capability.MASKS) or not self.true_parts:
            return None
        if self.segmentation is None:
            return 0.0
        pairs = self.segmentation.paired
        return sum(pair.iou for pair in pairs) / len(pairs)

    def verdicts(self) -> tuple[Verdict, ...]:
        """Return the choice of parts and, in the part-whole types, of the object."""
        if not self.is_asked(Capability.CHOICES):
            return ()
        choices = {Subject.PARTS: self.parts_choice, Subject.OBJECT: self.object_choice}
        return tuple(
            Verdict(
                subject.value,
                choice.credit(DEFAULT_SELECTOR),
                choice.true_labels,
                choice.chosen_labels(DEFAULT_SELECTOR) or (),
            )
            for subject in Subject
            if (choice := choices[subject]) is not None
        )

    @property
    def is_tied(self) -> bool:
        """Whether several choices of parts, or of the object, share the best score under the default selector."""
        choices = (self.parts_choice, self.object_choice)
        return any(choice is not None and choice.num_tied(DEFAULT_SELECTOR) > 0 for choice in choices)

    @property
    def counts_first_of_ties(self) -> bool:
        """Whether ties of this record count for the first choice, as they did in earlier versions."""
        choices = (self.parts_choice, self.object_choice)
        selections = [choice.selection for choice in choices if choice is not None]
        return any(selection is not None and selection.tied is None for selection in selections)

    def is_asked(self, capability: Capability) -> bool:
        """Whether the run requested this capability and the model supports it."""
        return capability in self.requested and capability not in self.unsupported

    def masks(self) -> Iterable[RLE]:
        """Return the masks of given phrases and those of the model's own answer."""
        generated = None if self.generation is None else self.generation.masks
        return chain.from_iterable(masks.masks for masks in (self.segmentation, generated) if masks is not None)

    def check(self) -> None:
        """Check the question type, the ids and the masks.

        Raises:
            ValueError: A value is impossible.
        """
        if self.group != UNKNOWN_TYPE and self.group not in list(QuestionType):
            raise ValueError(f"there is no question type {shorten(self.group)}")
        if not isinstance(self.image_id, int) or abs(self.image_id) > MAX_ID:
            raise ValueError(f"no image has the id {shorten(self.image_id)}")
        _check_finite(self.seconds, *(self.generation.confidences if self.generation else ()))
        _check_pixels(self.true_union_area, *(part.area for part in self.true_parts))
        for choice in (self.parts_choice, self.object_choice):
            if choice is not None:
                _check_choice(choice)
        generated = None if self.generation is None else self.generation.masks
        for masks in (self.segmentation, generated):
            if masks is not None:
                _check_pairs(masks)

    @classmethod
    def upgrade(cls, content: Mapping[str, Any]) -> Mapping[str, Any]:
        """Convert a record of an earlier version, which had other names for the fields that all benchmarks share."""
        names = {"question_id": "item_id", "question_type": "group", "question": "prompt"}
        upgraded = {names.get(key, key): value for key, value in content.items()}
        return upgraded | {"group": upgraded.get("group") or UNKNOWN_TYPE}


MAX_ID = 2**63 - 1


def _check_finite(*values: float) -> None:
    if not all(math.isfinite(value) for value in values):  # JSON can spell numbers that overflow a float
        raise ValueError(f"a number is not finite: {shorten(values)}")


def _check_choice(choice: ChoiceRecord) -> None:
    num_choices = len(choice.texts)
    selection = choice.selection
    chosen = [] if selection is None else [(selection.index(one), selection.indices(one)) for one in Selector]
    indices = [choice.correct_index, *(choice.listwise.order if choice.listwise else ())]
    indices += [index for first, best in chosen for index in (first, *best)]
    if not all(0 <= index < num_choices for index in indices):
        raise ValueError(f"there are {num_choices} choices, none at one of the positions {shorten(indices)}")
    for first, best in chosen:
        if list(best) != sorted(set(best)) or best[:1] != (first,):
            raise ValueError(
                f"the best choices are {shorten(best)}; they ascend and begin with the chosen one, {first}"
            )
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
