"""One item of a referring or reasoning segmentation benchmark, as the readers of RefCOCO and ReasonSeg give it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from partonomy.structures import RLE


class AskedText(Protocol):
    """What the wording of a question depends on."""

    @property
    def text(self) -> str:
        """The name of what is meant, or a whole instruction."""
        ...

    @property
    def is_sentence(self) -> bool:
        """Whether it is the latter."""
        ...


@dataclass(frozen=True)
class SegmentationItem:
    """An expression or instruction about an image, and the mask of what it means.

    Attributes:
        item_id: Unique within benchmark and split.
        image_id: The same for all items of one image: the bootstrap draws images.
        image_path: The image file, absolute or relative to the working directory.
        height, width: Of the annotation, pixels.
        text: A referring expression, stripped and lower-cased ("the left cup"), or ReasonSeg's words as they stand.
        is_sentence: Whether `text` is a whole instruction (ReasonSeg) and not the name of a thing.
        mask: The target, original-image pixels; empty where the benchmark says that nothing is meant.
        ignore_mask: Pixels that count on neither side; None where there are none.
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
