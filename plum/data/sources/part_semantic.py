"""Semantic segmentation by part name: everything in the image with a name, one or several names per answer."""

from collections.abc import Iterator

import numpy as np

from plum.data.sources.base import draw_indices, draw_one
from plum.data.sources.part_images import PartSource, SceneObject, merge_parts
from plum.data.sources.wordings import SEGMENT_ALL, SEGMENT_NAMED, exchange_about, join_names, list_targets
from plum.structures import Exchange


class PartSemanticSource(PartSource):
    """Asks for one to `MAX_NAMES` part names of the image, or for all parts of one object."""

    MAX_NAMES = 3
    name = "part_semantic"

    def converse(self, index: int, generator: np.random.Generator) -> list[tuple[Exchange, ...]]:
        """Ask `conversations_per_image` questions about the image."""
        scene = self.images.scene(index)
        conversations: list[tuple[Exchange, ...]] = []
        for _ in range(self.conversations_per_image):
            if generator.integers(2):
                exchange = _ask_all(draw_one(scene, generator), draw_one(SEGMENT_ALL, generator))
            else:
                exchange = self._ask_named(scene, generator)
            conversations.append((exchange,))
        return conversations

    def exchanges(self) -> Iterator[Exchange]:
        """Yield every wording with every name: single names, and all parts of an object together."""
        for part in self.images.part_labels:
            for wording in SEGMENT_NAMED:
                yield Exchange(wording.format(names=part), list_targets([part]).text)
        for label, parts in self.images.parts_of.items():
            for wording in SEGMENT_ALL if parts else ():
                yield Exchange(wording.format(object=label), list_targets(parts).text)

    def _ask_named(self, scene: tuple[SceneObject, ...], generator: np.random.Generator) -> Exchange:
        available = merge_parts(scene)
        count = int(generator.integers(1, self.MAX_NAMES + 1))
        targets = [available[i] for i in draw_indices(len(available), count, generator)]
        names = [target.label for target in targets]
        question = draw_one(SEGMENT_NAMED, generator).format(names=join_names(names))
        return exchange_about(question, list_targets(names), targets)


def _ask_all(item: SceneObject, wording: str) -> Exchange:
    return exchange_about(
        wording.format(object=item.label), list_targets([part.label for part in item.parts]), item.parts
    )
