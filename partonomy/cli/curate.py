"""`python -m partonomy prune | merge | split`: derives data sets from data sets."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Literal

from partonomy.datasets.curation.derived import CurationRecord, ImageOrigin, lock_outputs, read_input, save_curated
from partonomy.datasets.curation.merge_datasets import DatasetMerge, MergeConfig, merge_datasets
from partonomy.datasets.curation.prune import prune_dataset
from partonomy.datasets.curation.split import split_dataset
from partonomy.datasets.curation.statistics import compute_statistics
from partonomy.files import hash_files
from partonomy.names import read_text_map
from partonomy.structures import PartDataset
from partonomy.terminal import one_line

NUM_SHOWN = 20
NEXT_STEP = "questions: python -m partonomy build --source dataset --images {folder} --output FOLDER"


def prune(
    folder: str,
    output: str,
    min_annotations: int = 5,
    count_by: Literal["part", "object_part"] = "part",
    overwrite: bool = False,
) -> None:
    """Drop parts with few annotations, as in the paper (appendix B, m = 5), and list what is dropped.

    Objects and images that have no part left are dropped, too.

    Args:
        folder: Folder of a data set.
        output: Folder to write.
        min_annotations: Drop parts with fewer annotations.
        count_by: part counts a part label over all objects; object_part counts it for each object.
        overwrite: Replace an existing data set.
    """
    source = read_input(Path(folder))
    settings: dict[str, str | int | float | bool | None] = {"min_annotations": min_annotations, "count_by": count_by}
    with lock_outputs([Path(output)], [source.folder], overwrite):
        pruning = prune_dataset(source.dataset, min_annotations, count_by)
        changes = {
            "dropped_parts": [asdict(part) for part in pruning.parts],
            "dropped_objects": list(pruning.objects),
            "dropped_images": [{"id": image.image_id, "file_name": image.file_name} for image in pruning.images],
        }
        record = CurationRecord("prune", settings, [source], changes)
        save_curated(pruning.dataset, Path(output), record, source.origins)
    _print_sizes("before", source.dataset)
    _print_sizes("after", pruning.dataset)
    _print_list(
        f"object-part labels dropped ({'part' if count_by == 'part' else 'object-part'} labels with fewer than "
        f"{min_annotations} annotations)",
        [f"{one.object_label}:{one.part_label} ({one.num_counted})" for one in pruning.parts],
    )
    _print_list("objects dropped because no part is left", pruning.objects)
    _print_list("images dropped because no part is left", [image.file_name for image in pruning.images])
    print(f"{output}: written; curation.json lists everything that was dropped")
    print(NEXT_STEP.format(folder=output))


def merge(
    folders: list[str],
    output: str,
    *,
    name: str | None = None,
    name_map: str | None = None,
    categories: str | None = None,
    category_conflicts: Literal["raise", "first"] = "raise",
    num_workers: int = 1,
    overwrite: bool = False,
) -> None:
    """Merge data sets into one. Names are cleaned together, images are renumbered, and each image's origin is recorded.

    Args:
        folders: Folders of data sets, in the order in which their images are numbered.
        output: Folder to write.
        name: Name of the merged data set; default the output folder's name.
        name_map: JSON file name -> natural name, for the objects and parts of all sources.
        categories: JSON file object -> category; takes precedence over the sources' categories.
        category_conflicts: raise stops if an object is in several categories; first takes the first source's category.
        num_workers: Number of threads that compare image files.
        overwrite: Replace an existing data set.
    """
    sources = [read_input(Path(folder)) for folder in folders]
    config = MergeConfig(
        name=name or Path(output).resolve().name,
        name_map=read_text_map(Path(name_map), "name map") if name_map else {},
        categories=read_text_map(Path(categories), "categories") if categories else {},
        first_category_wins=category_conflicts == "first",
        num_workers=num_workers,
    )
    settings: dict[str, str | int | float | bool | None] = {
        "name_map_sha256": hash_files([Path(name_map)]) if name_map else None,
        "categories_sha256": hash_files([Path(categories)]) if categories else None,
        "category_conflicts": category_conflicts,
    }
    with lock_outputs([Path(output)], [source.folder for source in sources], overwrite):
        merged = merge_datasets([source.dataset for source in sources], config)
        origins: dict[int, ImageOrigin] = {}
        for image, (number, image_id) in zip(merged.dataset.images, merged.sources, strict=True):
            origins[image.image_id] = sources[number].origins[image_id]
        record = CurationRecord("merge", settings, sources, _merge_changes(merged))
        save_curated(merged.dataset, Path(output), record, origins)
    for source in sources:
        _print_sizes(source.dataset.name, source.dataset)
    _print_sizes("merged", merged.dataset)
    _print_list("names changed", [f"{one.kind} {one.old!r} -> {one.new!r} ({one.source})" for one in merged.renamed])
    _print_list(
        "objects in several categories; the first was chosen",
        [f"{one.object_label}: {', '.join(one.categories)}" for one in merged.conflicts],
    )
    _print_list(
        "names kept separate that differ only in plural, hyphen or case (unite them with --name_map)",
        [" / ".join(group) for group in merged.similar_names],
    )
    _print_list(
        "photographs that occur more than once",
        [_describe_same(one.file_names) for one in merged.same_photographs],
    )
    print(f"{output}: written; curation.json lists the origin of every image")
    print(NEXT_STEP.format(folder=output))


def split(
    folder: str,
    *,
    output_train: str,
    output_val: str,
    val_share: float = 0.2,
    seed: int = 0,
    num_workers: int = 1,
    overwrite: bool = False,
) -> None:
    """Split a data set by image, stratified by object label. No photograph is ever on both sides.

    An object with a single photograph goes to train. Build the questions after the split, on each side separately.

    Args:
        folder: Folder of a data set.
        output_train: Folder to write the training side to.
        output_val: Folder to write the validation side to.
        val_share: Fraction of the images on the validation side.
        seed: Seed of the random split.
        num_workers: Number of threads that compare image files.
        overwrite: Replace existing data sets.
    """
    source = read_input(Path(folder))
    targets = [Path(output_train), Path(output_val)]
    if targets[0].resolve() == targets[1].resolve():
        raise ValueError(f"{output_train}: --output_train and --output_val are the same folder")
    with lock_outputs(targets, [source.folder], overwrite):
        sides = split_dataset(source.dataset, val_share, seed, num_workers)
        train, val = (_count_images(dataset) for dataset in (sides.train, sides.val))
        only = {
            "objects_in_train_only": sorted(train.keys() - val.keys()),
            "objects_in_val_only": sorted(val.keys() - train.keys()),
        }
        for side, target, dataset in zip(("train", "val"), targets, (sides.train, sides.val), strict=True):
            settings: dict[str, str | int | float | bool | None] = {"side": side, "val_share": val_share, "seed": seed}
            save_curated(dataset, target, CurationRecord("split", settings, [source], only), source.origins)
            _print_sizes(side, dataset)
    _print_list("objects in train only (images)", [f"{one} ({train[one]})" for one in only["objects_in_train_only"]])
    _print_list("objects in val only (images)", [f"{one} ({val[one]})" for one in only["objects_in_val_only"]])
    if sides.num_held_together:
        print(f"{sides.num_held_together} images share their photograph with another image and were kept on its side")
    for target in targets:
        print(f"{target}: written")
        print(NEXT_STEP.format(folder=target))


def _merge_changes(merged: DatasetMerge) -> dict[str, object]:
    return {
        "renamed": [asdict(one) for one in merged.renamed],
        "category_conflicts": [asdict(one) for one in merged.conflicts],
        "similar_names": [list(group) for group in merged.similar_names],
        "same_photographs": [asdict(one) for one in merged.same_photographs],
    }


def _describe_same(file_names: Sequence[str]) -> str:
    is_renamed = len({Path(name).name for name in file_names}) > 1
    return " = ".join(file_names) + (" (under another name)" if is_renamed else "")


def _count_images(dataset: PartDataset) -> Counter[str]:
    """Count the images that show each object with parts."""
    return Counter(
        label for image in dataset.images for label in {instance.label for instance in image.objects if instance.parts}
    )


def _print_sizes(name: str, dataset: PartDataset) -> None:
    counts = compute_statistics(dataset)
    print(
        f"{one_line(name)}: {counts.num_images:,} images, {counts.num_objects:,} objects, {counts.num_parts:,} parts, "
        f"{counts.num_object_parts:,} object-part labels, {counts.num_masks:,} masks"
    )


def _print_list(title: str, items: Sequence[str]) -> None:
    if items:
        more = f", ... ({len(items) - NUM_SHOWN:,} more in curation.json)" if len(items) > NUM_SHOWN else ""
        print(f"{len(items):,} {title}: {one_line(', '.join(items[:NUM_SHOWN]))}{more}")
