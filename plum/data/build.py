"""Build a training mixture from its configuration: read each folder once, exclude images, share one part vocabulary."""

import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from partonomy.datasets.store import load_dataset, load_questions
from partonomy.structures import PartDataset
from plum.data.download_sources import build_download, find_marker
from plum.data.excluded_images import ExcludedImages, TrainingImages
from plum.data.fitting_texts import FittingSource
from plum.data.mixture import MixtureDataset
from plum.data.readers.grounded_answers import read_grounded_answers
from plum.data.sources.base import Source
from plum.data.sources.explanatory import ExplanatorySource
from plum.data.sources.grounded_answers import GroundedAnswersSource
from plum.data.sources.llava_instruct import LlavaInstructSource
from plum.data.sources.look_ahead import PartStatusSource
from plum.data.sources.mixed_parts import MixedPartsSource
from plum.data.sources.part_images import PartImages, collect_classes, count_class_pixels
from plum.data.sources.part_referring import PartReferringSource
from plum.data.sources.part_semantic import PartSemanticSource
from plum.data.sources.part_vqa import PartVqaSource
from plum.data.sources.targets import AskedTargets
from plum.data.sources.wordings import WORDINGS
from plum.inputs.encoding import ConversationEncoder
from plum.models.systems.target_notation import TargetNotation
from plum.train_config import DataConfig, SourceConfig

logger = logging.getLogger(__name__)

IMAGE_SOURCES: Mapping[str, Callable[[PartImages, int], Source]] = {
    "part_referring": PartReferringSource,
    "part_semantic": PartSemanticSource,
    "part_vqa": PartVqaSource,
    "part_status": PartStatusSource,
}
"""Sources that need only annotations, by `SourceConfig.kind`."""
PAIRS = "mixed_parts"
"""Kind of the pairs of images, which have a folder of their own form."""
OWN_ANSWERS: Final = "grounded_answers"
"""Kind of questions and answers of one's own, a file."""
LISTING_KINDS = ("semantic", "part_semantic")
"""Kinds whose questions may list targets in this project's own form."""
DIVIDING_KINDS = (*LISTING_KINDS, "referring")
"""Kinds whose questions may have several targets."""


@dataclass(frozen=True)
class _Ingredients:
    """What sources are built from in addition to their own configuration."""

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
    notation: TargetNotation | None = None,
) -> MixtureDataset:
    """Read every folder of a mixture and build its sources.

    Args:
        config: sources, weights, excluded images.
        seed: the run's seed.
        encoder: the run's encoder; only `llava_instruct` needs it, to cut dialogues to its token limit.
        images: from `benchmark_images`, for callers that need to know afterwards which images are trained on.
        with_part_maps: False if no part pretext reads them.
        has_marks: whether the run's system writes marks such as [SEG] into answers; `mmr` then keeps the file's marks.
        notation: how the run's system writes answers; with `encoder`, texts beyond the run's limit are left out
            (`FittingSource`). None: they are kept.

    Raises:
        FileNotFoundError: a folder or file is missing.
        ValueError: a folder or the configuration is broken, no image of a folder is left after the exclusion, no text
            of a source fits, or part maps are wanted of images that are not square.
    """
    for source in config.sources:
        check_source(source, config)
    if config.wordings == "lisa" and not has_marks:
        raise ValueError("data.wordings lisa needs a system that writes marks such as [SEG] (model.seg_token)")
    chosen = choose_sources(config)
    images = images or benchmark_images(config)
    paths = sorted({source.path for source in chosen if source.path and source.kind != PAIRS})
    datasets = {path: _load_dataset(path, images) for path in paths if Path(path).is_dir()}
    vocabulary = collect_classes(datasets.values())
    part_images = {path: PartImages(dataset, vocabulary, with_part_maps) for path, dataset in datasets.items()}
    ingredients = _Ingredients(config, images, part_images, encoder, has_marks)
    sources = [_build_source(source, ingredients) for source in chosen]
    if encoder is not None and encoder.max_text_tokens is not None and notation is not None:
        # Dialogues are cut when their source is built.
        sources = [
            source if isinstance(source, LlavaInstructSource) else FittingSource(source, encoder, notation)
            for source in sources
        ]
    logger.info("%s", images.describe())
    if with_part_maps and encoder is not None:
        _require_square_images(part_images.values())
    return MixtureDataset(
        sources,
        share_weights(chosen, config),
        seed,
        vocabulary,
        group_by_length=config.group_by_length,
        spread_lengths=config.spread_lengths,
        with_replacement=config.sampling == "replacement",
        class_pixels=count_class_pixels(part_images.values()) if with_part_maps else (),
    )


def _require_square_images(part_images: Iterable[PartImages]) -> None:
    """Refuse images on which the part pretext cannot work: both towers' grids must cover the same pixels."""
    for one in part_images:
        wide = [image for image in one.images if image.height != image.width]
        if wide:
            first = wide[0]
            raise ValueError(
                f"part_pretext needs square images, but {len(wide)} of {len(one.images)} images of {one.dataset.name} "
                f"are not, such as {first.file_name} ({first.width} x {first.height}); set part_pretext to null, or "
                "crop them"
            )


