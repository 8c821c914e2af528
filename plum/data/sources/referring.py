"""Referring segmentation: "the man in the red shirt" (refCLEF, refCOCO, refCOCO+, refCOCOg)."""

import logging
from collections import defaultdict
from collections.abc import Container, Iterator, Sequence
from pathlib import Path

import numpy as np

from partonomy.benchmarks.segmentation import SegmentationItem, forced_answer
from partonomy.images import load_image
from partonomy.masks import rle_area
from plum.data.sources.base import draw_indices, draw_one, longest_text
from plum.data.sources.part_images import NamedMask
from plum.data.sources.wordings import REFER_EXPRESSION, Answer, exchange_about
from plum.inputs.conversation import CONTROL_TOKENS
from plum.structures import Exchange, Sample

logger = logging.getLogger(__name__)


class ReferringSource:
    """One image's sentences per sample, drawn from all of its objects; each is a conversation.

    Args:
        name: name of the data set.
        items: items of its training split; those with an empty mask are left out and counted.
        conversations_per_image: maximum number of sentences per sample.
        excluded: image files that may not be trained on.

    Raises:
        ValueError: nothing is left, or a text holds a control token.
    """

    def __init__(
        self,
        name: str,
        items: Sequence[SegmentationItem],
        conversations_per_image: int,
        excluded: Container[Path] = (),
    ) -> None:
        self.name = name
        self.conversations_per_image = conversations_per_image
        self.images = group_items(name, items, excluded)

    def __len__(self) -> int:
        return len(self.images)

    def sample(self, index: int, generator: np.random.Generator) -> Sample:
        """Ask for the targets of up to `conversations_per_image` different sentences of image `index`."""
        first = self.images[index][0]
        image = load_item_image(self.name, first)
        return Sample(first.image_id, self.name, image, self._converse(index, generator))

    def text_length(self, index: int, generator: np.random.Generator) -> int:
        """Return the characters of the longest conversation of the same sample; no image is read."""
        return longest_text(self._converse(index, generator))

    def _converse(self, index: int, generator: np.random.Generator) -> tuple[tuple[Exchange, ...], ...]:
        items = self.images[index]
        drawn = [items[i] for i in draw_indices(len(items), self.conversations_per_image, generator)]
        return tuple((refer(item, draw_one(REFER_EXPRESSION, generator)),) for item in drawn)

    def exchanges(self) -> Iterator[Exchange]:
        """Yield every sentence once, cycling through the wordings."""
        by_text = {item.text: item for items in self.images for item in items}
        for number, text in enumerate(sorted(by_text)):
            exchange = refer(by_text[text], REFER_EXPRESSION[number % len(REFER_EXPRESSION)])
            yield Exchange(exchange.question, exchange.answer)


def refer(item: SegmentationItem, wording: str) -> Exchange:
    """Ask for an item whose text names a thing; the answer is that of the benchmark's forced mode."""
    return exchange_about(wording.format(expression=item.text), target_answer(item), [NamedMask(item.text, item.mask)])


def target_answer(item: SegmentationItem) -> Answer:
    """Return 'It is the man on the left.' with the expression as its phrase; "the target" if the text is a sentence."""
    answer = forced_answer(item)
    return Answer(answer.text, (answer.span,))


def load_item_image(name: str, item: SegmentationItem) -> np.ndarray:
    """Return the item's image, uint8 RGB (H, W, 3); a ValueError names source and image."""
    try:
        return load_image(item.image_path, item.height, item.width)
    except (OSError, ValueError) as error:
        raise ValueError(f"source {name}, image {item.image_id}: {error}") from error


def group_items(
    name: str, items: Sequence[SegmentationItem], excluded: Container[Path]
) -> tuple[tuple[SegmentationItem, ...], ...]:
    """Group items by image, in the order of the images' first items, without empty masks and excluded images.

    Raises:
        ValueError: nothing is left, or a text holds a control token.
    """
    groups: defaultdict[Path, list[SegmentationItem]] = defaultdict(list)
    num_empty = 0
    for item in items:
        if any(token in item.text for token in CONTROL_TOKENS):
            raise ValueError(f"item {item.item_id}: the text {item.text!r} holds a control token; remove it there")
        has_target = rle_area(item.mask) > 0
        num_empty += not has_target
        if has_target:
            groups[item.image_path].append(item)
    kept = tuple(tuple(group) for path, group in groups.items() if path not in excluded)
    num_excluded = len(groups) - len(kept)
    logger.info("%s: %d images, %d excluded; %d items without a mask", name, len(groups), num_excluded, num_empty)
    if not kept:
        raise ValueError(f"{name} has nothing to train on ({num_excluded} images excluded, {num_empty} items empty)")
    return kept
