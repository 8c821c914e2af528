"""The model contract: three methods that every model supports or refuses, and further optional methods.

Images are uint8 RGB arrays (H, W, 3) in the annotation's frame. Returned masks are bool arrays (S, H, W) in the same
frame. Turns alternate user, assistant, user, ...; the last turn is the user's, and choices or answers continue it.

Your own class needs the three methods of `GroundedModel` and a `name`. A method that it does not support raises
NotImplementedError, and the metrics that depend on it become null. Name the class on the command line as
`--model package.module:Class` and pass its constructor's arguments with `--model_options`. A constructor with the
parameter `max_new_tokens` receives the benchmark's maximum answer length, unless `--model_options` sets it:

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
    """The speaker of a turn."""

    USER = "user"
    ASSISTANT = "assistant"


@dataclass(frozen=True)
class Turn:
    """One utterance of a conversation, without image placeholder and template.

    `phrases` are the phrases of an answer that stand for masks, in reading order, if they are known.
    """

    role: Role
    text: str
    phrases: tuple[CharSpan, ...] = ()


@dataclass(frozen=True)
class Generation:
    """A model's own answer: text, tagged spans in reading order, bool masks (S, H, W), confidences in [0, 1].

    `is_cut` says that the limit on new tokens ended it.
    """

    text: str
    spans: tuple[CharSpan, ...]
    masks: np.ndarray
    confidences: tuple[float, ...]
    is_cut: bool = False


@dataclass(frozen=True)
class Gold:
    """The right answer to one request, which only the bounds `oracle` and `random` read (see `InformedModel`).

    Attributes:
        text: The right answer in words; None if only masks are requested.
        spans: Its phrases that stand for masks, in reading order.
        masks: One per span, original-image pixels.
        guesses: Answers among which a guess may choose, each with its phrases; empty if there is no choice.
        images: For a question about several images, the index of each mask's image; otherwise empty.
    """

    text: str | None
    spans: tuple[CharSpan, ...] = ()
    masks: tuple[RLE, ...] = ()
    guesses: tuple[tuple[str, tuple[CharSpan, ...]], ...] = ()
    images: tuple[int, ...] = ()


@dataclass(frozen=True)
class GroundedPhrase:
    """A phrase of an answer about several images, and its mask in one of them.

    Attributes:
        phrase: The phrase as the model writes it, e.g. "the leg"; empty if a mask has no phrase.
        image: Index of the image, from 0; an answer writes it as (IMAGE1), (IMAGE2), ...
        mask: bool (H, W), in the frame of that image.
    """

    phrase: str
    image: int
    mask: np.ndarray


@dataclass(frozen=True)
class GroundedReply:
    """A model's own answer to a question about several images: its text, and its masks in reading order.

    A phrase with masks in two images has two entries. A mask whose image the answer does not name is left out. `is_cut`
    says that the limit on new tokens ended the answer.
    """

    text: str
    phrases: tuple[GroundedPhrase, ...]
    is_cut: bool = False


@dataclass(frozen=True)
class ChoiceRequest:
    """Score `choices`, each as the assistant's answer to `turns`.

    Attributes:
        image: Index of the image: within its item in a task's request, within its batch in a model's request.
        turns: The conversation.
        choices: The answers.
        phrases: For each choice, the phrases that stand for masks, in reading order.
        gold: The right choice.
    """

    image: int
    turns: tuple[Turn, ...]
    choices: tuple[str, ...]
    phrases: tuple[tuple[CharSpan, ...], ...]
    gold: Gold | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True)
class MaskRequest:
    """Segment `spans` of the assistant's given `answer` to `turns`; see `ChoiceRequest` for the other fields."""

    image: int
    turns: tuple[Turn, ...]
    answer: str
    spans: tuple[CharSpan, ...]
    gold: Gold | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True)
class AnswerRequest:
    """Answer `turns` in the model's own words, with masks; see `ChoiceRequest` for the other fields."""

    image: int
    turns: tuple[Turn, ...]
    gold: Gold | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True)
class ReplyRequest:
    """Answer `turns` in words alone; see `ChoiceRequest` for the other fields."""

    image: int
    turns: tuple[Turn, ...]
    gold: Gold | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True)
class ImagesRequest:
    """Answer `question` about all images of the item together, in the model's own words, with masks.

    Only tasks with `ASKS_SEVERAL_IMAGES` may ask it. The question does not announce the images: how they are presented
    to the language model is the model's own matter.
    """

    question: str
    gold: Gold | None = field(default=None, compare=False, repr=False)


Request = ChoiceRequest | MaskRequest | AnswerRequest | ReplyRequest
"""A request about one image."""
TaskRequest = Request | ImagesRequest


