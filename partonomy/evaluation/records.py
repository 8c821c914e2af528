"""One record per question: everything needed to recompute every metric and to draw the case, as one JSON line."""

from dataclasses import dataclass
from enum import StrEnum

from partonomy.evaluation.model_api import ChoiceScore
from partonomy.metrics.iou import PairStatistics
from partonomy.metrics.multiple_choice import ChoiceSelection, Selector
from partonomy.questions.question_types import QuestionType
from partonomy.structures import RLE, CharSpan


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
