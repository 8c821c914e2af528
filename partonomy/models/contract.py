"""The model contract: three methods that every model offers or refuses, and the optional ones beside them.

Images are uint8 RGB arrays (H, W, 3) in the annotation's frame. Masks come back as bool arrays (S, H, W) in the same
frame. Turns alternate user, assistant, user, ...; the last turn is the user's, and choices or answers continue it.

A class of your own needs the three methods of `GroundedModel` and a `name`; a method that it cannot offer raises
NotImplementedError, and the metrics that depend on it become null. Name it on the command line as
`--model package.module:Class`, its constructor's arguments by `--model_options`:

    class Blank:
        name = "blank"

        def score_choices(self, image, turns, choices):
            raise NotImplementedError

        def segment(self, image, turns, answer, spans):
            return np.zeros((len(spans), *image.shape[:2]), dtype=bool)

        def generate(self, image, turns):
            return Generation("It is the wing.", (CharSpan(10, 14),), self.segment(image, turns, "", [None]), (0.5,))
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol, runtime_checkable

import numpy as np

from partonomy.metrics.matching import Matching
from partonomy.structures import RLE, CharSpan, ChoiceScore


class Role(StrEnum):
    """Who speaks."""

    USER = "user"
    ASSISTANT = "assistant"


@dataclass(frozen=True)
class Turn:
    """One utterance of a conversation, without image placeholder and template.

    `phrases` are the phrases of an answer that stand for masks, in reading order, where they are known.
    """

    role: Role
    text: str
    phrases: tuple[CharSpan, ...] = ()


@dataclass(frozen=True)
class Generation:
    """A model's own answer: text, tagged spans in reading order, bool masks (S, H, W), confidences in [0, 1]."""

    text: str
    spans: tuple[CharSpan, ...]
    masks: np.ndarray
    confidences: tuple[float, ...]


@dataclass(frozen=True)
class Gold:
    """The right answer to one request. Only the bounds (`oracle`, `random`) read it, see `InformedModel`.

    Attributes:
        text: The right answer in words; None where only masks are asked for.
        spans: Its phrases that stand for masks, in reading order.
        masks: One per span, original-image pixels.
        guesses: Answers among which a guess may choose, each with its phrases; empty where there is nothing to choose
            from.
    """

    text: str | None
    spans: tuple[CharSpan, ...] = ()
    masks: tuple[RLE, ...] = ()
    guesses: tuple[tuple[str, tuple[CharSpan, ...]], ...] = ()


@dataclass(frozen=True)
class ChoiceRequest:
    """Score `choices`, each as the assistant's answer to `turns`.

    Attributes:
        image: Number of the image: within its item where a task asks, within its batch where a model answers.
        turns: The conversation.
        choices: The answers.
        phrases: For each choice the phrases that stand for masks, in reading order.
        gold: The right choice.
    """

    image: int
    turns: tuple[Turn, ...]
    choices: tuple[str, ...]
    phrases: tuple[tuple[CharSpan, ...], ...]
    gold: Gold | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True)
class MaskRequest:
    """Segment `spans` of the assistant's given `answer` to `turns`; the other fields as in `ChoiceRequest`."""

    image: int
    turns: tuple[Turn, ...]
    answer: str
    spans: tuple[CharSpan, ...]
    gold: Gold | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True)
class AnswerRequest:
    """Answer `turns` in the model's own words, with masks; the other fields as in `ChoiceRequest`."""

    image: int
    turns: tuple[Turn, ...]
    gold: Gold | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True)
class ReplyRequest:
    """Answer `turns` in words alone; the other fields as in `ChoiceRequest`."""

    image: int
    turns: tuple[Turn, ...]
    gold: Gold | None = field(default=None, compare=False, repr=False)


Request = ChoiceRequest | MaskRequest | AnswerRequest | ReplyRequest


class GroundedModel(Protocol):
    """The three methods. A model that cannot do one of them raises NotImplementedError there: its metrics are null."""

    name: str

    def score_choices(self, image: np.ndarray, turns: Sequence[Turn], choices: Sequence[str]) -> list[ChoiceScore]:
        """Return one score per choice, each taken as the assistant's answer to `turns`."""
        ...

    def segment(self, image: np.ndarray, turns: Sequence[Turn], answer: str, spans: Sequence[CharSpan]) -> np.ndarray:
        """Return one mask per span of the given answer, bool (len(spans), H, W), predicted in reading order."""
        ...

    def generate(self, image: np.ndarray, turns: Sequence[Turn]) -> Generation:
        """Return the model's own answer to `turns`, its tagged spans and their masks."""
        ...