class GroundedModel(Protocol):
    """The three required methods; an unsupported one raises NotImplementedError, and its metrics are null."""

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
    """Optional: a model that answers in words alone. Others are asked to `generate`, and their masks are ignored."""

    def reply(self, image: np.ndarray, turns: Sequence[Turn]) -> str:
        """Return the model's own answer to `turns`.

        Raises:
            ReplyRefused: The model declined to answer.
        """
        ...


@runtime_checkable
class SeveralImagesModel(Protocol):
    """Optional: a model that answers questions about several images; the metrics of all others are null."""

    def answer_images(self, images: Sequence[np.ndarray], question: str) -> GroundedReply:
        """Return the model's own answer to a question about all images together, with masks.

        Args:
            images: uint8 RGB (H, W, 3) each, of different sizes.
            question: The question, without a presentation of the images.
        """
        ...


class ImageBatch(Protocol):
    """Several images with many questions about them; the computation that the questions share is done once.

    Each method returns, for every request, what the model's method of the same name returns. If a method raises, its
    requests are sent to the model one by one, so that the error is attributed to the request that causes it.
    """

    def score_choices(self, requests: Sequence[ChoiceRequest]) -> list[list[ChoiceScore]]: ...  # noqa: D102
    def segment(self, requests: Sequence[MaskRequest]) -> list[np.ndarray]: ...  # noqa: D102
    def generate(self, requests: Sequence[AnswerRequest]) -> list[Generation]: ...  # noqa: D102
    def reply(self, requests: Sequence[ReplyRequest]) -> list[str]: ...  # noqa: D102


@runtime_checkable
class BatchedModel(GroundedModel, ReplyingModel, Protocol):
    """Optional: a model that answers many questions about several images together, with the same results.

    Batches are independent of the process that asks them: whole images in item order. Answers therefore do not depend
    on shards, ranks and interruptions.
    """

    def read_image(self, image: np.ndarray) -> object:
        """Prepare an image, uint8 RGB (H, W, 3), without using the device; threads call it ahead of the batch."""
        ...

    def open_batch(self, images: Sequence[object]) -> ImageBatch:
        """Start a batch of images that `read_image` returned; this ends the previous batch."""
        ...


@runtime_checkable
class ConcurrentModel(GroundedModel, Protocol):
    """Optional: a model that waits for a server, so that several threads ask it about different items at once.

    Records and their order do not depend on `max_concurrent`, if the server's answers do not.
    """

    max_concurrent: int

    def stop(self) -> None:
        """End the run early: requests that are in flight may still be answered, no other is sent."""
        ...


@dataclass(frozen=True)
class Hint:
    """What a bound is told before a request: the item's id, the request's number within it, and the right answer."""

    item_id: str
    number: int
    gold: Gold | None


@runtime_checkable
class InformedModel(Protocol):
    """Optional: a model that is told the truth; only the bounds `oracle` and `random` are."""

    def prepare(self, hint: Hint) -> None:
        """Receive the truth of the next request; called before every request."""
        ...


@runtime_checkable
class MarkingModel(Protocol):
    """Optional: a model that marks the mask phrases of its answers and choices, for example with [SEG] tokens.

    `protocol_note` explains the effect on its scores and is printed with them; empty if there is none.
    `has_mask_per_phrase` is False if all phrases of an answer share one mask; tables then compare it with the union of
    the true masks.
    """

    protocol_note: str
    has_mask_per_phrase: bool

    def score_marked_choices(
        self, image: np.ndarray, turns: Sequence[Turn], choices: Sequence[str], phrases: Sequence[Sequence[CharSpan]]
    ) -> list[ChoiceScore]:
        """Return the same as `score_choices`, given the phrases of each choice that stand for masks."""
        ...


@dataclass(frozen=True)
class AnswerMarks:
    """The effect of marks in a model's answers on its scores; see `MarkingModel` for the fields."""

    note: str = ""
    has_mask_per_phrase: bool = True

    @property
    def has_marks(self) -> bool:
        """Whether the answers carry marks at all."""
        return bool(self.note)

    @property
    def matching(self) -> Matching:
        """The pairing that tables show."""
        return Matching.PAIRED if self.has_mask_per_phrase else Matching.UNION


def describe_marks(model: object) -> AnswerMarks:
    """Read a model's description of the marks in its answers."""
    if isinstance(model, MarkingModel):
        return AnswerMarks(model.protocol_note, model.has_mask_per_phrase)
    return AnswerMarks()


class ReplyRefused(Exception):
    """The model declined to answer; the message is its reply, and the question counts as wrong."""


class ModelUnavailable(RuntimeError):
    """The model cannot answer any question (for example, a wrong key or an unreachable server).

    It ends the run instead of failing its questions one by one. Nothing is recorded for them, so that --resume asks
    them again.
    """
