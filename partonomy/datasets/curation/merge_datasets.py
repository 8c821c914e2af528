"""Merges data sets into one with a common vocabulary (in the paper, 606 objects and 975 parts: appendix B, Table 8)."""

import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from partonomy.datasets.curation.check import find_similar_names
from partonomy.datasets.photographs import find_same_files
from partonomy.masks import canonical_rle, union_masks
from partonomy.names import OBJECT_PART_SEPARATOR, clean_names
from partonomy.structures import UNNAMED_PART, AnnotatedImage, ObjectInstance, Part, PartDataset


@dataclass(frozen=True)
class MergeConfig:
    """Settings of a merge.

    Attributes:
        name: name of the merged data set.
        name_map: raw name -> natural name, for all sources; "car:wheel" names the part of a single object.
        categories: object -> category; takes precedence over the sources' categories.
        first_category_wins: give an object that is in several categories the first source's category.
        num_workers: number of threads that compare image files.
    """

    name: str
    name_map: Mapping[str, str]
    categories: Mapping[str, str]
    first_category_wins: bool = False
    num_workers: int = 1


@dataclass(frozen=True)
class RenamedLabel:
    """A label that is spelt differently in the merged data set."""

    kind: str
    source: str
    old: str
    new: str


@dataclass(frozen=True)
class CategoryConflict:
    """An object that is in several categories, listed in the order of the sources."""

    object_label: str
    categories: tuple[str, ...]


@dataclass(frozen=True)
class SamePhotograph:
    """Images of the merged data set whose files have equal content."""

    image_ids: tuple[int, ...]
    file_names: tuple[str, ...]


@dataclass(frozen=True)
class DatasetMerge:
    """The merged data set, and findings to report to the user.

    `sources` holds, for each merged image, the index of its input and its id there. `similar_names` differ only in
    plural, hyphen or case and are kept separate.
    """

    dataset: PartDataset
    sources: tuple[tuple[int, int], ...]
    renamed: tuple[RenamedLabel, ...]
    conflicts: tuple[CategoryConflict, ...]
    similar_names: tuple[tuple[str, ...], ...]
    same_photographs: tuple[SamePhotograph, ...]


def merge_datasets(datasets: Sequence[PartDataset], config: MergeConfig) -> DatasetMerge:
    """Merge data sets. Names are cleaned together, and images are numbered from 1 in the order of the sources.

    Image files are not moved; their names become relative to the common parent folder of all sources.

    Raises:
        ValueError: an object is in several categories and `first_category_wins` is off; the message lists all such
            objects.
    """
    labels = {instance.label for one in datasets for image in one.images for instance in image.objects}
    pairs = {pair for one in datasets for pair in _part_labels(one)}
    object_names = clean_names(labels, config.name_map)
    cleaned = clean_names({part for _, part in pairs}, config.name_map)
    part_names = {pair: config.name_map.get(OBJECT_PART_SEPARATOR.join(pair), cleaned[pair[1]]) for pair in pairs}
    categories, conflicts = _unite_categories(datasets, object_names, config.categories)
    if conflicts and not config.first_category_wins:
        raise ValueError(_describe_conflicts(conflicts))
    root = Path(os.path.commonpath([one.image_root.resolve() for one in datasets]))
    images: list[AnnotatedImage] = []
    sources: list[tuple[int, int]] = []
    for number, dataset in enumerate(datasets):
        prefix = dataset.image_root.resolve().relative_to(root)
        for image in dataset.images:
            objects = tuple(_rename(one, object_names, part_names, categories) for one in image.objects)
            file_name = (prefix / image.file_name).as_posix()
            images.append(replace(image, image_id=len(images) + 1, file_name=file_name, objects=objects))
            sources.append((number, image.image_id))
    return DatasetMerge(
        dataset=PartDataset(config.name, root, tuple(images)),
        sources=tuple(sources),
        renamed=_list_renamed(datasets, object_names, part_names, config.name_map),
        conflicts=conflicts,
        similar_names=find_similar_names(object_names.values()) + find_similar_names(part_names.values()),
        same_photographs=_find_same_photographs(images, root, config.num_workers),
    )


