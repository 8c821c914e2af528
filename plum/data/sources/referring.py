"""Referring segmentation: "the man in the red shirt" (refCLEF, refCOCO, refCOCO+, refCOCOg)."""

import logging
from collections import defaultdict
from collections.abc import Container, Iterator, Sequence
from pathlib import Path

import numpy as np

from partonomy.benchmarks.segmentation import SegmentationItem, forced_answer
from partonomy.images import load_image
from partonomy.masks import rle_area
from plum.data.sources.base import draw_one, longest_text
from plum.data.sources.part_images import NamedMask
from plum.data.sources.targets import AS_AUTHORS, AskedTargets
from plum.data.sources.wordings import (
    PLUM_WORDINGS,
    Answer,
    Wordings,
    exchange_about,
    join_names,
    list_expressions,
)
from plum.inputs.conversation import CONTROL_TOKENS
from plum.structures import Exchange, Sample

logger = logging.getLogger(__name__)


class ReferringSource:
    """One image's sentences per sample, drawn from all of its objects.

    Each is a conversation, or several share one (M2SA: up to three), each with its own mask. Sentences about one object
    may share a question; its mask then occurs twice, as in M2SA's loader.

    Args:
        name: name of the data set.
        items: items of its training split; those with an empty mask are left out and counted.
        conversations_per_image: maximum number of questions per sample.
        excluded: image files that may not be trained on.
        asked: number of sentences per question, and the wordings; `lists` is refused.

    Raises:
        ValueError: nothing is left, or a text holds a control token.
    """

    def __init__(
        self,
        name: str,
        items: Sequence[SegmentationItem],
        conversations_per_image: int,
        excluded: Container[Path] = (),
        asked: AskedTargets = AS_AUTHORS,
    ) -> None:
        if asked.targets != "authors":
            raise ValueError(f"{name}: sentences are not asked in lists; set targets: authors")
        self.name = name
        self.asked = asked
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
        conversations: list[tuple[Exchange, ...]] = []
        for drawn in self.asked.divide(len(items), self.conversations_per_image, generator):
            wording = draw_one(self.asked.wordings.refer_expression, generator)
            conversations.append((refer([items[i] for i in drawn], wording, self.asked.wordings, generator),))
        return tuple(conversations)

    def exchanges(self) -> Iterator[Exchange]:
        """Yield every sentence once, cycling through the wordings."""
        by_text = {item.text: item for items in self.images for item in items}
        for number, text in enumerate(sorted(by_text)):
            wordings = self.asked.wordings.refer_expression
            exchange = refer([by_text[text]], wordings[number % len(wordings)])
            yield Exchange(exchange.question, exchange.answer)


def refer(
    items: Sequence[SegmentationItem],
    wording: str,
    wordings: Wordings = PLUM_WORDINGS,
    generator: np.random.Generator | None = None,
) -> Exchange:
    """Ask for items whose texts name things.

    Args:
        items: of one image.
        wording: of the question, with `{expression}`.
        wordings: of the answer. PLUM's answer about one item is that of the benchmark's forced mode.
        generator: draws an answer with marks; PLUM's answers need none.
    """
    texts = [item.text for item in items]
    if wordings.marked is not None and generator is not None:
        answer = wordings.marked.draw(texts, generator)
    elif len(items) == 1:
        answer = target_answer(items[0])
    else:
        answer = list_expressions([named_target(item) for item in items])
    masks = [NamedMask(item.text, item.mask) for item in items]
    return exchange_about(wording.format(expression=join_names(texts)), answer, masks)


def named_target(item: SegmentationItem) -> str:
    """Return the words that name the item's target in an answer."""
    answer = forced_answer(item)
    return answer.text[answer.span.start : answer.span.end]


def target_answer(item: SegmentationItem) -> Answer:
    """Return the answer of the benchmark's forced mode, 'It is the man on the left.', and its phrase."""
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
        for text in (item.text, item.target_name):
            if any(token in text for token in CONTROL_TOKENS):
                raise ValueError(f"item {item.item_id}: the text {text!r} holds a control token; remove it there")
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
