"""`python -m partonomy build-mixedparts`: builds pairs of images with common and unique parts from part data sets."""

from pathlib import Path
from typing import Literal

from partonomy.datasets.mixed_parts import COMPARABLE_FILE, SPLITS
from partonomy.locks import lock_folder
from partonomy.questions.mixed_parts.build import (
    BuildReport,
    MixedPartsConfig,
    build_account,
    build_mixed_parts,
    is_built,
    iterate_shortfalls,
    read_report,
)
from partonomy.questions.mixed_parts.index import Unit
from partonomy.questions.mixed_parts.sampler import ClassWeights, SamplerSettings, UniqueBy
from partonomy.questions.mixed_parts.taxonomy import (
    DEFAULT_MIN_OVERLAP,
    GROUPS_FILE,
    ComparableRules,
    read_groups,
    read_review,
)


def build_mixed_parts_command(
    datasets: list[str],
    output: str,
    *,
    num_train: int = 2_400_000,
    num_val: int = 999,
    num_test: int = 999,
    shares: str = "0.9,0.05,0.05",
    seed: int = 0,
    unit: Literal["label", "instance"] = "label",
    unique_by: Literal["image", "taxonomy"] = "image",
    class_weights: Literal["product", "root", "uniform"] = "product",
    min_pixels: int = 100,
    max_targets: int = 40,
    max_per_image: int = 300,
    max_per_class_pair: int | None = None,
    groups: str | None = None,
    review: str | None = None,
    min_overlap: float = DEFAULT_MIN_OVERLAP,
    overwrite: bool = False,
) -> None:
    """Build MixedParts-like data: pairs of images with their common objects, common parts and unique parts.

    Every data set is a source. All sources have the same number of samples, as far as they can; half of the training
    samples of a source are about objects and half about parts, and the three tasks have equal shares of val and test.

    Args:
        datasets: Folders of data sets (partonomy build), for example of PACO, PartImageNet (with --object_names
            everyday) and ADE20K-Part-234.
        output: Folder to write.
        num_train: Training samples over all sources.
        num_val: Validation samples over all sources.
        num_test: Test samples over all sources.
        shares: Shares of each source's images in train, val and test; images are divided before they are paired.
        seed: Random seed.
        unit: label unites all instances of a class in an image; instance takes one of them.
        unique_by: When a part is unique to one of two objects. image means not annotated for the other object in the
            other image; taxonomy also demands that the source knows no such part of the other class.
        class_weights: How often a pair of classes is drawn. product follows the number of its image pairs, root the
            square root of it, uniform draws all equally often.
        min_pixels: Smallest number of pixels of an object or a part that is asked for.
        max_targets: Largest number of masks of an answer; image pairs with more are left out.
        max_per_image: Largest number of samples of a task that show the same image.
        max_per_class_pair: Largest number of samples of a task about the same two classes; default any number.
        groups: YAML file with the groups of comparable classes by source; default the packaged one.
        review: Reviewed table of class pairs that precedes the groups; edit the comparable.tsv of an earlier build.
        min_overlap: Smallest Jaccard index of the part names of two comparable classes, for sources without groups.
        overwrite: Replace a folder that was built with other settings.
    """
    folder, places = Path(output), [Path(path) for path in datasets]
    sampler = SamplerSettings(
        seed, UniqueBy(unique_by), ClassWeights(class_weights), max_targets, max_per_image, max_per_class_pair
    )
    config = MixedPartsConfig(sampler, (num_train, num_val, num_test), parse_shares(shares), Unit(unit), min_pixels)
    groups_file = GROUPS_FILE if groups is None else Path(groups)
    rules = ComparableRules(read_groups(groups_file), {} if review is None else read_review(Path(review)), min_overlap)
    account = build_account(places, config, rules)
    with lock_folder(folder):
        state = is_built(folder, account)
        if state:
            print(f"{folder}: already built with these settings, nothing to do")
            _print_report(folder, read_report(folder))
            return
        if state is None and not overwrite:
            raise FileExistsError(
                f"{folder}: built with other settings, or from other data; pass --overwrite or another --output"
            )
        report = build_mixed_parts(places, folder, config, rules)
    _print_report(folder, report)


def parse_shares(text: str) -> tuple[float, float, float]:
    """Read "0.9,0.05,0.05", the shares of train, val and test.

    Raises:
        ValueError: The text is not three numbers.
    """
    try:
        train, val, test = (float(share) for share in text.split(","))
    except ValueError as error:
        raise ValueError(
            f"--shares {text!r}: give three numbers for {', '.join(SPLITS)}, e.g. 0.9,0.05,0.05"
        ) from error
    return train, val, test


def _print_report(folder: Path, report: BuildReport) -> None:
    print(f"{folder}: {sum(block.num_samples for block in report.blocks)} pairs of images")
    for name, count in report.num_images.items():
        print(
            f"  {name}: {count} images, {report.num_candidates[name]} pairs of classes share a part name, "
            f"{report.num_accepted[name]} are compared ({COMPARABLE_FILE})"
        )
        for reason, number in report.left_out[name].items():
            if number:
                print(f"    left out: {number} {reason}")
    for block in report.blocks:
        counts = block.target_counts
        print(
            f"  {block.split:<6}{block.source:<20}{block.task:<16}{block.num_samples:>9}  targets: mean "
            f"{counts.mean:.2f}, median {counts.median}, max {counts.largest}"
        )
    for block in iterate_shortfalls(report):
        print(
            f"  {block.split} {block.source} {block.task}: {block.num_samples} of {block.wanted} wanted; no more found"
        )
