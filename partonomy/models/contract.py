"""What a model must offer to be scored: three methods, and what else it may. No model is imported by partonomy.

Images are uint8 RGB arrays (H, W, 3) in the annotation's frame; masks come back as bool arrays (S, H, W) in the same
frame.
Turns alternate user, assistant, user, ...; the last one is the user's, and choices or answers continue it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol, runtime_checkable

import numpy as np

from partonomy.structures import CharSpan, ChoiceScore, Question


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


class GroundedModel(Protocol):
    """The contract. A model that cannot do one of the three raises NotImplementedError there: its metrics are null."""

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


@dataclass(frozen=True)
class ChoiceRequest:
    """Answers to be scored: `choices`, each as the assistant's answer to `turns` about image `image` of a batch.

    `phrases`: for each choice the phrases that stand for masks, in reading order.
    """

    image: int
    turns: tuple[Turn, ...]
    choices: tuple[str, ...]
    phrases: tuple[tuple[CharSpan, ...], ...]


@dataclass(frozen=True)
class MaskRequest:
    """Phrases to be segmented: `spans` of the assistant's `answer` to `turns` about image `image` of a batch."""

    image: int
    turns: tuple[Turn, ...]
    answer: str
    spans: tuple[CharSpan, ...]


@dataclass(frozen=True)
class AnswerRequest:
    """The model's own answer to `turns` about image `image` of a batch."""

    image: int
    turns: tuple[Turn, ...]


class ImageBatch(Protocol):
    """Some images of which many questions are asked; what they have in common is computed once."""

    def score_choices(self, requests: Sequence[ChoiceRequest]) -> list[list[ChoiceScore]]:
        """Return what `GroundedModel.score_choices` returns, for every request."""
        ...

    def segment(self, requests: Sequence[MaskRequest]) -> list[np.ndarray]:
        """Return what `GroundedModel.segment` returns, for every request."""
        ...

    def generate(self, requests: Sequence[AnswerRequest]) -> list[Generation]:
        """Return what `GroundedModel.generate` returns, for every request.

        Where it raises an error, each answer is asked for alone, so that the error fails no other one.
        """
        ...


@runtime_checkable
class BatchedModel(GroundedModel, Protocol):
    """Optional: the same answers for many questions of several images together.

    A model without it is asked question by question, and so is one whose batch raises an error: the error then belongs
    to the question that it comes from. Batches are the same whoever asks them, whole images in the order of the
    questions, so that answers do not depend on shards, ranks and interruptions.
    """

    def read_image(self, image: np.ndarray) -> object:
        """Do the work on an image, uint8 RGB (H, W, 3), that needs no device. Called in threads, ahead of its batch."""
        ...

    def open_batch(self, images: Sequence[object]) -> ImageBatch:
        """Begin a batch of images that `read_image` returned; the one before ends."""
        ...


@runtime_checkable
class PreparedModel(Protocol):
    """Optional fourth method: only `oracle` and `random` read the truth through it."""

    def prepare(self, question: Question) -> None:
        """Called before a question is asked."""
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


@runtime_checkable
class ReplyingModel(Protocol):
    """Optional: the model's answer as text alone, for questions that show all choices at once (`listwise`).

    A model without it is asked to `generate`, and the masks of that answer are left unused.
    """

    def reply(self, image: np.ndarray, turns: Sequence[Turn]) -> str:
        """Return the model's own answer to `turns`.

        Raises:
            ReplyRefused: The model declined to answer.
        """
        ...


class ReplyRefused(Exception):
    """The model declined to answer a question; the message is what it said instead. The question counts as wrong."""


class ModelUnavailable(RuntimeError):
    """The model cannot be asked at all, whatever the question (a wrong key, a server that is gone).

    It ends the run instead of failing its questions one by one; nothing is recorded, so that --resume goes on.
    """
