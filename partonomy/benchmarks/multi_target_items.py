"""One question with any number of targets, as the readers of MMR and of multi-referring RefCOCO give it."""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from partonomy.datasets.mmr import Granularity, MmrTarget
from partonomy.datasets.mmr_answers import GroundedAnswer


class Kind(StrEnum):
    """What a question asks for."""

    OBJECT = "object"
    PART = "part"
    MIXED = "mixed"


@dataclass(frozen=True)
class MultiTargetItem:
    """A question about an image and all that it means.

    Attributes:
        item_id: Unique within benchmark and split.
        image_id: The same for all items of one image: the bootstrap draws images.
        image_path: The image file.
        height, width: Of the annotation, pixels.
        text: A whole instruction, or the names of what is meant, in a list.
        is_sentence: Whether it is the former.
        targets: In the order of the gold answer.
        answer: The gold answer; a model that answers in its own words never meets it.
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
    def kind(self) -> Kind:
        """Objects or parts where all targets are such; else mixed."""
        found = {target.granularity for target in self.targets}
        if len(found) != 1:
            return Kind.MIXED
        return Kind.OBJECT if found == {Granularity.OBJECT} else Kind.PART
