"""Look-ahead answers: "wheel (visible), window (missing)", where only the visible parts are tagged.

Only the word after a name tells whether the name is tagged. In ordinary answers tags can be predicted locally; only
here can a bidirectional span tagger show what a causal one lacks (paper, Table 12).
"""

from collections.abc import Iterator, Sequence

import numpy as np

from plum.data.sources.base import draw_indices, draw_one
from plum.data.sources.part_images import NamedMask, PartSource, SceneObject
from plum.data.sources.wordings import WHICH_VISIBLE, Answer, compose_answer, exchange_about
from plum.structures import Exchange


class PartStatusSource(PartSource):
    """Names one to `MAX_NAMES` parts of one object, shuffled, each with its status.

    Each name is missing or visible with equal probability, as far as the object has such parts.
    """

    MAX_NAMES = 5
    name = "part_status"

    def converse(self, index: int, generator: np.random.Generator) -> list[tuple[Exchange, ...]]:
        """Ask `conversations_per_image` questions about objects of the image, possibly several about one object."""
        scene = self.images.scene(index)
        return [(self._ask(draw_one(scene, generator), generator),) for _ in range(self.conversations_per_image)]

    def exchanges(self) -> Iterator[Exchange]:
        """Yield every wording with all parts of every object, visible and missing alternately."""
        for label, parts in self.images.parts_of.items():
            for wording in WHICH_VISIBLE if parts else ():
                question = wording.format(object=label, names=", ".join(parts))
                for first in (0, 1):
                    shown = [index % 2 == first for index in range(len(parts))]
                    yield Exchange(question, state_parts(parts, shown).text)

    def _ask(self, item: SceneObject, generator: np.random.Generator) -> Exchange:
        absent = self.images.absent_parts(item)
        if not absent:
            shown = {part.label for part in item.parts}
            absent = tuple(part for part in self.images.part_labels if part not in shown)
        num_names = int(generator.integers(1, self.MAX_NAMES + 1))
        num_absent = min(len(absent), int(generator.binomial(num_names, 0.5)))
        candidates: list[NamedMask | str] = [
            *(item.parts[i] for i in draw_indices(len(item.parts), num_names - num_absent, generator)),
            *(absent[i] for i in draw_indices(len(absent), num_absent, generator)),
        ]
        mixed = [candidates[i] for i in draw_indices(len(candidates), len(candidates), generator)]
        names = [entry if isinstance(entry, str) else entry.label for entry in mixed]
        targets = [entry for entry in mixed if isinstance(entry, NamedMask)]
        answer = state_parts(names, [not isinstance(entry, str) for entry in mixed])
        question = draw_one(WHICH_VISIBLE, generator).format(object=item.label, names=", ".join(names))
        return exchange_about(question, answer, targets)


def state_parts(names: Sequence[str], is_visible: Sequence[bool]) -> Answer:
    """Return 'wheel (visible), window (missing).' with the visible names as phrases."""
    pieces: list[str] = []
    phrases = []
    for name, visible in zip(names, is_visible, strict=True):
        if pieces:
            pieces.append(", ")
        if visible:
            phrases.append(len(pieces))
        pieces += [name, " (visible)" if visible else " (missing)"]
    return compose_answer([*pieces, "."], phrases)
