"""What makers of MMR-like question-answer pairs have in common: what they are asked for, and what they give back."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from partonomy.benchmarks.multi_target_items import Kind
from partonomy.datasets.mmr import MmrQuestion
from partonomy.questions.mmr_filters import Fault
from partonomy.structures import AnnotatedImage

UNANSWERED = "not answered"
"""Criterion of a rejection that is no judgement: asking again may help."""


@dataclass(frozen=True)
class Rejection:
    """A pair that was not kept: `criterion` and `reason` are counted, `detail` and `text` are listed."""

    criterion: str
    reason: str
    detail: str
    text: str


@dataclass(frozen=True)
class MadePairs:
    """The pairs of an image.

    Attributes:
        questions: those kept, numbered from 0.
        rejections: those not kept.
        not_askable: categories of annotations that no question can ask for, one for every annotation.
    """

    questions: tuple[MmrQuestion, ...] = ()
    rejections: tuple[Rejection, ...] = ()
    not_askable: tuple[str, ...] = ()


class PairMaker(Protocol):
    """Makes the pairs of one image after another; the same image gives the same pairs."""

    @property
    def settings(self) -> Mapping[str, object]:
        """All that the pairs depend on besides the image, as JSON values."""
        ...

    def make(self, image: AnnotatedImage, kind: Kind | None) -> MadePairs:
        """Make pairs whose targets are of a kind; None: of all kinds."""
        ...


def reject(question: str, answer: str, fault: Fault) -> Rejection:
    """A pair with its fault."""
    return Rejection(fault.criterion.value, fault.reason, fault.detail, f"{question} | {answer}")
