"""`python -m partonomy build`: a source's annotations and questions about them as a data set folder."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from partonomy.cli.data import is_already_built
from partonomy.cli.statistics import describe_left_out
from partonomy.datasets import record_exchange as marked_images
from partonomy.datasets.record_exchange import MARKED_FOLDER
from partonomy.datasets.sources.records import SkippedAnnotations
from partonomy.datasets.sources.registry import SourceOptions, find_source
from partonomy.datasets.store import DatasetOrigin
from partonomy.metrics.part_embedding import DEFAULT_EMBEDDING_MODEL
from partonomy.questions.answer_mutator import MutationMode
from partonomy.questions.build_config import BuildSummary, QuestionBuildConfig, config_to_json
from partonomy.questions.generator import build_questions
from partonomy.questions.image_questions import MarkRule
from partonomy.structures import QuestionType


def build(
    *,
    source: Literal["coco", "paco", "part_imagenet", "pascal_part", "partonomy_core", "dataset", "synthetic"],
    output: str,
    images: str | None = None,
    annotations: str | None = None,
    object_name: str | None = None,
    object_names: str | None = None,
    categories: str | None = None,
    name_map: str | None = None,
    name: str | None = None,
    fold_sides: bool = False,
    split: Literal["train", "dev", "val"] | None = None,
    image_size: int | None = None,
    seed: int = 0,
    mutation: Literal["paper", "authors", "balanced"] = "paper",
    question_types: list[str] | str | None = None,
    embedding_model: str = DEFAULT_EMBEDDING_MODEL,
    part_comparison: str = "exact",
    mark_objects: Literal["same_class", "ambiguous"] = "same_class",
    templates: str | None = None,
    num_workers: int = 1,
    invalid: Literal["raise", "collect"] = "raise",
    store_marked_images: bool = False,
    overwrite: bool = False,
) -> None:
    """Build a data set with its questions from part annotations, or draw the embedded one.

    Args:
        source: coco (any COCO-style file with part annotations), paco, part_imagenet, pascal_part, partonomy_core (any
            published record file), dataset (a folder made here) or synthetic (drawn objects, no download).
        output: Folder to write.
        images: Folder of the images, of the record file or of the data set; for synthetic the number of images to draw.
        annotations: Annotation file; for pascal_part also the folder of .mat files.
        object_name: Object of all parts, for files without object annotations (coco).
        object_names: JSON file WordNet id -> object name, instead of super-categories as objects (part_imagenet).
        categories: JSON file object -> category; by default all objects are in one category.
        name_map: JSON file raw name -> natural name.
        name: Name of the data set; default the source's, or the annotation file's folder (coco).
        fold_sides: Leave out left and right of part names (pascal_part).
        split: train, dev or val; default train (synthetic).
        image_size: Side of the images in pixels (synthetic).
        seed: Seed of the questions, and of the drawing.
        mutation: How wrong answers are made; balanced leaves no hint, paper is comparable with the paper.
        question_types: Types to ask, for example identification_with_label,part_to_whole; default all ten.
        embedding_model: Sentence embedding of object names; char-ngram-tfidf needs no model.
        part_comparison: When two part names are the same part: exact, lemma (ignores plurals and hyphens) or
            file:PATH (a JSON list of lists of synonyms).
        mark_objects: When a box is drawn around the object; ambiguous also for questions that do not name it.
        templates: YAML file with another wording.
        num_workers: Processes; the output does not depend on it.
        invalid: raise stops at the first bad image or annotation; collect leaves them out and counts them.
        store_marked_images: Also write the images with the box drawn, which is otherwise drawn when an image is shown.
        overwrite: Replace a data set that was built with other settings.
    """
    folder = Path(output)
    options = SourceOptions(
        images=images,
        output=folder,
        seed=seed,
        num_workers=num_workers,
        invalid=invalid,
        annotations=_path(annotations),
        object_name=object_name,
        object_names=_path(object_names),
        categories=_path(categories),
        name_map=_path(name_map),
        name=name,
        fold_sides=fold_sides or None,
        split=split,
        image_size=image_size,
    )
    config = QuestionBuildConfig(
        seed=seed,
        mutation=MutationMode(mutation),
        question_types=tuple(QuestionType) if question_types is None else _question_types(question_types),
        embedding_model=embedding_model,
        num_workers=num_workers,
        part_comparison=part_comparison,
        mark_objects=MarkRule(mark_objects),
        templates=_path(templates),
    )
    _build(source, options, config, overwrite)
    if store_marked_images:
        print(f"{folder / MARKED_FOLDER}: {marked_images.store_marked_images(folder)} images with the box drawn")


def _build(source: str, options: SourceOptions, config: QuestionBuildConfig, overwrite: bool) -> None:
    """Read the source and ask, unless that was done before with the same settings."""
    folder = options.output
    reader = find_source(source, options)
    settings = reader.settings(source, options)
    if config.templates is not None and not config.templates.is_file():
        raise FileNotFoundError(f"{config.templates}: the file of --templates does not exist")
    if is_already_built(folder, {"source": settings, "config": config_to_json(config)}, overwrite):
        print(f"{folder}: already built with these settings, nothing to do")
        return
    reading = reader.read(options)
    origin = DatasetOrigin(source, config.seed if source == "synthetic" else None, settings)
    summary = build_questions(
        reading.dataset, config, folder, origin=origin, settings=settings, left_out=reading.skipped
    )
    _print_summary(folder, summary, reading.skipped)


def _print_summary(folder: Path, summary: BuildSummary, skipped: Sequence[SkippedAnnotations]) -> None:
    print(f"{folder}: {sum(summary.num_questions.values())} questions about {summary.num_images} images")
    for question_type, count in summary.num_questions.items():
        print(f"  {question_type.value:<28}{count:>7}")
    for row in summary.skipped:
        print(f"  not asked: {row.question_type.value}, {row.count} images: {row.reason}")
    for left_out in skipped:
        print(describe_left_out(len(left_out.annotation_ids), left_out.annotation_ids, left_out.reason))
    if summary.embedding_model:
        print(f"  object names compared by {summary.embedding_model}")


def _question_types(names: Sequence[str] | str) -> tuple[QuestionType, ...]:
    names = [name.strip() for name in names.split(",")] if isinstance(names, str) else names
    known = {question_type.value: question_type for question_type in QuestionType}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ValueError(f"unknown question types {', '.join(unknown)}; known: {', '.join(known)}")
    return tuple(known[name] for name in names)


def _path(text: str | None) -> Path | None:
    return None if text is None else Path(text)
