"""Semantic segmentation from label maps: everything in the image that a class names (paper, A.1, stage 0)."""

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from partonomy.images import load_image
from partonomy.masks import encode_mask
from plum.data.readers.label_maps import IGNORED, LabelMap, LabelMaps
from plum.data.sources.base import draw_indices, draw_one
from plum.data.sources.part_images import NamedMask
from plum.data.sources.targets import AS_AUTHORS, AskedTargets
from plum.data.sources.wordings import answer_named, exchange_about, join_names, list_targets
from plum.structures import Exchange, Sample

logger = logging.getLogger(__name__)


class SemanticSource:
    """Asks for classes of the image, as `asked` says; pixels without a class are excluded from every mask loss.

    Some maps (of COCO-Stuff) have no class at all, which only reading them shows. The next image with a class then
    replaces the image, and a warning is logged. LISA silently takes a random other image.
    """

    MAX_NAMES = 3
    MAX_STEPS = 1000
    TEXT_LENGTH = 90
    """Characters of a typical conversation: one or two names within the words of question and answer."""

    def __init__(self, maps: LabelMaps, conversations_per_image: int, asked: AskedTargets = AS_AUTHORS) -> None:
        self.name = maps.name
        self.maps = maps
        self.conversations_per_image = conversations_per_image
        self.asked = asked
        self._without_class: set[Path] = set()

    def __len__(self) -> int:
        return len(self.maps)

    def sample(self, index: int, generator: np.random.Generator) -> Sample:
        """Ask up to `conversations_per_image` questions about image `index`, each class at most once."""
        label_map = self._find_map(index)
        name = f"{self.name}/{label_map.image_path.stem}"
        classes = label_map.classes
        try:
            image = load_image(label_map.image_path, *classes.shape)
        except (OSError, ValueError) as error:
            raise ValueError(f"source {self.name}, image {name}: {error}") from error
        conversations = tuple((exchange,) for exchange in self._ask(label_map, generator))
        ignored = classes == IGNORED
        return Sample(name, self.name, image, conversations, ignore_mask=ignored if ignored.any() else None)

    def _ask(self, label_map: LabelMap, generator: np.random.Generator) -> Iterator[Exchange]:
        """Yield the questions. `lists` draws the names of a question just before its wording."""
        present = label_map.present()
        if self.asked.targets == "lists":
            order = [present[i] for i in draw_indices(len(present), len(present), generator)]
            for _ in range(self.conversations_per_image):
                if order:
                    count = int(generator.integers(1, self.MAX_NAMES + 1))
                    yield self._exchange(label_map, order[:count], generator)
                    order = order[count:]
            return
        for drawn in self.asked.divide(len(present), self.conversations_per_image, generator):
            yield self._exchange(label_map, [present[i] for i in drawn], generator)

    def _exchange(self, label_map: LabelMap, numbers: Sequence[int], generator: np.random.Generator) -> Exchange:
        targets = [NamedMask(self.maps.names[number], encode_mask(label_map.classes == number)) for number in numbers]
        names = [target.label for target in targets]
        question = draw_one(self.asked.wordings.segment_named, generator).format(names=join_names(names))
        return exchange_about(question, answer_named(names, self.asked.wordings, generator), targets)

    def text_length(self, index: int, generator: np.random.Generator) -> int:
        """Return a typical length, because only the label map would tell what is in the image."""
        return self.TEXT_LENGTH

    def exchanges(self) -> Iterator[Exchange]:
        """Yield every wording with every class, one at a time."""
        for number, label in enumerate(self.maps.names):
            for wording in () if number in self.maps.ignored_classes else self.asked.wordings.segment_named:
                yield Exchange(wording.format(names=label), list_targets([label]).text)

    def _find_map(self, index: int) -> LabelMap:
        for step in range(min(self.MAX_STEPS, len(self))):
            label_map = self.maps.read((index + step) % len(self))
            if label_map.present():
                return label_map
            self._report(label_map.image_path)
        raise ValueError(f"source {self.name}: no label map from number {index} on has a class; check the label folder")

    def _report(self, path: Path) -> None:
        """Log once per image that it is replaced, and how many are (in this loader process)."""
        if path not in self._without_class:
            self._without_class.add(path)
            logger.warning(
                "%s: none of its pixels has a class; the next image is used instead (%s: %d of %d images so far)",
                path,
                self.name,
                len(self._without_class),
                len(self),
            )
