"""Images of a part dataset as the sources use them: merged objects, indexed names, part maps.

An image with two cars has *one* answer to "the wheel of the car": the wheels of both. Instances of one label are
therefore merged.
"""

import logging
from abc import ABC, abstractmethod
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from partonomy.datasets.concept_graph import build_concept_graph
from partonomy.images import load_image
from partonomy.masks import decode_mask, rle_area, union_masks
from partonomy.structures import RLE, AnnotatedImage, PartDataset
from plum.data.sources.base import longest_text
from plum.structures import Exchange, Sample

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class NamedMask:
    """A name and everything in the image that it names."""

    label: str
    mask: RLE


@dataclass(frozen=True)
class SceneObject:
    """All instances of one object label; parts are sorted by label; `mask` is None if any instance has none."""

    label: str
    parts: tuple[NamedMask, ...]
    mask: RLE | None


class PartImages:
    """The images of a dataset that show at least one part.

    Args:
        dataset: the data set; images without any part are left out and counted in the log.
        part_vocabulary: sorted object-part names (`name_class`); class c of a part map is
            `part_vocabulary[c - 1]`, 0 is background.
        with_part_maps: whether samples get a part map. Only the part pretext reads it; it costs as much as the image.

    Raises:
        ValueError: no image shows a part, or a part is not in the vocabulary.
    """

    def __init__(self, dataset: PartDataset, part_vocabulary: Sequence[str], with_part_maps: bool = True) -> None:
        self.dataset = dataset
        self.with_part_maps = with_part_maps
        self.images = tuple(image for image in dataset.images if any(item.parts for item in image.objects))
        if not self.images:
            raise ValueError(f"dataset {dataset.name}: none of its {len(dataset.images)} images has a part to train on")
        if len(self.images) < len(dataset.images):
            missing = len(dataset.images) - len(self.images)
            logger.info("dataset %s: %d images show no part and are not trained on", dataset.name, missing)
        self.part_classes = {label: index for index, label in enumerate(part_vocabulary, start=1)}
        graph = build_concept_graph(dataset)
        self.parts_of: Mapping[str, tuple[str, ...]] = graph.object_parts
        self.part_labels = graph.parts
        named = {name_class(item, part) for item, parts in self.parts_of.items() for part in parts}
        if unknown := sorted(named - set(self.part_classes)):
            raise ValueError(f"dataset {dataset.name}: parts {unknown[:5]} are not in the part vocabulary")

    def __len__(self) -> int:
        return len(self.images)

    def scene(self, index: int) -> tuple[SceneObject, ...]:
        """Return the objects of image `index` that have parts, sorted by label."""
        return merge_objects(self.images[index])

    def absent_parts(self, scene_object: SceneObject) -> tuple[str, ...]:
        """Return the parts that other objects of the same name have but this one does not show (missing or hidden)."""
        shown = {part.label for part in scene_object.parts}
        return tuple(part for part in self.parts_of[scene_object.label] if part not in shown)

    def build_sample(self, index: int, source: str, conversations: Sequence[tuple[Exchange, ...]]) -> Sample:
        """Load image `index` and combine it with the conversations to a sample; see `build_sample_of`."""
        return self.build_sample_of(self.images[index], source, conversations)

    def build_sample_of(
        self, record: AnnotatedImage, source: str, conversations: Sequence[tuple[Exchange, ...]]
    ) -> Sample:
        """Load an image of the data set and combine it with the conversations to a sample.

        Raises:
            ValueError: the image cannot be read; the message names source and image.
        """
        name = f"{self.dataset.name}/{record.image_id}"
        try:
            image = load_image(self.dataset.image_root / record.file_name, record.height, record.width)
        except (OSError, ValueError) as error:
            raise ValueError(f"source {source}, image {name}: {error}") from error
        return Sample(name, source, image, tuple(conversations), part_map=self.part_map(record))

    def part_map(self, record: AnnotatedImage) -> np.ndarray | None:
        """Return the class map int64 (H, W) of an image; None without part maps, or if the image shows no part."""
        has_parts = any(item.parts for item in record.objects)
        return draw_part_map(record, self.part_classes) if self.with_part_maps and has_parts else None