@runtime_checkable
class ReplyingModel(Protocol):
    """Optional: answers in words alone. A model without it is asked to `generate`, and its masks are left unused."""

    def reply(self, image: np.ndarray, turns: Sequence[Turn]) -> str:
        """Return the model's own answer to `turns`.

        Raises:
            ReplyRefused: The model declined to answer.
        """
        ...


class ImageBatch(Protocol):
    """Several images of which many questions are asked; what the questions have in common is computed once.

    Each method returns what the model's method of the same name returns, for every request. A method that raises is
    asked again request by request through the model, so that the error belongs to the request that it comes from.
    """

    def score_choices(self, requests: Sequence[ChoiceRequest]) -> list[list[ChoiceScore]]: ...  # noqa: D102
    def segment(self, requests: Sequence[MaskRequest]) -> list[np.ndarray]: ...  # noqa: D102
    def generate(self, requests: Sequence[AnswerRequest]) -> list[Generation]: ...  # noqa: D102
    def reply(self, requests: Sequence[ReplyRequest]) -> list[str]: ...  # noqa: D102


@runtime_checkable
class BatchedModel(GroundedModel, ReplyingModel, Protocol):
    """Optional: the same answers for many questions about several images together.

    Batches are the same whoever asks them, whole images in the order of the items, so that answers do not depend on
    shards, ranks and interruptions.
    """

    def read_image(self, image: np.ndarray) -> object:
        """Do the work on an image, uint8 RGB (H, W, 3), that needs no device. Called in threads, ahead of its batch."""
        ...

    def open_batch(self, images: Sequence[object]) -> ImageBatch:
        """Begin a batch of images that `read_image` returned; the batch before ends."""
        ...


@dataclass(frozen=True)
class Hint:
    """What a bound is told before a request: the item, the number of the request within it, the right answer."""

    item_id: str
    number: int
    gold: Gold | None


@runtime_checkable
class InformedModel(Protocol):
    """Optional: only `oracle` and `random` read the truth through it."""

    def prepare(self, hint: Hint) -> None:
        """Called before every request."""
        ...


@runtime_checkable
class MarkingModel(Protocol):
    """Optional: a model whose answers carry marks, such as [SEG] tokens, where they stand for masks: choices do too.

    `protocol_note` says what that means for its scores and is printed beside them; empty where it means nothing.
    `has_mask_per_phrase` is False where all phrases of an answer share one mask: tables then show the union of the true
    masks against it.
    """

    protocol_note: str
    has_mask_per_phrase: bool

    def score_marked_choices(
        self, image: np.ndarray, turns: Sequence[Turn], choices: Sequence[str], phrases: Sequence[Sequence[CharSpan]]
    ) -> list[ChoiceScore]:
        """Return what `score_choices` returns, told which phrases of each choice stand for masks."""
        ...


@dataclass(frozen=True)
class AnswerMarks:
    """What marks in a model's answers mean for its scores; see `MarkingModel` for the fields."""

    note: str = ""
    has_mask_per_phrase: bool = True

    @property
    def has_marks(self) -> bool:
        """Whether the answers carry marks at all."""
        return bool(self.note)

    @property
    def matching(self) -> Matching:
        """The pairing whose numbers tables show."""
        return Matching.PAIRED if self.has_mask_per_phrase else Matching.UNION


def describe_marks(model: object) -> AnswerMarks:
    """Read what a model says of its answers."""
    if isinstance(model, MarkingModel):
        return AnswerMarks(model.protocol_note, model.has_mask_per_phrase)
    return AnswerMarks()


class ReplyRefused(Exception):
    """The model declined to answer a question; the message is what it said instead. The question counts as wrong."""


class ModelUnavailable(RuntimeError):
    """The model cannot be asked at all, whatever the question (a wrong key, a server that is gone).

    It ends the run instead of failing its questions one by one; nothing is recorded, so that --resume goes on.
    """
