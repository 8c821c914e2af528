"""Semantic segmentation from part data: annotated objects and parts by name (paper, A.1, stage 0)."""

from collections.abc import Iterator

import numpy as np

from partonomy.structures import RLE, AnnotatedImage
from plum.data.sources.base import draw_indices, draw_one
from plum.data.sources.part_images import (
    NamedMask,
    PartImages,
    PartSource,
    SceneObject,
    merge_objects,
    merge_parts,
)
from plum.data.sources.targets import AS_AUTHORS, AskedTargets
from plum.data.sources.wordings import (
    SEGMENT_ALL,
    SEGMENT_NAMED,
    answer_named,
    exchange_about,
    join_names,
    list_targets,
)
from plum.structures import Exchange, Sample

PART_NAMES = ("{object} {part}", "{part} of the {object}")
"""The two names of an object's part that the authors' loader draws; the wordings add the article."""


class PartSemanticSource(PartSource):
    """Asks for annotated objects and parts, as `asked` says.

    `authors` draws among the single annotations of an image: a whole object with a mask is asked by its label, a part
    as "car wheel" or "wheel of the car". Each has the mask of *that* instance, so that the question is ambiguous if the
    image shows two cars; the authors' loaders do the same. Images that show objects without parts are used, too.

    `lists` asks for one to `MAX_NAMES` part names of the image, or for all parts of one object; instances of one name
    are united, and objects themselves are never asked.
    """

    MAX_NAMES = 3
    name = "part_semantic"

    def __init__(self, images: PartImages, conversations_per_image: int, asked: AskedTargets = AS_AUTHORS) -> None:
        super().__init__(images, conversations_per_image)
        self.asked = asked
        self.records: tuple[AnnotatedImage, ...] = images.images
        if asked.targets == "authors":
            self.records = tuple(record for record in images.dataset.images if list_annotations(record))

    def __len__(self) -> int:
        return len(self.records)

    def sample(self, index: int, generator: np.random.Generator) -> Sample:
        """Return image `index` of `records` with its conversations."""
        return self.images.build_sample_of(self.records[index], self.name, self.converse(index, generator))

    def converse(self, index: int, generator: np.random.Generator) -> list[tuple[Exchange, ...]]:
        """Ask up to `conversations_per_image` questions about the image."""
        if self.asked.targets == "authors":
            return self._converse_as_authors(self.records[index], generator)
        scene = merge_objects(self.records[index])
        conversations: list[tuple[Exchange, ...]] = []
        for _ in range(self.conversations_per_image):
            if generator.integers(2):
                exchange = _ask_all(draw_one(scene, generator), draw_one(SEGMENT_ALL, generator))
            else:
                exchange = self._ask_named(scene, generator)
            conversations.append((exchange,))
        return conversations

    def exchanges(self) -> Iterator[Exchange]:
        """Yield every wording with every name: single names and, for `lists`, all parts of an object together."""
        for name in self._names():
            for wording in self.asked.wordings.segment_named:
                yield Exchange(wording.format(names=name), list_targets([name]).text)
        for label, parts in self.images.parts_of.items():
            for wording in SEGMENT_ALL if parts and self.asked.targets == "lists" else ():
                yield Exchange(wording.format(object=label), list_targets(parts).text)

    def _names(self) -> Iterator[str]:
        if self.asked.targets == "lists":
            yield from self.images.part_labels
            return
        for label, parts in self.images.parts_of.items():
            yield label
            for part in parts:
                yield from (form.format(object=label, part=part) for form in PART_NAMES)

    def _converse_as_authors(
        self, record: AnnotatedImage, generator: np.random.Generator
    ) -> list[tuple[Exchange, ...]]:
        annotations = list_annotations(record)
        conversations: list[tuple[Exchange, ...]] = []
        for drawn in self.asked.divide(len(annotations), self.conversations_per_image, generator):
            targets = [NamedMask(draw_one(names, generator), mask) for names, mask in (annotations[i] for i in drawn)]
            names = [target.label for target in targets]
            question = draw_one(self.asked.wordings.segment_named, generator).format(names=join_names(names))
            answer = answer_named(names, self.asked.wordings, generator)
            conversations.append((exchange_about(question, answer, targets),))
        return conversations

    def _ask_named(self, scene: tuple[SceneObject, ...], generator: np.random.Generator) -> Exchange:
        available = merge_parts(scene)
        count = int(generator.integers(1, self.MAX_NAMES + 1))
        targets = [available[i] for i in draw_indices(len(available), count, generator)]
        names = [target.label for target in targets]
        question = draw_one(SEGMENT_NAMED, generator).format(names=join_names(names))
        return exchange_about(question, list_targets(names), targets)


def list_annotations(record: AnnotatedImage) -> list[tuple[tuple[str, ...], RLE]]:
    """Return the possible names and the mask of every annotated object and part of an image."""
    annotations: list[tuple[tuple[str, ...], RLE]] = []
    for item in record.objects:
        if item.mask is not None:
            annotations.append(((item.label,), item.mask))
        for part in item.parts:
            names = tuple(form.format(object=item.label, part=part.label) for form in PART_NAMES)
            annotations.append((names, part.mask))
    return annotations


def _ask_all(item: SceneObject, wording: str) -> Exchange:
    return exchange_about(
        wording.format(object=item.label), list_targets([part.label for part in item.parts]), item.parts
    )