def _unite_categories(
    datasets: Sequence[PartDataset], object_names: Mapping[str, str], table: Mapping[str, str]
) -> tuple[dict[str, str], tuple[CategoryConflict, ...]]:
    found: dict[str, list[str]] = defaultdict(list)
    for dataset in datasets:
        for label, category in sorted({(one.label, one.category) for i in dataset.images for one in i.objects}):
            name = object_names[label]
            own = name if category == label else category
            given = next((table[key] for key in (label, name) if key in table), own)
            if given not in found[name]:
                found[name].append(given)
    # An object without a category takes that of another source: its category is its own name or, in old data sets, the
    # name of the set, which was that of its folder ("train").
    defaults = {dataset.name for dataset in datasets if _has_default_category(dataset)}
    for name, several in found.items():
        if len(several) > 1:
            found[name] = [one for one in several if one != name and one not in defaults] or [name]
    conflicts = tuple(
        CategoryConflict(name, tuple(several)) for name, several in sorted(found.items()) if len(several) > 1
    )
    return {name: several[0] for name, several in found.items()}, conflicts


def _has_default_category(dataset: PartDataset) -> bool:
    """Return whether every object of a data set has the set's name as its category."""
    return all(one.category == dataset.name for image in dataset.images for one in image.objects)


def _describe_conflicts(conflicts: Sequence[CategoryConflict]) -> str:
    lines = [f"{one.object_label!r}: {', '.join(map(repr, one.categories))}" for one in conflicts]
    return (
        f"objects in several categories: {'; '.join(lines)}. Wrong answers are drawn within a "
        "category, so an object has one: give each in a JSON file object -> category (--categories FILE), or take the "
        "first source's (--category_conflicts first)"
    )


def _rename(
    instance: ObjectInstance,
    object_names: Mapping[str, str],
    part_names: Mapping[tuple[str, str], str],
    categories: Mapping[str, str],
) -> ObjectInstance:
    """Rename an instance; parts that get the same label become one part with the union of their masks."""
    by_name: dict[str, list[Part]] = defaultdict(list)
    for part in instance.parts:
        by_name[part_names[instance.label, part.label]].append(part)
    parts = tuple(
        Part(
            name,
            same[0].mask if len(same) == 1 else union_masks([canonical_rle(part.mask) for part in same]),
            tuple(number for part in same for number in part.annotation_ids),
        )
        for name, same in sorted(by_name.items())
    )
    label = object_names[instance.label]
    left_out = {part_names.get((instance.label, part), part) for part in instance.left_out_parts}
    return replace(
        instance, label=label, category=categories[label], parts=parts, left_out_parts=tuple(sorted(left_out))
    )


def _list_renamed(
    datasets: Sequence[PartDataset],
    object_names: Mapping[str, str],
    part_names: Mapping[tuple[str, str], str],
    name_map: Mapping[str, str],
) -> tuple[RenamedLabel, ...]:
    rows: list[RenamedLabel] = []
    for dataset in datasets:
        labels = sorted({instance.label for image in dataset.images for instance in image.objects})
        rows += [RenamedLabel("object", dataset.name, label, object_names[label]) for label in labels]
        for pair in sorted(_part_labels(dataset)):
            whole = OBJECT_PART_SEPARATOR.join(pair)
            rows.append(RenamedLabel("part", dataset.name, whole if whole in name_map else pair[1], part_names[pair]))
    return tuple(row for row in dict.fromkeys(rows) if row.old != row.new)


def _part_labels(dataset: PartDataset) -> set[tuple[str, str]]:
    """Return the (object, part) labels of every part, left out or not."""
    objects = [one for image in dataset.images for one in image.objects]
    return {(one.label, part.label) for one in objects for part in one.parts} | {
        (one.label, part) for one in objects for part in one.left_out_parts if part != UNNAMED_PART
    }


def _find_same_photographs(
    images: Sequence[AnnotatedImage], root: Path, num_workers: int
) -> tuple[SamePhotograph, ...]:
    groups = find_same_files([root / image.file_name for image in images], num_workers)
    return tuple(
        SamePhotograph(
            tuple(images[position].image_id for position in group),
            tuple(images[position].file_name for position in group),
        )
        for group in groups
    )