class PartSource(ABC):
    """Conversations about the images of a part dataset.

    Args:
        images: the images.
        conversations_per_image: number of conversations in a sample.
    """

    name: str

    def __init__(self, images: PartImages, conversations_per_image: int) -> None:
        self.images = images
        self.conversations_per_image = conversations_per_image

    def __len__(self) -> int:
        return len(self.images)

    @abstractmethod
    def converse(self, index: int, generator: np.random.Generator) -> list[tuple[Exchange, ...]]:
        """Return the conversations about image `index`."""

    def sample(self, index: int, generator: np.random.Generator) -> Sample:
        """Return image `index` with its conversations."""
        return self.images.build_sample(index, self.name, self.converse(index, generator))

    def text_length(self, index: int, generator: np.random.Generator) -> int:
        """See Source."""
        return longest_text(self.converse(index, generator))


def merge_objects(image: AnnotatedImage) -> tuple[SceneObject, ...]:
    """Merge the instances of each label; objects without any part are left out."""
    merged = []
    for label in sorted({item.label for item in image.objects}):
        instances = [item for item in image.objects if item.label == label]
        parts: defaultdict[str, list[RLE]] = defaultdict(list)
        for instance in instances:
            for part in instance.parts:
                parts[part.label].append(part.mask)
        named = tuple(NamedMask(name, union_masks(parts[name])) for name in sorted(parts))
        wholes = [instance.mask for instance in instances if instance.mask is not None]
        whole = union_masks(wholes) if len(wholes) == len(instances) else None
        if named:
            merged.append(SceneObject(label, named, whole))
    return tuple(merged)


def merge_parts(scene: Sequence[SceneObject]) -> tuple[NamedMask, ...]:
    """Return every part label of a scene with the union of its masks over all objects, sorted by label."""
    masks: defaultdict[str, list[RLE]] = defaultdict(list)
    for item in scene:
        for part in item.parts:
            masks[part.label].append(part.mask)
    return tuple(NamedMask(label, union_masks(masks[label])) for label in sorted(masks))


def name_class(object_label: str, part_label: str) -> str:
    """Return the class name of an object's part: a biplane's wing is not a bird's."""
    return f"{object_label}:{part_label}"


def collect_classes(datasets: Iterable[PartDataset]) -> tuple[str, ...]:
    """Return the sorted object-part names of some datasets: the part vocabulary of a run."""
    instances = [item for dataset in datasets for image in dataset.images for item in image.objects]
    return tuple(sorted({name_class(item.label, part.label) for item in instances for part in item.parts}))


def count_class_pixels(datasets: Iterable[PartImages]) -> tuple[int, ...]:
    """Return the number of pixels of each class over all images of datasets with one vocabulary, background first.

    If parts overlap, a pixel counts for each of them; the rest of an image is background.
    """
    pixels: Counter[int] = Counter()
    num_classes = 1
    for dataset in datasets:
        num_classes = 1 + len(dataset.part_classes)
        for image in dataset.images:
            areas = Counter[int]()
            for item in image.objects:
                for part in item.parts:
                    areas[dataset.part_classes[name_class(item.label, part.label)]] += rle_area(part.mask)
            areas[0] = max(image.height * image.width - areas.total(), 0)
            pixels.update(areas)
    return tuple(pixels[number] for number in range(num_classes))


def draw_part_map(image: AnnotatedImage, part_classes: Mapping[str, int]) -> np.ndarray:
    """Return the class map int64 (H, W), 0 = background; if parts overlap, the smaller one is on top."""
    canvas = np.zeros((image.height, image.width), dtype=np.int64, order="F")  # as decoded masks lie in memory
    parts = [(item.label, part) for item in image.objects for part in item.parts]
    for label, part in sorted(parts, key=lambda one: (-rle_area(one[1].mask), one[1].label)):
        np.copyto(canvas, part_classes[name_class(label, part.label)], where=decode_mask(part.mask))
    return canvas