def check_source(source: SourceConfig, config: DataConfig) -> None:
    """Check that a source sets what its kind needs and nothing else.

    Raises:
        ValueError: it does not; the message names the source.
    """
    where = f"data source {source.kind} of {source.path or source.dataset or config.dataset_dir}"
    if source.question_types and source.kind != "explanatory":
        raise ValueError(f"{where}: question_types belong to `explanatory` alone")
    is_download = source.kind not in (*IMAGE_SOURCES, "explanatory", PAIRS, OWN_ANSWERS)
    if is_download and config.dataset_dir is None:
        raise ValueError(f"{where}: set data.dataset_dir to the root of the downloads (python -m plum data-status)")
    if is_download == bool(source.path):
        raise ValueError(f"{where}: {'it reads dataset_dir; remove path' if is_download else 'path is missing'}")
    if bool(source.dataset) != (source.kind in ("semantic", "referring")):
        raise ValueError(f"{where}: `semantic` and `referring` need dataset; other kinds must not set it")
    if source.targets != "authors" and source.kind not in LISTING_KINDS:
        raise ValueError(f"{where}: targets belongs to {_either(LISTING_KINDS)} alone")
    if source.targets_per_question != 1 and source.kind not in DIVIDING_KINDS:
        raise ValueError(f"{where}: targets_per_question belongs to {_either(DIVIDING_KINDS)} alone")
    if source.answers != "authors" and source.kind != "reasoning":
        raise ValueError(f"{where}: answers belongs to `reasoning` alone")
    try:
        ask_targets(source, config)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    if source.legacy_unaligned_qa and source.kind != "mmr":
        raise ValueError(f"{where}: legacy_unaligned_qa belongs to `mmr` alone")
    known = [group.name for group in config.groups]
    if source.group and source.group not in known:
        raise ValueError(f"{where}: its group {source.group!r} is not among data.groups {known}")


def ask_targets(source: SourceConfig, config: DataConfig) -> AskedTargets:
    """Return how a source asks for its targets.

    Raises:
        ValueError: its settings contradict one another.
    """
    # Lists are this project's own; the mixture's wordings apply to the other sources.
    wordings = WORDINGS["plum" if source.targets == "lists" else config.wordings]
    return AskedTargets(source.targets, source.targets_per_question, wordings)


def choose_sources(config: DataConfig) -> list[SourceConfig]:
    """Return the sources to use: all, or with `allow_missing` only the available ones.

    A source is left out only if its first file or folder is missing; reading an incomplete download is an error.

    Raises:
        ValueError: none is available.
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
    """Return each source's weight in the mixture; a group's weight is divided among its available sources."""
    sums: defaultdict[str, float] = defaultdict(float)
    for source in sources:
        sums[source.group] += source.weight
    groups = {group.name: group.weight for group in config.groups}
    for name in sorted(groups.keys() - sums.keys()):
        logger.warning("no source of the group %r is available: the mixture leaves it out", name)
    return [
        groups[source.group] * source.weight / sums[source.group] if source.group else source.weight
        for source in sources
    ]


def benchmark_images(config: DataConfig, held_out: Iterable[Path] = ()) -> TrainingImages:
    """Return the images that a configuration excludes and counts; building a mixture records which of them it meets.

    Args:
        config: names the benchmark's question folders and files.
        held_out: further images to exclude.
    """
    excluded = {*_question_images(config.exclude_images), *held_out}
    return TrainingImages(ExcludedImages(sorted(excluded)), load_excluded(config.count_images))


def held_out_images(sources: Iterable[SourceConfig]) -> set[Path]:
    """Return the image files of sources that name a folder or file; pairs and downloads are left out.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a file is broken.
    """
    paths: set[Path] = set()
    for source in sources:
        if source.kind == OWN_ANSWERS:
            paths |= {image.path for image in read_grounded_answers(Path(source.path))}
        elif source.path and source.kind != PAIRS:
            paths |= {question.image_path for question in load_questions(Path(source.path)).questions}
    return paths


def load_excluded(question_paths: Sequence[str]) -> ExcludedImages:
    """Return the images of the given question folders and record files."""
    return ExcludedImages(sorted(_question_images(question_paths)))


def _question_images(question_paths: Iterable[str]) -> set[Path]:
    return {question.image_path for path in question_paths for question in load_questions(Path(path)).questions}


def _build_source(source: SourceConfig, ingredients: _Ingredients) -> Source:
    limit = ingredients.data.conversations_per_image
    asked = ask_targets(source, ingredients.data)
    part_images = ingredients.part_images.get(source.path)
    if source.kind == "explanatory":
        questions = load_questions(Path(source.path))
        return ExplanatorySource(questions, source.question_types, limit, part_images, ingredients.images)
    if source.kind == PAIRS:
        return MixedPartsSource(Path(source.path), ingredients.images)
    if source.kind == OWN_ANSWERS:
        return GroundedAnswersSource(Path(source.path), limit, ingredients.images)
    if source.kind not in IMAGE_SOURCES:
        assert ingredients.data.dataset_dir is not None  # check_source
        root = Path(ingredients.data.dataset_dir)
        return build_download(
            source,
            root,
            limit,
            excluded=ingredients.images,
            encoder=ingredients.encoder,
            asked=asked,
            has_marks=ingredients.has_marks,
        )
    if part_images is None:
        raise FileNotFoundError(f"{source.path}: no such folder; make it with `python -m partonomy build`")
    if source.kind == "part_semantic":
        return PartSemanticSource(part_images, limit, asked)
    return IMAGE_SOURCES[source.kind](part_images, limit)


def _either(kinds: Sequence[str]) -> str:
    return " and ".join(f"`{kind}`" for kind in kinds)


def _load_dataset(path: str, images: TrainingImages) -> PartDataset:
    dataset = load_dataset(Path(path))
    kept = tuple(image for image in dataset.images if dataset.image_root / image.file_name not in images)
    logger.info("%s: %d images, %d excluded", path, len(kept), len(dataset.images) - len(kept))
    return replace(dataset, images=kept)
