"""The concept graph: the parts and the siblings of each object, derived from annotations (paper, section 3.2)."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from partonomy.structures import UNNAMED_PART, PartDataset


@dataclass(frozen=True)
class ConceptGraph:
    """The vocabulary of a data set. All tuples are sorted.

    Attributes:
        object_parts: object label -> labels of the parts that are annotated in any instance of it, left out or not.
        object_category: object label -> its category.
        category_objects: category -> its object labels.
    """

    object_parts: Mapping[str, tuple[str, ...]]
    object_category: Mapping[str, str]
    category_objects: Mapping[str, tuple[str, ...]]

    @cached_property
    def objects(self) -> tuple[str, ...]:
        """All labels of objects that have parts, sorted."""
        return tuple(sorted(self.object_parts))

    def is_grouped(self, label: str) -> bool:
        """Whether the object has a category. Without one, a class is its own category, under its own name."""
        return self.object_category[label] != label

    @cached_property
    def parts(self) -> tuple[str, ...]:
        """All part labels, sorted."""
        return tuple(sorted({part for parts in self.object_parts.values() for part in parts}))

    def siblings(self, label: str) -> tuple[str, ...]:
        """Return the other objects of the label's category, sorted."""
        return tuple(other for other in self.category_objects[self.object_category[label]] if other != label)

    def category_parts(self, label: str) -> tuple[str, ...]:
        """Return the parts of all objects of the label's category, sorted."""
        objects = self.category_objects[self.object_category[label]]
        return tuple(sorted({part for other in objects for part in self.object_parts[other]}))


def build_concept_graph(dataset: PartDataset) -> ConceptGraph:
    """Derive the graph from the objects that have at least one annotated part.

    Raises:
        ValueError: an object label is in two categories; the message names image and instance.
    """
    object_parts: dict[str, set[str]] = defaultdict(set)
    object_category: dict[str, str] = {}
    for image in dataset.images:
        for instance in image.objects:
            named = {label for label in instance.left_out_parts if label != UNNAMED_PART}
            if not instance.parts and not named:
                continue
            object_parts[instance.label].update((part.label for part in instance.parts), named)
            category = object_category.setdefault(instance.label, instance.category)
            if category != instance.category:
                raise ValueError(
                    f"{dataset.name}, image {image.image_id}, instance {instance.instance_id}: {instance.label!r} is "
                    f"in category {instance.category!r} here and in {category!r} elsewhere; an object has one category"
                )
    category_objects: dict[str, set[str]] = defaultdict(set)
    for label, category in object_category.items():
        category_objects[category].add(label)
    return ConceptGraph(
        object_parts={label: tuple(sorted(parts)) for label, parts in sorted(object_parts.items())},
        object_category=dict(sorted(object_category.items())),
        category_objects={name: tuple(sorted(labels)) for name, labels in sorted(category_objects.items())},
    )
