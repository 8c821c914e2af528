"""A training mixture from its configuration: folders read once, excluded images out, one part vocabulary."""

import logging
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from partonomy.datasets.store import load_dataset, load_questions
from partonomy.structures import PartDataset
from plum.data.download_sources import build_download, find_marker
from plum.data.excluded_images import ExcludedImages, TrainingImages
from plum.data.mixture import MixtureDataset
from plum.data.sources.base import Source
from plum.data.sources.explanatory import ExplanatorySource
from plum.data.sources.look_ahead import PartStatusSource
from plum.data.sources.part_images import PartImages, collect_classes, count_class_pixels
from plum.data.sources.part_referring import PartReferringSource
from plum.data.sources.part_semantic import PartSemanticSource
from plum.data.sources.part_vqa import PartVqaSource
from plum.inputs.encoding import ConversationEncoder
from plum.train_config import DataConfig, SourceConfig

logger = logging.getLogger(__name__)

IMAGE_SOURCES: Mapping[str, Callable[[PartImages, int], Source]] = {
    "part_referring": PartReferringSource,
    "part_semantic": PartSemanticSource,
    "part_vqa": PartVqaSource,
    "part_status": PartStatusSource,
}
"""Sources that need annotations alone, by `SourceConfig.kind`."""


@dataclass(frozen=True)
class _Ingredients:
    """What sources are built from besides their own configuration."""

    data: DataConfig
    images: TrainingImages
    part_images: Mapping[str, PartImages]
    encoder: ConversationEncoder | None
    has_marks: bool


def build_mixture(
    config: DataConfig,
    seed: int,
    encoder: ConversationEncoder | None = None,
    images: TrainingImages | None = None,
    *,
    with_part_maps: bool = True,
    has_marks: bool = False,
) -> MixtureDataset:
    """Read every folder of a mixture and build its sources.

    Args:
        config: sources, weights, excluded images.
        seed: of the run.
        encoder: the run's; dialogues of foreign text are cut to what it takes. Not needed for other sources.
        images: from `benchmark_images`, where the caller wants to know afterwards what is trained on.
        with_part_maps: False where no part pretext reads them.
        has_marks: whether the run's system writes marks such as [SEG] into answers; `mmr` then takes over the file's.

    Raises:
        FileNotFoundError: a folder or file is missing.
        ValueError: a folder is broken, nothing is left of it after the exclusion, or the configuration is.
    """
    for source in config.sources:
        check_source(source, config)
    chosen = choose_sources(config)
    images = images or benchmark_images(config)
    paths = sorted({source.path for source in chosen if source.path})
    datasets = {path: _load_dataset(path, images) for path in paths if Path(path).is_dir()}
    vocabulary = collect_classes(datasets.values())
    part_images = {path: PartImages(dataset, vocabulary, with_part_maps) for path, dataset in datasets.items()}
    ingredients = _Ingredients(config, images, part_images, encoder, has_marks)
    sources = [_build_source(source, ingredients) for source in chosen]
    logger.info("%s", images.describe())
    return MixtureDataset(
        sources,
        share_weights(chosen, config),
        seed,
        vocabulary,
        group_by_length=config.group_by_length,
        spread_lengths=config.spread_lengths,
        class_pixels=count_class_pixels(part_images.values()) if with_part_maps else (),
    )


def check_source(source: SourceConfig, config: DataConfig) -> None:
    """Check that a source says what its kind needs and nothing else.

    Raises:
        ValueError: it does not; names the source.
    """
    where = f"data source {source.kind} of {source.path or source.dataset or config.dataset_dir}"
    if source.question_types and source.kind != "explanatory":
        raise ValueError(f"{where}: question_types belong to `explanatory` alone")
    is_download = source.kind not in IMAGE_SOURCES and source.kind != "explanatory"
    if is_download and config.dataset_dir is None:
        raise ValueError(f"{where}: set data.dataset_dir to the root of the downloads (python -m plum data-status)")
    if is_download == bool(source.path):
        raise ValueError(f"{where}: {'it reads dataset_dir, leave path out' if is_download else 'path is missing'}")
    if bool(source.dataset) != (source.kind in ("semantic", "referring")):
        raise ValueError(f"{where}: `semantic` and `referring` need dataset, other kinds have none")
    if source.legacy_unaligned_qa and source.kind != "mmr":
        raise ValueError(f"{where}: legacy_unaligned_qa belongs to `mmr` alone")
    known = [group.name for group in config.groups]
    if source.group and source.group not in known:
        raise ValueError(f"{where}: its group {source.group!r} is not among data.groups {known}")


def choose_sources(config: DataConfig) -> list[SourceConfig]:
    """The sources that are there; all, unless `allow_missing`.

    Only a source without its first file or folder is left out: half a download is an error when it is read.

    Raises:
        ValueError: none is there.
    """
    if not config.allow_missing:
        return list(config.sources)
    chosen = []
    for source in config.sources:
        marker = find_marker(source, config.dataset_dir)
        if marker.exists():
            chosen.append(source)
        else:
            logger.warning("%s is not there: %s %s is left out", marker, source.kind, source.dataset or source.path)
    if not chosen:
        raise ValueError(f"none of the {len(config.sources)} data sources is there; see `python -m plum data-status`")
    return chosen


def share_weights(sources: Sequence[SourceConfig], config: DataConfig) -> list[float]:
    """Weight of each source in the mixture: a group's is divided among those of its sources that are there."""
    sums: defaultdict[str, float] = defaultdict(float)
    for source in sources:
        sums[source.group] += source.weight
    groups = {group.name: group.weight for group in config.groups}
    for name in sorted(groups.keys() - sums.keys()):
        logger.warning("no source of the group %r is there: the mixture goes without it", name)
    return [
        groups[source.group] * source.weight / sums[source.group] if source.group else source.weight
        for source in sources
    ]


def benchmark_images(config: DataConfig) -> TrainingImages:
    """The benchmark's images as a configuration names them; building a mixture notes which of them it meets."""
    return TrainingImages(load_excluded(config.exclude_images), load_excluded(config.count_images))


def load_excluded(question_paths: Sequence[str]) -> ExcludedImages:
    """Images of the given question folders and record files."""
    paths = {question.image_path for path in question_paths for question in load_questions(Path(path)).questions}
    return ExcludedImages(sorted(paths))


def _build_source(source: SourceConfig, ingredients: _Ingredients) -> Source:
    limit = ingredients.data.conversations_per_image
    part_images = ingredients.part_images.get(source.path)
    if source.kind == "explanatory":
        questions = load_questions(Path(source.path))
        return ExplanatorySource(questions, source.question_types, limit, part_images, ingredients.images)
    if source.kind not in IMAGE_SOURCES:
        assert ingredients.data.dataset_dir is not None  # check_source
        root = Path(ingredients.data.dataset_dir)
        return build_download(
            source, root, limit, ingredients.images, ingredients.encoder, has_marks=ingredients.has_marks
        )
    if part_images is None:
        raise FileNotFoundError(f"{source.path}: no such folder; make it with `python -m partonomy build`")
    return IMAGE_SOURCES[source.kind](part_images, limit)


def _load_dataset(path: str, images: TrainingImages) -> PartDataset:
    dataset = load_dataset(Path(path))
    kept = tuple(image for image in dataset.images if dataset.image_root / image.file_name not in images)
    logger.info("%s: %d images, %d excluded", path, len(kept), len(dataset.images) - len(kept))
    return replace(dataset, images=kept)
