"""Referring segmentation of one part or one whole object: "the front wheel of the biplane" (paper, section 5)."""

from collections.abc import Iterator

import numpy as np

from plum.data.sources.base import draw_indices, draw_one
from plum.data.sources.part_images import NamedMask, PartSource, SceneObject
from plum.data.sources.wordings import REFER_OBJECT, REFER_PART, exchange_about, name_target
from plum.structures import Exchange


class PartReferringSource(PartSource):
    """One target per conversation; about one in `OBJECT_SHARE` is a whole object, if its mask is annotated."""

    OBJECT_SHARE = 5
    name = "part_referring"

    def converse(self, index: int, generator: np.random.Generator) -> list[tuple[Exchange, ...]]:
        """Ask for up to `conversations_per_image` different targets of the image."""
        scene = self.images.scene(index)
        parts = [(item, part) for item in scene for part in item.parts]
        wholes = [item for item in scene if item.mask is not None]
        conversations: list[tuple[Exchange, ...]] = []
        for target in draw_indices(len(parts), self.conversations_per_image, generator):
            if wholes and generator.integers(self.OBJECT_SHARE) == 0:
                whole = wholes.pop(int(generator.integers(len(wholes))))
                conversations.append((_refer_object(whole, draw_one(REFER_OBJECT, generator)),))
            else:
                item, part = parts[target]
                conversations.append((_refer_part(item.label, part, draw_one(REFER_PART, generator)),))
        return conversations

    def exchanges(self) -> Iterator[Exchange]:
        """Yield every wording with every name."""
        for label, parts in self.images.parts_of.items():
            for wording in REFER_OBJECT:
                yield Exchange(wording.format(object=label), name_target(label).text)
            for part in parts:
                for wording in REFER_PART:
                    yield Exchange(wording.format(part=part, object=label), name_target(part).text)


def _refer_part(object_label: str, part: NamedMask, wording: str) -> Exchange:
    return exchange_about(wording.format(part=part.label, object=object_label), name_target(part.label), [part])


def _refer_object(item: SceneObject, wording: str) -> Exchange:
    assert item.mask is not None
    target = NamedMask(item.label, item.mask)
    return exchange_about(wording.format(object=item.label), name_target(item.label), [target])
