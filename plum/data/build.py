"""A training mixture from its configuration: folders read once, excluded images out, one part vocabulary."""

import hashlib
import logging
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from partonomy.datasets.store import load_dataset, load_questions
from partonomy.structures import PartDataset
from plum.config import DataConfig, SourceConfig
from plum.data.mixture import MixtureDataset
from plum.data.sources.base import Source
from plum.data.sources.explanatory import ExplanatorySource
from plum.data.sources.part_images import PartImages, collect_classes
from plum.data.sources.part_referring import PartReferringSource
from plum.data.sources.part_semantic import PartSemanticSource
from plum.data.sources.part_status import PartStatusSource
from plum.data.sources.part_vqa import PartVqaSource

logger = logging.getLogger(__name__)

IMAGE_SOURCES: Mapping[str, Callable[[PartImages, int], Source]] = {
    "part_referring": PartReferringSource,
    "part_semantic": PartSemanticSource,
    "part_vqa": PartVqaSource,
    "part_status": PartStatusSource,
}
"""Sources that need annotations alone, by `SourceConfig.kind`."""


class ExcludedImages:
    """Images that may not be trained on: the same file, or the same name with the same bytes.

    The name alone would do for COCO photographs, but drawn or numbered data sets reuse names for different images.
    Where the excluded file itself is not on this machine, its name decides.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self.by_name: defaultdict[str, set[Path]] = defaultdict(set)
        for path in paths:
            self.by_name[path.name].add(path.resolve())

    def __contains__(self, path: object) -> bool:
        if not isinstance(path, Path):
            return False
        path = path.resolve()
        return any(_is_same_image(path, other) for other in self.by_name.get(path.name, ()))


def build_mixture(config: DataConfig, seed: int) -> MixtureDataset:
    """Read every folder of a mixture and build its sources.

    Args:
        config: sources, weights, excluded images.
        seed: of the run.

    Raises:
        FileNotFoundError: a folder or file is missing.
        ValueError: a folder is broken, or nothing is left of it after the exclusion.
    """
    excluded = load_excluded(config.exclude_images)
    paths = sorted({source.path for source in config.sources})
    datasets = {path: _load_dataset(path, excluded) for path in paths if Path(path).is_dir()}
    vocabulary = collect_classes(datasets.values())
    images = {path: PartImages(dataset, vocabulary) for path, dataset in datasets.items()}
    sources = [build_source(source, images.get(source.path), excluded, config) for source in config.sources]
    return MixtureDataset(sources, [source.weight for source in config.sources], seed, vocabulary)


def build_source(
    source: SourceConfig, images: PartImages | None, excluded: ExcludedImages, config: DataConfig
) -> Source:
    """Build one source.

    Args:
        source: its configuration.
        images: of the folder `source.path`; None when the path is no folder.
        excluded: images that may not be trained on.
        config: of the mixture.
    """
    limit = config.conversations_per_image
    if source.kind == "explanatory":
        return ExplanatorySource(load_questions(Path(source.path)), source.question_types, limit, images, excluded)
    if source.question_types:
        raise ValueError(f"data source {source.kind} of {source.path}: question_types belong to `explanatory` alone")
    if images is None:
        raise FileNotFoundError(f"{source.path}: no such folder; make it with `python -m partonomy build`")
    return IMAGE_SOURCES[source.kind](images, limit)


def load_excluded(question_paths: Sequence[str]) -> ExcludedImages:
    """Images of the given question folders and record files."""
    paths = {question.image_path for path in question_paths for question in load_questions(Path(path)).questions}
    return ExcludedImages(sorted(paths))


def _load_dataset(path: str, excluded: ExcludedImages) -> PartDataset:
    dataset = load_dataset(Path(path))
    kept = tuple(image for image in dataset.images if dataset.image_root / image.file_name not in excluded)
    logger.info("%s: %d images, %d excluded", path, len(kept), len(dataset.images) - len(kept))
    return replace(dataset, images=kept)


def _is_same_image(path: Path, other: Path) -> bool:
    if path == other or not other.exists() or not path.exists():
        return True
    return path.stat().st_size == other.stat().st_size and _digest(path) == _digest(other)


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
